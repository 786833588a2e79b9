//! What the kernel takes, found out by trying: each [`Feature`] is loaded, created or opened once
//! and let go at once. Nothing is attached, so nothing on the host changes.
//!
//! Version numbers are no substitute: distributions carry features back, turn them off, and
//! containers and lockdown forbid them.

mod bpf;
mod perf;
mod programs;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use aya_obj::btf::{Btf, BtfKind};
use serde::Serialize;

use bpf::{Map, Program};
use perf::Whom;

/// Something that a kernel may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// BPF programs on perf events: they take the samples.
    PerfEventProgram,
    /// BPF programs on raw tracepoints.
    RawTracepointProgram,
    /// BPF programs on tracepoints with typed arguments (`sched_switch`).
    BtfTracepointProgram,
    /// BPF programs on tracepoints by way of tracefs or perf.
    TracepointProgram,
    /// BPF programs on kernel functions, and the events to attach them to.
    KprobeProgram,
    /// BPF programs on functions of user programs, and the events to attach them to.
    UprobeProgram,
    /// BPF programs that visit every task.
    TaskIterator,
    /// The same, and may sleep, so that they can read other processes' memory.
    SleepableTaskIterator,
    /// `bpf_loop`: one walk of any depth.
    Loop,
    /// `bpf_get_stack`: kernel frames.
    KernelStack,
    /// `bpf_task_pt_regs`: user registers of a thread that is in the kernel.
    UserRegisters,
    /// `bpf_probe_read_user`: stack words.
    ReadUser,
    /// `bpf_probe_read_kernel`.
    ReadKernel,
    /// Ring buffers for samples.
    RingBuffer,
    /// Arrays that user space maps, for the unwind rows.
    MappableArray,
    /// Arrays of maps.
    ArrayOfMaps,
    /// Tries by prefix, for mappings.
    PrefixTrie,
    /// The CPU clock of all processes, kernel included.
    HostCpuClock,
    /// The CPU clock of our own processes, kernel included.
    KernelCpuClock,
    /// The CPU clock of our own processes, user side alone.
    UserCpuClock,
    /// Samples with user registers and a copy of the stack.
    StackCopies,
    /// Records about all processes' mappings, names, forks and exits.
    HostSideBand,
    /// Build IDs in those records.
    SideBandBuildIds,
    /// The hardware's cycle counter.
    HardwareCycles,
}

impl Feature {
    /// Every feature, in the order of reports.
    pub const ALL: [Self; 24] = [
        Self::PerfEventProgram,
        Self::RawTracepointProgram,
        Self::BtfTracepointProgram,
        Self::TracepointProgram,
        Self::KprobeProgram,
        Self::UprobeProgram,
        Self::TaskIterator,
        Self::SleepableTaskIterator,
        Self::Loop,
        Self::KernelStack,
        Self::UserRegisters,
        Self::ReadUser,
        Self::ReadKernel,
        Self::RingBuffer,
        Self::MappableArray,
        Self::ArrayOfMaps,
        Self::PrefixTrie,
        Self::HostCpuClock,
        Self::KernelCpuClock,
        Self::UserCpuClock,
        Self::StackCopies,
        Self::HostSideBand,
        Self::SideBandBuildIds,
        Self::HardwareCycles,
    ];

    /// What the eBPF engine cannot sample without.
    pub const SAMPLING: [Self; 9] = [
        Self::PerfEventProgram,
        Self::RingBuffer,
        Self::MappableArray,
        Self::ReadUser,
        Self::KernelStack,
        Self::Loop,
        Self::UserRegisters,
        Self::HostCpuClock,
        Self::HostSideBand,
    ];

    /// What the eBPF engine uses beside that where it times waits.
    pub const TIMING: [Self; 2] = [Self::BtfTracepointProgram, Self::SleepableTaskIterator];

    /// What the engine of perf events uses.
    pub const PERF_EVENT: [Self; 5] = [
        Self::HostCpuClock,
        Self::HostSideBand,
        Self::KernelCpuClock,
        Self::UserCpuClock,
        Self::StackCopies,
    ];

