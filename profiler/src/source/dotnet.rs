//! .NET (CoreCLR 3.0 or later), asked over its diagnostics socket for a trace of itself: stacks of
//! its managed threads, or its allocations.
//!
//! The trace is read while it is taken. It is ended by a command on a second connection; then the
//! runtime tells the methods' names, and closes the first. Should we end before that, the runtime
//! notices by the closed connection and stops by itself.

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use rustc_hash::FxHashMap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::{Collected, Source, session::Session};
use crate::{
    format::nettrace::{Decoder, NettraceError, Show},
    model::profile::{Metadata, Recording},
    target::{
        diagnostics::{dotnet::Dotnet, wire},
        pick,
        process::{Proc, ProcessInfo},
        runtime::{self, Runtime},
    },
};

/// ResQ's simulation, the program that is meant when none is named.
const USUAL: &str = "ResQ.SimulationHarness";
/// What the runtime may keep until it is read, in megabytes: its threads do not wait for us.
const RUNTIME_BUFFER: u32 = 64;
/// How long names are waited for after the last that came.
const LATEST_NAMES: Duration = Duration::from_secs(10);
/// How long all of them may take.
const ALL_NAMES: Duration = Duration::from_secs(60);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The process; none: the one that can be meant.
    pub pid: Option<u32>,
    /// How long it records.
    pub duration: Duration,
    /// Whether allocations are recorded, instead of time.
    pub alloc: bool,
    /// What is shown.
    pub show: Show,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// Figures about a trace.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Bytes of the trace.
    pub trace_bytes: u64,
}

/// A trace that is being taken.
#[derive(Debug)]
pub struct Tracing {
    proc: Proc,
    process: ProcessInfo,
    dotnet: Dotnet,
    stream: UnixStream,
    id: u64,
    began: SystemTime,
    settings: Settings,
    remarks: Vec<String>,
}

impl Settings {
    /// Has the runtime begin.
    ///
    /// # Errors
    /// No process that can be asked, several that can be meant, or one that refuses.
    pub fn start(self) -> anyhow::Result<Tracing> {
        let proc = Proc::new();
        let (process, remarks) = match self.pid {
            Some(pid) => (proc.target(pid)?, Vec::new()),
            None => {
                let picked = pick(&proc)?;
                (picked.process, vec![picked.remark])
            }
        };
        let dotnet = Dotnet::of(&proc, &process)?;
        let providers = if self.alloc { &wire::ALLOCATIONS[..] } else { &wire::SAMPLES };
        let command = wire::collect_tracing(RUNTIME_BUFFER, providers);
        let (stream, id) = dotnet.ask(&command)?;
        let began = SystemTime::now();
        Ok(Tracing { proc, process, dotnet, stream, id, began, settings: self, remarks })
    }
}

/// The process that is meant when none is named: ResQ's, else the only one.
fn pick(proc: &Proc) -> anyhow::Result<pick::Picked> {
    let all = runtime::processes(proc, Runtime::Dotnet)?;
    let is_usual = |pid: &u32| {
        let words = proc.command_line(*pid).unwrap_or_default();
        words.iter().any(|word| String::from_utf8_lossy(word).contains(USUAL))
    };
    let usual: Vec<u32> = all.iter().copied().filter(is_usual).collect();
    Ok(match &usual[..] {
        [] => pick::one(proc, &all, ".NET process")?,
        usual => pick::one(proc, usual, "process of ResQ.SimulationHarness")?,
    })
}

impl Source for Tracing {
    type Report = Collected<Figures>;

