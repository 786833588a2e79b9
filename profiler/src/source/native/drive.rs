//! What the native engines have in common: the processes are taken up before sampling begins, the
//! engine's buffers are drained into a recorder until the session ends, and the figures are put
//! together. What differs is an [`Engine`].

use std::{
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use profiler_ebpf::wire::Row;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use super::{
    Report, Scope, Settings,
    compile::Compiler,
    hurry,
    modules::Modules,
    processes::{Interest, NewMapping, Processes},
    recheck::Recheck,
    recorder::Recorder,
    samples::Sample,
    sideband::{Identity, Record},
    tables::{Storage, Tables},
    times::{
        Sums,
        draw::{Canvas, Drawn},
    },
};
use crate::{
    model::{
        loss::Loss,
        metric::Metric,
        profile::{Metadata, Recording},
    },
    source::{
        Source,
        session::{Session, Wake},
    },
    target::{
        heap,
        process::{Proc, ProcError, ProcMapping},
    },
};

/// How often buffers are looked at when nothing is urgent.
const ROUND: Duration = Duration::from_millis(100);
/// The same where there is more to be had.
const BUSY_ROUND: Duration = Duration::from_millis(10);
/// How long there is more to be had at the beginning: what each process needs is not known yet.
const BEGINNING: Duration = Duration::from_millis(200);
/// How long a round waits for what woke it: until the recorder takes its order for settled.
const SETTLE: Duration = Duration::from_millis(3);
/// How long sampling is put off for the rows of its targets; what is not compiled by then follows
/// while it runs.
const MAX_PREPARE: Duration = Duration::from_millis(50);
/// How long the end takes what the kernel summed out of it.
const MAX_DRAIN: Duration = Duration::from_secs(10);
/// How long the end waits for unwind rows that are still being compiled.
const MAX_COMPILE_WAIT: Duration = Duration::from_secs(5);

/// What differs between the engines.
pub trait Engine {
    /// Where the walker's tables lie.
    type Storage: Storage;
    /// Its name, as the command line has it.
    const NAME: &'static str;

    /// What becomes readable when something is to be drained.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;
    /// Takes out what is there: samples first, so that a record that one depends on is there, too.
    /// While samples wait for unwind tables it asks for no more of what could be had later.
    fn drain(&mut self, are_waiting: bool) -> Drained;
    /// Samples lost so far.
    fn lost(&self) -> u64;
    /// Processes that were followed as others' children have ended.
    fn forget(&mut self, pids: Vec<u32>);
    /// Stops sampling; what was sampled can still be drained.
    fn detach(&mut self);
    /// Whether all that was collected can be drained at once; else rounds go on.
    fn is_drained(&self) -> bool {
        true
    }
    /// What was summed in the kernel, once all is drained.
    fn sums(&mut self) -> Option<Sums> {
        None
    }
    /// Counts what was lost, with the recorder; gives how many samples were taken in all, lost
    /// ones included, and what it knows of the report.
    fn finish(&self, recorder: &mut Recorder<Self::Storage>) -> (u64, Report);
}

/// What was drained.
#[derive(Debug, Default)]
pub struct Drained {
    /// Samples.
    pub samples: Vec<Sample>,
    /// Records about processes.
    pub records: Vec<Record>,
    /// Records about processes that could not be decoded.
    pub unreadable: u64,
}

/// A recorder with what wakes it when rows are compiled.
pub struct Followed<S> {
    recorder: Recorder<S>,
    compiled: Arc<Wake>,
    recheck: Recheck,
}

impl<S: Storage> Followed<S> {
    /// Takes up what runs already. Side-band records must be collected before, so that no process
    /// is missed between the two.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors or threads.
    pub fn start(storage: S, settings: &Settings) -> anyhow::Result<Self> {
        let compiled = Arc::new(Wake::new()?);
        let compiler = Compiler::start(Arc::clone(&compiled))?;
        let recorder = Recorder::new(
            Tables::new(storage, &settings.limits),
            Modules::new(compiler, &settings.limits),
            Processes::new(interest(&settings.scope), settings.wakers()),
            settings.labels,
            settings.waits.is_some(),
            &settings.limits,
        );
        let mut followed = Self { recorder, compiled, recheck: Recheck::default() };
        let proc = Proc::new();
        followed.add_running(&proc, settings.followed().pids(&proc));
        if let Scope::Processes { pids, .. } | Scope::Threads { pids, .. } = &settings.scope
            && settings.prepare
        {
            followed.prepare(pids);
        }
        Ok(followed)
    }

    /// Takes up what runs already; gives those of the processes that have ended.
    fn add_running(&mut self, proc: &Proc, pids: Vec<u32>) -> Vec<u32> {
        let mut ended = Vec::new();
        for pid in pids {
            let Ok(threads) = living_threads(proc, pid) else {
                ended.push(pid);
                continue;
            };
            let (Ok(comm), Ok(mappings)) = (proc.comm(pid), proc.executable_mappings(pid)) else {
                continue;
            };
            let comm = String::from_utf8_lossy(&comm).into_owned();
            self.recorder.add_process(pid, &comm, threads, mappings.into_iter().map(new_mapping));
        }
        ended
    }

    /// Where records about processes were lost, looks at these again.
    fn recheck(&mut self, settings: &Settings) {
        let lost = self.recorder.losses().lost.get(&Loss::SidebandLost).copied();
        if !self.recheck.is_due(lost.unwrap_or_default()) {
            return;
        }
        let proc = Proc::new();
        let processes = self.recorder.processes();
        let mut pids: Vec<u32> = processes.pids().collect();
        pids.extend(processes.adopt(|pids| proc.descendants(pids).unwrap_or_default()));
        pids.extend(settings.followed().pids(&proc));
        pids.sort_unstable();
        pids.dedup();
        let ended = self.add_running(&proc, pids);
        self.recorder.forget(&self.recheck.long_gone(ended));
        self.recheck.looked();
    }

    /// Has the rows of the targets compiled, as far as that is soon done.
    fn prepare(&mut self, pids: &[u32]) {
        pids.iter().for_each(|pid| self.recorder.prepare(*pid));
        let deadline = Instant::now() + MAX_PREPARE;
        while self.recorder.is_compiling() && Instant::now() < deadline {
            self.wait_compiled(MAX_PREPARE);
            self.recorder.round(Vec::new(), Vec::new(), 0);
        }
        self.recorder.round(Vec::new(), Vec::new(), 0);
    }

    fn wait_compiled(&self, most: Duration) {
        let mut ready = [PollFd::new(&*self.compiled, PollFlags::IN)];
        // An error here only means that the wait is shorter.
        let _ = poll(&mut ready, Some(&timeout(most)));
        self.compiled.clear();
    }
}

/// An engine that samples.
pub struct Running<E: Engine> {
    engine: E,
    followed: Followed<E::Storage>,
    settings: Settings,
    start: SystemTime,
    /// When sampling began.
    began: Instant,
    /// The same by `CLOCK_MONOTONIC`.
    began_at: u64,
}

impl<E: Engine> Running<E> {
    /// Sampling has begun just now.
    pub fn new(engine: E, followed: Followed<E::Storage>, settings: Settings) -> Self {
        let (start, began, began_at) = (SystemTime::now(), Instant::now(), now());
        Self { engine, followed, settings, start, began, began_at }
    }

    /// Drains until the session ends, or all targets have.
    fn run(&mut self, session: &Session) -> anyhow::Result<()> {
        while !session.is_stopped() {
            self.wait(session)?;
            self.followed.compiled.clear();
            self.round(now());
            let recorder = &mut self.followed.recorder;
            let lost = recorder.losses().lost_samples() + self.engine.lost();
            session.report(recorder.figures().samples, lost);
            if recorder.processes().all_ended() {
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
            PollFd::new(&*self.followed.compiled, PollFlags::IN),
        ];
        let engine = self.engine.fds();
        fds.extend(engine.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let is_beginning = self.began.elapsed() < BEGINNING;
        let is_busy = is_beginning || !self.engine.is_drained();
        let round = if is_busy { BUSY_ROUND } else { ROUND };
        match poll(&mut fds, Some(&timeout(round))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("cannot wait for samples"),
            Ok(_) => {}
        }
        let mut stop = [PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        // An error here only means that the wait is shorter.
        let _ = poll(&mut stop, Some(&timeout(SETTLE)));
        Ok(())
    }

    fn round(&mut self, now: u64) {
        let recorder = &mut self.followed.recorder;
        let are_waiting = now != u64::MAX && recorder.is_waiting();
        let Drained { samples, records, unreadable } = self.engine.drain(are_waiting);
        recorder.lose(Loss::SidebandLost, unreadable);
        recorder.round(samples, records, now);
        if now != u64::MAX {
            self.followed.recheck(&self.settings);
        }
        self.engine.forget(self.followed.recorder.processes().take_ended());
    }

    /// The end: what still waits for rows gets some time.
    fn finish(mut self, metadata: Metadata) -> (Recording, Report) {
        let deadline = Instant::now() + MAX_DRAIN;
        self.round(u64::MAX);
        while !self.engine.is_drained() && Instant::now() < deadline {
            self.round(u64::MAX);
        }
        let deadline = Instant::now() + MAX_COMPILE_WAIT;
        while self.followed.recorder.is_waiting() && Instant::now() < deadline {
            self.followed.wait_compiled(ROUND);
            self.followed.recorder.round(Vec::new(), Vec::new(), u64::MAX);
        }
        let Self { mut engine, followed: Followed { mut recorder, .. }, began_at, .. } = self;
        let sums = engine.sums();
        let (samples, report) = engine.finish(&mut recorder);
        let mut recorded = recorder.finish();
        heap::trim();
        let figures = recorded.figures;
        let mut report = Report {
            frames: figures.frames,
            frames_by_pointer: figures.by_frame_pointer,
            finished_in_user_space: figures.finished_here,
            processes: recorded.processes,
            mappings: recorded.mappings,
            unwind_rows: recorded.rows,
            unwind_bytes: recorded.rows * size_of::<Row>() as u64,
            start_to_first_sample_ms: (figures.first_sample > 0)
                .then(|| figures.first_sample.saturating_sub(began_at) as f64 / 1e6),
            ..report
        };
        let mut metric = Metric::samples();
        let mut drawn = Drawn {
            stacks: recorded.stacks,
            counted: samples,
            complete: figures.complete,
            waited: Vec::new(),
        };
        if let (Some(sums), Some(timed), Some(waits)) = (sums, recorded.timed, self.settings.waits)
        {
            metric = if waits.on_cpu { Metric::wall_clock() } else { Metric::waited() };
            let canvas = Canvas::new(&drawn.stacks, &timed, waits, self.settings.labels);
            drawn = canvas.draw(&sums, &mut recorded.losses);
            report.waited = drawn.waited;
        }
        let recording = Recording {
            metadata,
            metrics: vec![metric],
            stacks: drawn.stacks,
            modules: recorded.modules,
            losses: recorded.losses,
            samples: drawn.counted,
            complete: drawn.complete,
        };
        (recording, report)
    }
}

impl<E: Engine> Source for Running<E> {
    type Report = Report;

    fn record(mut self, session: &Session) -> anyhow::Result<(Recording, Report)> {
        self.run(session)?;
        self.engine.detach();
        let start_to_recording_ms = (self.began - session.start).as_secs_f64() * 1e3;
        let metadata = Metadata {
            title: self.settings.title.clone(),
            target: self.settings.target.clone(),
            engine: E::NAME.to_owned(),
            start: self.start,
            duration: self.began.elapsed(),
            frequency: self.settings.samples().then_some(self.settings.frequency),
        };
        let (recording, mut report) = self.finish(metadata);
        report.start_to_recording_ms = start_to_recording_ms;
        let first = report.start_to_first_sample_ms;
        report.start_to_first_sample_ms = first.map(|ms| ms + start_to_recording_ms);
        Ok((recording, report))
    }
}

/// Makes the calling thread fit for recording.
pub fn prepare_thread() {
    hurry();
    // Every mapped file of every process is kept open. Where it is refused, files beyond the limit
    // lose their names, which is said of each.
    let limit = getrlimit(Resource::Nofile);
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
        Scope::Threads { tids, pids } => Interest::Threads {
            tids: tids.iter().copied().collect(),
            pids: pids.iter().copied().collect(),
        },
    }
}

/// The threads of a process that have not ended; an error when all have. Of one whose first thread has,
/// that is listed still.
fn living_threads(proc: &Proc, pid: u32) -> Result<Vec<u32>, ProcError> {
    let living = proc.living_thread(pid)?;
    let mut threads = proc.threads(pid)?;
    threads.retain(|tid| *tid != pid || living == pid);
    Ok(threads)
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
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
