//! Which processes are sampled.

use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use profiler_ebpf::wire::Counter;

use crate::{
    config,
    maps::{TARGETS, count},
};

/// Whether samples of this process are wanted.
#[inline(always)]
pub fn wanted(pid: u32) -> bool {
    // SAFETY: a plain lookup; the value is not used.
    !config::only_targets() || unsafe { TARGETS.get(pid) }.is_some()
}

/// Makes the child of a target whose children are wanted a target, before it runs at all.
#[inline(always)]
pub fn follow_fork(ctx: &BtfTracePointContext) {
    let offset = config::task_tgid_offset();
    // SAFETY: both arguments are trusted task pointers (TP_PROTO of sched_process_fork), and the
    // offset is that of `tgid` in this kernel.
    let (parent, child) = unsafe {
        let parent: *const u8 = ctx.arg(0);
        let child: *const u8 = ctx.arg(1);
        (parent.add(offset).cast::<u32>().read(), child.add(offset).cast::<u32>().read())
    };
    if parent == child {
        return;
    }
    // SAFETY: user space changes the value of a live key only to remove it.
    if unsafe { TARGETS.get(parent) }.copied() != Some(1) {
        return;
    }
    if TARGETS.insert(child, 1, 0).is_err() {
        count(Counter::TargetsFull, 1);
        warn!(ctx, "the target table is full: process {} is not sampled", child);
    }
}
