//! The text of `perf script`: for each sample a line that says who and when, a line for each frame,
//! the leaf first, and an empty line. Read with whatever fields perf was asked for
//! (perf-script(1)); lines that are neither are passed over.
//!
//! A frame in no mapping is no frame: a frame pointer led astray. The stack is cut there and says so.

mod line;
mod stack;
#[cfg(test)]
mod tests;
mod waits;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read as _},
    time::Duration,
};

use rustc_hash::FxHashMap;

use super::{decoded::Decoded, folded::MAX_NAMES};
use crate::model::{
    frame::RawFrame,
    loss::Loss,
    metric::Metric,
    stacks::{StackId, Stacks},
};
use line::{Head, Line, Record};
use stack::{Names, Open};

pub use line::Switch;
pub use waits::{Moment, Switches, What, read_switches};

/// The rest of a longer line is passed over, in bytes: C++ has such names.
const MAX_LINE: u64 = 1 << 20;
/// The process of CPUs that have nothing to run.
const IDLE: &str = "swapper";

/// What to make of samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// The event to draw; none: the first one.
    pub event: Option<&'a str>,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Whether the time in which a CPU had nothing to run is shown.
    pub idle: bool,
}

/// Why text holds no samples that can be drawn.
#[derive(Debug, thiserror::Error)]
pub enum PerfScriptError {
    /// No sample at all.
    #[error("it has no sample of `perf script`: nothing to draw")]
    Empty,
    /// None of what was asked for.
    #[error("it has no sample of the event {asked:?}, only of {known}")]
    NoEvent {
        /// What was asked for.
        asked: String,
        /// What there is.
        known: String,
    },
    /// All samples are of idle CPUs.
    #[error("all of its samples are of idle CPUs; --idle shows them")]
    Idle,
    /// More different functions than any program has.
    #[error("it has more than {MAX_NAMES} different frames")]
    TooManyNames,
    /// The input failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether text, of which this is the start, is such a text.
#[must_use]
pub fn is_script(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start);
    if text.starts_with("# ========\n# captured on") {
        return true;
    }
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let Some(head) = lines.next().and_then(Head::parse) else { return false };
    if only_frame(head.rest).is_some() {
        return true;
    }
    // A sample of an idle kernel may have no frame at all, and so may all that fit in the start.
    let next = lines.next();
    next.is_some_and(|line| line.starts_with('\t') && Line::parse(line).is_some())
        || (head.time.is_some()
            && head.event.is_some()
            && next.is_none_or(|line| Head::parse(line).is_some()))
}

/// What follows an event where that is the only frame: a tracepoint has fields of its own there.
fn only_frame(rest: &str) -> Option<Line<'_>> {
    Line::parse(rest).filter(|line| !line.module.is_empty())
}

/// Reads samples.
///
/// # Errors
/// What is wrong with them.
pub fn read(input: impl BufRead, options: &Options<'_>) -> Result<Decoded, PerfScriptError> {
    let mut reader = Reader::new(options);
    each_line(input, |text| reader.line(text))?;
    reader.finish()
}

/// Calls `each` with every line, without the blanks at its end.
fn each_line(
    mut input: impl BufRead,
    mut each: impl FnMut(&str) -> Result<(), PerfScriptError>,
) -> Result<(), PerfScriptError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
            skip_line(&mut input)?;
        }
        each(String::from_utf8_lossy(&line).trim_end())?;
    }
}

/// Passes over the rest of a line.
fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let chunk = input.fill_buf()?;
        let (taken, ends) = match chunk.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), chunk.is_empty()),
        };
        input.consume(taken);
        if ends {
            return Ok(());
        }
    }
}

/// A frame while processes have no name yet: the name is that of the first thread, which may come
/// late or change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Process(i64),
    Frame(RawFrame),
}

impl From<RawFrame> for Part {
    fn from(frame: RawFrame) -> Self {
        Self::Frame(frame)
    }
}

/// A sample while its lines come.
#[derive(Default)]
struct Sample {
    pid: i64,
    /// The thread, when threads are told apart.
    thread: Option<RawFrame>,
    open: Open,
}

/// What is kept from line to line.
struct Reader<'a> {
    options: &'a Options<'a>,
    stacks: Stacks<Part>,
    sample: Option<Sample>,
    names: Names<Part>,
    /// Names of processes; whether it is the first thread's.
    processes: FxHashMap<i64, (Box<str>, bool)>,
    /// Samples by event.
    events: BTreeMap<Box<str>, u64>,
    event: Option<Box<str>>,
    span: Option<(u64, u64)>,
    samples: u64,
    idle: u64,
    lost: u64,
}

impl<'a> Reader<'a> {
    fn new(options: &'a Options<'a>) -> Self {
        Self {
            options,
            stacks: Stacks::new(1),
            sample: None,
            names: Names::new(),
            processes: FxHashMap::default(),
            events: BTreeMap::new(),
            event: options.event.map(Into::into),
            span: None,
            samples: 0,
            idle: 0,
            lost: 0,
        }
    }

