//! Taking one sample: who runs, its kernel stack, its user stack, and the record.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_perf_event_data,
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
        bpf_get_smp_processor_id, bpf_ktime_get_ns,
    },
    programs::PerfEventContext,
};
use profiler_ebpf::wire::{Counter, MAX_STACK_COPY, Outcome};

use crate::{
    config,
    maps::{SCRATCH, Scratch, count},
    stack::{
        begin_walk, hand_up, is_for_host, kernel_stack, read_registers, send, set_kernel_frames,
        walk,
    },
    targets,
};

/// Takes a sample of the current task, if it is wanted.
#[inline(always)]
pub fn take(ctx: &PerfEventContext) {
    // SAFETY: helpers without preconditions.
    let (ids, cpu) = unsafe { (bpf_get_current_pid_tgid(), bpf_get_smp_processor_id()) };
    let pid = (ids >> 32) as u32;
    // SAFETY: helper without preconditions.
    let task = unsafe { bpf_get_current_task_btf() };
    // The idle task is no process.
    if pid == 0 || !targets::wanted(task.cast()) {
        return;
    }
    count(Counter::Samples, 1);
    let Some(scratch) = SCRATCH.get_ptr_mut(cpu) else {
        count(Counter::NoScratch, 1);
        return;
    };
    // SAFETY: the scratch space of this CPU; perf does not run a second program meanwhile. The
    // callback of bpf_loop uses it, too, so no reference lives across that call.
    if begin(ctx, unsafe { &mut *scratch }, task.cast(), [pid, ids as u32, cpu]) {
        walk::<false>(cpu);
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut *scratch };
    if is_for_host(scratch.outcome) {
        hand_up(scratch, MAX_STACK_COPY as u64);
    }
    if !send(scratch) {
        count(Counter::RingFull, 1);
    }
}

/// Fills the header and the kernel stack in and sets the walk up; whether there is one to do.
#[inline(always)]
fn begin(
    ctx: &PerfEventContext,
    scratch: &mut Scratch,
    task: *const u8,
    [pid, tid, cpu]: [u32; 3],
) -> bool {
    let header = &mut scratch.header;
    // SAFETY: helper without preconditions.
    header.time = unsafe { bpf_ktime_get_ns() };
    header.pid = pid;
    header.tid = tid;
    header.cpu = cpu;
    header.copy_bytes = 0;
    header.copy_holes = 0;
    // SAFETY: writes 16 bytes at the most.
    unsafe { bpf_get_current_comm(header.comm.as_mut_ptr().cast(), 16) };
    header.stack = 0;
    let in_kernel = config::kernel_stacks() && !is_user_mode(ctx);
    let frames = if in_kernel { kernel_stack(ctx.as_ptr(), scratch) } else { 0 };
    set_kernel_frames(scratch, frames);
    scratch.outcome = Outcome::NoUserStack as u32;
    read_registers(scratch, task) && begin_walk(scratch)
}

/// Whether the event interrupted user code.
#[inline(always)]
fn is_user_mode(ctx: &PerfEventContext) -> bool {
    let data: *mut c_void = ctx.as_ptr();
    // SAFETY: the context of a perf_event program.
    unsafe { (*data.cast::<bpf_perf_event_data>()).regs.cs & 3 != 0 }
}
