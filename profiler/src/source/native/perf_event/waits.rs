//! Timing waits by perf events: records of switches, and at each a sample of where the thread leaves
//! its CPU.
//!
//! The two have buffers of their own: samples carry copies of stacks and are many times as large, and
//! where they do not all fit, only stacks are missing, and no time. The kernel tells whether a thread
//! was preempted or waits, and not for what, nor when it could have gone on.

use std::{
    hash::{Hash as _, Hasher as _},
    os::fd::BorrowedFd,
};

use anyhow::Context as _;
use perf_event_open_sys::bindings;
use profiler_ebpf::threads::stack;
use rustc_hash::{FxHashSet, FxHasher};

use super::{
    events::{Events, Kind, NO_BUFFERS, Sampling, Whom},
    sample::Layout,
    source::lost_by,
};
use crate::source::native::{
    Scope, Settings,
    drive::now,
    limits::{Bound, PAGE},
    samples::Sample,
    sideband::{self, Record, SETTLE_NANOSECONDS},
    times::{
        Sums, Waits,
        counted::Counted,
        ledger::{Ledger, Moment, What},
    },
};

/// Bytes of each CPU's buffer of switches: of 40 bytes each there is room for 26,000.
const SWITCHES: usize = 256 * PAGE;
/// The same for users who may lock little memory.
const FEW_SWITCHES: usize = 32 * PAGE;
/// Distinct stacks of waits that are kept apart.
const MAX_STACKS: usize = 1 << 17;

/// What times waits.
pub struct Timer {
    switches: Events,
    /// None: this user may not see where a thread leaves its CPU, which is in the kernel.
    stacks: Option<Events>,
    layout: Layout,
    counted: Counted,
    ledger: Ledger,
    /// What happened, and may not be in its order yet.
    pending: Vec<Moment>,
    /// Stacks that were handed over.
    known: FxHashSet<u64>,
    /// When the recording ended; None: it goes on.
    end: Option<u64>,
    /// Samples and records that were lost.
    pub lost: Lost,
}

/// What was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Stacks of waits.
    pub stacks: u64,
    /// Records of switches.
    pub switches: u64,
}

impl Timer {
    /// Makes the buffers; nothing is recorded yet. `kernel`: this user may see the kernel's side.
    ///
    /// # Errors
    ///
    /// When this user may not lock so much memory.
    pub fn new(
        cpus: &[u32],
        settings: &Settings,
        waits: Waits,
        kernel: bool,
    ) -> anyhow::Result<Self> {
        let layout = Layout { kernel: settings.kernel, user: settings.user, cgroup: false };
        let sampling = |kind| Sampling { kind, frequency: 0, layout, kernel };
        let bytes = if kernel { SWITCHES } else { FEW_SWITCHES };
        let switches = Events::new(cpus, sampling(Kind::Switches), bytes).context(NO_BUFFERS)?;
        let stacks = kernel
            .then(|| Events::new(cpus, sampling(Kind::Stacks), settings.limits.get(Bound::Copies)));
        Ok(Self {
            switches,
            stacks: stacks.transpose().context(NO_BUFFERS)?,
            layout,
            counted: Counted::of(&settings.scope),
            ledger: Ledger::new(waits, u64::MAX),
            pending: Vec::new(),
            known: FxHashSet::default(),
            end: None,
            lost: Lost::default(),
        })
    }

    /// Records these threads.
    ///
    /// # Errors
    ///
    /// What perf_event_open answers.
    pub fn open(&mut self, whom: Whom) -> std::io::Result<()> {
        self.switches.open(whom)?;
        match &mut self.stacks {
            Some(stacks) if !matches!(whom, Whom::Nobody(_)) => stacks.open(whom),
            _ => Ok(()),
        }
    }

    /// Time counts from now on, of the threads that are there and of those that are made.
    pub fn begin(&mut self, scope: &Scope, waits: Waits) {
        self.ledger = Ledger::new(waits, now());
        self.lost = Lost::default();
        // Nobody has taken in what was handed over while threads were attached to.
        self.known.clear();
        self.counted.take_up(scope, &mut self.ledger);
    }

