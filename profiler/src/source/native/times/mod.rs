//! Where the time of threads goes: their waits, summed in the kernel by thread, stack and state.
//!
//! [`wire`] takes the records apart, [`Sums`] adds them up, [`draw`] makes stacks of them. [`ledger`]
//! does the kernel's part of it where no BPF program can, for the threads that are [`counted`].

pub mod counted;
pub mod draw;
pub mod ledger;
pub mod wire;

use std::{sync::Arc, time::Duration};

use profiler_ebpf::{
    threads::wait,
    wire::{WaitSum, sum_kind},
};
use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::model::stacks::StackId;

/// Which waits are recorded, and what beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Also what threads do while they run.
    pub on_cpu: bool,
    /// Shorter waits are summed without their stacks.
    pub min: Option<Duration>,
    /// Longer ones, too.
    pub max: Option<Duration>,
    /// Which of them are shown.
    pub states: States,
    /// Threads that waited in one stack for nearly the whole time are one frame of their process.
    pub fold_idle: bool,
    /// Who ended each wait is recorded, too.
    pub wakers: bool,
}

/// A choice of reasons to wait; empty: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// What stands for waiting for a CPU.
    const RUNNABLE: u32 = 1 << wait::PREEMPTED;

    /// Adds one by name; None: there is none of this name.
    pub fn add(&mut self, name: &str) -> Option<()> {
        self.0 |= match name {
            "runnable" => Self::RUNNABLE,
            "sleeping" => 1 << wait::SLEEPING | 1 << wait::UNSEEN,
            "uninterruptible" => 1 << wait::UNINTERRUPTIBLE,
            "stopped" => 1 << wait::STOPPED,
            "traced" => 1 << wait::TRACED,
            "idle" => 1 << wait::IDLE,
            "frozen" => 1 << wait::FROZEN,
            _ => return None,
        };
        Some(())
    }

    /// Whether waits in this state of the kernel are chosen.
    #[must_use]
    pub fn has(self, state: u32) -> bool {
        self.0 == 0 || self.0 >> state.min(31) & 1 != 0
    }

    /// Whether waits are told apart by more than whether a thread could have run.
    #[must_use]
    pub fn tells_reasons(self) -> bool {
        self.0 & !Self::RUNNABLE != 0
    }

    /// Whether waiting for a CPU is chosen.
    #[must_use]
    pub fn has_runnable(self) -> bool {
        self.0 == 0 || self.0 & Self::RUNNABLE != 0
    }

    /// Whether waiting for something else is chosen, in whichever state.
    #[must_use]
    pub fn has_blocked(self) -> bool {
        self.0 == 0 || self.0 & !Self::RUNNABLE != 0
    }
}

/// A thread by the names that it had at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// When it began to be counted: another thread may have had the same id.
    pub born: u64,
    /// Its name.
    pub comm: Arc<str>,
    /// The name of its process.
    pub process: Arc<str>,
}

/// What is waited for, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// What the stack is called.
    pub stack: u64,
    /// What the stack of who ended it is called; 0: nobody yet, or it is not asked for.
    pub waker: u64,
    /// One of [`wait`].
    pub state: u32,
    /// One of [`sum_kind`].
    pub kind: u32,
}

/// Waits at one place, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Waiting for something.
    pub blocked: u64,
    /// Waiting for a CPU.
    pub runnable: u64,
    /// The longest wait.
    pub longest: u64,
    /// How many.
    pub waits: u64,
}

impl Total {
    /// Adds others at the same place.
    pub fn add(&mut self, other: Self) {
        self.blocked = self.blocked.saturating_add(other.blocked);
        self.runnable = self.runnable.saturating_add(other.runnable);
        self.longest = self.longest.max(other.longest);
        self.waits = self.waits.saturating_add(other.waits);
    }
}

/// Everything about one thread.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// Its time on CPU, in nanoseconds.
    pub on_cpu: u64,
    /// Its waits.
    pub waits: FxHashMap<Place, Total>,
}

/// Sums over a recording.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// By thread and its names.
    pub threads: FxHashMap<Who, Thread>,
    /// Nanoseconds that are in none of them, for want of room.
    pub lost: u64,
    /// Nanoseconds from the begin of the recording to its end.
    pub window: u64,
}

impl Sums {
    /// Takes a record in.
    pub fn add(&mut self, sum: &WaitSum) {
        let who = Who {
            pid: sum.pid,
            tid: sum.tid,
            born: sum.born,
            comm: wire::name(&sum.comm).into(),
            process: wire::name(&sum.process).into(),
        };
        let thread = self.threads.entry(who).or_default();
        thread.on_cpu = thread.on_cpu.saturating_add(sum.on_cpu);
        if sum.kind == sum_kind::THREAD {
            return;
        }
        let place = Place { stack: sum.stack, waker: sum.waker, state: sum.state, kind: sum.kind };
        let WaitSum { blocked, runnable, longest, waits, .. } = *sum;
        thread.waits.entry(place).or_default().add(Total { blocked, runnable, longest, waits });
    }

