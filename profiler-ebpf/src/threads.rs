//! Where the time of a thread goes: on a CPU, waiting for one, or waiting for something else.
//!
//! A [`Clock`] is moved by events (it leaves a CPU, it gets one, it ends) and never runs backwards:
//! what lies between its birth and the last event is always all accounted for, once, whatever
//! events were lost or came in the wrong order. The kernel says only later how much of a wait was
//! spent waiting for a CPU, so the last wait stays whole until the next event.

/// What keeps a thread from running ([`Clock::state`]).
pub mod wait {
    /// It could run, and another thread does: it was preempted, or gave its CPU away.
    pub const PREEMPTED: u32 = 0;
    /// It sleeps until something happens or a signal comes.
    pub const SLEEPING: u32 = 1;
    /// It waits where signals do not reach it, for a disk as a rule.
    pub const UNINTERRUPTIBLE: u32 = 2;
    /// It was stopped by a signal.
    pub const STOPPED: u32 = 3;
    /// A debugger holds it.
    pub const TRACED: u32 = 4;
    /// A kernel thread that has nothing to do.
    pub const IDLE: u32 = 5;
    /// The freezer holds it.
    pub const FROZEN: u32 = 6;
    /// It was made and has not run yet: it waits for a CPU.
    pub const NEW: u32 = 7;
    /// It waited when the recording began, and woke before it was looked at.
    pub const UNSEEN: u32 = 8;
    /// It waits for something, and nobody told for what.
    pub const BLOCKED: u32 = 9;
    /// How many there are.
    pub const COUNT: u32 = 10;

    /// Whether all of such a wait is for a CPU.
    #[inline(always)]
    #[must_use]
    pub const fn is_runnable(state: u32) -> bool {
        matches!(state, PREEMPTED | NEW)
    }

    /// What a state of the kernel (`__state`, include/linux/sched.h) stands for; None: the thread
    /// is dead.
    #[inline(always)]
    #[must_use]
    pub const fn from_kernel(state: u32) -> Option<u32> {
        const TASK_UNINTERRUPTIBLE: u32 = 0x2;
        const TASK_STOPPED: u32 = 0x4;
        const TASK_TRACED: u32 = 0x8;
        const EXIT_DEAD_ZOMBIE_OR_TASK_DEAD: u32 = 0xb0;
        const TASK_PARKED: u32 = 0x40;
        const TASK_NOLOAD: u32 = 0x400;
        const TASK_NEW: u32 = 0x800;
        const TASK_RTLOCK_WAIT: u32 = 0x1000;
        const TASK_FROZEN: u32 = 0x8000;
        Some(if state & EXIT_DEAD_ZOMBIE_OR_TASK_DEAD != 0 {
            return None;
        } else if state & TASK_FROZEN != 0 {
            FROZEN
        } else if state & TASK_STOPPED != 0 {
            STOPPED
        } else if state & TASK_TRACED != 0 {
            TRACED
        } else if state & TASK_NEW != 0 {
            NEW
        } else if state & (TASK_NOLOAD | TASK_PARKED) != 0 {
            IDLE
        } else if state & (TASK_UNINTERRUPTIBLE | TASK_RTLOCK_WAIT) != 0 {
            UNINTERRUPTIBLE
        } else if state != 0 {
            SLEEPING
        } else {
            PREEMPTED
        })
    }
}

/// What the stacks of waits are called: numbers of at least 2.
pub mod stack {
    /// The stack of a wait that nobody saw.
    pub const NONE: u64 = 1;

    /// That of a wait, from a number that stands for it.
    #[inline(always)]
    #[must_use]
    pub const fn of_wait(hash: u64) -> u64 {
        hash & !1 | 2
    }

    /// That of who ended a wait.
    #[inline(always)]
    #[must_use]
    pub const fn of_waker(hash: u64) -> u64 {
        hash | 3
    }

    /// Whether it is one of who ended a wait.
    #[must_use]
    pub const fn is_wakers(name: u64) -> bool {
        name & 3 == 3
    }
}

