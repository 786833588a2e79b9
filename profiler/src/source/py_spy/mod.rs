//! CPython from outside, by py-spy: the interpreter's own structures are read from the memory of the
//! process, which is stopped for that moment unless asked otherwise. Nothing is loaded into it.
//!
//! * [`sampler`]: a thread for each process, by py-spy as a library.
//! * [`threads`]: which of its threads run, where the interpreter does not tell.
//! * [`program`]: py-spy as a program, for what the library cannot do.

mod program;
mod sampler;
mod threads;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde::Serialize;

use super::{Collected, Source, session::Session};
use crate::{
    model::{
        frame::RawFrame,
        loss::{Loss, Losses},
        metric::Metric,
        profile::{Metadata, Recording},
        stacks::{StackId, Stacks},
    },
    target::{
        process::Proc,
        runtime::{self, Runtime},
    },
};
use program::Program;
use sampler::Sampler;

/// How often is looked for new child processes, and how far the recording is.
const LOOK: Duration = Duration::from_millis(200);
/// More processes of a family are not recorded.
const MAX_PROCESSES: usize = 256;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Samples a second.
    pub frequency: u64,
    /// Threads that wait, too.
    pub idle: bool,
    /// Frames of native code, too.
    pub native: bool,
    /// Child processes, too.
    pub subprocesses: bool,
    /// Only the thread that holds the interpreter's lock.
    pub gil: bool,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Do not stop the process while it is read.
    pub nonblocking: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// What py-spy tells beside its samples.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Version of the interpreter, of the first process; none: the program py-spy does not tell.
    pub python: Option<String>,
    /// Times at which a sample was due and taken too late.
    pub late: u64,
    /// Child processes whose interpreter could not be read.
    pub unreadable_children: u64,
}

/// A Python process that is being recorded.
pub struct PySpy {
    settings: Settings,
    pid: u32,
    target: String,
    start: SystemTime,
    by: By,
}

enum By {
    Library(Sampler),
    Program(Program),
}

/// What the samplers of a recording share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    samples: AtomicU64,
    lost: AtomicU64,
}

impl Settings {
    /// Begins to record a process.
    ///
    /// # Errors
    /// When it is no Python that can be read.
    pub fn start(self, pid: u32) -> anyhow::Result<PySpy> {
        let proc = Proc::new();
        let process = proc.target(pid)?;
        // Before py-spy tries: it would say less.
        proc.exe(pid)?;
        let comm = String::from_utf8_lossy(&process.comm).into_owned();
        if !runtime::has(&proc, pid, Runtime::Python)
            && let Some(other) = runtime::of(&proc, pid)
        {
            return Err(wrong_kind(pid, &comm, other));
        }
        let by = if self.native {
            // py-spy as a library has no unwinder.
            By::Program(Program::start(&self, pid).context("--native cannot be done")?)
        } else {
            match Sampler::start(&self, pid, Arc::default()) {
                Ok(sampler) => By::Library(sampler),
                Err(error) => match Program::start(&self, pid) {
                    Ok(program) => By::Program(program),
                    Err(program) => {
                        log::debug!("py-spy as a program: {program:#}");
                        return Err(anyhow!(
                            "cannot read process {pid} ({comm}) as a CPython: {error}"
                        ));
                    }
                },
            }
        };
        let target = format!("pid {pid} ({comm})");
        Ok(PySpy { settings: self, pid, target, start: SystemTime::now(), by })
    }
}

/// A process of another kind, and what records it.
fn wrong_kind(pid: u32, comm: &str, kind: Runtime) -> anyhow::Error {
    let command = match kind {
        Runtime::Node => "node",
        Runtime::Bun => "bun",
        Runtime::Dotnet => "dotnet",
        _ => "cpu",
    };
    anyhow!(
        "process {pid} ({comm}) is {kind}, not CPython: `flame-graph {command} --pid {pid}` \
         records it"
    )
}

