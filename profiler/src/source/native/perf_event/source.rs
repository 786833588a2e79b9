//! The engine of perf events as a source.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use anyhow::{Context as _, anyhow, bail};
use perf_event_open_sys::bindings;
use rustc_hash::FxHashMap;

use super::{
    events::{Events, Kind, NO_BUFFERS, Sampling, Whom},
    filter::Filter,
    names::Names,
    sample::{Decoded, Layout},
    tables::VecTables,
    waits::Timer,
};
use crate::{
    model::loss::Loss,
    source::native::{
        Report, Scope, Settings,
        drive::{Drained, Engine, Followed, Running, now, prepare_thread},
        limits::Bound,
        recorder::Recorder,
        sideband::{self, Event, Record, Sideband},
        throttled::Throttled,
        times::{Figures, Sums},
    },
    target::{capabilities::online_cpus, process::Proc},
};

/// Rounds of looking for threads that began while the others were attached to.
const ATTACH_ROUNDS: u32 = 4;

/// The engine.
pub struct PerfEventEngine {
    /// Samples of what runs, where they are asked for.
    events: Option<Events>,
    /// What times waits, likewise.
    timer: Option<Timer>,
    /// Records about the whole host's processes. None: the sampling events tell of their own.
    sideband: Option<Sideband>,
    layout: Layout,
    filter: Filter,
    /// The threads' names, when somebody wants to know.
    names: Option<Names>,
    /// What was drained while threads were attached to.
    early: Vec<Record>,
    counts: Counts,
    throttled: Throttled,
    frequency: u64,
    /// Figures about time, once the sums are there.
    times: Option<Figures>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    samples: u64,
    ring_full: u64,
    malformed: u64,
}

/// Starts sampling. `kernel`: this user may sample what happens in the kernel.
///
/// # Errors
///
/// What the kernel refused, and what to do about it.
pub fn start(settings: Settings, kernel: bool) -> anyhow::Result<Running<PerfEventEngine>> {
    prepare_thread();
    let cpus = online_cpus();
    let cgroup = settings.filter.cgroup.is_some();
    if cgroup && Proc::new().has_first_version(std::process::id(), "perf_event")? {
        bail!(
            "perf events do not tell cgroups of version 2 here, as the controller perf_event is in \
             a hierarchy of version 1; use --engine ebpf, or record without --cgroup"
        );
    }
    let layout = Layout { kernel: kernel && settings.kernel, user: settings.user, cgroup };
    let limits = &settings.limits;
    let timer = settings.waits.map(|waits| Timer::new(&cpus, &settings, waits, kernel));
    let timer = timer.transpose()?;
    let kind = if timer.is_some() { Kind::ClockAlone } else { Kind::Clock };
    let sampling = Sampling { kind, frequency: settings.frequency, layout, kernel };
    let events = settings
        .samples()
        .then(|| Events::new(&cpus, sampling, limits.get(Bound::Copies)).context(NO_BUFFERS));
    let mut engine = PerfEventEngine {
        events: events.transpose()?,
        timer,
        sideband: None,
        layout,
        filter: Filter::new(&settings),
        names: None,
        early: Vec::new(),
        counts: Counts::default(),
        throttled: Throttled::default(),
        frequency: settings.frequency,
        times: None,
    };
    match &settings.scope {
        Scope::Host => {
            engine.sideband = Some(
                Sideband::open(&cpus, limits.get(Bound::Sideband))
                    .context("cannot follow processes")?,
            );
            engine.open(Whom::Host).context("cannot sample the whole host: run as root")?;
        }
        Scope::Processes { pids, children } => {
            let mut attached = false;
            for pid in pids {
                attached |= engine.attach(*pid, |tid| Whom::Thread { tid, children: *children })?;
            }
            // One of many may well have ended meanwhile.
            if !attached {
                bail!("the target has ended");
            }
        }
        Scope::Threads { tids, pids } => {
            for pid in pids {
                engine.attach(*pid, Whom::Nobody)?;
            }
            for tid in tids {
                let opened = engine.open(Whom::Alone(*tid));
                opened.map_err(|error| refused(*tid, error))?;
            }
        }
    }
    // What was drained meanwhile came before the recording.
    engine.counts = Counts::default();
    engine.throttled = Throttled::default();
    if settings.labels.threads || settings.filter.names.is_some() {
        engine.names = Some(Names::read(&settings.scope));
    }
    let followed = Followed::start(VecTables::new(limits), &settings)?;
    if let (Some(timer), Some(waits)) = (&mut engine.timer, settings.waits) {
        timer.begin(&settings.scope, waits);
    }
    Ok(Running::new(engine, followed, settings))
}

impl PerfEventEngine {
    fn open(&mut self, whom: Whom) -> io::Result<()> {
        if let Some(timer) = &mut self.timer {
            timer.open(whom)?;
        }
        match &mut self.events {
            Some(events) if self.timer.is_none() || !matches!(whom, Whom::Nobody(_)) => {
                events.open(whom)
            }
            _ => Ok(()),
        }
    }

