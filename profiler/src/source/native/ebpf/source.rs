//! The eBPF engine as a source: starts everything in the order that loses nothing, drains, and
//! ends.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use profiler_ebpf::wire::{Counter, Row};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::{
    load::{Engine, Settings},
    mapped::MappedTables,
};
use crate::{
    model::{
        loss::Loss,
        metric::Metric,
        profile::{Metadata, Recording},
    },
    source::{
        Source,
        native::{
            Report, Scope,
            compile::Compiler,
            hurry,
            modules::Modules,
            processes::{Interest, NewMapping, Processes},
            recorder::Recorder,
            samples::Sample,
            sideband::{Identity, Sideband},
            tables::Tables,
        },
        session::{Session, Wake},
    },
    target::process::{Proc, ProcMapping},
};

/// How often buffers are looked at when nothing is urgent.
const ROUND: Duration = Duration::from_millis(100);
/// How long a round waits for what woke it: until the recorder takes its order for settled.
const SETTLE: Duration = Duration::from_millis(3);
/// How long sampling is put off for the rows of its targets; what is not compiled by then follows
/// while it runs.
const MAX_PREPARE: Duration = Duration::from_millis(50);
/// How long the end waits for unwind rows that are still being compiled.
const MAX_COMPILE_WAIT: Duration = Duration::from_secs(5);

/// On-CPU stacks by eBPF.
pub struct EbpfSource {
    /// What to sample.
    pub settings: Settings,
    /// Make the thread's name a frame.
    pub threads: bool,
    /// Compile what the targets have mapped before sampling begins, so that no stack has to be
    /// handed up for want of rows. Of no use for a command that has yet to begin.
    pub prepare: bool,
    /// Heading of the picture.
    pub title: String,
    /// What is recorded, in words.
    pub target: String,
    /// Called when sampling has begun.
    pub ready: Box<dyn FnOnce() + Send>,
}

impl Source for EbpfSource {
    type Report = Report;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Report)> {
        let Self { settings, threads, prepare, title, target, ready } = self;
        let start = SystemTime::now();
        hurry();
        raise_file_limit();
        let mut running = Running::start(&settings, threads, prepare)?;
        session.set_recording();
        let began = Instant::now();
        ready();
        running.run(session)?;
        running.engine.detach();
        let duration = began.elapsed();
        let start_to_recording_ms = (began - session.start).as_secs_f64() * 1e3;
        let metadata = Metadata {
            title,
            target,
            engine: "ebpf".to_owned(),
            start,
            duration,
            frequency: Some(settings.frequency),
        };
        let (recording, mut report) = running.finish(metadata)?;
        report.start_to_recording_ms = start_to_recording_ms;
        let first = report.start_to_first_sample_ms;
        report.start_to_first_sample_ms = first.map(|ms| ms + start_to_recording_ms);
        Ok((recording, report))
    }
}

struct Running {
    engine: Engine,
    sideband: Sideband,
    recorder: Recorder<MappedTables>,
    compiled: Arc<Wake>,
    malformed: u64,
    /// `CLOCK_MONOTONIC` when sampling began.
    began: u64,
}

impl Running {
    /// Opens the side-band before anything is read from `/proc`, so that no process is missed
    /// between the two.
    fn start(settings: &Settings, threads: bool, prepare: bool) -> anyhow::Result<Self> {
        let cpus = aya::util::online_cpus().map_err(|(_, error)| error);
        let cpus = cpus.context("cannot tell which CPUs are online")?;
        let possible = aya::util::nr_cpus().map_err(|(_, error)| error);
        let possible = possible.context("cannot tell how many CPUs are possible")?;
        let sideband = Sideband::open(&cpus)
            .context("cannot follow processes by perf_event_open: run as root")?;
        let (mut engine, tables) = Engine::load(settings, possible as u32)?;
        if let Scope::Processes { pids, children } = &settings.scope {
            for pid in pids {
                engine.add_target(*pid, *children)?;
            }
        }
        let compiled = Arc::new(Wake::new()?);
        let compiler = Compiler::start(Arc::clone(&compiled))?;
        let interest = interest(&settings.scope);
        let mut recorder = Recorder::new(
            Tables::new(tables),
            Modules::new(compiler),
            Processes::new(interest),
            threads,
        );
        add_running(&mut recorder, &settings.scope);
        if let Scope::Processes { pids, .. } = &settings.scope
            && prepare
        {
            pids.iter().for_each(|pid| recorder.prepare(*pid));
            let deadline = Instant::now() + MAX_PREPARE;
            while recorder.is_compiling() && Instant::now() < deadline {
                let mut ready = [PollFd::new(&*compiled, PollFlags::IN)];
                // An error here only means that the wait is shorter.
                let _ = poll(&mut ready, Some(&timeout(MAX_PREPARE)));
                compiled.clear();
                recorder.round(Vec::new(), Vec::new(), 0);
            }
            recorder.round(Vec::new(), Vec::new(), 0);
        }
        engine.attach(settings, &cpus)?;
        Ok(Self { engine, sideband, recorder, compiled, malformed: 0, began: now() })
    }

