//! The eBPF engine as a source: starts everything in the order that loses nothing.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use profiler_ebpf::wire::Counter;

use super::{
    load::{Engine, LoadError},
    mapped::MappedTables,
    ticks::Ticks,
};
use crate::{
    model::loss::Loss,
    source::native::{
        Report, Scope, Settings,
        drive::{self, Drained, Followed, Running, prepare_thread},
        limits::Bound,
        recorder::Recorder,
        samples::Sample,
        sideband::Sideband,
        times::{Figures, Sums},
    },
    target::{capabilities::online_cpus, process::Proc},
};

/// The most passes over all tasks in one round. Each brings half a megabyte.
const MAX_PASSES: usize = 16;

/// The engine with the side-band beside it.
pub struct EbpfEngine {
    engine: Engine,
    sideband: Sideband,
    malformed: u64,
    /// Targets that had no room from the start.
    refused: u64,
    /// Targets that have ended.
    ended: Vec<u32>,
    /// Tasks that the last pass over all tasks left to the next.
    left: u64,
    /// What all passes left, as the kernel counts it.
    left_ever: u64,
}

/// Starts sampling. The side-band is opened before anything is read from `/proc`, so that no
/// process is missed between the two.
///
/// # Errors
///
/// What the kernel refused. Nothing is left behind then.
pub fn start(settings: Settings) -> anyhow::Result<Running<EbpfEngine>> {
    prepare_thread();
    let cpus = online_cpus();
    let possible = aya::util::nr_cpus().map_err(|(_, error)| error);
    let possible = possible.context("cannot tell how many CPUs are possible")?;
    let sideband = Sideband::open(&cpus, settings.limits.get(Bound::Sideband))
        .context("cannot follow processes by perf_event_open: run as root")?;
    let (mut engine, tables) = Engine::load(&settings, possible as u32)?;
    let (ids, children) = match &settings.scope {
        Scope::Host => (&[][..], false),
        Scope::Processes { pids, children } => (&pids[..], *children),
        Scope::Threads { tids, .. } => (&tids[..], false),
    };
    let refused = ids.iter().filter(|id| !engine.add_target(**id, children)).count() as u64;
    let followed = Followed::start(tables, &settings)?;
    engine.attach(&settings, &cpus)?;
    let mut engine = EbpfEngine {
        engine,
        sideband,
        malformed: 0,
        refused,
        ended: Vec::new(),
        left: 0,
        left_ever: 0,
    };
    engine.visit()?;
    Ok(Running::new(engine, followed, settings))
}

impl EbpfEngine {
    fn count(&self, counter: Counter) -> u64 {
        self.engine.counter(counter)
    }

    /// Where waits are timed: has the tasks looked at that were not yet.
    fn visit(&mut self) -> Result<(), LoadError> {
        self.engine.visit()?;
        let left = self.count(Counter::VisitLeft);
        self.left = left - self.left_ever;
        self.left_ever = left;
        Ok(())
    }

    /// Figures about time.
    fn times(&self) -> Option<Figures> {
        let timer = self.engine.timer.as_ref()?;
        Some(Figures {
            switches: self.count(Counter::Switches),
            walks: self.count(Counter::Walks),
            stacks_sent_again: self.count(Counter::StackAgain),
            ..timer.sums.figures()
        })
    }

    fn throttled(&self) -> u64 {
        self.engine.ticks.as_ref().map_or(0, Ticks::throttled)
    }
}

impl drive::Engine for EbpfEngine {
    type Storage = MappedTables;
    const NAME: &'static str = "ebpf";

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let sideband = self.sideband.fds().map(|fd| fd.as_fd());
        let sums = self.engine.timer.iter().map(|timer| timer.ring.as_fd());
        sideband.chain([self.engine.samples_fd()]).chain(sums).collect()
    }

    fn drain(&mut self, are_waiting: bool) -> Drained {
        self.engine.flush_messages();
        let mut drained = Drained::default();
        for _ in 0..MAX_PASSES {
            if self.left > 0
                && !are_waiting
                && let Err(error) = self.visit()
            {
                log::debug!("a pass over all tasks failed: {error}");
                self.left = 0;
            }
            if let Some(timer) = &mut self.engine.timer {
                timer.drain();
            }
            while let Some(item) = self.engine.samples.next() {
                match Sample::decode(&item) {
                    Ok(sample) => drained.samples.push(sample),
                    Err(_) => self.malformed += 1,
                }
            }
            if self.left == 0 || are_waiting {
                break;
            }
        }
        drained.unreadable = self.sideband.drain(&mut drained.records);
        drained.unreadable += self.engine.ticks.as_mut().map_or(0, Ticks::drain);
        drained
    }

    fn lost(&self) -> u64 {
        let timer = self.engine.timer.as_ref().map_or(0, |timer| timer.malformed);
        let lost = self.count(Counter::RingFull) + self.count(Counter::NoScratch);
        lost + self.malformed + timer + self.throttled()
    }

    fn forget(&mut self, mut pids: Vec<u32>) {
        self.ended.append(&mut pids);
        // What still waits for its parent keeps its id, and another process may have it by now.
        let proc = Proc::new();
        let Self { engine, ended, .. } = self;
        ended.retain(|pid| {
            let there = proc.comm(*pid).is_ok();
            if !there {
                engine.remove_target(*pid);
            }
            there
        });
    }

    fn detach(&mut self) {
        self.engine.detach();
        // Brings in what the kernel has summed so far.
        self.left = u64::from(self.engine.timer.is_some());
    }

    fn is_drained(&self) -> bool {
        self.left == 0
    }

    fn sums(&mut self) -> Option<Sums> {
        let lost = self.count(Counter::TimeLost);
        let timer = self.engine.timer.as_mut()?;
        timer.sums.lost = lost;
        Some(timer.sums.clone())
    }

    fn finish(&self, recorder: &mut Recorder<MappedTables>) -> (u64, Report) {
        recorder.lose_samples(Loss::RingFull, self.count(Counter::RingFull));
        recorder.lose_samples(Loss::NoScratch, self.count(Counter::NoScratch));
        let timer = self.engine.timer.as_ref().map_or(0, |timer| timer.malformed);
        recorder.lose_samples(Loss::Malformed, self.malformed + timer);
        recorder.lose(Loss::TimeLost, self.count(Counter::TimeLost) / 1000);
        recorder.lose(Loss::ThreadUntimed, self.count(Counter::NoThread));
        recorder.lose(Loss::TargetsFull, self.refused + self.count(Counter::TargetsFull));
        recorder.lose_samples(Loss::Throttled, self.throttled());
        let switches = self.count(Counter::Switches);
        let samples = self.count(Counter::Samples);
        let taken = if switches > 0 { switches } else { samples };
        let run = self.engine.ran;
        let per =
            |total: u64| run.filter(|_| total > 0).map(|r| r.nanoseconds as f64 / total as f64);
        let report = Report {
            event: self.engine.ticks.as_ref().map_or("sched_switch", |ticks| ticks.event),
            map_bytes: self.engine.map_bytes(recorder.tables().storage()),
            bpf_runs: run.map(|run| run.runs),
            bpf_nanoseconds: run.map(|run| run.nanoseconds),
            bpf_nanoseconds_per_sample: per(taken),
            bpf_nanoseconds_per_frame: per(self.count(Counter::Frames)),
            times: self.times(),
            ..Report::default()
        };
        (samples + self.throttled(), report)
    }
}
