//! Tools that record waiting, ours and others', and one recording with each.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::tools::binary;

/// From a tool's start until it records.
const SET_UP: Duration = Duration::from_millis(1500);
/// The longest that a tool may take to write down what it recorded.
const MAX_END: Duration = Duration::from_secs(60);

/// What every switch of the host costs bpftrace at the least: the time of each thread off the CPUs.
const BPFTRACE: &str = "tracepoint:sched:sched_switch { $now = nsecs; \
     if (@out[args->next_pid]) { @off[args->next_pid] = sum($now - @out[args->next_pid]); } \
     @out[args->prev_pid] = $now; }";
/// The same by stack.
const BPFTRACE_STACKS: &str = "tracepoint:sched:sched_switch { $now = nsecs; \
     if (@out[args->next_pid]) { @off[args->next_pid, @u[args->next_pid], @k[args->next_pid]] = \
     sum($now - @out[args->next_pid]); } @out[args->prev_pid] = $now; \
     @u[args->prev_pid] = ustack; @k[args->prev_pid] = kstack; }";

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `flame-graph offcpu` of the whole host.
    Host,
    /// `flame-graph offcpu` of the load's own processes.
    Processes,
    /// `flame-graph offcpu --wakers` of the whole host.
    Wakers,
    /// `flame-graph offcpu --engine perf-event` of the whole host.
    PerfEvents,
    /// `flame-graph wall` of the whole host.
    Wall,
    /// `perf record -e sched:sched_switch --call-graph dwarf`.
    PerfDwarf,
    /// `perf record -e sched:sched_switch -g`.
    PerfFramePointer,
    /// bpftrace, times only.
    Bpftrace,
    /// bpftrace, with stacks.
    BpftraceStacks,
    /// `offcputime` of libbpf-tools.
    OffCpuTime,
}

impl Tool {
    /// In the order in which they take turns.
    pub const ALL: [Self; 10] = [
        Self::Host,
        Self::Processes,
        Self::Wakers,
        Self::PerfEvents,
        Self::Wall,
        Self::PerfDwarf,
        Self::PerfFramePointer,
        Self::Bpftrace,
        Self::BpftraceStacks,
        Self::OffCpuTime,
    ];

    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "offcpu, host",
            Self::Processes => "offcpu --pid",
            Self::Wakers => "offcpu --wakers, host",
            Self::PerfEvents => "offcpu by perf events, host",
            Self::Wall => "wall, host",
            Self::PerfDwarf => "perf dwarf, host",
            Self::PerfFramePointer => "perf -g, host",
            Self::Bpftrace => "bpftrace, host, no stacks",
            Self::BpftraceStacks => "bpftrace, host, stacks",
            Self::OffCpuTime => "offcputime, host",
        }
    }

    /// Whether it is ours.
    pub fn is_ours(self) -> bool {
        self.our_words("").is_some()
    }

    /// What is typed of ours, with these processes.
    fn our_words(self, pids: &str) -> Option<Vec<&str>> {
        Some(match self {
            Self::Host => vec!["offcpu", "--all"],
            Self::Processes => vec!["offcpu", "--children", "--pid", pids],
            Self::Wakers => vec!["offcpu", "--all", "--wakers"],
            Self::PerfEvents => vec!["offcpu", "--all", "--engine", "perf-event"],
            Self::Wall => vec!["wall", "--all"],
            Self::PerfDwarf
            | Self::PerfFramePointer
            | Self::Bpftrace
            | Self::BpftraceStacks
            | Self::OffCpuTime => return None,
        })
    }

    fn command(self, pids: &str, figures: bool, scratch: &Path) -> Command {
        if let Some(words) = self.our_words(pids) {
            let mut command = Command::new(binary());
            command.args(words).args(["-d", "600", "-o"]).arg(scratch.join("out.svg"));
            if figures {
                command.arg("--stats").arg(scratch.join("stats.json"));
            }
            return command;
        }
        let mut command;
        match self {
            Self::PerfDwarf | Self::PerfFramePointer => {
                command = Command::new("perf");
                command.args(["record", "-q", "--no-bpf-event", "-e", "sched:sched_switch", "-a"]);
                let dwarf: &[&str] = &["--call-graph", "dwarf"];
                command.args(if self == Self::PerfDwarf { dwarf } else { &["-g"] });
                command.arg("-o").arg(scratch.join("perf.data"));
            }
            Self::Bpftrace => {
                command = Command::new("bpftrace");
                command.args(["-e", BPFTRACE]);
            }
            Self::BpftraceStacks => {
                command = Command::new("bpftrace");
                command.args(["-e", BPFTRACE_STACKS]);
            }
            _ => command = Command::new("/usr/sbin/offcputime"),
        }
        command
    }

    /// Starts recording, ours with `figures`; None: the tool is not there or does not run on this host.
    ///
    /// # Errors
    /// When ours does not run.
    pub fn start(self, pids: &[u32], figures: bool, scratch: &Path) -> Result<Option<Recording>> {
        let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
        let mut command = self.command(&pids.join(","), figures, scratch);
        command.stdin(Stdio::null()).stdout(File::create(scratch.join("out"))?);
        let child = command.stderr(File::create(scratch.join("said"))?).spawn();
        let child = match child {
            Err(error) if !self.is_ours() => {
                eprintln!("{} cannot be started: {error}", self.name());
                return Ok(None);
            }
            child => child.context("cannot start flame-graph")?,
        };
        let mut recording = Recording { tool: self, child, figures, scratch: scratch.to_owned() };
        sleep(SET_UP);
        if recording.child.try_wait()?.is_some() {
            let said = recording.said();
            if self.is_ours() {
                bail!("{} ended: {said}", self.name());
            }
            eprintln!("{} does not run here: {said}", self.name());
            return Ok(None);
        }
        Ok(Some(recording))
    }
}

/// A recording in progress; it is ended with this value.
pub struct Recording {
    tool: Tool,
    child: Child,
    /// It is ours and tells its figures.
    figures: bool,
    scratch: PathBuf,
}

impl Recording {
    fn said(&self) -> String {
        let said = fs::read_to_string(self.scratch.join("said")).unwrap_or_default();
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// Ends it; with its figures, where they were asked for.
    ///
    /// # Errors
    /// When it does not end, or ours fails.
    pub fn finish(mut self) -> Result<Option<Value>> {
        self.interrupt();
        let deadline = Instant::now() + MAX_END;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("{} takes more than {} s to end", self.tool.name(), MAX_END.as_secs());
            }
            sleep(Duration::from_millis(5));
        };
        // It may be gigabytes.
        let _ = fs::remove_file(self.scratch.join("perf.data"));
        if self.tool.is_ours() && !status.success() {
            bail!("{} failed: {}", self.tool.name(), self.said());
        }
        if !self.figures {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&fs::read(self.scratch.join("stats.json"))?)?))
    }

    fn interrupt(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It has ended already when this fails, which is seen next.
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // An error here means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// tracefs, which perf and bpftrace need and we do not: mounted while this lives, if it was not.
pub struct Tracefs {
    mounted: bool,
}

const TRACEFS: &str = "/sys/kernel/tracing";

impl Tracefs {
    /// Mounts it where it belongs.
    pub fn mount() -> Self {
        let is_there = Path::new(TRACEFS).join("available_events").exists();
        let mount = || Command::new("mount").args(["-t", "tracefs", "none", TRACEFS]).status();
        Self { mounted: !is_there && mount().is_ok_and(|status| status.success()) }
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(TRACEFS).status();
        }
    }
}