/// What a thread does ([`Clock::phase`]).
pub mod phase {
    /// Nothing is known of it yet.
    pub const NONE: u32 = 0;
    /// It runs.
    pub const ON_CPU: u32 = 1;
    /// It waits.
    pub const OFF_CPU: u32 = 2;
    /// It is dead, or the recording is over.
    pub const ENDED: u32 = 3;
}

/// A wait that is over, or counted up to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Nanoseconds that it waited for something.
    pub blocked: u64,
    /// Nanoseconds that it could have run.
    pub runnable: u64,
}

impl Wait {
    /// All of it.
    #[inline(always)]
    #[must_use]
    pub const fn whole(self) -> u64 {
        self.blocked.saturating_add(self.runnable)
    }
}

/// The time of a thread. All times are nanoseconds of `CLOCK_MONOTONIC`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// When it began to be counted.
    pub born: u64,
    /// The last event.
    pub since: u64,
    /// How long the thread had waited for a CPU in all its life (`sched_info.run_delay`) when it
    /// last left one.
    pub delay: u64,
    /// How long the last wait was, while it is not known how much of it was for a CPU.
    pub open: u64,
    /// Time on a CPU that was not taken out yet.
    pub on_cpu: u64,
    /// One of [`phase`].
    pub phase: u32,
    /// One of [`wait`]: why it waits, or waited last.
    pub state: u32,
}

impl Clock {
    /// A thread that runs since `born`.
    #[inline(always)]
    #[must_use]
    pub const fn running(born: u64) -> Self {
        Self {
            born,
            since: born,
            delay: 0,
            open: 0,
            on_cpu: 0,
            phase: phase::ON_CPU,
            state: wait::PREEMPTED,
        }
    }

    /// A thread that waits since `born`.
    #[inline(always)]
    #[must_use]
    pub const fn waiting(born: u64, state: u32, delay: u64) -> Self {
        Self { delay, phase: phase::OFF_CPU, state, ..Self::running(born) }
    }

    /// It leaves its CPU, or, with an event lost, left it: gives the wait before, which belongs to
    /// the [`Self::state`] before.
    #[inline(always)]
    pub fn switch_out(&mut self, now: u64, state: u32, delay: u64) -> Wait {
        self.advance(now);
        let wait = self.settle(delay);
        self.delay = delay;
        self.phase = phase::OFF_CPU;
        self.state = state;
        wait
    }

    /// It gets a CPU.
    #[inline(always)]
    pub fn switch_in(&mut self, now: u64) {
        self.advance(now);
        self.phase = phase::ON_CPU;
    }

    /// It dies, or the recording is over: gives the last wait.
    #[inline(always)]
    pub fn end(&mut self, now: u64, delay: u64) -> Wait {
        self.advance(now);
        self.phase = phase::ENDED;
        self.settle(delay)
    }

    /// Takes the time on CPU out.
    #[inline(always)]
    pub fn take_on_cpu(&mut self) -> u64 {
        core::mem::take(&mut self.on_cpu)
    }

    /// Counts the time up to `now` as what the thread does.
    #[inline(always)]
    fn advance(&mut self, now: u64) {
        if now <= self.since {
            return;
        }
        let passed = now - self.since;
        match self.phase {
            phase::ON_CPU => self.on_cpu = self.on_cpu.saturating_add(passed),
            phase::OFF_CPU => self.open = self.open.saturating_add(passed),
            _ => return,
        }
        self.since = now;
    }

