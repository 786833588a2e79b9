//! Loading the BPF object, fixing its settings, and attaching the sampling program to every CPU.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{PerfEvent, ProgramError},
    sys::{Stats, enable_stats},
};
use aya_log::EbpfLogger;
use profiler_ebpf::{glob::Globs, wire::Counter};

use super::{
    btf::BtfError,
    mapped::{MappedTables, TableMaps},
    offsets::Offsets,
    ticks::Ticks,
    waits::{self, Timer, WaitGlobals},
};
use crate::{
    source::native::{Scope, Settings, limits::Bound},
    target::cgroup::Cgroup,
};

/// The programs, compiled from `profiler-ebpf` by `cargo xtask build-ebpf`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../../profiler-ebpf/flame-graph.bpf.o");

/// The sampling program.
const SAMPLE: &str = "sample_cpu";

/// Why the engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's type information.
    #[error(
        "cannot read the kernel's type information /sys/kernel/btf/vmlinux: {0}; the eBPF engine needs a kernel with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf(#[source] io::Error),
    /// A field that is not there.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object's maps could not be made.
    #[error("the kernel refused the BPF maps: {0}")]
    Object(String),
    /// A program was refused.
    #[error(
        "the kernel refused the BPF program `{program}`: {refusal}; `flame-graph doctor` says what \
         this host allows, and --verbose shows the verifier's log"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// What was answered.
        refusal: String,
    },
    /// The sampled events.
    #[error("cannot sample the CPUs by perf_event_open: {0}; run as root")]
    Ticks(#[source] io::Error),
    /// A map.
    #[error("a BPF map could not be used: {0}")]
    Map(#[from] MapError),
    /// The object lacks a map or program: it does not belong to this source.
    #[error("the BPF object has no `{0}`: rebuild it with `cargo xtask build-ebpf`")]
    Missing(&'static str),
    /// The shared memory of the tables.
    #[error("the tables could not be mapped: {0:#}")]
    Tables(anyhow::Error),
}

/// A refusal of a program. The verifier's log goes to our own log.
pub fn refused(program: &'static str, error: &ProgramError) -> LoadError {
    if let ProgramError::LoadError { verifier_log, .. } = error {
        log::debug!("{program}: {verifier_log}");
    }
    LoadError::Program { program, refusal: brief(error) }
}

/// The first line of an error's innermost cause: what the kernel said.
fn brief(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The maps that have as many entries as a bound says.
const TABLES: [(&str, Bound); 5] = [
    ("TARGETS", Bound::Targets),
    ("PROCESSES", Bound::Processes),
    ("MAPPINGS", Bound::Mappings),
    ("RULES", Bound::Rules),
    ("PAGES", Bound::Pages),
];

/// The loaded engine. Dropping it detaches and unloads everything.
pub struct Engine {
    ebpf: Ebpf,
    /// The samples.
    pub samples: RingBuf<MapData>,
    /// What is there where waits are timed.
    pub timer: Option<Timer>,
    counts: PerCpuArray<MapData, u64>,
    targets: HashMap<MapData, u32, u32>,
    /// Messages of the programs.
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    map_fds: Vec<i32>,
    stats: Option<OwnedFd>,
    /// What is sampled; none before.
    pub ticks: Option<Ticks>,
    /// What the program that runs most took, known from the end on.
    pub ran: Option<RunStats>,
}

/// Run count and time of a program, as the kernel measured them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds in all.
    pub nanoseconds: u64,
}

impl Engine {
    /// Loads programs and maps; nothing is attached yet. The tables are separate, as the walks on
    /// the host use them, too.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn load(settings: &Settings, cpus: u32) -> Result<(Self, MappedTables), LoadError> {
        let filter = &settings.filter;
        let cgroup = filter.cgroup.as_ref().map_or(0, Cgroup::id);
        let offsets = Offsets::of_this_kernel(cgroup != 0, settings.waits.is_some())?;
        let flag = |value: bool| u8::from(value);
        let only_targets = flag(settings.scope != Scope::Host);
        let thread_targets = flag(matches!(settings.scope, Scope::Threads { .. }));
        let only_names = flag(filter.names.is_some());
        let (user, kernel) = (flag(settings.user), flag(settings.kernel));
        let limits = &settings.limits;
        let ring = limits.entries(Bound::Ring);
        let wake = ring / 4;
        let waits = WaitGlobals::new(settings, cpus);
        let mut loader = EbpfLoader::new();
        waits.hand_over(&mut loader);
        loader
            // The kernel's own storage of tasks: only programs use it.
            .allow_unsupported_maps()
            .override_global("ONLY_TARGETS", &only_targets, true)
            .override_global("THREAD_TARGETS", &thread_targets, true)
            .override_global("ONLY_NAMES", &only_names, true)
            .override_global("CGROUP", &cgroup, true)
            .override_global("USER_STACKS", &user, true)
            .override_global("KERNEL_STACKS", &kernel, true)
            .override_global("WAKE_BYTES", &wake, true)
            .map_max_entries("SAMPLES", ring);
        for (map, bound) in TABLES {
            loader.map_max_entries(map, limits.entries(bound));
        }
        offsets.hand_over(&mut loader);
        let loaded = loader.load(OBJECT);
        let mut ebpf = loaded.map_err(|error| LoadError::Object(brief(&error)))?;
        if let Some(names) = &filter.names {
            let map = ebpf.map_mut("NAMES").ok_or(LoadError::Missing("NAMES"))?;
            let mut map: Array<_, [u64; Globs::WORDS]> = map.try_into()?;
            map.set(0, names.words(), 0)?;
        }
        let map_fds = ebpf.maps().filter_map(|(_, map)| raw_fd(map)).collect();
        let tables = MappedTables::new(TableMaps {
            pages: array(&mut ebpf, "PAGES")?,
            rules: array(&mut ebpf, "RULES")?,
            mappings: array(&mut ebpf, "MAPPINGS")?,
            segments: ArrayOfMaps::try_from(take(&mut ebpf, "SEGMENTS")?)?,
            processes: HashMap::try_from(take(&mut ebpf, "PROCESSES")?)?,
            ways: HashMap::try_from(take(&mut ebpf, "WAYS")?)?,
        })
        .map_err(LoadError::Tables)?;
        let samples = RingBuf::try_from(take(&mut ebpf, "SAMPLES")?)?;
        let counts = PerCpuArray::try_from(take(&mut ebpf, "COUNTS")?)?;
        let targets = HashMap::try_from(take(&mut ebpf, "TARGETS")?)?;
        // The map of messages is not there when no program logs anything.
        let logger = EbpfLogger::init(&mut ebpf).ok();
        let stats = settings.measure.then(|| enable_stats(Stats::RunTime).ok()).flatten();
        let timer = settings.waits.map(|waits| Timer::new(&mut ebpf, waits.wakers));
        let timer = timer.transpose()?;
        let (ticks, ran) = (None, None);
        let engine =
            Self { ebpf, samples, timer, counts, targets, logger, map_fds, stats, ticks, ran };
        Ok((engine, tables))
    }

    /// Makes a process, or a thread, a target; whether the table had room for it.
    pub fn add_target(&mut self, id: u32, children: bool) -> bool {
        self.targets.insert(id, u32::from(children), 0).is_ok()
    }

    /// A process is no target any more.
    pub fn remove_target(&mut self, id: u32) {
        // It is not there when the table had no room for it.
        let _ = self.targets.remove(&id);
    }

    /// Verifies the programs and starts sampling on these CPUs.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`] or [`LoadError::Ticks`].
    pub fn attach(&mut self, settings: &Settings, cpus: &[u32]) -> Result<(), LoadError> {
        if matches!(settings.scope, Scope::Processes { children: true, .. }) {
            self.follow_forks()?;
        }
        if settings.samples() {
            self.sample(settings, cpus)?;
        }
        // Last, as time is counted from here on: what waits already is looked at next.
        if let Some(timer) = &mut self.timer {
            timer.attach(&mut self.ebpf)?;
        }
        Ok(())
    }

    fn sample(&mut self, settings: &Settings, cpus: &[u32]) -> Result<(), LoadError> {
        let failed = |error| refused(SAMPLE, &error);
        let program = self.ebpf.program_mut(SAMPLE).ok_or(LoadError::Missing(SAMPLE))?;
        let program: &mut PerfEvent = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        let program = program.fd().map_err(failed)?.as_fd();
        let ticks = Ticks::start(cpus, settings.frequency, program).map_err(LoadError::Ticks)?;
        self.ticks = Some(ticks);
        Ok(())
    }

    fn follow_forks(&mut self) -> Result<(), LoadError> {
        let name = "follow_fork";
        let failed = |error| refused(name, &error);
        let btf = aya::Btf::from_sys_fs().map_err(|error| failed(ProgramError::Btf(error)))?;
        let program = waits::tracepoint(&mut self.ebpf, name)?;
        program.load("sched_process_fork", &btf).map_err(failed)?;
        program.attach().map_err(failed)?;
        Ok(())
    }

    /// One pass over all tasks, where waits are timed.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`].
    pub fn visit(&mut self) -> Result<(), LoadError> {
        match &mut self.timer {
            Some(timer) => timer.visit(&mut self.ebpf),
            None => Ok(()),
        }
    }

    /// Stops sampling; what was sampled can still be read.
    pub fn detach(&mut self) {
        self.ran = self.run_stats();
        if let Some(timer) = &mut self.timer {
            timer.detach(&mut self.ebpf);
        }
        self.ticks.iter_mut().for_each(Ticks::stop);
    }

    /// The value of a counter, over all CPUs.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        let values = self.counts.get(&(counter as u32), 0);
        values.map_or(0, |values| values.iter().sum())
    }

    /// Hands messages of the programs to the log.
    pub fn flush_messages(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Bytes of all maps as the kernel accounts them (`memlock` in fdinfo).
    #[must_use]
    pub fn map_bytes(&self, tables: &MappedTables) -> u64 {
        let segments = tables.segment_fds().map(|fd| fd.as_raw_fd());
        let fds = self.map_fds.iter().copied().chain(segments);
        fds.filter_map(|fd| fdinfo(fd, "memlock")).sum()
    }

    /// Run count and run time of the program that runs most; None when they were not measured.
    fn run_stats(&self) -> Option<RunStats> {
        self.stats.as_ref()?;
        let name = if self.timer.is_some() { waits::SWITCH } else { SAMPLE };
        let fd = self.ebpf.program(name)?.fd().ok()?.as_fd().as_raw_fd();
        Some(RunStats { runs: fdinfo(fd, "run_cnt")?, nanoseconds: fdinfo(fd, "run_time_ns")? })
    }

    /// The descriptor to poll for samples.
    #[must_use]
    pub fn samples_fd(&self) -> BorrowedFd<'_> {
        self.samples.as_fd()
    }
}

/// Takes a map of this name over.
///
/// # Errors
///
/// [`LoadError::Missing`].
pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing(name))
}

fn array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match take(ebpf, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(LoadError::Missing(name)),
    }
}

fn raw_fd(map: &Map) -> Option<i32> {
    let data = match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// A number from the kernel's description of one of our descriptors.
fn fdinfo(fd: i32, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
}
