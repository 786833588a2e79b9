//! The events and their buffers: one buffer for each CPU, into which all events of that CPU write.
//!
//! The buffers belong to events of our own thread that count nothing, so that they outlive every
//! thread that is recorded.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use perf_event_open_sys::{self as sys, bindings};
use rustix::thread::{CpuSet, name as get_name, sched_getaffinity, sched_setaffinity, set_name};

use super::sample::{Layout, REGISTERS};
use crate::source::native::{
    limits::PAGE,
    ring::PerfRing,
    sideband::{follow, open_event, software},
};

/// When a sample is taken, or a record made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At every tick of a clock, with records about processes.
    Clock,
    /// The same without these, which come by switches.
    ClockAlone,
    /// At every switch, of the thread that leaves its CPU.
    Stacks,
    /// At every switch a record, no sample, and records about processes.
    Switches,
}

/// What is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// When.
    pub kind: Kind,
    /// Samples a second.
    pub frequency: u64,
    /// What a sample holds.
    pub layout: Layout,
    /// Also what happens in the kernel.
    pub kernel: bool,
}

/// Whom an event samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All threads.
    Host,
    /// A thread and the threads that it creates.
    Thread {
        /// Its id.
        tid: u32,
        /// Also the processes that it creates.
        children: bool,
    },
    /// A thread alone.
    Alone(u32),
    /// Nobody: of a thread and of those that it creates only records are wanted.
    Nobody(u32),
}

/// Sizes of a buffer in pages of 4 KiB, with the bytes of stack in a sample that it has room for.
/// A record is at most 64 KiB long, kernel frames and registers included. What an unprivileged user
/// may lock is 129 pages for each CPU by default, and RLIMIT_MEMLOCK in all.
const SIZES: [(usize, u32); 6] = [
    (2048, 62 << 10),
    (1024, 62 << 10),
    (512, 62 << 10),
    (256, 62 << 10),
    (128, 32 << 10),
    (64, 16 << 10),
];
/// Bytes of stack in the sample of a switch, of which there are many.
const WAIT_STACK: u32 = 16 << 10;
/// What to do about buffers that cannot be made.
pub const NO_BUFFERS: &str =
    "cannot make buffers for perf events: raise kernel.perf_event_mlock_kb or `ulimit -l`";
/// Pages of all buffers: 64 MiB, however many CPUs there are.
const MAX_PAGES: usize = 16_384;

/// The open events.
pub struct Events {
    rings: Vec<(u32, PerfRing)>,
    events: Vec<OwnedFd>,
    sampling: Sampling,
    cycles: bool,
    stack: u32,
}

