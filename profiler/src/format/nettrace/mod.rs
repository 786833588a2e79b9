//! nettrace: what .NET's EventPipe writes, as a file (`dotnet-trace`) and on its diagnostics socket.
//!
//! Drawn are the stacks that its sample profiler takes of all managed threads, each at an interval
//! of the wall clock; or else the bytes that were allocated since the allocation before, at the
//! stack of the one that reached some 100 kB. Methods are named by what the runtime tells of them
//! while and after it records. Where code was thrown away and others took its place, the last name
//! counts.
//!
//! A sample says whether it found its thread in managed code. Where not, the thread waits, or runs
//! native code that managed code called: that cannot be told apart. Such samples are shown when
//! asked for, with `[waiting or native]` as their leaf; without, what is drawn comes close to the
//! CPU time of managed code.
//!
//! [`Decoder`] takes the bytes as they come and keeps only what they add up to.

mod content;
mod payload;
mod wire;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use content::{Content, Known, Row, What};
use wire::Object;

use super::decoded::Decoded;
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    loss::{Loss, Losses, Truncation},
    metric::{Metric, Unit},
    stacks::{StackId, Stacks},
};

/// The leaf of a thread that was not in managed code.
const EXTERNAL: &str = "[waiting or native]";
/// A method of which nothing was told.
const UNKNOWN: &str = "[unknown method]";

/// Why a trace cannot be drawn, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum NettraceError {
    /// Of another kind.
    #[error("it is no nettrace file")]
    NoTrace,
    /// Of a newer version.
    #[error("it has version {0} of the nettrace format; versions up to 4 are read")]
    Version(u32),
    /// An object or a block that is none.
    #[error("it is damaged at byte {0}")]
    Damaged(u64),
    /// More than is kept.
    #[error("it has more distinct stacks, threads or names than are kept")]
    TooMuch,
    /// Nothing that is drawn.
    #[error("{0}")]
    Empty(&'static str),
}

/// What is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Show {
    /// Whether threads are told apart.
    pub threads: bool,
    /// Whether threads that wait or run native code are shown.
    pub idle: bool,
}

/// A trace that was read.
#[derive(Debug)]
pub struct Trace {
    /// Its stacks.
    pub decoded: Decoded,
    /// What it lost and cut short.
    pub losses: Losses,
    /// Stacks that reach their root.
    pub complete: u64,
    /// Why nothing is in it, if that is so: a clause.
    pub empty: Option<&'static str>,
}

/// Whether bytes begin as a trace does.
#[must_use]
pub fn is_trace(start: &[u8]) -> bool {
    start.starts_with(wire::MAGIC)
}

/// Decodes a trace that is there as a whole.
///
/// # Errors
/// What is wrong with it. Of a trace that ends too early or is damaged later on, what comes before
/// is drawn, and a remark says so.
pub fn decode(bytes: &[u8], show: Show, process: &str) -> Result<Trace, NettraceError> {
    let mut decoder = Decoder::new(show);
    let outcome = decoder.feed(bytes);
    let ended = decoder.ended;
    let mut trace = decoder.finish(process, |thread| format!("thread {thread}"));
    match (outcome, trace.empty) {
        (Ok(()), None) if ended => {}
        (Ok(()), None) => trace.decoded.remarks.push("it ends in the middle".to_owned()),
        (Err(error), None) => {
            trace.decoded.remarks.push(format!("{error}; drawn is what comes before"));
        }
        (Err(error), Some(_)) => return Err(error),
        (Ok(()), Some(why)) => return Err(NettraceError::Empty(why)),
    }
    Ok(trace)
}

/// Reads a trace as it comes.
#[derive(Debug)]
pub struct Decoder {
    /// What was not read yet, from this byte of the file on.
    rest: Vec<u8>,
    offset: u64,
    started: bool,
    ended: bool,
    first: Option<wire::Trace>,
    content: Content,
}

impl Decoder {
    /// Nothing read yet.
    #[must_use]
    pub fn new(show: Show) -> Self {
        Self {
            rest: Vec::new(),
            offset: 0,
            started: false,
            ended: false,
            first: None,
            content: Content::new(show),
        }
    }