    /// Drains until the session ends, or all targets have.
    fn run(&mut self, session: &Session) -> anyhow::Result<()> {
        while !session.is_stopped() {
            self.wait(session)?;
            self.compiled.clear();
            self.round(now());
            let lost = self.recorder.losses().lost_total() + self.lost_samples();
            session.report(self.recorder.figures().samples, lost);
            self.engine.flush_messages();
            if self.recorder.processes().all_ended() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the next round: when it is due, when samples are urgent or rows are compiled.
    /// Whatever is urgent must settle first, so that its round can work it off.
    fn wait(&self, session: &Session) -> anyhow::Result<()> {
        let stop = session.stop_fd();
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::new(&*self.compiled, PollFlags::IN),
            PollFd::from_borrowed_fd(self.engine.samples_fd(), PollFlags::IN),
        ];
        fds.extend(self.sideband.fds().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&timeout(ROUND))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("cannot wait for samples"),
            Ok(_) => {}
        }
        let mut stop = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        // An error here only means that the wait is shorter.
        let _ = poll(&mut stop, Some(&timeout(SETTLE)));
        Ok(())
    }

    /// Drains samples first: a record that a sample depends on is then in the side-band already.
    fn round(&mut self, now: u64) {
        let mut samples = Vec::new();
        while let Some(item) = self.engine.samples.next() {
            match Sample::decode(&item) {
                Ok(sample) => samples.push(sample),
                Err(_) => self.malformed += 1,
            }
        }
        let mut records = Vec::new();
        let unreadable = self.sideband.drain(&mut records);
        self.recorder.lose(Loss::SidebandLost, unreadable);
        self.recorder.round(samples, records, now);
    }

    fn lost_samples(&self) -> u64 {
        let counter = |counter| self.engine.counter(counter);
        counter(Counter::RingFull) + counter(Counter::NoScratch) + self.malformed
    }

    fn finish(mut self, metadata: Metadata) -> anyhow::Result<(Recording, Report)> {
        self.round(u64::MAX);
        let deadline = Instant::now() + MAX_COMPILE_WAIT;
        while self.recorder.is_waiting() && Instant::now() < deadline {
            let mut compiled = [PollFd::new(&*self.compiled, PollFlags::IN)];
            // An error here only means that the wait is shorter.
            let _ = poll(&mut compiled, Some(&timeout(ROUND)));
            self.compiled.clear();
            self.recorder.round(Vec::new(), Vec::new(), u64::MAX);
        }
        let engine = &self.engine;
        self.recorder.lose_samples(Loss::RingFull, engine.counter(Counter::RingFull));
        self.recorder.lose_samples(Loss::NoScratch, engine.counter(Counter::NoScratch));
        self.recorder.lose_samples(Loss::Malformed, self.malformed);
        self.recorder.lose(Loss::TargetsFull, engine.counter(Counter::TargetsFull));
        let taken = engine.counter(Counter::Samples);
        let map_bytes = engine.map_bytes(self.recorder.tables().storage());
        let run = engine.run_stats();
        let walked = engine.counter(Counter::Frames);
        let recorded = self.recorder.finish();
        let figures = recorded.figures;
        let per =
            |total: u64| run.filter(|_| total > 0).map(|r| r.nanoseconds as f64 / total as f64);
        let report = Report {
            event: engine.event,
            frames: figures.frames,
            frames_by_pointer: figures.by_frame_pointer,
            finished_in_user_space: figures.finished_here,
            processes: recorded.processes,
            mappings: recorded.mappings,
            unwind_rows: recorded.rows,
            unwind_bytes: recorded.rows * size_of::<Row>() as u64,
            map_bytes,
            bpf_runs: run.map(|run| run.runs),
            bpf_nanoseconds: run.map(|run| run.nanoseconds),
            bpf_nanoseconds_per_sample: per(taken),
            bpf_nanoseconds_per_frame: per(walked),
            start_to_recording_ms: 0.0,
            start_to_first_sample_ms: (figures.first_sample > 0)
                .then(|| figures.first_sample.saturating_sub(self.began) as f64 / 1e6),
        };
        let recording = Recording {
            metadata,
            metrics: vec![Metric::samples()],
            stacks: recorded.stacks,
            modules: recorded.modules,
            losses: recorded.losses,
            samples: taken,
            complete: figures.complete,
        };
        Ok((recording, report))
    }
}

/// Every mapped file of every process is kept open.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, files beyond the limit lose their names, which is said of each.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn timeout(duration: Duration) -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: i64::from(duration.subsec_nanos()) }
}

fn interest(scope: &Scope) -> Interest {
    match scope {
        Scope::Host => Interest::Everything,
        Scope::Processes { pids, children } => {
            Interest::Only { pids: pids.iter().copied().collect(), children: *children }
        }
    }
}

/// Takes up what runs already. A process that ends meanwhile is simply not there.
fn add_running(recorder: &mut Recorder<MappedTables>, scope: &Scope) {
    let proc = Proc::new();
    let pids = match scope {
        Scope::Host => proc.pids().unwrap_or_default(),
        Scope::Processes { pids, .. } => pids.clone(),
    };
    for pid in pids {
        let (Ok(comm), Ok(threads), Ok(mappings)) =
            (proc.comm(pid), proc.threads(pid), proc.executable_mappings(pid))
        else {
            continue;
        };
        let comm = String::from_utf8_lossy(&comm).into_owned();
        recorder.add_process(pid, &comm, threads, mappings.into_iter().map(new_mapping));
    }
}

fn new_mapping(mapping: ProcMapping) -> NewMapping {
    let ProcMapping { start, end, offset, device, inode, path, .. } = mapping;
    let path = if path.is_empty() { b"//anon".to_vec() } else { path };
    NewMapping {
        start,
        end,
        offset,
        identity: Identity::Inode { device, inode, generation: 0 },
        path,
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as the kernel side and the side-band tell time.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
