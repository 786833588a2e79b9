//! Passing over all tasks, at the start of a recording for those that wait already, and at its end
//! for the waits that are still open.
//!
//! The program may sleep, so it reads the stacks of other tasks. There is one pass at a time, and
//! it leaves to the next one what the ring buffers have no room for now.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_copy_from_user_task, bpf_get_task_stack, bpf_ktime_get_ns};
use profiler_ebpf::{
    threads::{Clock, phase, stack, wait},
    wire::{Control, Counter, MAX_KERNEL_FRAMES, MAX_STACK_COPY, Outcome},
};

use crate::{
    config,
    maps::{CONTROL, SCRATCH, Scratch, THREADS, Thread, count},
    stack::{begin_walk, hand_up_by, mix, read_registers, send, set_kernel_frames, waiting},
    stacks::{Owner, fill_header},
    sums::{add, send_all, sums_waiting},
    switch::{begin_waiting, number, word},
    targets,
};

/// `struct bpf_iter__task` (kernel/bpf/task_iter.c).
#[repr(C)]
pub struct TaskContext {
    meta: *const c_void,
    task: *const u8,
}

/// For each task; null behind the last.
#[inline(always)]
pub fn visit(ctx: *const TaskContext) {
    // SAFETY: the context of a task iterator.
    let task = unsafe { (*ctx).task };
    if task.is_null() || number(task, config::task_pid_offset()) == 0 {
        return;
    }
    if number(task, config::task_exit_state_offset()) != 0 || !targets::is_target(task) {
        return;
    }
    let Some(control) = CONTROL.get(0) else { return };
    let has_room = waiting() + sums_waiting() < config::visit_bytes();
    let known = THREADS.get(task);
    // SAFETY: what the task carries.
    let phase = if known.is_null() { phase::NONE } else { unsafe { (*known).clock.phase } };
    let is_due = if control.end == 0 { phase == phase::NONE } else { phase != phase::ENDED };
    if !is_due {
        return;
    }
    if !has_room {
        count(Counter::VisitLeft, 1);
        return;
    }
    let thread = THREADS.make(task);
    if thread.is_null() {
        // Before the end, the next event or pass makes up for it.
        count(Counter::NoThread, u64::from(control.end != 0));
        return;
    }
    // SAFETY: as above.
    let thread = unsafe { &mut *thread };
    if thread.clock.phase == phase::NONE {
        begin(control, thread, task);
    }
    if control.end != 0 {
        end(control, thread, task);
    }
}

/// Takes up a task that waits, or runs.
#[inline(always)]
fn begin(control: &Control, thread: &mut Thread, task: *const u8) {
    let state = number(task, config::task_state_offset());
    let Some(state) = wait::from_kernel(state) else { return };
    begin_waiting(control, thread, task, state);
    if number(task, config::task_on_cpu_offset()) != 0 {
        thread.clock = Clock::running(thread.clock.born);
        return;
    }
    if !targets::passes(task) || control.end != 0 {
        return;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(config::visit_scratch()) else {
        count(Counter::NoScratch, 1);
        return;
    };
    // SAFETY: the scratch space of passes, of which there is one at a time.
    stack(thread, unsafe { &mut *scratch }, task);
}

/// Hands up the stack that a task waits in, if it waits there still.
#[inline(always)]
fn stack(thread: &mut Thread, scratch: &mut Scratch, task: *const u8) {
    let since = thread.clock.since;
    let frames = if config::kernel_stacks() { kernel_stack(scratch, task) } else { 0 };
    set_kernel_frames(scratch, frames);
    scratch.outcome = Outcome::NoUserStack as u32;
    scratch.header.pid = thread.pid;
    scratch.header.copy_bytes = 0;
    scratch.header.copy_holes = 0;
    scratch.hash = 0;
    if read_registers(scratch, task) && begin_walk(scratch) {
        // Where the walk goes on is the host's to find out.
        scratch.outcome = Outcome::RowsPending as u32;
        // Reading may bring pages in, so that only what does not belong to the stack is unreadable.
        hand_up_by(scratch, MAX_STACK_COPY as u64, 0, |target, size, address| {
            // SAFETY: there is room for `size` bytes.
            unsafe {
                bpf_copy_from_user_task(target, size, address, task.cast_mut().cast(), 0) == 0
            }
        });
    }
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let stack = stack::of_wait(mix(mix(now, u64::from(thread.tid)), thread.clock.born));
    fill_header(scratch, stack, Owner::of(thread));
    // SAFETY: volatile, as the task may have got a CPU meanwhile: then this is not where it waited.
    let (phase, last) = unsafe {
        (
            (&raw const thread.clock.phase).read_volatile(),
            (&raw const thread.clock.since).read_volatile(),
        )
    };
    if phase != phase::OFF_CPU || last != since {
        return;
    }
    thread.slots[0].stack = stack;
    if !send(scratch) {
        count(Counter::StackUnsent, 1);
    }
}

#[inline(always)]
fn kernel_stack(scratch: &mut Scratch, task: *const u8) -> u32 {
    // SAFETY: the payload begins with room for MAX_KERNEL_FRAMES words.
    let bytes = unsafe {
        bpf_get_task_stack(
            task.cast_mut().cast(),
            scratch.words.as_mut_ptr().cast(),
            (MAX_KERNEL_FRAMES * 8) as u32,
            0,
        )
    };
    if bytes > 0 && bytes <= (MAX_KERNEL_FRAMES * 8) as i64 { (bytes >> 3) as u32 } else { 0 }
}

/// Counts what a thread does up to the end.
#[inline(always)]
fn end(control: &Control, thread: &mut Thread, task: *const u8) {
    if thread.clock.born >= control.end {
        return;
    }
    let delay = word(task, config::task_run_delay_offset());
    let wait = thread.clock.end(control.end, delay);
    add(thread, wait);
    send_all(thread);
}
