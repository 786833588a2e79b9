//! V8's `.cpuprofile`, as Node and its inspector write it: a tree of call frames, and for each
//! sample the node that ran and the microseconds since the sample before.
//!
//! Read are also profiles in wrappers (`{"profile": …}`, an inspector's reply `{"id": …, "result": …}`)
//! and trees whose nodes name their `parent` instead of their `children`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::{decoded::Decoded, folded::MAX_FRAMES};
use crate::model::{
    frame::{Frame, FrameKind, RawFrame},
    metric::{Metric, Unit},
    stacks::{StackId, Stacks},
};

/// Longer profiles are refused, in bytes. Decoding takes up to some eight times as much.
pub const MAX_INPUT: usize = 128 << 20;
/// Larger times are no microseconds of any recording; below it numbers of JSON are exact.
const MAX_MICROSECONDS: f64 = (1_u64 << 53) as f64;

/// Why text is no profile that can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum CpuProfileError {
    /// More than is read.
    #[error("it is longer than {MAX_INPUT} bytes")]
    TooLarge,
    /// Not JSON, or of another shape.
    #[error("it is no V8 CPU profile: {0}")]
    Malformed(#[from] serde_json::Error),
    /// JSON of another kind.
    #[error("it is no V8 CPU profile: it has no `nodes`")]
    NoNodes,
    /// A time that is none.
    #[error("the time of sample {0} is out of range")]
    Time(usize),
    /// No samples, or all of them idle.
    #[error("it has no sample in which anything ran: nothing to draw")]
    Empty,
}

/// What to make of a profile.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Whether the time in which nothing ran is shown.
    pub idle: bool,
    /// The name of the process.
    pub process: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    #[serde(borrow, alias = "result")]
    profile: Option<Box<Profile<'a>>>,
    #[serde(borrow)]
    nodes: Option<Vec<Node<'a>>>,
    samples: Option<Vec<i64>>,
    time_deltas: Option<Vec<f64>>,
    start_time: Option<f64>,
    end_time: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node<'a> {
    id: i64,
    #[serde(borrow)]
    call_frame: CallFrame<'a>,
    parent: Option<i64>,
    #[serde(default)]
    children: Option<Vec<i64>>,
    hit_count: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallFrame<'a> {
    #[serde(borrow, default)]
    function_name: Cow<'a, str>,
    #[serde(borrow, default)]
    url: Cow<'a, str>,
    /// From 0; -1: not known.
    line_number: Option<i64>,
}

/// Whether text begins as such a profile does.
#[must_use]
pub fn is_profile(start: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&start[..start.len().min(4096)]);
    let keys = ["\"nodes\"", "\"callFrame\"", "\"profile\"", "\"timeDeltas\"", "\"startTime\""];
    start.trim_start().starts_with('{') && keys.iter().any(|key| start.contains(key))
}

/// Decodes a profile.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &[u8], options: &Options<'_>) -> Result<Decoded, CpuProfileError> {
    if bytes.len() > MAX_INPUT {
        return Err(CpuProfileError::TooLarge);
    }
    let mut profile: Profile<'_> = serde_json::from_slice(bytes)?;
    while let Some(inner) = profile.profile.take() {
        profile = *inner;
    }
    let nodes = profile.nodes.take().ok_or(CpuProfileError::NoNodes)?;
    let mut tree = Tree::new(&nodes, options);
    let mut drawn = Drawn::default();
    let samples = profile.samples.as_deref().unwrap_or_default();
    let deltas = profile.time_deltas.as_deref().unwrap_or_default();
    let timed = !samples.is_empty() && !deltas.is_empty();
    if samples.is_empty() {
        for node in &nodes {
            drawn.add(&mut tree, node.id, node.hit_count.unwrap_or(0), node.hit_count);
        }
    } else if deltas.is_empty() {
        samples.iter().for_each(|id| drawn.add(&mut tree, *id, 1, Some(1)));
    } else {
        for (id, weight) in samples.iter().zip(weights(deltas)) {
            drawn.add(&mut tree, *id, weight?, Some(1));
        }
    }
    if tree.stacks.is_empty() {
        return Err(CpuProfileError::Empty);
    }
    let mut remarks = Vec::new();
    if timed && deltas.len() < samples.len() {
        let missing = samples.len() - deltas.len();
        remarks.push(format!("{missing} samples of the profile have no time and are not drawn"));
    }
    let metric = if timed {
        Metric { name: "cpu".to_owned(), unit: Unit::Microseconds }
    } else {
        Metric::samples()
    };
    let span = profile.end_time.zip(profile.start_time).map(|(end, start)| (end - start) / 1e6);
    let duration = span.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(Decoded {
        stacks: tree.stacks,
        metric,
        samples: drawn.samples,
        start: None,
        duration: duration.filter(|duration| !duration.is_zero()),
        frequency: None,
        remarks,
    })
}