    /// Its name for people, in the kernel's own words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerfEventProgram => "perf_event programs",
            Self::RawTracepointProgram => "raw_tracepoint programs",
            Self::BtfTracepointProgram => "tp_btf programs (sched_switch)",
            Self::TracepointProgram => "tracepoint programs",
            Self::KprobeProgram => "kprobe programs",
            Self::UprobeProgram => "uprobe programs",
            Self::TaskIterator => "task iterators",
            Self::SleepableTaskIterator => "sleepable task iterators",
            Self::Loop => "bpf_loop",
            Self::KernelStack => "bpf_get_stack",
            Self::UserRegisters => "bpf_task_pt_regs",
            Self::ReadUser => "bpf_probe_read_user",
            Self::ReadKernel => "bpf_probe_read_kernel",
            Self::RingBuffer => "ring buffers",
            Self::MappableArray => "mmapable arrays",
            Self::ArrayOfMaps => "arrays of maps",
            Self::PrefixTrie => "LPM tries",
            Self::HostCpuClock => "cpu-clock, whole host",
            Self::KernelCpuClock => "cpu-clock, own, with kernel",
            Self::UserCpuClock => "cpu-clock, own processes",
            Self::StackCopies => "user registers, stack copies",
            Self::HostSideBand => "process records, whole host",
            Self::SideBandBuildIds => "build IDs in process records",
            Self::HardwareCycles => "hardware cycle counter",
        }
    }

    /// It is a part of BPF (or else of perf events).
    #[must_use]
    pub fn is_bpf(self) -> bool {
        self < Self::HostCpuClock
    }
}

/// Why a feature is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What the kernel returned; 0: it was not asked.
    pub errno: i32,
    /// What that means, in a sentence.
    pub reason: String,
    /// What the verifier said, where it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verifier_log: Option<String>,
}

impl Refusal {
    fn unasked(reason: &str) -> Self {
        Self { errno: 0, reason: reason.to_owned(), verifier_log: None }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        let reason = match errno {
            libc::EPERM | libc::EACCES => "not permitted to this user here".to_owned(),
            libc::EINVAL => "this kernel does not take it".to_owned(),
            libc::ENOSYS => "the kernel has no such system call, or a filter hides it".to_owned(),
            libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV => "this host has none".to_owned(),
            libc::ENOMEM => "no memory (or RLIMIT_MEMLOCK is too low)".to_owned(),
            _ => error.to_string(),
        };
        Self { errno, reason, verifier_log: None }
    }
}

/// The outcome of a try.
pub type Outcome = Result<(), Refusal>;

/// What was tried, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Probes(BTreeMap<Feature, Outcome>);

impl Probes {
    /// Tries features. `sys` is where sysfs is mounted, `cpu` one that is online; with `verbose`
    /// the verifier's words on each refused program are kept.
    ///
    /// The kernel's BTF, some 60 ms of reading, is needed for `tp_btf` programs and task iterators.
    #[must_use]
    pub fn run(features: &[Feature], sys: &Path, cpu: u32, verbose: bool) -> Self {
        let bpf = BpfProbe { sys, btf: OnceCell::new(), verbose };
        let outcome = |feature| match feature {
            Feature::HostCpuClock => refused(perf::cpu_clock(Whom::Cpu(cpu), true)),
            Feature::KernelCpuClock => refused(perf::cpu_clock(Whom::Us, true)),
            Feature::UserCpuClock => refused(perf::cpu_clock(Whom::Us, false)),
            Feature::StackCopies => refused(perf::stack_copies()),
            Feature::HostSideBand => refused(perf::side_band(Whom::Cpu(cpu), false)),
            Feature::SideBandBuildIds => refused(perf::side_band(Whom::Us, true)),
            Feature::HardwareCycles => refused(perf::cycles()),
            bpf_feature => bpf.outcome(bpf_feature),
        };
        Self(features.iter().map(|feature| (*feature, outcome(*feature))).collect())
    }

    /// Records an outcome.
    pub fn set(&mut self, feature: Feature, outcome: Outcome) {
        self.0.insert(feature, outcome);
    }

    /// A feature works. One that was not tried does not.
    #[must_use]
    pub fn works(&self, feature: Feature) -> bool {
        matches!(self.0.get(&feature), Some(Ok(())))
    }

    /// Why a feature does not work; `None`: it does, or was not tried.
    #[must_use]
    pub fn refusal(&self, feature: Feature) -> Option<&Refusal> {
        self.0.get(&feature)?.as_ref().err()
    }

    /// What was tried, in the order of [`Feature::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Feature, &Outcome)> {
        self.0.iter().map(|(feature, outcome)| (*feature, outcome))
    }
}

// Values of `enum bpf_prog_type`, `bpf_attach_type`, `bpf_map_type` and flags, from
// include/uapi/linux/bpf.h.
const KPROBE: u32 = 2;
const TRACEPOINT: u32 = 5;
const PERF_EVENT: u32 = 7;
const RAW_TRACEPOINT: u32 = 17;
const TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;
const TRACE_ITER: u32 = 28;
const SLEEPABLE: u32 = 1 << 4;
const ARRAY: u32 = 2;
const LPM_TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
const RING_BUFFER: u32 = 27;
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

struct BpfProbe<'a> {
    sys: &'a Path,
    btf: OnceCell<Option<Btf>>,
    verbose: bool,
}