    /// Attaches to all threads of a process. Those that an attached thread has created inherit its
    /// events; they are told from others that began meanwhile by the records of their creation.
    /// False: the process has ended.
    fn attach(&mut self, pid: u32, whom: impl Fn(u32) -> Whom) -> anyhow::Result<bool> {
        let proc = Proc::new();
        let mut attached: FxHashMap<u32, u64> = FxHashMap::default();
        for _ in 0..ATTACH_ROUNDS {
            let threads = proc.threads(pid).unwrap_or_default();
            let new: Vec<_> = threads.iter().filter(|tid| !attached.contains_key(tid)).collect();
            if new.is_empty() {
                break;
            }
            for tid in new {
                match self.open(whom(*tid)) {
                    Ok(()) => drop(attached.insert(*tid, now())),
                    // It has ended.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(refused(pid, error)),
                }
            }
            let Drained { records, .. } = self.take();
            for record in &records {
                if let Event::Fork { parent_tid, .. } = record.event
                    && attached.get(&parent_tid).is_some_and(|since| *since <= record.time)
                {
                    attached.insert(record.tid, record.time);
                }
            }
            self.early.extend(records);
        }
        Ok(!attached.is_empty())
    }

    /// Empties the buffers.
    fn take(&mut self) -> Drained {
        let Self { events, timer, layout, filter, counts, throttled, .. } = self;
        let mut drained = Drained::default();
        if let Some(timer) = timer {
            drained.unreadable += timer.drain(&mut drained.samples, &mut drained.records);
        }
        let Some(events) = events else { return drained };
        filter.begin();
        events.drain(|cpu, kind, misc, body| match kind {
            bindings::PERF_RECORD_SAMPLE => match layout.decode(body, cpu) {
                Ok(Decoded { sample, cgroup }) if filter.wants(&sample, cgroup) => {
                    drained.samples.push(sample);
                }
                Ok(_) => {}
                Err(_) => counts.malformed += 1,
            },
            bindings::PERF_RECORD_LOST | bindings::PERF_RECORD_LOST_SAMPLES => {
                match lost_by(kind, body) {
                    Some(n) => counts.ring_full += n,
                    None => counts.malformed += 1,
                }
            }
            bindings::PERF_RECORD_THROTTLE | bindings::PERF_RECORD_UNTHROTTLE => {
                drained.unreadable += u64::from(!throttled.record(kind, body));
            }
            kind => match sideband::decode(kind, misc, body) {
                Ok(Some(record)) => drained.records.push(record),
                Ok(None) => {}
                Err(_) => drained.unreadable += 1,
            },
        });
        drained
    }
}

/// How many were lost, by a record of that; None: it is of another kind, or too short.
pub fn lost_by(kind: u32, body: &[u8]) -> Option<u64> {
    let at = match kind {
        bindings::PERF_RECORD_LOST => 8,
        bindings::PERF_RECORD_LOST_SAMPLES => 0,
        _ => return None,
    };
    let bytes = body.get(at..at + 8)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Why a process cannot be sampled.
fn refused(pid: u32, error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => anyhow!(
            "cannot record process {pid}: it is another user's or one that may not be observed; \
             run as root"
        ),
        Some(libc::EMFILE | libc::ENFILE) => anyhow!(
            "cannot record process {pid}: it takes a descriptor for each thread and CPU; raise \
             `ulimit -n`"
        ),
        _ => anyhow!(error).context(format!("cannot sample process {pid} by perf_event_open")),
    }
}

impl Engine for PerfEventEngine {
    type Storage = VecTables;
    const NAME: &'static str = "perf-event";

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let sideband =
            self.sideband.iter().flat_map(|sideband| sideband.fds().map(|fd| fd.as_fd()));
        let timer = self.timer.iter().flat_map(Timer::fds);
        self.events.iter().flat_map(Events::fds).chain(timer).chain(sideband).collect()
    }

    fn drain(&mut self, _: bool) -> Drained {
        let mut drained = self.take();
        if let Some(sideband) = &mut self.sideband {
            drained.unreadable += sideband.drain(&mut drained.records);
        }
        drained.records.append(&mut self.early);
        let Drained { samples, records, .. } = &mut drained;
        if let Some(names) = &mut self.names {
            samples.sort_by_key(|sample| sample.header.time);
            records.sort_by_key(|record| record.time);
            names.apply(samples, records, self.filter.names());
        }
        if let Some(timer) = &mut self.timer {
            timer.round(records);
        }
        self.counts.samples += samples.len() as u64;
        drained
    }

    fn lost(&self) -> u64 {
        self.counts.ring_full + self.counts.malformed + self.throttled.samples(self.frequency)
    }

    // Events are inherited and end with their threads: no list is kept.
    fn forget(&mut self, _pids: Vec<u32>) {}

    fn detach(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.detach();
        }
        if let Some(events) = &mut self.events {
            events.close();
            events.tell_losses();
        }
    }

    fn sums(&mut self) -> Option<Sums> {
        let timer = self.timer.as_mut()?;
        let switches = timer.switches();
        let sums = timer.sums();
        self.times = Some(Figures { switches, ..sums.figures() });
        Some(sums)
    }

    fn finish(&self, recorder: &mut Recorder<VecTables>) -> (u64, Report) {
        let Counts { samples, ring_full, malformed } = self.counts;
        let throttled = self.throttled.samples(self.frequency);
        recorder.lose_samples(Loss::RingFull, ring_full);
        recorder.lose_samples(Loss::Malformed, malformed);
        recorder.lose_samples(Loss::Throttled, throttled);
        if let Some(timer) = &self.timer {
            recorder.lose(Loss::StackLost, timer.lost.stacks);
            recorder.lose(Loss::SidebandLost, timer.lost.switches);
        }
        let event = self.events.as_ref().map_or("context-switches", Events::name);
        let report = Report { event, times: self.times, ..Report::default() };
        (samples + ring_full + malformed + throttled, report)
    }
}
