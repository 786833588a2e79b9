//! Perf events, opened and closed at once. With `bpf.rs` the only unsafe code here.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use perf_event_open_sys::{self as sys, bindings};

/// Whom an event observes.
#[derive(Clone, Copy)]
pub(super) enum Whom {
    /// This thread.
    Us,
    /// All of one CPU.
    Cpu(u32),
}

/// Registers that a copy of the stack is walked with: all but segments and flags.
#[cfg(target_arch = "x86_64")]
const USER_REGISTERS: u64 = 0xff_01ff;
/// x0–x30, sp and pc.
#[cfg(not(target_arch = "x86_64"))]
const USER_REGISTERS: u64 = (1 << 33) - 1;

/// The event of the CPU clock, at the rate that recordings have by default.
pub(super) fn cpu_clock(whom: Whom, kernel: bool) -> io::Result<()> {
    let mut attr = software(bindings::PERF_COUNT_SW_CPU_CLOCK);
    sample(&mut attr, kernel);
    open(attr, whom)
}

/// The CPU clock with the user registers and a copy of the user stack in each sample.
pub(super) fn stack_copies() -> io::Result<()> {
    let mut attr = software(bindings::PERF_COUNT_SW_CPU_CLOCK);
    sample(&mut attr, false);
    attr.sample_type |=
        u64::from(bindings::PERF_SAMPLE_REGS_USER | bindings::PERF_SAMPLE_STACK_USER);
    attr.sample_regs_user = USER_REGISTERS;
    attr.sample_stack_user = 8 << 10;
    open(attr, Whom::Us)
}

/// Records about mappings, names, forks and exits.
pub(super) fn side_band(whom: Whom, build_ids: bool) -> io::Result<()> {
    let mut attr = software(bindings::PERF_COUNT_SW_DUMMY);
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_task(1);
    attr.set_build_id(u64::from(build_ids));
    attr.set_exclude_kernel(1);
    open(attr, whom)
}

/// The counter of CPU cycles.
pub(super) fn cycles() -> io::Result<()> {
    let mut attr = software(0);
    attr.type_ = bindings::PERF_TYPE_HARDWARE;
    attr.config = u64::from(bindings::PERF_COUNT_HW_CPU_CYCLES);
    sample(&mut attr, false);
    open(attr, Whom::Us)
}

fn software(config: bindings::perf_sw_ids) -> bindings::perf_event_attr {
    let mut attr = bindings::perf_event_attr {
        type_: bindings::PERF_TYPE_SOFTWARE,
        size: size_of::<bindings::perf_event_attr>() as u32,
        config: u64::from(config),
        ..bindings::perf_event_attr::default()
    };
    attr.set_disabled(1);
    attr
}

fn sample(attr: &mut bindings::perf_event_attr, kernel: bool) {
    attr.sample_type = u64::from(bindings::PERF_SAMPLE_IP | bindings::PERF_SAMPLE_TID);
    attr.__bindgen_anon_1.sample_freq = 99;
    attr.set_freq(1);
    attr.set_exclude_kernel(u64::from(!kernel));
    attr.set_exclude_hv(1);
}

fn open(mut attr: bindings::perf_event_attr, whom: Whom) -> io::Result<()> {
    let (pid, cpu) = match whom {
        Whom::Us => (0, -1),
        Whom::Cpu(cpu) => (-1, cpu as i32),
    };
    let flags = bindings::PERF_FLAG_FD_CLOEXEC.into();
    // SAFETY: `attr` is initialised and outlives the call; the event is disabled, so that it
    // counts nothing and signals nobody.
    let fd = unsafe { sys::perf_event_open(&raw mut attr, pid, cpu, -1, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}
