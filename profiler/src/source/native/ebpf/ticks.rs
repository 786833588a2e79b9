//! The events at whose ticks the sampling program runs: one on each CPU, with a buffer of one page
//! in which the kernel tells when it throttled the event. Samples do not go there.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use perf_event_open_sys::{self as sys, bindings};

use crate::source::native::{
    drive::now,
    limits::PAGE,
    ring::PerfRing,
    sideband::{open_event, software},
    throttled::Throttled,
};

/// The events.
pub struct Ticks {
    rings: Vec<PerfRing>,
    throttled: Throttled,
    frequency: u64,
    /// What is sampled: `cycles` or `cpu-clock`.
    pub event: &'static str,
}

impl Ticks {
    /// Opens the events on these CPUs and has them run a loaded program.
    ///
    /// # Errors
    ///
    /// What perf_event_open or the attaching answers.
    pub fn start(cpus: &[u32], frequency: u64, program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut ticks =
            Self { rings: Vec::new(), throttled: Throttled::default(), frequency, event: "cycles" };
        for cpu in cpus {
            let opened = open_event(&mut ticks.attr(), -1, *cpu);
            let event = match opened {
                // A virtual machine has no counter of cycles as a rule.
                Err(_) if ticks.rings.is_empty() && ticks.event == "cycles" => {
                    ticks.event = "cpu-clock";
                    open_event(&mut ticks.attr(), -1, *cpu)?
                }
                opened => opened?,
            };
            let ring = PerfRing::new(event, 1)?;
            let (event, program) = (ring.fd().as_raw_fd(), program.as_raw_fd() as u32);
            // SAFETY: descriptors of a perf event and of a program that live through the calls.
            let done = unsafe {
                sys::ioctls::SET_BPF(event, program) == 0 && sys::ioctls::ENABLE(event, 0) == 0
            };
            if !done {
                return Err(io::Error::last_os_error());
            }
            ticks.rings.push(ring);
        }
        Ok(ticks)
    }

    fn attr(&self) -> bindings::perf_event_attr {
        let mut attr = software(bindings::PERF_COUNT_SW_CPU_CLOCK, PAGE);
        if self.event == "cycles" {
            attr.type_ = bindings::PERF_TYPE_HARDWARE;
            attr.config = u64::from(bindings::PERF_COUNT_HW_CPU_CYCLES);
        }
        attr.__bindgen_anon_1.sample_freq = self.frequency;
        attr.set_freq(1);
        attr.set_disabled(1);
        attr
    }

    /// Takes out what the kernel told. Gives how many records could not be decoded.
    pub fn drain(&mut self) -> u64 {
        let mut malformed = 0;
        let Self { rings, throttled, .. } = self;
        for ring in rings {
            ring.drain(|kind, _, body| match kind {
                bindings::PERF_RECORD_THROTTLE | bindings::PERF_RECORD_UNTHROTTLE => {
                    malformed += u64::from(!throttled.record(kind, body));
                }
                _ => {}
            });
        }
        malformed
    }

    /// Samples that were not taken.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        self.throttled.samples(self.frequency)
    }

    /// No more ticks.
    pub fn stop(&mut self) {
        for ring in &self.rings {
            // SAFETY: a descriptor of a perf event. An event that is off already stays so.
            unsafe { sys::ioctls::DISABLE(ring.fd().as_raw_fd(), 0) };
        }
        self.drain();
        self.rings.clear();
        self.throttled.finish(now());
    }
}
