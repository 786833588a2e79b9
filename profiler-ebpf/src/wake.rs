//! Who ends a wait: the stack of the task that wakes another, or of the interrupt that does.

use aya_ebpf::{
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
        bpf_get_smp_processor_id,
    },
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    threads::{phase, stack},
    wire::Counter,
};

use crate::{
    config,
    maps::{CONTROL, SCRATCH, Scratch, THREADS, count},
    proof::near,
    stack::{begin_walk, mix, read_registers, walk},
    stacks::{Owner, make_known},
    switch::look,
};

/// At every waking, by who wakes: `(task)`.
#[inline(always)]
pub fn take(ctx: &BtfTracePointContext) {
    let Some(control) = CONTROL.get(0) else { return };
    if control.end != 0 {
        return;
    }
    let thread = THREADS.get(ctx.arg(0));
    if thread.is_null() {
        return;
    }
    // SAFETY: what the task carries. It waits, and nobody else may wake it now.
    let thread = unsafe { &mut *thread };
    if thread.clock.phase == phase::OFF_CPU {
        thread.waker = stack_of_current(ctx);
    }
}

/// What the stack of the current task is called, which is sent if it is new; 0: there is no room
/// for it.
#[inline(always)]
fn stack_of_current(ctx: &BtfTracePointContext) -> u64 {
    // SAFETY: helpers without preconditions.
    let (cpu, ids, task) = unsafe {
        (bpf_get_smp_processor_id(), bpf_get_current_pid_tgid(), bpf_get_current_task_btf())
    };
    let number = config::wake_scratch() + cpu;
    let Some(scratch) = SCRATCH.get_ptr_mut(number) else {
        count(Counter::NoScratch, 1);
        return 0;
    };
    let mut comm = [0; 2];
    // SAFETY: writes 16 bytes at the most.
    unsafe { bpf_get_current_comm((&raw mut comm).cast(), 16) };
    let owner = Owner { pid: (ids >> 32) as u32, tid: ids as u32, comm };
    // SAFETY: the scratch space of this CPU for wakings, which do not interrupt each other. The
    // callback of bpf_loop uses it, too, so no reference lives across that call.
    unsafe {
        let kernel = look(ctx, &mut *scratch);
        (*scratch).hash = mix(mix(mix(kernel, u64::from(owner.pid)), comm[0]), comm[1]);
        (*scratch).header.pid = owner.pid;
        if read_registers(&mut *scratch, task.cast_const().cast()) && begin_walk(&mut *scratch) {
            walk::<false>(number);
        }
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut *scratch };
    // What is behind the frames so far is not known yet, and may differ where this does.
    let here = move |scratch: &mut Scratch| {
        let sp = scratch.regs.sp;
        mix(ids, near(scratch, sp, sp))
    };
    // One that is not sent is shown as lost.
    make_known(scratch, stack::of_waker, here, owner).stack
}
