//! Profiles in pprof's format, as Go programs, pprof-rs and many others write them. Names come with
//! them; what has none keeps its module and offset.

pub mod wire;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use prost::Message as _;
use rustc_hash::FxHashMap;

use super::{
    decoded::Decoded,
    folded::MAX_FRAMES,
    gzip::{self, GzipError},
};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame, file_name, unknown},
    loss::Truncation,
    metric::{Metric, Unit},
    stacks::{StackId, Stacks},
};
use wire::{Line, Location, Profile, Sample, ValueType};

/// Longer profiles are refused, in bytes, unpacked. Decoding takes up to some ten times as much.
pub const MAX_INPUT: usize = 128 << 20;
/// More samples, locations, functions, mappings and texts than this are refused.
const MAX_FIELDS: usize = 4 << 20;
/// More frames than this in all stacks together are refused.
const MAX_TOTAL_FRAMES: usize = 32 << 20;
/// Labels that name a sample's thread.
const THREAD_LABELS: [&str; 4] = ["thread", "thread_name", "thread_id", "tid"];

/// Why bytes are no profile that can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PprofError {
    /// Packed, and not to be unpacked.
    #[error(transparent)]
    Gzip(#[from] GzipError),
    /// More than is read.
    #[error("it is larger than any pprof profile: more than {limit} {what}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// Not the format.
    #[error("it is no pprof profile")]
    Malformed,
    /// A sample that does not fit the profile.
    #[error("sample {sample} has {values} values, where the profile has {types}")]
    Values {
        /// Number of the sample, from 0.
        sample: usize,
        /// How many values it has.
        values: usize,
        /// How many types of value there are.
        types: usize,
    },
    /// A sample type that it lacks.
    #[error("it has no sample type {wanted:?}, but {there}")]
    NoSuchType {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// No sample with a value above 0.
    #[error("it has no sample with {0} above 0: nothing to draw")]
    Empty(String),
    /// Values that add up to more than 64 bits.
    #[error("its values add up to more than {max}", max = u64::MAX)]
    HugeTotal,
}

/// What to make of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The sample type to draw, by name or number; none: as `go tool pprof` chooses.
    pub sample_type: Option<&'a str>,
    /// Whether the thread is the second frame, where samples name one.
    pub threads: bool,
    /// The name of the process, where the profile does not tell.
    pub process: &'a str,
}

/// Whether bytes begin as an unpacked profile does.
#[must_use]
pub fn is_profile(start: &[u8]) -> bool {
    let start = &start[..start.len().min(4096)];
    // No text holds these, every profile does.
    let binary = start.iter().any(|byte| matches!(byte, 0..=8 | 14..=31));
    binary && wire::begins(start)
}

/// Decodes a profile, packed by gzip or not.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Result<Decoded, PprofError> {
    let bytes = if gzip::is_packed(bytes) {
        Cow::Owned(gzip::unpack(bytes, MAX_INPUT)?)
    } else {
        Cow::Borrowed(bytes)
    };
    if bytes.len() > MAX_INPUT {
        return Err(PprofError::TooLarge { limit: MAX_INPUT, what: "bytes" });
    }
    let mut fields = 0;
    for field in wire::fields(&bytes) {
        field.ok_or(PprofError::Malformed)?;
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(PprofError::TooLarge { limit: MAX_FIELDS, what: "entries" });
        }
    }
    let profile = Profile::decode(&*bytes).map_err(|_| PprofError::Malformed)?;
    if profile.sample_type.is_empty() {
        return Err(PprofError::Malformed);
    }
    Reader::new(&profile, options)?.read()
}

/// A profile being read.
struct Reader<'a> {
    profile: &'a Profile,
    /// The value that is drawn, as an index.
    chosen: usize,
    /// The value that counts samples, if any does.
    counts: Option<usize>,
    threads: bool,
    process: Arc<str>,
    /// The frames of each location, the root side first.
    locations: FxHashMap<u64, Vec<RawFrame>>,
    nowhere: Vec<RawFrame>,
}

