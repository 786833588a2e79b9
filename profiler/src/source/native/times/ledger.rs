//! Threads' time by records of switches, where the kernel does not sum it: what switches, samples of
//! where threads begin to wait, names, births and deaths come to, in the order of time. Pure.

use std::{sync::Arc, time::Duration};

use profiler_ebpf::{
    threads::{Clock, Wait, phase, stack, wait},
    wire::sum_kind,
};
use rustc_hash::FxHashMap;

use super::{Place, Sums, Thread, Total, Waits, Who};
use crate::source::native::sideband::{Event, Record};

/// Something that happened, at a time of `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub time: u64,
    /// To a thread of this process.
    pub pid: u32,
    /// To this thread.
    pub tid: u32,
    /// What.
    pub what: What,
}

/// What happens to a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is about to leave its CPU, in this stack.
    Stack(u64),
    /// It leaves its CPU, because another is to run or because it waits.
    Out {
        /// It could go on.
        preempted: bool,
    },
    /// It gets a CPU.
    In,
    /// It has a name from now on; `exec`: with another program.
    Named {
        /// The name.
        name: Arc<str>,
        /// With another program.
        exec: bool,
    },
    /// It was made by this thread.
    Made(u32),
    /// It ended.
    Ended,
}

impl Moment {
    /// What a record tells of time; None: nothing.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let what = match &record.event {
            Event::Comm { name, exec } => {
                What::Named { name: String::from_utf8_lossy(name).into(), exec: *exec }
            }
            Event::Fork { parent_tid, .. } => What::Made(*parent_tid),
            Event::Exit => What::Ended,
            Event::Mmap { .. } | Event::Lost(_) => return None,
        };
        Some(Self { time: record.time, pid: record.pid, tid: record.tid, what })
    }
}

/// A thread and its time so far.
struct Tracked {
    pid: u32,
    comm: Arc<str>,
    clock: Clock,
    /// The stack of the wait that is open or came last.
    stack: u64,
    /// The stack that it was about to leave its CPU in.
    next: u64,
    /// Nothing was heard of it yet: it was found when the recording began.
    found: bool,
    sums: Thread,
}

/// Keeps time.
pub struct Ledger {
    waits: Waits,
    begin: u64,
    threads: FxHashMap<u32, Tracked>,
    /// Names of processes.
    processes: FxHashMap<u32, Arc<str>>,
    sums: Sums,
    switches: u64,
}

impl Ledger {
    /// Nothing known; time counts from `begin` on.
    #[must_use]
    pub fn new(waits: Waits, begin: u64) -> Self {
        let (threads, processes) = (FxHashMap::default(), FxHashMap::default());
        Self { waits, begin, threads, processes, sums: Sums::default(), switches: 0 }
    }

    /// Takes up a thread that is there at the beginning; `state`: why it waits. None: it runs.
    pub fn find(&mut self, pid: u32, tid: u32, name: &str, state: Option<u32>) {
        let clock = match state {
            Some(state) => Clock::waiting(self.begin, state, 0),
            None => Clock::running(self.begin),
        };
        let comm: Arc<str> = name.into();
        if pid == tid {
            self.processes.insert(pid, Arc::clone(&comm));
        }
        self.threads.insert(tid, Tracked { found: true, ..Tracked::new(pid, comm, clock) });
    }

    /// Names a process, whose first thread may be gone.
    pub fn name(&mut self, pid: u32, name: &str) {
        self.processes.insert(pid, name.into());
    }