impl Source for PySpy {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { settings, pid, target, start, by } = self;
        let began = Instant::now();
        let metadata = |duration| Metadata {
            title: settings.title.clone().unwrap_or_else(|| "Python".to_owned()),
            target: target.clone(),
            engine: "py-spy".to_owned(),
            start,
            duration,
            frequency: Some(settings.frequency),
        };
        let sampler = match by {
            By::Library(sampler) => sampler,
            By::Program(program) => {
                let process = Proc::new().comm(pid).unwrap_or_default();
                let process = String::from_utf8_lossy(&process).into_owned();
                let decoded = program.record(session, settings.threads, &process)?;
                let metadata = metadata(began.elapsed());
                let recording = match decoded {
                    Some(decoded) => decoded.recording(metadata),
                    None => Recording::empty(metadata),
                };
                let remarks = vec!["recorded by the program py-spy".to_owned()];
                return Ok((recording, Collected { figures: Figures::default(), remarks }));
            }
        };
        let mut figures = Figures { python: Some(sampler.version.clone()), ..Figures::default() };
        let family = family(&settings, pid, sampler, session, &mut figures);
        let duration = began.elapsed();
        let mut gathered = Gathered::default();
        for sampler in family {
            gathered.add(sampler);
        }
        figures.late = gathered.late;
        let remarks = gathered.remarks(&figures, &settings);
        Ok((gathered.recording(metadata(duration)), Collected { figures, remarks }))
    }
}

/// Samples a process, and its children when asked for, until the session ends or all have ended.
fn family(
    settings: &Settings,
    pid: u32,
    first: Sampler,
    session: &Session,
    figures: &mut Figures,
) -> Vec<Sampler> {
    let proc = Proc::new();
    let shared = Arc::clone(&first.shared);
    let mut samplers = vec![first];
    let mut known = HashSet::from([pid]);
    loop {
        if settings.subprocesses {
            for child in proc.descendants(&[pid]).unwrap_or_default() {
                if known.len() >= MAX_PROCESSES || !known.insert(child) {
                    continue;
                }
                if !runtime::has(&proc, child, Runtime::Python) {
                    // What is forked and not yet executed may become one.
                    if runtime::of(&proc, child).is_none() {
                        known.remove(&child);
                    }
                    continue;
                }
                match Sampler::start(settings, child, Arc::clone(&shared)) {
                    Ok(sampler) => samplers.push(sampler),
                    Err(error) => {
                        log::debug!("process {child}: {error}");
                        figures.unreadable_children += u64::from(proc.target(child).is_ok());
                    }
                }
            }
        }
        let counted = |number: &AtomicU64| number.load(Ordering::Relaxed);
        session.report(counted(&shared.samples), counted(&shared.lost));
        if stopped(session) || samplers.iter().all(Sampler::is_finished) {
            break;
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
    samplers
}

/// Waits a little; whether the session is to end.
fn stopped(session: &Session) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(session.stop_fd(), PollFlags::IN)];
    let time = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    match poll(&mut fds, Some(&time)) {
        Ok(ready) => ready > 0,
        Err(error) => error != Errno::INTR,
    }
}

/// The samples of all processes.
#[derive(Default)]
struct Gathered {
    stacks: Option<Stacks<RawFrame>>,
    samples: u64,
    lost: u64,
    late: u64,
    /// What the last sampler said that failed.
    error: Option<String>,
}

impl Gathered {
    fn add(&mut self, sampler: Sampler) {
        let taken = match sampler.finish() {
            Ok(taken) => taken,
            Err(error) => {
                self.error = Some(error.to_string());
                return;
            }
        };
        self.samples += taken.stacks.total(0);
        self.lost += taken.lost;
        self.late += taken.late;
        self.error = taken.error.or(self.error.take());
        match &mut self.stacks {
            None => self.stacks = Some(taken.stacks),
            Some(stacks) => {
                for (id, values) in taken.stacks.iter() {
                    let stack = stacks.intern(taken.stacks.root_first(id));
                    stacks.add(stack, 0, values[0]);
                }
            }
        }
    }

    fn remarks(&self, figures: &Figures, settings: &Settings) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(error) = &self.error {
            let lost = self.lost;
            remarks.push(format!("{lost} samples could not be read, the last because: {error}"));
        }
        if self.late > self.samples / 10 {
            let late = self.late;
            remarks.push(format!(
                "{late} samples came too late: this host is busy, or {} Hz is too much; see \
                 --nonblocking",
                settings.frequency
            ));
        }
        if figures.unreadable_children > 0 {
            let children = figures.unreadable_children;
            remarks.push(format!("{children} child processes could not be read"));
        }
        remarks
    }

    fn recording(self, metadata: Metadata) -> Recording {
        let mut stacks = self.stacks.unwrap_or_else(|| Stacks::new(1));
        let mut losses = Losses::default();
        losses.lose(Loss::Interpreter, self.lost);
        if self.lost > 0 {
            let lost = stacks.push(StackId::ROOT, &RawFrame::Lost(Loss::Interpreter));
            stacks.add(lost, 0, self.lost);
        }
        Recording {
            metadata,
            metrics: vec![Metric::samples()],
            stacks,
            modules: Vec::new(),
            losses,
            samples: self.samples + self.lost,
            complete: self.samples,
        }
    }
}
