//! `perf record` and `perf script` as a source, for what our own engines do not have: other events,
//! last-branch records, a second opinion.

use std::time::SystemTime;

use serde::Serialize;

use super::{
    Collected, Source,
    perf_record::{Record, synthesized},
    session::Session,
};
use crate::{
    format::perf_script::{self, PerfScriptError},
    model::profile::{Metadata, Recording},
};

/// Who is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The whole host.
    Host,
    /// A process and what it forks.
    Process(u32),
    /// A process that has yet to run its command.
    Command(u32),
}

/// How stacks are walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallGraph {
    /// By unwind tables, from copies of the stack.
    Dwarf,
    /// By frame pointers.
    FramePointers,
    /// By the branch records of the CPU.
    LastBranches,
}

impl CallGraph {
    fn name(self) -> &'static str {
        match self {
            Self::Dwarf => "dwarf",
            Self::FramePointers => "fp",
            Self::LastBranches => "lbr",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What perf samples.
    pub event: String,
    /// Samples a second.
    pub frequency: u64,
    /// How stacks are walked.
    pub call_graph: CallGraph,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// What perf tells beside its samples.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes that `perf record` wrote.
    pub perf_data_bytes: u64,
}

/// `perf record`, sampling.
#[derive(Debug)]
pub struct Perf {
    settings: Settings,
    target: String,
    record: Record,
    start: SystemTime,
}

impl Settings {
    /// Starts `perf record`; it samples when this returns. `name` is what captions call the target.
    ///
    /// # Errors
    /// When perf is missing, or what it says.
    pub fn start(self, target: &Target, name: String) -> anyhow::Result<Perf> {
        let mut arguments = vec![
            format!("--event={}", self.event),
            format!("--freq={}", self.frequency),
            format!("--call-graph={}", self.call_graph.name()),
            match target {
                Target::Host => "--all-cpus".to_owned(),
                Target::Process(pid) | Target::Command(pid) => format!("--pid={pid}"),
            },
        ];
        arguments.extend(synthesized(matches!(target, Target::Command(_))));
        let record = Record::start(&arguments)?;
        Ok(Perf { settings: self, target: name, record, start: SystemTime::now() })
    }
}

impl Source for Perf {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { settings, target, mut record, start } = self;
        let duration = record.wait(session)?;
        let perf_data_bytes = record.finish()?;
        let metadata = Metadata {
            title: settings.title.clone().unwrap_or_else(|| format!("{} by perf", settings.event)),
            target,
            engine: "perf".to_owned(),
            start,
            duration,
            frequency: Some(settings.frequency),
        };
        let mut collected = Collected { figures: Figures { perf_data_bytes }, remarks: Vec::new() };
        let options = perf_script::Options { event: None, threads: settings.threads, idle: false };
        let recording = match record.script(&[], |text| perf_script::read(text, &options))? {
            Ok(mut decoded) => {
                collected.remarks = std::mem::take(&mut decoded.remarks);
                // It is the time between two samples; ours is that of the recording.
                decoded.duration = None;
                decoded.recording(metadata)
            }
            Err(PerfScriptError::Empty | PerfScriptError::Idle) => Recording::empty(metadata),
            Err(error) => return Err(error.into()),
        };
        Ok((recording, collected))
    }
}