impl<'a> Reader<'a> {
    fn new(profile: &'a Profile, options: &Options<'_>) -> Result<Self, PprofError> {
        let text = |index| text(profile, index);
        let main = profile.mapping.first().map(|mapping| text(mapping.filename));
        let process = main.as_deref().map(file_name).filter(|name| !name.is_empty());
        let chosen = choose(profile, options.sample_type)?;
        let types = &profile.sample_type;
        let named = types.iter().position(|kind| text(kind.r#type) == "samples");
        Ok(Self {
            profile,
            chosen,
            counts: named.or((types.len() == 1).then_some(0)),
            threads: options.threads,
            process: process.unwrap_or(options.process).into(),
            locations: locations(profile),
            nowhere: vec![RawFrame::Named(Frame::placeholder("[unknown]", FrameKind::Native))],
        })
    }

    fn read(self) -> Result<Decoded, PprofError> {
        let types = self.profile.sample_type.len();
        let mut stacks = Stacks::new(1);
        let (mut samples, mut frames, mut total) = (0u64, 0, 0u64);
        let mut below = 0;
        for (number, sample) in self.profile.sample.iter().enumerate() {
            let values = sample.value.len();
            if values != types {
                return Err(PprofError::Values { sample: number, values, types });
            }
            let value = sample.value[self.chosen];
            below += usize::from(value < 0);
            let Some(value) = u64::try_from(value).ok().filter(|value| *value > 0) else {
                continue;
            };
            let (id, depth) = self.stack(&mut stacks, sample);
            frames += depth;
            if frames > MAX_TOTAL_FRAMES {
                return Err(PprofError::TooLarge { limit: MAX_TOTAL_FRAMES, what: "frames" });
            }
            total = total.checked_add(value).ok_or(PprofError::HugeTotal)?;
            stacks.add(id, 0, value);
            let count = self.counts.map_or(1, |counts| sample.value[counts]);
            samples = samples.saturating_add(u64::try_from(count).unwrap_or_default());
        }
        let metric = metric_of(self.profile, self.profile.sample_type[self.chosen]);
        if total == 0 {
            return Err(PprofError::Empty(metric.name));
        }
        let mut remarks = Vec::new();
        if below > 0 {
            remarks.push(format!("{below} of its stacks have a value below 0 and are not drawn"));
        }
        Ok(self.decoded(stacks, metric, samples, remarks))
    }

    fn decoded(
        &self,
        stacks: Stacks<RawFrame>,
        metric: Metric,
        samples: u64,
        remarks: Vec<String>,
    ) -> Decoded {
        let profile = self.profile;
        let time = |nanos: i64| {
            u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
        };
        let unit = profile.period_type.map(|kind| metric_of(profile, kind).unit);
        let period = u64::try_from(profile.period).ok().filter(|period| *period > 0);
        let frequency = period.filter(|_| unit == Some(Unit::Nanoseconds));
        Decoded {
            stacks,
            metric,
            samples,
            start: time(profile.time_nanos).map(|since| UNIX_EPOCH + since),
            duration: time(profile.duration_nanos),
            frequency: frequency.map(|nanos| 1_000_000_000 / nanos).filter(|hertz| *hertz > 0),
            remarks,
        }
    }

    /// The stack of a sample, and how deep it is.
    fn stack(&self, stacks: &mut Stacks<RawFrame>, sample: &Sample) -> (StackId, usize) {
        let mut id = stacks.push(StackId::ROOT, &RawFrame::Process(Arc::clone(&self.process)));
        if self.threads
            && let Some(thread) = self.thread(sample)
        {
            id = stacks.push(id, &RawFrame::Thread(thread.into()));
        }
        let frames =
            |id| self.locations.get(id).filter(|all| !all.is_empty()).unwrap_or(&self.nowhere);
        let depth: usize = sample.location_id.iter().map(|id| frames(id).len()).sum();
        let mut all = sample.location_id.iter().rev().flat_map(frames);
        if depth > MAX_FRAMES {
            id = stacks.push(id, &RawFrame::Truncated(Truncation::TooDeep));
            // The leaves are kept.
            all.by_ref().take(depth - MAX_FRAMES).for_each(drop);
        }
        let id = all.fold(id, |id, frame| stacks.push(id, frame));
        (id, depth)
    }

    fn thread(&self, sample: &Sample) -> Option<String> {
        THREAD_LABELS.iter().find_map(|name| {
            let label = sample.label.iter().find(|label| text(self.profile, label.key) == *name)?;
            let name = text(self.profile, label.str);
            Some(if name.is_empty() { label.num.to_string() } else { name.into_owned() })
        })
    }
}

/// Text by its index; empty for an index that is none.
fn text(profile: &Profile, index: i64) -> Cow<'_, str> {
    let text = usize::try_from(index).ok().and_then(|index| profile.string_table.get(index));
    String::from_utf8_lossy(text.map_or(&[], Vec::as_slice))
}

/// The index of the sample type to draw. Without a wish: the one that the profile names as its
/// default, else the last, as `go tool pprof` has it.
fn choose(profile: &Profile, wanted: Option<&str>) -> Result<usize, PprofError> {
    let types = &profile.sample_type;
    let named = |name: &str| types.iter().position(|kind| text(profile, kind.r#type) == name);
    let Some(wanted) = wanted else {
        let default = text(profile, profile.default_sample_type);
        return Ok(named(&default).filter(|_| !default.is_empty()).unwrap_or(types.len() - 1));
    };
    let number = || wanted.parse().ok().filter(|number| *number < types.len());
    named(wanted).or_else(number).ok_or_else(|| PprofError::NoSuchType {
        wanted: wanted.to_owned(),
        there: types.iter().map(|kind| text(profile, kind.r#type)).collect::<Vec<_>>().join(", "),
    })
}

/// The name and unit of a sample type.
fn metric_of(profile: &Profile, kind: ValueType) -> Metric {
    let name = text(profile, kind.r#type).into_owned();
    match &*text(profile, kind.unit) {
        "nanoseconds" => Metric { name, unit: Unit::Nanoseconds },
        "microseconds" => Metric { name, unit: Unit::Microseconds },
        "bytes" => Metric { name, unit: Unit::Bytes },
        "count" | "" => Metric { name, unit: Unit::Count },
        other => Metric { name: format!("{other} {name}"), unit: Unit::Count },
    }
}

/// The frames of every location, each the root side first.
fn locations(profile: &Profile) -> FxHashMap<u64, Vec<RawFrame>> {
    let functions = profile.function.iter().enumerate();
    let mappings = profile.mapping.iter().enumerate();
    let namer = Namer {
        profile,
        functions: functions.map(|(at, function)| (function.id, at)).collect(),
        mappings: mappings.map(|(at, mapping)| (mapping.id, at)).collect(),
    };
    profile.location.iter().map(|location| (location.id, namer.frames(location))).collect()
}

/// Names locations.
struct Namer<'a> {
    profile: &'a Profile,
    /// Indexes by id.
    functions: FxHashMap<u64, usize>,
    mappings: FxHashMap<u64, usize>,
}

impl Namer<'_> {
    fn frames(&self, location: &Location) -> Vec<RawFrame> {
        let depth = location.line.len();
        let lines = location.line.iter().take(MAX_FRAMES).enumerate().rev();
        let mut frames: Vec<RawFrame> = lines
            // The last line is that of the function itself.
            .map(|(at, line)| RawFrame::Named(self.frame(location, line, at + 1 < depth)))
            .collect();
        if frames.is_empty() {
            frames.push(RawFrame::Named(self.nameless(location)));
        }
        frames
    }

    fn frame(&self, location: &Location, line: &Line, inlined: bool) -> Frame {
        let function = self.functions.get(&line.function_id).map(|at| self.profile.function[*at]);
        let Some(function) = function else { return self.nameless(location) };
        let text = |index| text(self.profile, index);
        let names = [function.name, function.system_name];
        let name = names.into_iter().map(text).find(|name| !name.is_empty());
        let file = text(function.filename);
        Frame {
            inlined,
            file: (!file.is_empty()).then(|| file.into()),
            line: u32::try_from(line.line).ok().filter(|line| *line > 0),
            ..match name {
                Some(name) => Frame::symbol(name, FrameKind::Native),
                None => self.nameless(location),
            }
        }
    }

    /// A frame that only its address tells.
    fn nameless(&self, location: &Location) -> Frame {
        let mapping = self.mappings.get(&location.mapping_id).map(|at| self.profile.mapping[*at]);
        let module = mapping.map(|mapping| (mapping, text(self.profile, mapping.filename)));
        let name = match module {
            Some((mapping, module)) if !module.is_empty() => {
                let offset = location.address.wrapping_sub(mapping.memory_start);
                unknown(file_name(&module), offset.wrapping_add(mapping.file_offset))
            }
            _ => "[unknown]".to_owned(),
        };
        Frame::placeholder(name, FrameKind::Native)
    }
}

#[cfg(test)]
mod tests;
