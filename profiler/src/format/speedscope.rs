//! Speedscope's JSON, as py-spy and many other profilers write it: shared frames, and for each thread
//! a profile of samples (stacks with weights, the root first) or of events (frames that open and
//! close).

use std::{borrow::Cow, sync::Arc};

use serde::Deserialize;

use super::{decoded::Decoded, folded::MAX_FRAMES};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    metric::{Metric, Unit},
    stacks::{StackId, Stacks},
};

/// Longer profiles are refused, in bytes.
pub const MAX_INPUT: usize = 128 << 20;
/// Larger values are none of any recording; below it numbers of JSON are exact.
const MAX_VALUE: f64 = (1_u64 << 53) as f64;

/// Why text is no profile that can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum SpeedscopeError {
    /// More than is read.
    #[error("it is longer than {MAX_INPUT} bytes")]
    TooLarge,
    /// Not JSON, or of another shape.
    #[error("it is no speedscope profile: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A weight or a time that is none.
    #[error("a value of the profile {0:?} is out of range")]
    Value(String),
    /// A frame that closes and is not open.
    #[error("an event of the profile {0:?} closes a frame that is not open")]
    Close(String),
    /// No value at all.
    #[error("it has no sample with a weight: nothing to draw")]
    Empty,
}

/// What to make of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// The name of the process.
    pub process: &'a str,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    shared: Shared<'a>,
    #[serde(borrow)]
    profiles: Vec<Profile<'a>>,
}

#[derive(Deserialize)]
struct Shared<'a> {
    #[serde(borrow)]
    frames: Vec<Named<'a>>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    file: Option<Cow<'a, str>>,
    line: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    unit: Cow<'a, str>,
    #[serde(default)]
    samples: Vec<Vec<usize>>,
    #[serde(default)]
    weights: Vec<f64>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Kind,
    at: f64,
    frame: usize,
}

#[derive(Deserialize, PartialEq, Eq)]
enum Kind {
    #[serde(rename = "O")]
    Open,
    #[serde(rename = "C")]
    Close,
}

/// Whether text begins as such a profile does.
#[must_use]
pub fn is_profile(start: &[u8]) -> bool {
    let start = String::from_utf8_lossy(start);
    start.trim_start().starts_with('{') && start.contains("speedscope.app/file-format-schema")
}

/// Decodes a profile.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Result<Decoded, SpeedscopeError> {
    if bytes.len() > MAX_INPUT {
        return Err(SpeedscopeError::TooLarge);
    }
    let file: File<'_> = serde_json::from_slice(bytes)?;
    let unit = file.profiles.first().map_or(Cow::Borrowed(""), |profile| profile.unit.clone());
    let (metric, scale) = metric(&unit);
    let mut reader = Reader {
        frames: file.shared.frames.iter().map(named).collect(),
        stacks: Stacks::new(1),
        scale,
        samples: 0,
    };
    let mut remarks = Vec::new();
    for profile in &file.profiles {
        if profile.unit != unit {
            let (name, other) = (&profile.name, &profile.unit);
            remarks.push(format!("the profile {name:?} counts {other:?} and is not drawn"));
            continue;
        }
        let mut root =
            reader.stacks.push(StackId::ROOT, &RawFrame::Process(options.process.into()));
        if options.threads && !profile.name.is_empty() {
            root = reader.stacks.push(root, &RawFrame::Thread((&*profile.name).into()));
        }
        reader.samples(profile, root)?;
        reader.events(profile, root)?;
    }
    if reader.stacks.is_empty() {
        return Err(SpeedscopeError::Empty);
    }
    Ok(Decoded { remarks, ..Decoded::new(reader.stacks, metric, reader.samples) })
}

/// What values of a unit count, and how many of that one is.
fn metric(unit: &str) -> (Metric, f64) {
    let metric = |name: &str, unit| Metric { name: name.to_owned(), unit };
    match unit {
        "nanoseconds" => (metric("time", Unit::Nanoseconds), 1.0),
        "microseconds" => (metric("time", Unit::Microseconds), 1.0),
        "milliseconds" => (metric("time", Unit::Nanoseconds), 1e6),
        "seconds" => (metric("time", Unit::Nanoseconds), 1e9),
        "bytes" => (metric("space", Unit::Bytes), 1.0),
        _ => (Metric::samples(), 1.0),
    }
}

fn named(frame: &Named<'_>) -> RawFrame {
    let file = frame.file.as_deref().filter(|file| !file.is_empty());
    let line = frame.line.filter(|line| (1.0..4e9).contains(line)).map(|line| line as u32);
    let interpreted = file.is_some_and(|file| file.ends_with(".py"));
    let kind = if interpreted { FrameKind::Interpreted } else { FrameKind::Native };
    RawFrame::Named(Frame { file: file.map(Arc::from), line, ..Frame::symbol(&*frame.name, kind) })
}

/// What is kept from profile to profile.
struct Reader {
    frames: Vec<RawFrame>,
    stacks: Stacks<RawFrame>,
    scale: f64,
    samples: u64,
}