impl BpfProbe<'_> {
    fn outcome(&self, feature: Feature) -> Outcome {
        let small = |kind, flags| Map {
            kind,
            key_size: 4,
            value_size: 4096,
            max_entries: 1,
            flags,
            inner: 0,
        };
        let sampling =
            |instructions| Program { kind: PERF_EVENT, instructions, ..Program::default() };
        match feature {
            Feature::PerfEventProgram => self.program(&sampling(programs::NOTHING)),
            Feature::KernelStack => self.program(&sampling(programs::KERNEL_STACK)),
            Feature::UserRegisters => self.program(&sampling(programs::USER_REGISTERS)),
            Feature::ReadUser => self.program(&sampling(programs::READ_USER)),
            Feature::ReadKernel => self.program(&sampling(programs::READ_KERNEL)),
            Feature::Loop => {
                let btf = bpf::load_btf(&programs::loop_btf())?;
                let functions = Some((&btf, programs::LOOP_FUNCTIONS.as_slice()));
                self.program(&Program { functions, ..sampling(programs::LOOPING) })
            }
            Feature::RawTracepointProgram => self.simple(RAW_TRACEPOINT),
            Feature::TracepointProgram => self.simple(TRACEPOINT),
            Feature::KprobeProgram => self.probe_events("kprobe"),
            Feature::UprobeProgram => self.probe_events("uprobe"),
            Feature::BtfTracepointProgram => {
                self.tracing("btf_trace_sched_switch", BtfKind::Typedef, TRACE_RAW_TP, 0)
            }
            Feature::TaskIterator => self.tracing("bpf_iter_task", BtfKind::Func, TRACE_ITER, 0),
            Feature::SleepableTaskIterator => {
                self.tracing("bpf_iter_task", BtfKind::Func, TRACE_ITER, SLEEPABLE)
            }
            Feature::RingBuffer => {
                // The size must be whole pages, of 64 KiB on some kernels.
                let ring = Map { kind: RING_BUFFER, max_entries: 64 << 10, ..Map::default() };
                refused(ring.create())
            }
            Feature::MappableArray => {
                let file = File::from(small(ARRAY, MMAPABLE).create()?);
                refused(memmap2::MmapOptions::new().len(4096).map_raw(&file))
            }
            Feature::ArrayOfMaps => {
                let inner = small(ARRAY, 0).create()?;
                let inner = std::os::fd::AsRawFd::as_raw_fd(&inner) as u32;
                refused(Map { value_size: 4, inner, ..small(ARRAY_OF_MAPS, 0) }.create())
            }
            Feature::PrefixTrie => {
                let trie = Map { key_size: 16, value_size: 8, ..small(LPM_TRIE, NO_PREALLOC) };
                refused(trie.create())
            }
            _ => Err(Refusal::unasked("not a part of BPF")),
        }
    }

    fn simple(&self, kind: u32) -> Outcome {
        self.program(&Program { kind, instructions: programs::NOTHING, ..Program::default() })
    }

    /// Programs on kernel and on user functions are of one type: the kernel takes it where it has
    /// either, so the event they attach to must be there as well.
    fn probe_events(&self, event: &str) -> Outcome {
        self.simple(KPROBE)?;
        let found = self.sys.join("bus/event_source/devices").join(event).exists();
        if found { Ok(()) } else { Err(Refusal::unasked("the kernel was built without them")) }
    }

    fn tracing(&self, name: &str, kind: BtfKind, attach_type: u32, flags: u32) -> Outcome {
        let Some(btf) = self.btf.get_or_init(|| kernel_btf(self.sys)) else {
            return Err(Refusal::unasked("it needs the kernel's BTF, which cannot be read"));
        };
        let Ok(attach_btf_id) = btf.id_by_type_name_kind(name, kind) else {
            return Err(Refusal::unasked("the kernel's BTF does not know it"));
        };
        let instructions = programs::NOTHING;
        let program = Program {
            kind: TRACING,
            instructions,
            attach_type,
            attach_btf_id,
            flags,
            ..Program::default()
        };
        self.program(&program)
    }

    fn program(&self, program: &Program<'_>) -> Outcome {
        let mut refusal = match program.load() {
            Ok(_) => return Ok(()),
            Err(error) => Refusal::from(error),
        };
        refusal.verifier_log = self.verbose.then(|| program.log()).filter(|log| !log.is_empty());
        Err(refusal)
    }
}

fn refused<T>(result: io::Result<T>) -> Outcome {
    result.map(drop).map_err(Refusal::from)
}

fn kernel_btf(sys: &Path) -> Option<Btf> {
    Btf::parse_file(sys.join("kernel/btf/vmlinux"), Default::default()).ok()
}