    /// Samples and allocations so far, and events that were lost.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let Content { managed, external, allocations, lost, .. } = &self.content;
        (managed + external + allocations, *lost)
    }

    /// Whether the trace is whole.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads more of it.
    ///
    /// # Errors
    /// What is wrong with it. What was read before is kept; more cannot be read.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), NettraceError> {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let read = self.objects(&rest)?;
        self.rest = rest;
        self.rest.drain(..read);
        self.offset += read as u64;
        Ok(())
    }

    /// Reads all objects that are whole; how many bytes they are.
    fn objects(&mut self, bytes: &[u8]) -> Result<usize, NettraceError> {
        let mut read = 0;
        if !self.started {
            if !wire::check_start(bytes)? {
                return Ok(0);
            }
            self.started = true;
            read = wire::START;
        }
        while !self.ended {
            let offset = self.offset + read as u64;
            let Some((object, len)) = wire::object(&bytes[read..], offset)? else { break };
            match object {
                Object::Trace(trace) => self.first = Some(trace),
                Object::Block(name, body) => self.content.block(name, body, offset)?,
                Object::End => self.ended = true,
            }
            read += len;
        }
        Ok(read)
    }

    /// What was read: of this process, whose threads have these names.
    #[must_use]
    pub fn finish(self, process: &str, thread: impl Fn(u64) -> String) -> Trace {
        let Self { first, mut content, .. } = self;
        // What does not fit any more is less than what is there.
        let fits = content.settle().is_ok();
        let samples = content.managed + content.external > 0;
        let mut drawn = Drawn::default();
        let stacks = drawn.stacks(&content, samples, process, thread);
        let mut losses = drawn.losses;
        losses.lose(Loss::RuntimeBuffer, content.lost);
        losses.lose(Loss::Malformed, content.malformed);
        let mut remarks = Vec::new();
        if !fits {
            remarks.push(NettraceError::TooMuch.to_string());
        }
        let hidden = if content.show.idle { 0 } else { content.external };
        if hidden > 0 && drawn.samples > 0 {
            remarks.push(format!(
                "in {hidden} samples a thread waited or ran native code; --idle shows them"
            ));
        }
        let empty = stacks.is_empty().then_some(match hidden {
            0 => "no thread of it was sampled, and nothing allocated enough to be counted",
            _ => "every thread waited or ran native code; --idle shows where",
        });
        let ticks = first.map_or(0, |first| first.ticks);
        let duration = content.times.filter(|_| ticks > 0).map(|(first, last)| {
            Duration::try_from_secs_f64((last - first) as f64 / ticks as f64).unwrap_or_default()
        });
        let interval = first.map_or(0, |first| u64::from(first.interval));
        let decoded = Decoded {
            stacks,
            metric: if samples {
                Metric::samples()
            } else {
                Metric { name: "allocated".to_owned(), unit: Unit::Bytes }
            },
            samples: drawn.samples,
            start: first.and_then(|first| time(first.began)),
            duration: duration.filter(|duration| !duration.is_zero()),
            frequency: 1_000_000_000_u64.checked_div(interval).filter(|_| samples),
            remarks,
        };
        Trace { decoded, losses, complete: drawn.complete, empty }
    }
}

/// What is drawn, apart from its stacks.
#[derive(Default)]
struct Drawn {
    samples: u64,
    complete: u64,
    losses: Losses,
}

impl Drawn {
    /// The stacks of samples, or those of allocations, with names.
    fn stacks(
        &mut self,
        content: &Content,
        samples: bool,
        process: &str,
        thread: impl Fn(u64) -> String,
    ) -> Stacks<RawFrame> {
        let types = content.types();
        let names = Names::of(content);
        let mut stacks = Stacks::new(1);
        let process = stacks.push(StackId::ROOT, &RawFrame::Process(process.into()));
        let mut rows: Vec<_> = content.rows.iter().collect();
        rows.sort_unstable_by_key(|(row, _)| **row);
        for (Row { stack: Known { id, cut }, thread: number, what }, value) in rows {
            if matches!(what, What::Allocates(_)) == samples {
                continue;
            }
            let mut at = process;
            if content.show.threads {
                at = stacks.push(at, &RawFrame::Thread(thread(*number).into()));
            }
            if *cut {
                at = stacks.push(at, &RawFrame::Truncated(Truncation::TooDeep));
                *self.losses.truncated.entry(Truncation::TooDeep).or_default() += value.samples;
            } else {
                self.complete += value.samples;
            }
            for address in content.stacks.root_first(*id) {
                at = stacks.push(at, &names.frame(*address));
            }
            at = match what {
                What::Managed => at,
                What::External => stacks.push(at, &placeholder(EXTERNAL)),
                What::Allocates(number) => {
                    let name = types.get(*number as usize).copied().unwrap_or_default();
                    let name = if name.is_empty() {
                        "[unknown type]".to_owned()
                    } else {
                        format!("new {name}")
                    };
                    stacks.push(at, &RawFrame::Named(Frame::symbol(name, FrameKind::Jit)))
                }
            };
            stacks.add(at, 0, value.weight);
            self.samples += value.samples;
        }
        stacks
    }
}

fn placeholder(name: &str) -> RawFrame {
    RawFrame::Named(Frame::placeholder(name, FrameKind::Jit))
}

/// The methods by their code.
struct Names {
    /// Where each begins and ends, ascending.
    methods: Vec<(u64, u64, Arc<str>)>,
}

impl Names {
    fn of(content: &Content) -> Self {
        let methods = content.methods.values();
        let mut methods: Vec<_> = methods
            .map(|method| {
                let end = method.start.saturating_add(u64::from(method.size));
                (method.start, end, Arc::from(&*method.name))
            })
            .collect();
        methods.sort_unstable();
        Self { methods }
    }

    fn frame(&self, address: u64) -> RawFrame {
        let next = self.methods.partition_point(|(start, ..)| *start <= address);
        let method = next.checked_sub(1).map(|at| &self.methods[at]);
        match method.filter(|(_, end, _)| address < *end) {
            Some((.., name)) => RawFrame::Named(Frame::symbol(Arc::clone(name), FrameKind::Jit)),
            None => placeholder(UNKNOWN),
        }
    }
}

/// A time of the calendar, as the first object tells it; none: it is none.
fn time([year, month, day, hour, minute, second, millisecond]: [u16; 7]) -> Option<SystemTime> {
    if !(1970..3000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years from March on, so that a leap day is a year's last.
    let (year, month) = (u64::from(year), u64::from(month));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5;
    let days = days + u64::from(day) - 1 - 719_468;
    let seconds =
        days * 86_400 + u64::from(hour) * 3600 + u64::from(minute) * 60 + u64::from(second);
    let since = Duration::from_secs(seconds) + Duration::from_millis(millisecond.into());
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests;