    fn record(mut self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let mut reader =
            Reader { decoder: Decoder::new(self.settings.show), bytes: 0, failed: None };
        let whole = self.until_stopped(&mut reader, session)?;
        let duration = self.began.elapsed().unwrap_or_default();
        // Threads' names, while they run.
        let threads = self.threads();
        if whole {
            let pid = self.process.pid;
            self.remarks.push(format!("process {pid} ended its trace before the recording did"));
        } else if reader.failed.is_none() {
            self.stop(&mut reader);
        }
        let Reader { decoder, bytes, failed } = reader;
        if let Some(error) = failed {
            self.remarks.push(format!("of its trace, {error}; drawn is what comes before"));
        } else if !decoder.has_ended() {
            self.remarks.push("its trace ended in the middle: methods may lack names".to_owned());
        }
        let name = String::from_utf8_lossy(&self.process.comm).into_owned();
        let thread = |number| {
            let known = threads.get(&number).cloned();
            known.unwrap_or_else(|| format!("thread {number}"))
        };
        let trace = decoder.finish(&name, thread);
        let mut decoded = trace.decoded;
        self.remarks.append(&mut decoded.remarks);
        self.remarks.extend(trace.empty.map(str::to_owned));
        let target = format!("pid {} ({name})", self.process.pid);
        let title = self.settings.title.take();
        let metadata = Metadata {
            title: title.unwrap_or_else(|| format!("{} of {target}", decoded.metric.name)),
            target,
            engine: "dotnet".to_owned(),
            start: self.began,
            duration,
            frequency: None,
        };
        // From our begin to our end, which is more than from the first to the last sample.
        decoded.duration = None;
        let recording = Recording {
            losses: trace.losses,
            complete: trace.complete,
            ..decoded.recording(metadata)
        };
        let figures = Figures { trace_bytes: bytes };
        Ok((recording, Collected { figures, remarks: self.remarks }))
    }
}

impl Tracing {
    /// Reads until the session ends; true: the trace ended first.
    fn until_stopped(&mut self, reader: &mut Reader, session: &Session) -> anyhow::Result<bool> {
        while !session.is_stopped() && reader.failed.is_none() {
            let mut fds = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::from_borrowed_fd(session.stop_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result.context("cannot wait for the trace")?,
            };
            if !fds[0].revents().is_empty() && !reader.read(&mut self.stream) {
                return Ok(true);
            }
            let (samples, lost) = reader.decoder.progress();
            session.report(samples, lost);
        }
        Ok(false)
    }

    /// Has the runtime stop, and reads what it says to the end.
    fn stop(&mut self, reader: &mut Reader) {
        // Its answer comes when the trace is written, and the trace when it is read.
        let stopping = self.dotnet.send(&wire::stop_tracing(self.id));
        let end = Instant::now() + ALL_NAMES;
        while reader.failed.is_none() && Instant::now() < end {
            let wait = Timespec::try_from(LATEST_NAMES).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&wait)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1..) if reader.read(&mut self.stream) => {}
                _ => break,
            }
        }
        let stopped = stopping.and_then(|mut stream| self.dotnet.answer(&mut stream));
        if let Err(error) = stopped
            && !reader.decoder.has_ended()
        {
            self.remarks.push(error.to_string());
        }
    }

    /// The names of the process's threads, by their numbers as the process sees them.
    fn threads(&self) -> FxHashMap<u64, String> {
        if !self.settings.show.threads {
            return FxHashMap::default();
        }
        let Self { proc, process: ProcessInfo { pid, .. }, .. } = self;
        let threads = proc.threads(*pid).unwrap_or_default().into_iter();
        threads
            .filter_map(|tid| {
                let name = proc.thread_comm(*pid, tid).ok()?;
                let number = proc.ns_pid(tid).ok()?;
                Some((number.into(), String::from_utf8_lossy(&name).into_owned()))
            })
            .collect()
    }
}

/// The trace as it comes.
struct Reader {
    decoder: Decoder,
    bytes: u64,
    failed: Option<NettraceError>,
}

impl Reader {
    /// Reads what is there; false at the end.
    fn read(&mut self, stream: &mut UnixStream) -> bool {
        let mut buffer = [0; 1 << 16];
        let read = match stream.read(&mut buffer) {
            Ok(read) => read,
            Err(error) => return error.kind() == io::ErrorKind::Interrupted,
        };
        self.bytes += read as u64;
        self.failed = self.decoder.feed(&buffer[..read]).err();
        read > 0
    }
}
