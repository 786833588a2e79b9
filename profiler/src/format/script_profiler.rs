//! What WebKit's ScriptProfiler tells: for each sample of JavaScriptCore the frames, leaf first, with
//! the place of each function. Samples have a time only now and then (most of them read 0 in Bun
//! 1.4), so that they are counted, not weighed.
//!
//! A long recording comes in several parts, one event (`ScriptProfiler.trackingComplete`) each.

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{cpuprofile::name, decoded::Decoded, folded::MAX_FRAMES};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    metric::Metric,
    stacks::{StackId, Stacks},
};

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    params: Parameters<'a>,
}

#[derive(Deserialize)]
struct Parameters<'a> {
    /// None: nothing ran.
    #[serde(borrow)]
    samples: Option<Samples<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Samples<'a> {
    #[serde(borrow)]
    stack_traces: Vec<Trace<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    #[serde(borrow)]
    stack_frames: Vec<Place<'a>>,
}

/// Where a function stands.
#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    /// From 1; -1: it has none.
    line: Option<i64>,
    #[serde(borrow, default)]
    url: Cow<'a, str>,
}

/// The samples of a recording, as they come.
#[derive(Debug)]
pub struct Tracked {
    stacks: Stacks<RawFrame>,
    root: StackId,
    samples: u64,
}

impl Tracked {
    /// None yet, of this process, and of this thread where threads are told apart.
    #[must_use]
    pub fn new(process: &str, thread: Option<&str>) -> Self {
        let mut stacks = Stacks::new(1);
        let first = RawFrame::Process(process.into());
        let mut root = stacks.push(StackId::ROOT, &first);
        if let Some(thread) = thread {
            root = stacks.push(root, &RawFrame::Thread(thread.into()));
        }
        Self { stacks, root, samples: 0 }
    }

    /// Adds the samples of an event; how many there are now.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn add(&mut self, event: &str) -> Result<u64, serde_json::Error> {
        let event: Event<'_> = serde_json::from_str(event)?;
        for trace in event.params.samples.into_iter().flat_map(|samples| samples.stack_traces) {
            // What is deeper counts for the last one that fits.
            let frames = trace.stack_frames.iter().rev().take(MAX_FRAMES);
            let stack = frames.fold(self.root, |stack, place| {
                self.stacks.push(stack, &RawFrame::Named(place.frame()))
            });
            self.stacks.add(stack, 0, 1);
            self.samples += 1;
        }
        Ok(self.samples)
    }

    /// All of it, taken in this time; none: nothing ran.
    #[must_use]
    pub fn finish(self, duration: Duration) -> Option<Decoded> {
        let Self { stacks, samples, .. } = self;
        (samples > 0).then(|| Decoded {
            duration: Some(duration),
            ..Decoded::new(stacks, Metric::samples(), samples)
        })
    }
}

impl Place<'_> {
    fn frame(&self) -> Frame {
        let file = self.url.strip_prefix("file://").unwrap_or(&self.url);
        let line = self.line.and_then(|line| u32::try_from(line).ok()).filter(|line| *line > 0);
        Frame {
            file: (!file.is_empty()).then(|| Arc::from(file)),
            line,
            ..Frame::symbol(name(&self.name, file, line), FrameKind::Interpreted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(traces: &str) -> String {
        format!(
            r#"{{"method":"ScriptProfiler.trackingComplete","params":{{"timestamp":1.5,
               "samples":{{"stackTraces":[{traces}]}}}}}}"#
        )
    }

    fn shown(tracked: Tracked) -> Vec<(String, u64)> {
        let decoded = tracked.finish(Duration::from_secs(1)).unwrap();
        assert_eq!(decoded.stacks.total(0), decoded.samples);
        let name = |frame: &RawFrame| match frame {
            RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
            RawFrame::Named(frame) => frame.name.to_string(),
            other => format!("{other:?}"),
        };
        let stacks = decoded.stacks.iter().map(|(id, values)| {
            let names: Vec<_> = decoded.stacks.root_first(id).into_iter().map(name).collect();
            (names.join("|"), values[0])
        });
        stacks.collect()
    }

    #[test]
    fn samples_of_all_parts_are_counted() {
        let leaf = r#"{"name":"burn","line":9,"column":1,"url":"/a.js"}"#;
        let nameless = r#"{"name":"","line":22,"url":"file:///a.js"}"#;
        let native = r#"{"name":"setImmediate","line":-1,"column":-1,"url":""}"#;
        let mut tracked = Tracked::new("bun", None);
        let trace = format!(r#"{{"timestamp":0,"stackFrames":[{leaf},{nameless}]}}"#);
        assert_eq!(tracked.add(&event(&trace)).unwrap(), 1);
        let both = format!(r#"{trace},{{"timestamp":1,"stackFrames":[{native}]}}"#);
        assert_eq!(tracked.add(&event(&both)).unwrap(), 3);
        assert_eq!(tracked.add(r#"{"params":{"timestamp":2}}"#).unwrap(), 3);
        let stacks = shown(tracked);
        assert_eq!(
            stacks,
            [("bun|(anonymous) /a.js:22|burn".to_owned(), 2), ("bun|setImmediate".to_owned(), 1),]
        );
    }

    #[test]
    fn threads_are_frames_and_nothing_is_nothing() {
        let mut tracked = Tracked::new("bun", Some("main"));
        tracked.add(&event(r#"{"stackFrames":[]}"#)).unwrap();
        assert_eq!(shown(tracked), [("bun|main".to_owned(), 1)]);
        assert!(Tracked::new("bun", None).finish(Duration::ZERO).is_none());
    }

    #[test]
    fn other_shapes_are_refused_and_depth_is_bounded() {
        for text in [
            "",
            "{}",
            r#"{"params":{"samples":{}}}"#,
            r#"{"params":{"samples":{"stackTraces":[{"stackFrames":[{"name":7}]}]}}}"#,
            r#"{"params":{"samples":{"stackTraces":[{}]}}}"#,
        ] {
            assert!(Tracked::new("bun", None).add(text).is_err(), "{text}");
        }
        let mut tracked = Tracked::new("bun", None);
        let deep = vec![r#"{"name":"f"}"#; 3 * MAX_FRAMES].join(",");
        tracked.add(&event(&format!(r#"{{"stackFrames":[{deep}]}}"#))).unwrap();
        let decoded = tracked.finish(Duration::from_secs(1)).unwrap();
        let (stack, _) = decoded.stacks.iter().next().unwrap();
        assert_eq!(decoded.stacks.root_first(stack).len(), MAX_FRAMES + 1);
    }
}