    /// Times that threads left a CPU.
    #[must_use]
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// Takes the next moment in.
    pub fn take(&mut self, moment: Moment) {
        let Moment { time, pid, tid, what } = moment;
        // What came before the recording, and what the kernel says of a thread that is gone.
        if time < self.begin || tid == 0 || tid == u32::MAX {
            return;
        }
        match what {
            What::Stack(stack) => self.thread(pid, tid, phase::ON_CPU).next = stack,
            What::In => self.thread(pid, tid, phase::OFF_CPU).clock.switch_in(time),
            What::Out { preempted } => {
                self.switches += 1;
                let state = if preempted { wait::PREEMPTED } else { wait::BLOCKED };
                let waits = self.waits;
                let thread = self.thread(pid, tid, phase::ON_CPU);
                let before = thread.clock.state;
                let wait = thread.clock.switch_out(time, state, 0);
                thread.add(waits, wait, before);
                thread.stack = std::mem::replace(&mut thread.next, stack::NONE);
            }
            What::Named { name, exec } => {
                self.flush(tid);
                if pid == tid || exec {
                    self.processes.insert(pid, Arc::clone(&name));
                }
                self.thread(pid, tid, phase::ON_CPU).comm = name;
            }
            What::Made(parent) => {
                let known = self.threads.get(&tid);
                if known.is_some_and(|known| !known.found) {
                    return;
                }
                let comm =
                    self.threads.get(&parent).map_or_else(|| "?".into(), |of| of.comm.clone());
                if pid == tid {
                    self.processes.insert(pid, Arc::clone(&comm));
                }
                let clock = Clock::waiting(time, wait::NEW, 0);
                self.threads.insert(tid, Tracked::new(pid, comm, clock));
            }
            What::Ended => {
                self.end(tid, time);
                self.threads.remove(&tid);
            }
        }
    }

    /// The recording is over at `end`: all that is summed.
    #[must_use]
    pub fn finish(mut self, end: u64) -> Sums {
        let tids: Vec<u32> = self.threads.keys().copied().collect();
        tids.into_iter().for_each(|tid| self.end(tid, end));
        self.sums.window = end.saturating_sub(self.begin);
        self.sums
    }

    /// A thread; one that nobody has told of did `phase` since the beginning.
    fn thread(&mut self, pid: u32, tid: u32, phase: u32) -> &mut Tracked {
        let begin = self.begin;
        let processes = &self.processes;
        let thread = self.threads.entry(tid).or_insert_with(|| {
            let clock = match phase {
                phase::ON_CPU => Clock::running(begin),
                _ => Clock::waiting(begin, wait::UNSEEN, 0),
            };
            let comm = processes.get(&pid).cloned().unwrap_or_else(|| "?".into());
            Tracked::new(pid, comm, clock)
        });
        thread.found = false;
        thread
    }

    fn end(&mut self, tid: u32, time: u64) {
        let waits = self.waits;
        if let Some(thread) = self.threads.get_mut(&tid) {
            let state = thread.clock.state;
            let wait = thread.clock.end(time, 0);
            thread.add(waits, wait, state);
        }
        self.flush(tid);
    }

    /// Counts what a thread did so far for the names that it has.
    fn flush(&mut self, tid: u32) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let Thread { on_cpu, waits } = std::mem::take(&mut thread.sums);
        let on_cpu = on_cpu.saturating_add(thread.clock.take_on_cpu());
        if on_cpu == 0 && waits.is_empty() {
            return;
        }
        let process = self.processes.get(&thread.pid).unwrap_or(&thread.comm);
        let who = Who {
            pid: thread.pid,
            tid,
            born: thread.clock.born,
            comm: Arc::clone(&thread.comm),
            process: Arc::clone(process),
        };
        let sums = self.sums.threads.entry(who).or_default();
        sums.on_cpu = sums.on_cpu.saturating_add(on_cpu);
        for (place, total) in waits {
            sums.waits.entry(place).or_default().add(total);
        }
    }
}

impl Tracked {
    fn new(pid: u32, comm: Arc<str>, clock: Clock) -> Self {
        let (stack, next) = (stack::NONE, stack::NONE);
        Self { pid, comm, clock, stack, next, found: false, sums: Thread::default() }
    }