impl Reader {
    fn samples(&mut self, profile: &Profile<'_>, root: StackId) -> Result<(), SpeedscopeError> {
        for (number, sample) in profile.samples.iter().enumerate() {
            // Without weights each counts for one.
            let weight = match profile.weights.get(number) {
                Some(weight) => self.value(*weight, profile)?,
                None if profile.weights.is_empty() => self.value(1.0, profile)?,
                None => 0,
            };
            let mut stack = root;
            for frame in sample.iter().take(MAX_FRAMES) {
                stack = self.push(stack, *frame);
            }
            self.stacks.add(stack, 0, weight);
            self.samples += u64::from(weight > 0);
        }
        Ok(())
    }

    fn events(&mut self, profile: &Profile<'_>, root: StackId) -> Result<(), SpeedscopeError> {
        let mut open: Vec<(usize, StackId)> = Vec::new();
        let mut last = profile.events.first().map_or(0.0, |event| event.at);
        for event in &profile.events {
            let value = self.value((event.at - last).max(0.0), profile)?;
            last = last.max(event.at);
            let stack = open.last().map_or(root, |(_, stack)| *stack);
            if !open.is_empty() {
                self.stacks.add(stack, 0, value);
                self.samples += u64::from(value > 0);
            }
            if event.kind == Kind::Open {
                // What is deeper counts for the last one that fits.
                let deep = open.len() >= MAX_FRAMES;
                let stack = if deep { stack } else { self.push(stack, event.frame) };
                open.push((event.frame, stack));
            } else if open.pop().is_none_or(|(frame, _)| frame != event.frame) {
                return Err(SpeedscopeError::Close(shown(&profile.name)));
            }
        }
        Ok(())
    }

    fn push(&mut self, stack: StackId, frame: usize) -> StackId {
        let unknown = || RawFrame::Named(Frame::placeholder("[unknown]", FrameKind::Native));
        let frame = self.frames.get(frame).cloned().unwrap_or_else(unknown);
        self.stacks.push(stack, &frame)
    }

    fn value(&self, value: f64, profile: &Profile<'_>) -> Result<u64, SpeedscopeError> {
        let value = (value * self.scale).round();
        if !(0.0..=MAX_VALUE).contains(&value) {
            return Err(SpeedscopeError::Value(shown(&profile.name)));
        }
        Ok(value as u64)
    }
}

/// A name as a part of a message.
fn shown(name: &str) -> String {
    name.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"$schema":"https://www.speedscope.app/file-format-schema.json",
        "shared":{"frames":[{"name":"main","file":"a.py","line":3},{"name":"f"},{"name":"g"}]},
        "profiles":[
        {"type":"sampled","name":"one","unit":"seconds","startValue":0,"endValue":1,
         "samples":[[0,1],[0,1],[0,9]],"weights":[0.01,0.01,0.5]},
        {"type":"evented","name":"two","unit":"seconds","startValue":0,"endValue":1,"events":[
         {"type":"O","at":1,"frame":0},{"type":"O","at":2,"frame":2},{"type":"C","at":5,"frame":2},
         {"type":"C","at":5.5,"frame":0}]},
        {"type":"sampled","name":"three","unit":"bytes","samples":[[0]],"weights":[7]}]}"#;

    fn lines(text: &str, threads: bool) -> Vec<String> {
        let decoded = decode(text.as_bytes(), &Options { threads, process: "p" }).unwrap();
        let mut lines: Vec<String> = decoded
            .stacks
            .iter()
            .map(|(id, values)| {
                let names = decoded.stacks.root_first(id).into_iter().map(|frame| match frame {
                    RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
                    RawFrame::Named(frame) => frame.name.to_string(),
                    other => format!("{other:?}"),
                });
                format!("{} {}", names.collect::<Vec<_>>().join(";"), values[0])
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn samples_and_events_are_weighed_by_time() {
        assert!(is_profile(TEXT.as_bytes()) && !is_profile(b"{\"nodes\":[]}"));
        let plain = ["p;main 1500000000", "p;main;[unknown] 500000000", "p;main;f 20000000"];
        assert_eq!(lines(TEXT, false), [&plain[..], &["p;main;g 3000000000"]].concat());
        let threads = lines(TEXT, true);
        assert!(threads.contains(&"p;two;main;g 3000000000".to_owned()), "{threads:?}");
        let decoded = decode(TEXT.as_bytes(), &Options { threads: false, process: "p" }).unwrap();
        assert_eq!((decoded.samples, decoded.metric.unit), (6, Unit::Nanoseconds));
        assert!(decoded.remarks[0].contains("\"three\" counts \"bytes\""), "{:?}", decoded.remarks);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let file = |profile: &str| {
            let text = format!(
                r#"{{"shared":{{"frames":[{{"name":"f"}}]}},"profiles":[{{"name":"n",{profile}}}]}}"#
            );
            let options = Options { threads: false, process: "p" };
            decode(text.as_bytes(), &options).map(|_| ()).unwrap_err().to_string()
        };
        for (profile, said) in [
            (r#""samples":[[0]],"weights":[-1]"#, "out of range"),
            (r#""samples":[[0]],"weights":[1e300]"#, "out of range"),
            (r#""samples":[[0]],"weights":[0]"#, "nothing to draw"),
            (r#""samples":[["x"]]"#, "no speedscope profile"),
            (r#""events":[{"type":"C","at":1,"frame":0}]"#, "not open"),
            (r#""events":[{"type":"X","at":1,"frame":0}]"#, "no speedscope profile"),
        ] {
            let error = file(profile);
            assert!(error.contains(said), "{profile}: {error}");
        }
    }
}