impl Events {
    /// Makes the buffers, as large as it is allowed, and at most of `bytes` each (pages, a power of
    /// two). Nothing is sampled yet.
    ///
    /// # Errors
    ///
    /// What the kernel answers: EPERM when not even the smallest may be locked in memory.
    pub fn new(cpus: &[u32], sampling: Sampling, bytes: usize) -> io::Result<Self> {
        let mut refused = io::Error::from(io::ErrorKind::OutOfMemory);
        let last = SIZES.len() - 1;
        for (number, (pages, stack)) in SIZES.into_iter().enumerate() {
            if pages * cpus.len() > MAX_PAGES && number < last {
                continue;
            }
            match rings(cpus, pages.min(bytes / PAGE)) {
                Ok(rings) => {
                    let mut events =
                        Self { rings, events: Vec::new(), sampling, cycles: true, stack };
                    let cpu = cpus.first().copied().unwrap_or_default();
                    if sampling.kind == Kind::Stacks {
                        events.stack = stack.min(WAIT_STACK);
                    }
                    // A virtual machine has no counter of cycles as a rule, and what is no tick
                    // needs none.
                    events.cycles = matches!(sampling.kind, Kind::Clock | Kind::ClockAlone)
                        && open_event(&mut events.attr(None), 0, cpu).is_ok();
                    return Ok(events);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// What is sampled: `cycles` or `cpu-clock`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.cycles { "cycles" } else { "cpu-clock" }
    }

    /// Begins to sample, on every CPU.
    ///
    /// # Errors
    ///
    /// What perf_event_open answers.
    pub fn open(&mut self, whom: Whom) -> io::Result<()> {
        let tid = match whom {
            Whom::Host => -1,
            Whom::Thread { tid, .. } | Whom::Alone(tid) | Whom::Nobody(tid) => tid as i32,
        };
        let mut attr = self.attr(Some(whom));
        for (cpu, ring) in &self.rings {
            let event = open_event(&mut attr, tid, *cpu)?;
            let target = ring.fd().as_raw_fd();
            // SAFETY: both are descriptors of perf events that live through the call.
            let done = unsafe { sys::ioctls::SET_OUTPUT(event.as_raw_fd(), target) };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
            self.events.push(event);
        }
        Ok(())
    }

    fn attr(&self, whom: Option<Whom>) -> bindings::perf_event_attr {
        if let Some(Whom::Nobody(_)) = whom {
            let mut attr = software(bindings::PERF_COUNT_SW_DUMMY, 0);
            attr.set_exclude_kernel(1);
            attr.set_inherit(1);
            attr.set_inherit_thread(1);
            follow(&mut attr);
            return attr;
        }
        let Sampling { kind, frequency, layout, kernel } = self.sampling;
        if kind == Kind::Switches {
            let mut attr = software(bindings::PERF_COUNT_SW_DUMMY, 0);
            attr.set_exclude_kernel(1);
            attr.set_context_switch(1);
            if let Some(Whom::Thread { children, .. }) = whom {
                attr.set_inherit(1);
                attr.set_inherit_thread(u64::from(!children));
                follow(&mut attr);
            }
            return attr;
        }
        let clock = bindings::PERF_COUNT_SW_CPU_CLOCK;
        let switches = bindings::PERF_COUNT_SW_CONTEXT_SWITCHES;
        let mut attr = software(if kind == Kind::Stacks { switches } else { clock }, 0);
        if self.cycles {
            attr.type_ = bindings::PERF_TYPE_HARDWARE;
            attr.config = u64::from(bindings::PERF_COUNT_HW_CPU_CYCLES);
        }
        attr.sample_type = layout.sample_type();
        if kind == Kind::Stacks {
            attr.__bindgen_anon_1.sample_period = 1;
        } else {
            attr.__bindgen_anon_1.sample_freq = frequency;
            attr.set_freq(1);
        }
        attr.set_exclude_idle(1);
        attr.set_exclude_hv(1);
        attr.set_exclude_kernel(u64::from(!kernel));
        attr.set_exclude_callchain_user(1);
        if layout.user {
            attr.sample_regs_user = REGISTERS;
            attr.sample_stack_user = self.stack;
        }
        if let Some(Whom::Thread { children, .. }) = whom {
            attr.set_inherit(1);
            attr.set_inherit_thread(u64::from(!children));
            if kind == Kind::Clock {
                follow(&mut attr);
            }
        }
        attr
    }

    /// Stops sampling; the buffers keep what they hold.
    pub fn close(&mut self) {
        self.events.clear();
    }

    /// Has every buffer tell what it lost last: the kernel writes that down with the next record
    /// that it has room for, and there is none any more. So our thread takes its name once more on
    /// each CPU, which its events record there.
    pub fn tell_losses(&self) {
        let (Ok(name), Ok(before)) = (get_name(), sched_getaffinity(None)) else {
            return;
        };
        for (cpu, _) in &self.rings {
            let mut only = CpuSet::new();
            if (*cpu as usize) < CpuSet::MAX_CPU {
                only.set(*cpu as usize);
            }
            // Where we may not run, nothing of ours was lost, either.
            if sched_setaffinity(None, &only).is_ok() {
                let _ = set_name(&name);
            }
        }
        let _ = sched_setaffinity(None, &before);
    }

    /// The buffers, to poll.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|(_, ring)| ring.fd().as_fd())
    }

    /// Hands over every record that is there: the CPU, the record's type, its misc bits, its body.
    pub fn drain(&mut self, mut each: impl FnMut(u32, u32, u16, &[u8])) {
        for (cpu, ring) in &mut self.rings {
            ring.drain(|kind, misc, body| each(*cpu, kind, misc, body));
        }
    }
}

fn rings(cpus: &[u32], pages: usize) -> io::Result<Vec<(u32, PerfRing)>> {
    let ring = |cpu: &u32| {
        let mut attr = software(bindings::PERF_COUNT_SW_DUMMY, pages * 4096);
        attr.set_exclude_kernel(1);
        attr.set_comm(1);
        Ok((*cpu, PerfRing::new(open_event(&mut attr, 0, *cpu)?, pages)?))
    };
    cpus.iter().map(ring).collect()
}
