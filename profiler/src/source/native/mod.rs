//! The native engines: stacks of native programs, walked by unwind rows.
//!
//! * [`ebpf`] samples and walks in the kernel.
//! * [`perf_event`] has the kernel copy registers and stacks, and walks here.
//! * [`drive`] runs either of them from the start to the end of a recording.
//! * [`by_perf`] has `perf record` time waits, where neither may.
//! * [`sideband`] and [`processes`] follow processes and their mappings by perf side-band records; where
//!   these were lost, [`recheck`] tells when to look again.
//! * [`modules`] keeps the mapped files, which [`open`] opens and [`compile`] makes rows of.
//! * [`tables`] holds the walker's tables, in memory that the kernel side shares.
//! * [`rows`] tells what is known of a module's unwind rows.
//! * [`limits`] has the bound of each of these.
//! * [`times`] adds up where the time of threads goes.
//! * [`order`] tells where the times of records and samples say less than the samples do.
//! * [`recorder`] brings [`samples`] and process records into the order of time, finishes the walks
//!   that the kernel handed up, for which it looks at [`code`], and names [`frames`], which are
//!   [`kept`] as stacks. Through code that was made at run time they go [`onward`].

pub mod by_perf;
pub mod code;
pub mod compile;
pub mod drive;
pub mod ebpf;
pub mod extents;
pub mod frames;
pub mod host_env;
pub mod installed;
pub mod kept;
pub mod limits;
pub mod modules;
pub mod onward;
pub mod open;
pub mod order;
pub mod perf_event;
pub mod processes;
pub mod recheck;
pub mod recorder;
pub mod regions;
pub mod ring;
pub mod rows;
pub mod samples;
pub mod sideband;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod throttled;
pub mod times;

use profiler_ebpf::glob::Globs;
use rustix::{
    process::{getpriority_process, setpriority_process},
    thread::gettid,
};
use serde::Serialize;

use self::limits::Limits;
use crate::target::{cgroup::Cgroup, process::Proc};
pub use times::Waits;

/// Priority (`nice`) of the threads that record: buffers must not run full, and samples not wait,
/// because the host is busy.
const NICE: i32 = -10;

/// Raises the calling thread's priority to [`NICE`], if it is lower. Where that is refused the
/// thread gets its turn later.
fn hurry() {
    if getpriority_process(None).is_ok_and(|nice| nice > NICE) {
        let _ = setpriority_process(Some(gettid()), NICE);
    }
}

/// What is sampled; of it, what passes the [`Filter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole host.
    Host,
    /// These processes.
    Processes {
        /// Their ids.
        pids: Vec<u32>,
        /// Also the processes that they create.
        children: bool,
    },
    /// These threads.
    Threads {
        /// Their ids.
        tids: Vec<u32>,
        /// Their processes.
        pids: Vec<u32>,
    },
}

impl Scope {
    /// The processes that run now.
    fn pids(&self, proc: &Proc) -> Vec<u32> {
        match self {
            Self::Host => proc.pids().unwrap_or_default(),
            Self::Processes { pids, .. } | Self::Threads { pids, .. } => pids.clone(),
        }
    }
}

/// What a sample must pass: each filter that there is.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Its thread is in this cgroup, or below it.
    pub cgroup: Option<Cgroup>,
    /// Its thread has a name like this, or the first thread of its process has.
    pub names: Option<Box<Globs>>,
}

/// What the first frames of a stack tell apart, beside processes of different names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Threads: their names are the second frame.
    pub threads: bool,
    /// Processes: their ids are in the first frame.
    pub pids: bool,
    /// CPUs: their numbers are in the first frame.
    pub cpus: bool,
}

/// What to sample, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which processes.
    pub scope: Scope,
    /// What of them.
    pub filter: Filter,
    /// Samples a second on each CPU, where what runs is sampled.
    pub frequency: u64,
    /// Time waits; with [`Waits::on_cpu`] what runs is sampled, too. None: only that.
    pub waits: Option<Waits>,
    /// Collect user stacks.
    pub user: bool,
    /// Collect kernel stacks.
    pub kernel: bool,
    /// Measure the run time of the BPF programs.
    pub measure: bool,
    /// What the first frames tell apart.
    pub labels: Labels,
    /// How much memory everything may take.
    pub limits: Limits,
    /// Compile what the targets have mapped before sampling begins, so that no stack has to wait
    /// for rows. Of no use for a command that has yet to begin.
    pub prepare: bool,
    /// Heading of the picture.
    pub title: String,
    /// What is recorded, in words.
    pub target: String,
}

impl Settings {
    /// Whether who ends waits is recorded, which anybody may be.
    #[must_use]
    pub fn wakers(&self) -> bool {
        self.waits.is_some_and(|waits| waits.wakers)
    }

    /// Whose processes are followed: of who ends waits everybody's.
    fn followed(&self) -> &Scope {
        if self.wakers() { &Scope::Host } else { &self.scope }
    }

    /// Whether what runs is sampled.
    #[must_use]
    pub fn samples(&self) -> bool {
        self.waits.is_none_or(|waits| waits.on_cpu)
    }
}

/// What a native engine tells beside its recording. Times are in milliseconds or nanoseconds as
/// the name says, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The sampled event: `cycles` or `cpu-clock`.
    pub event: &'static str,
    /// Frames of all stacks, user and kernel.
    pub frames: u64,
    /// User frames that were found by frame pointer, for want of unwind rows.
    pub frames_by_pointer: u64,
    /// Stacks that were finished in user space.
    pub finished_in_user_space: u64,
    /// Processes seen.
    pub processes: u64,
    /// Executable mappings seen.
    pub mappings: u64,
    /// Unwind rows that were installed.
    pub unwind_rows: u64,
    /// Bytes of these rows.
    pub unwind_bytes: u64,
    /// Bytes of all BPF maps as the kernel accounts them.
    pub map_bytes: u64,
    /// How often the sampling program ran, when it was measured.
    pub bpf_runs: Option<u64>,
    /// Run time of the sampling program in all.
    pub bpf_nanoseconds: Option<u64>,
    /// Run time by sample of the target.
    pub bpf_nanoseconds_per_sample: Option<f64>,
    /// Run time by user frame.
    pub bpf_nanoseconds_per_frame: Option<f64>,
    /// From the start of the program to the moment when sampling began.
    pub start_to_recording_ms: f64,
    /// From the start of the program to the first sample; None: there was none.
    pub start_to_first_sample_ms: Option<f64>,
    /// What the threads did, where waits were timed.
    #[serde(flatten)]
    pub times: Option<times::Figures>,
    /// What each process waited, the most first.
    #[serde(skip)]
    pub waited: Vec<times::Waited>,
}