    /// What becomes readable when something is to be drained.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.switches.fds().chain(self.stacks.iter().flat_map(Events::fds))
    }

    /// Empties the buffers: the stacks that are new, and records about processes. Gives how many
    /// records could not be read.
    pub fn drain(&mut self, samples: &mut Vec<Sample>, records: &mut Vec<Record>) -> u64 {
        let Self { switches, stacks, layout, pending, known, lost, .. } = self;
        let mut unreadable = 0;
        if let Some(stacks) = stacks {
            stacks.drain(|cpu, kind, _, body| match kind {
                bindings::PERF_RECORD_SAMPLE => match layout.decode(body, cpu) {
                    Ok(decoded) => {
                        let mut sample = decoded.sample;
                        let header = &mut sample.header;
                        let (time, pid, tid) = (header.time, header.pid, header.tid);
                        header.stack = 0;
                        let name = name_of(&sample);
                        sample.header.stack = name;
                        pending.push(Moment { time, pid, tid, what: What::Stack(name) });
                        if !known.contains(&name) && known.len() < MAX_STACKS {
                            known.insert(name);
                            samples.push(sample);
                        }
                    }
                    Err(_) => lost.stacks += 1,
                },
                kind => lost.stacks += lost_by(kind, body).unwrap_or(0),
            });
        }
        switches.drain(|_, kind, misc, body| match kind {
            bindings::PERF_RECORD_SWITCH | bindings::PERF_RECORD_SWITCH_CPU_WIDE => {
                match switch(u32::from(misc), body) {
                    Some(moment) => pending.push(moment),
                    None => unreadable += 1,
                }
            }
            bindings::PERF_RECORD_LOST | bindings::PERF_RECORD_LOST_SAMPLES => {
                lost.switches += lost_by(kind, body).unwrap_or(1);
            }
            kind => match sideband::decode(kind, misc, body) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(_) => unreadable += 1,
            },
        });
        unreadable
    }

    /// Takes in what records tell of threads, and works off what is settled.
    pub fn round(&mut self, records: &[Record]) {
        self.pending.extend(records.iter().filter_map(Moment::of));
        self.pending.sort_by_key(|moment| moment.time);
        let until = match self.end {
            Some(end) => end,
            None => now().saturating_sub(SETTLE_NANOSECONDS),
        };
        let settled = self.pending.partition_point(|moment| moment.time <= until);
        for moment in self.pending.drain(..settled) {
            if self.counted.has(moment.pid, moment.tid) {
                self.ledger.take(moment);
            }
        }
    }

    /// Stops recording; the buffers keep what they hold.
    pub fn detach(&mut self) {
        self.end = Some(now());
        for events in [Some(&mut self.switches), self.stacks.as_mut()].into_iter().flatten() {
            events.close();
            events.tell_losses();
        }
    }

    /// Times that threads left a CPU.
    pub fn switches(&self) -> u64 {
        self.ledger.switches()
    }

    /// What all of it comes to, once all is drained.
    pub fn sums(&mut self) -> Sums {
        let empty = Ledger::new(Waits::default(), u64::MAX);
        let ledger = std::mem::replace(&mut self.ledger, empty);
        ledger.finish(self.end.unwrap_or_else(now))
    }
}

/// A record of a switch. Who it is of, and when, is in its trailer, in both of its kinds.
fn switch(misc: u32, body: &[u8]) -> Option<Moment> {
    let trailer = body.last_chunk::<16>()?;
    let number = |at: usize| {
        u32::from_ne_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]])
    };
    let time = u64::from(number(8)) | u64::from(number(12)) << 32;
    let what = match misc & bindings::PERF_RECORD_MISC_SWITCH_OUT {
        0 => What::In,
        _ => What::Out { preempted: misc & bindings::PERF_RECORD_MISC_SWITCH_OUT_PREEMPT != 0 },
    };
    Some(Moment { time, pid: number(0), tid: number(4), what })
}

/// What a stack is called: all that a walk of it may depend on.
fn name_of(sample: &Sample) -> u64 {
    let mut hasher = FxHasher::default();
    let registers = sample.header.registers;
    (&sample.kernel, sample.header.pid, registers.ip, registers.sp).hash(&mut hasher);
    (registers.bp, registers.bx, registers.general, &sample.stack).hash(&mut hasher);
    stack::of_wait(hasher.finish())
}