    /// Counts a wait that is over.
    fn add(&mut self, waits: Waits, wait: Wait, state: u32) {
        let whole = wait.whole();
        if whole == 0 {
            return;
        }
        let length = Duration::from_nanos(whole);
        let place = if waits.min.is_some_and(|min| length < min) {
            Place { stack: 0, waker: 0, state: 0, kind: sum_kind::SHORT }
        } else if waits.max.is_some_and(|max| length > max) {
            Place { stack: 0, waker: 0, state: 0, kind: sum_kind::LONG }
        } else {
            Place { stack: self.stack, waker: 0, state, kind: sum_kind::STACK }
        };
        let (blocked, runnable) = (wait.blocked, wait.runnable);
        let total = Total { blocked, runnable, longest: whole, waits: 1 };
        self.sums.waits.entry(place).or_default().add(total);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(time: u64, tid: u32, what: What) -> Moment {
        Moment { time, pid: 1, tid, what }
    }

    fn place(stack: u64, state: u32) -> Place {
        Place { stack, waker: 0, state, kind: sum_kind::STACK }
    }

    #[test]
    fn a_wait_belongs_to_the_stack_before_it() {
        let mut ledger = Ledger::new(Waits::default(), 1_000);
        ledger.find(1, 1, "app", Some(wait::UNINTERRUPTIBLE));
        for moment in [
            at(900, 1, What::In),
            at(1_100, 1, What::In),
            at(1_140, 1, What::Stack(10)),
            at(1_150, 1, What::Out { preempted: false }),
            at(1_350, 1, What::In),
            at(1_360, 1, What::Named { name: "other".into(), exec: false }),
            at(1_370, 1, What::Out { preempted: true }),
            at(u64::MAX, u32::MAX, What::Out { preempted: false }),
        ] {
            ledger.take(moment);
        }
        assert_eq!(ledger.switches(), 2);
        let sums = ledger.finish(1_400);
        assert_eq!(sums.window, 400);
        let of = |comm: &str| {
            let mut found = sums.threads.iter().filter(|(who, _)| &*who.comm == comm);
            let (who, thread) = found.next().unwrap();
            assert_eq!((&*who.process, who.born, found.next().is_none()), (comm, 1_000, true));
            thread
        };
        let app = of("app");
        assert_eq!(app.on_cpu, 50);
        assert_eq!(app.waits[&place(stack::NONE, wait::UNINTERRUPTIBLE)].blocked, 100);
        // The last wait before the name was not over for us yet.
        let other = of("other");
        assert_eq!(other.on_cpu, 20);
        assert_eq!(other.waits[&place(10, wait::BLOCKED)].blocked, 200);
        assert_eq!(other.waits[&place(stack::NONE, wait::PREEMPTED)].runnable, 30);
    }

    #[test]
    fn threads_are_born_and_die() {
        let mut ledger = Ledger::new(Waits::default(), 1_000);
        ledger.find(1, 1, "app", None);
        // It was found, and its birth comes up behind that.
        ledger.find(1, 2, "app", None);
        for moment in [
            at(1_100, 2, What::Made(1)),
            at(1_130, 2, What::In),
            at(1_200, 2, What::Ended),
            at(1_300, 2, What::Made(1)),
        ] {
            ledger.take(moment);
        }
        let sums = ledger.finish(1_500);
        let mut found: Vec<_> = sums
            .threads
            .iter()
            .map(|(who, thread)| {
                let waited = thread.waits.values().map(|total| total.runnable).sum::<u64>();
                (who.tid, who.born, thread.on_cpu, waited)
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 1_000, 500, 0), (2, 1_100, 70, 30), (2, 1_300, 0, 200)]);
    }

    proptest! {
        #[test]
        fn time_is_conserved(events in prop::collection::vec((0..2_000u64, 1..4u32, 0..7u8), 0..200)) {
            let mut ledger = Ledger::new(Waits::default(), 1_000);
            let mut alive: FxHashMap<u32, u64> = FxHashMap::default();
            for tid in 1..4 {
                ledger.find(1, tid, "app", Some(wait::SLEEPING));
                alive.insert(tid, 1_000);
            }
            let (mut now, mut lived) = (1_000, 0);
            for (passed, tid, event) in events {
                now += passed;
                let what = match event {
                    0 => What::Stack(77),
                    1 | 2 => What::Out { preempted: event == 1 },
                    3 | 4 => What::In,
                    5 => What::Named { name: "other".into(), exec: true },
                    _ if alive.contains_key(&tid) => What::Ended,
                    _ => What::Made(1),
                };
                match what {
                    What::Ended => lived += now - alive.remove(&tid).unwrap(),
                    What::Made(_) => drop(alive.insert(tid, now)),
                    // The kernel tells nothing of a thread that is not there.
                    _ if !alive.contains_key(&tid) => continue,
                    _ => {}
                }
                ledger.take(at(now, tid, what));
            }
            let end = now + 100;
            lived += alive.values().map(|born| end - born).sum::<u64>();
            let sums = ledger.finish(end);
            let counted = sums.threads.values().map(|thread| {
                let waited = thread.waits.values().map(|of| of.blocked + of.runnable).sum::<u64>();
                thread.on_cpu + waited
            });
            prop_assert_eq!(counted.sum::<u64>(), lived);
        }
    }
}