    /// Splits the last wait by how much longer the thread has waited for a CPU since.
    #[inline(always)]
    fn settle(&mut self, delay: u64) -> Wait {
        let whole = core::mem::take(&mut self.open);
        let delayed =
            if wait::is_runnable(self.state) { whole } else { delay.saturating_sub(self.delay) };
        let runnable = if delayed < whole { delayed } else { whole };
        Wait { blocked: whole - runnable, runnable }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wait_is_split_when_the_thread_next_leaves() {
        let mut clock = Clock::running(100);
        assert_eq!(clock.switch_out(150, wait::SLEEPING, 7), Wait::default());
        clock.switch_in(250);
        let wait = clock.switch_out(260, wait::PREEMPTED, 37);
        assert_eq!(wait, Wait { blocked: 70, runnable: 30 });
        clock.switch_in(300);
        let wait = clock.end(310, 77);
        assert_eq!(wait, Wait { blocked: 0, runnable: 40 });
        assert_eq!(clock.take_on_cpu(), 50 + 10 + 10);
    }

    #[test]
    fn a_wait_that_is_open_at_the_end_counts() {
        let mut clock = Clock::waiting(100, wait::UNINTERRUPTIBLE, 5);
        assert_eq!(clock.end(1_000, 5), Wait { blocked: 900, runnable: 0 });
        assert_eq!(clock.end(2_000, 5), Wait::default(), "and once");
        let mut clock = Clock::waiting(100, wait::NEW, 0);
        assert_eq!(clock.end(1_000, 0), Wait { blocked: 0, runnable: 900 });
    }

    #[test]
    fn kernel_states_have_names() {
        for (kernel, state) in [
            (0, Some(wait::PREEMPTED)),
            (1, Some(wait::SLEEPING)),
            (0x2001, Some(wait::SLEEPING)),
            (2, Some(wait::UNINTERRUPTIBLE)),
            (0x102, Some(wait::UNINTERRUPTIBLE)),
            (0x402, Some(wait::IDLE)),
            (0x104, Some(wait::STOPPED)),
            (8, Some(wait::TRACED)),
            (0x8000, Some(wait::FROZEN)),
            (0x800, Some(wait::NEW)),
            (0x80, None),
            (0x10, None),
            (0x20, None),
        ] {
            assert_eq!(wait::from_kernel(kernel), state, "{kernel:#x}");
        }
    }

    /// What happens to a thread: time passes, then this.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Out {
            state: u32,
            delayed: u64,
        },
        In,
        /// It takes another name, as by execve(2): what was counted is taken out.
        Renamed,
    }

    fn event() -> impl Strategy<Value = (i64, Event)> {
        let event = prop_oneof![
            (0..wait::COUNT, 0..3_000u64)
                .prop_map(|(state, delayed)| Event::Out { state, delayed }),
            Just(Event::In),
            Just(Event::Renamed),
        ];
        // Events come late now and then.
        (-200..2_000i64, event)
    }

    proptest! {
        #[test]
        fn time_is_conserved_whatever_is_lost_or_reordered(
            born in 1_000..1_000_000u64,
            starts_running: bool,
            events in prop::collection::vec((event(), 0..4u8), 0..200),
        ) {
            let mut clock = match starts_running {
                true => Clock::running(born),
                false => Clock::waiting(born, wait::SLEEPING, 0),
            };
            let (mut now, mut latest, mut delay) = (born, born, 0u64);
            let (mut on_cpu, mut waited) = (0u64, 0u64);
            for ((passed, event), lost) in events {
                now = now.saturating_add_signed(passed);
                if let Event::Out { delayed, .. } = event {
                    // The kernel's counter runs on although we miss the event.
                    delay += delayed;
                }
                if lost == 0 {
                    continue;
                }
                match event {
                    Event::Out { state, .. } => waited += clock.switch_out(now, state, delay).whole(),
                    Event::In => clock.switch_in(now),
                    Event::Renamed => {
                        on_cpu += clock.take_on_cpu();
                        continue;
                    }
                }
                latest = latest.max(now);
                prop_assert_eq!(clock.since, latest);
                let counted = on_cpu + clock.on_cpu + waited + clock.open;
                prop_assert_eq!(counted, clock.since - born);
            }
            let end = latest + 500;
            waited += clock.end(end, delay).whole();
            on_cpu += clock.take_on_cpu();
            prop_assert_eq!(on_cpu + waited, end - born);
            prop_assert_eq!(clock.end(end + 1_000, delay), Wait::default());
        }
    }
}