/// The microseconds of each sample. V8 sorts its samples now and then a little wrong: what a step
/// back took is not counted twice.
fn weights(deltas: &[f64]) -> impl Iterator<Item = Result<u64, CpuProfileError>> {
    let (mut now, mut latest) = (0.0_f64, 0.0_f64);
    deltas.iter().enumerate().map(move |(number, delta)| {
        now += delta;
        if !(-MAX_MICROSECONDS..=MAX_MICROSECONDS).contains(&now) {
            return Err(CpuProfileError::Time(number));
        }
        let weight = (now - latest).max(0.0);
        latest = latest.max(now);
        Ok(weight.round() as u64)
    })
}

/// How many samples are drawn.
#[derive(Default)]
struct Drawn {
    samples: u64,
}

impl Drawn {
    fn add(&mut self, tree: &mut Tree<'_>, id: i64, weight: u64, samples: Option<u64>) {
        if let Some(stack) = tree.stack(id) {
            tree.stacks.add(stack, 0, weight);
            self.samples = self.samples.saturating_add(samples.unwrap_or_default());
        }
    }
}

/// The tree of call frames as stacks.
struct Tree<'a> {
    nodes: FxHashMap<i64, &'a Node<'a>>,
    parents: FxHashMap<i64, i64>,
    /// The stack of each node that was asked for, and how deep it is.
    known: FxHashMap<i64, (StackId, usize)>,
    stacks: Stacks<RawFrame>,
    process: RawFrame,
    idle: bool,
}

impl<'a> Tree<'a> {
    fn new(nodes: &'a [Node<'a>], options: &Options<'_>) -> Self {
        let mut parents = FxHashMap::default();
        for node in nodes {
            for child in node.children.iter().flatten() {
                parents.entry(*child).or_insert(node.id);
            }
        }
        for node in nodes {
            if let Some(parent) = node.parent {
                parents.entry(node.id).or_insert(parent);
            }
        }
        Self {
            // The first of those that share an id.
            nodes: nodes.iter().rev().map(|node| (node.id, node)).collect(),
            parents,
            known: FxHashMap::default(),
            stacks: Stacks::new(1),
            process: RawFrame::Process(options.process.into()),
            idle: options.idle,
        }
    }

    /// The stack of a node; none: it is not shown.
    fn stack(&mut self, id: i64) -> Option<StackId> {
        let ran = self.nodes.get(&id).map(|node| &*node.call_frame.function_name);
        if ran == Some("(idle)") && !self.idle {
            return None;
        }
        let mut path = Vec::new();
        let mut seen = FxHashSet::default();
        let mut at = id;
        // Up to the root, to what is known, or once around a circle.
        let (mut stack, mut depth) = loop {
            if let Some(known) = self.known.get(&at) {
                break *known;
            }
            if !seen.insert(at) {
                break (self.stacks.push(StackId::ROOT, &self.process), 0);
            }
            path.push(at);
            match self.parents.get(&at) {
                Some(parent) => at = *parent,
                None => break (self.stacks.push(StackId::ROOT, &self.process), 0),
            }
        };
        for id in path.into_iter().rev() {
            // What is deeper counts for the last one that fits.
            if let Some(frame) = self.frame(id).filter(|_| depth < MAX_FRAMES) {
                stack = self.stacks.push(stack, &frame);
                depth += 1;
            }
            self.known.insert(id, (stack, depth));
        }
        Some(stack)
    }

    /// The frame of a node; none for V8's own root.
    fn frame(&self, id: i64) -> Option<RawFrame> {
        let Some(node) = self.nodes.get(&id) else {
            let unknown = Frame::placeholder("[unknown]", FrameKind::Interpreted);
            return Some(RawFrame::Named(unknown));
        };
        let frame = &node.call_frame;
        if frame.function_name == "(root)" {
            return None;
        }
        let file = frame.url.strip_prefix("file://").unwrap_or(&frame.url);
        let line = frame.line_number.and_then(|line| u32::try_from(line.checked_add(1)?).ok());
        let line = line.filter(|line| *line > 0);
        Some(RawFrame::Named(Frame {
            file: (!file.is_empty()).then(|| Arc::from(file)),
            line,
            ..Frame::symbol(name(&frame.function_name, file, line), FrameKind::Interpreted)
        }))
    }
}

/// A function's name. Functions without one are told apart by where they stand.
pub(super) fn name(function: &str, file: &str, line: Option<u32>) -> String {
    match (function, file, line) {
        ("", "", _) => "(anonymous)".to_owned(),
        ("", file, Some(line)) => format!("(anonymous) {file}:{line}"),
        ("", file, None) => format!("(anonymous) {file}"),
        (name, ..) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