    /// What they come to.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        let mut threads: Vec<_> =
            self.threads.keys().map(|who| (who.pid, who.born, who.tid)).collect();
        threads.sort_unstable();
        threads.dedup();
        figures.threads = threads.len() as u64;
        let (mut on_cpu, mut runnable, mut blocked) = (0u64, 0u64, 0u64);
        for thread in self.threads.values() {
            on_cpu = on_cpu.saturating_add(thread.on_cpu);
            for total in thread.waits.values() {
                runnable = runnable.saturating_add(total.runnable);
                blocked = blocked.saturating_add(total.blocked);
                figures.waits = figures.waits.saturating_add(total.waits);
            }
        }
        figures.on_cpu_us = on_cpu / 1000;
        figures.runnable_us = runnable / 1000;
        figures.blocked_us = blocked / 1000;
        figures.lost_us = self.lost / 1000;
        figures.window_us = self.window / 1000;
        figures
    }
}

/// What the threads of a target did in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Microseconds from the begin of the recording to its end.
    pub window_us: u64,
    /// Threads that were timed.
    pub threads: u64,
    /// Waits that are over, or were counted up to the end.
    pub waits: u64,
    /// Microseconds on a CPU.
    pub on_cpu_us: u64,
    /// Microseconds waiting for a CPU.
    pub runnable_us: u64,
    /// Microseconds waiting for something else.
    pub blocked_us: u64,
    /// Microseconds that did not fit into the ring buffer, and are in none of the others.
    pub lost_us: u64,
    /// Times that threads left a CPU.
    pub switches: u64,
    /// Of these, times that a stack had to be walked.
    pub walks: u64,
    /// Stacks that were sent more than once, as the table of those that were sent was full.
    pub stacks_sent_again: u64,
}

/// What the threads of one process waited, of what is shown, without those that did nothing else
/// where these are folded. Times are microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The process, as the picture names it.
    pub process: Arc<str>,
    /// Waiting for something.
    pub blocked: u64,
    /// Waiting for a CPU.
    pub runnable: u64,
    /// The longest wait.
    pub longest: u64,
    /// Where that was: a stack of the recording.
    pub place: StackId,
}

/// What stands between a wait and who ended it.
pub const WOKEN: &str = "[woken by]";

/// How a state is called in the picture.
#[must_use]
pub fn state_name(state: u32) -> &'static str {
    match state {
        wait::PREEMPTED | wait::NEW => "[waiting for CPU]",
        wait::UNINTERRUPTIBLE => "[uninterruptible]",
        wait::STOPPED => "[stopped]",
        wait::TRACED => "[traced]",
        wait::IDLE => "[idle]",
        wait::FROZEN => "[frozen]",
        wait::BLOCKED => "[blocked]",
        _ => "[sleeping]",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(tid: u32, kind: u32, stack: u64) -> WaitSum {
        WaitSum {
            stack,
            waker: 0,
            born: 5,
            blocked: 2_000,
            runnable: 3_000,
            longest: 1_000,
            waits: 2,
            pid: 1,
            tid,
            state: wait::SLEEPING,
            kind,
            comm: *b"t\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            process: *b"p\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            on_cpu: 0,
        }
    }

    #[test]
    fn records_of_one_place_are_one() {
        let mut sums = Sums::default();
        sums.add(&sum(7, sum_kind::STACK, 9));
        sums.add(&WaitSum { longest: 4_000, ..sum(7, sum_kind::STACK, 9) });
        sums.add(&sum(8, sum_kind::SHORT, 0));
        let thread = WaitSum {
            blocked: 0,
            runnable: 0,
            waits: 0,
            on_cpu: 9_000,
            ..sum(7, sum_kind::THREAD, 0)
        };
        sums.add(&thread);
        let figures = sums.figures();
        assert_eq!((figures.threads, figures.waits), (2, 6));
        assert_eq!((figures.on_cpu_us, figures.runnable_us, figures.blocked_us), (9, 9, 6));
        let longest = sums.threads.values().flat_map(|t| t.waits.values()).map(|w| w.longest).max();
        assert_eq!(longest, Some(4_000));
    }

    #[test]
    fn states_are_chosen_by_name() {
        let mut states = States::default();
        assert!(states.has(wait::IDLE) && states.has_runnable() && states.has_blocked());
        states.add("runnable").unwrap();
        assert!(states.has_runnable() && !states.has_blocked() && !states.has(wait::SLEEPING));
        states.add("sleeping").unwrap();
        assert!(states.has(wait::UNSEEN) && states.has_blocked() && !states.has(wait::IDLE));
        assert_eq!(states.add("dreaming"), None);
    }

    #[test]
    fn one_thread_under_two_names_is_one() {
        let mut sums = Sums::default();
        sums.add(&sum(7, sum_kind::STACK, 9));
        sums.add(&WaitSum { comm: *b"renamed\0\0\0\0\0\0\0\0\0", ..sum(7, sum_kind::STACK, 9) });
        assert_eq!((sums.threads.len(), sums.figures().threads), (2, 1));
    }
}