    fn line(&mut self, text: &str) -> Result<(), PerfScriptError> {
        if text.is_empty() {
            self.end();
        } else if let Some(head) = Head::parse(text) {
            self.end();
            match head.record() {
                Some(Record::Lost(lost)) => self.lost = self.lost.saturating_add(lost),
                Some(Record::Named { name, pid, tid, .. }) => self.name(pid, tid, name),
                Some(_) => {}
                None => self.begin(&head),
            }
            if let Some(line) = only_frame(head.rest) {
                self.frame(&line)?;
            }
        } else if text.starts_with(char::is_whitespace)
            && let Some(line) = Line::parse(text)
        {
            self.frame(&line)?;
        }
        Ok(())
    }

    fn begin(&mut self, head: &Head<'_>) {
        let pid = head.pid.unwrap_or(head.tid);
        self.name(pid, head.tid, head.comm);
        let event = head.event.unwrap_or_default();
        match self.events.get_mut(event) {
            Some(count) => *count += 1,
            None => drop(self.events.insert(event.into(), 1)),
        }
        if **self.event.get_or_insert_with(|| event.into()) != *event {
            return;
        }
        if pid == 0 && head.comm.starts_with(IDLE) && !self.options.idle {
            self.idle += 1;
            return;
        }
        if let Some(time) = head.time {
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first.min(time), last.max(time)));
        }
        let named = self.options.threads.then(|| RawFrame::Thread(head.comm.into()));
        self.sample = Some(Sample { pid, thread: named, ..Sample::default() });
    }

    /// The names of a process's threads come in any order; its own is its first thread's.
    fn name(&mut self, pid: i64, tid: i64, name: &str) {
        let own = pid == tid;
        match self.processes.get_mut(&pid) {
            Some(known) if own || !known.1 => {
                if *known.0 != *name {
                    known.0 = name.into();
                }
                known.1 = own;
            }
            Some(_) => {}
            None => drop(self.processes.insert(pid, (name.into(), own))),
        }
    }

    fn frame(&mut self, line: &Line<'_>) -> Result<(), PerfScriptError> {
        match &mut self.sample {
            Some(sample) => sample.open.add(line, &mut self.names),
            None => Ok(()),
        }
    }

    /// Ends a sample.
    fn end(&mut self) {
        let Some(Sample { pid, thread, open }) = self.sample.take() else { return };
        let mut stack = self.stacks.push(StackId::ROOT, &Part::Process(pid));
        if let Some(thread) = thread {
            stack = self.stacks.push(stack, &Part::Frame(thread));
        }
        if let Some(truncated) = open.truncated() {
            stack = self.stacks.push(stack, &truncated);
        }
        for frame in open.root_first(&self.names) {
            stack = self.stacks.push(stack, frame);
        }
        self.stacks.add(stack, 0, 1);
        self.samples += 1;
    }

    fn finish(mut self) -> Result<Decoded, PerfScriptError> {
        self.end();
        let list = |names: Vec<&str>| names.join(", ");
        if self.samples == 0 {
            return Err(match (self.options.event, self.idle) {
                _ if self.events.is_empty() => PerfScriptError::Empty,
                (_, 1..) => PerfScriptError::Idle,
                (asked, 0) => PerfScriptError::NoEvent {
                    asked: asked.unwrap_or_default().to_owned(),
                    known: list(self.events.keys().map(|name| &**name).collect()),
                },
            });
        }
        if self.lost > 0 {
            let lost = Part::Frame(RawFrame::Lost(Loss::RingFull));
            let stack = self.stacks.push(StackId::ROOT, &lost);
            self.stacks.add(stack, 0, self.lost);
            self.samples = self.samples.saturating_add(self.lost);
        }
        let processes = &self.processes;
        let stacks = self.stacks.map(|part| {
            vec![match part {
                Part::Frame(frame) => frame.clone(),
                Part::Process(pid) => {
                    RawFrame::Process(processes.get(pid).map_or("", |name| &name.0).into())
                }
            }]
        });
        let mut remarks = Vec::new();
        let event = self.event.unwrap_or_default();
        let others: Vec<&str> =
            self.events.keys().map(|name| &**name).filter(|name| *name != &*event).collect();
        if !others.is_empty() {
            let others = list(others);
            remarks.push(format!(
                "{event} is drawn, and {others} is not; --sample-type chooses another event"
            ));
        }
        if self.idle > 0 {
            let idle = self.idle;
            remarks.push(format!("{idle} samples of idle CPUs are not drawn; --idle shows them"));
        }
        let span = self.span.map(|(first, last)| Duration::from_nanos(last - first));
        Ok(Decoded {
            duration: span.filter(|span| !span.is_zero()),
            remarks,
            ..Decoded::new(stacks, Metric::samples(), self.samples)
        })
    }
}
