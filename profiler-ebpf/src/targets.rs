//! Which tasks are sampled. Everything is read from the task by plain loads, which cost a
//! nanosecond each, so that most of what is not wanted is turned away before anything is asked of
//! the kernel. Each load is of a field of a kernel structure that the verifier knows by its type,
//! at the offset of this kernel; it gives 0 where a pointer leads nowhere.

use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use profiler_ebpf::{glob::NAME_BYTES, wire::Counter};

use crate::{
    config,
    maps::{NAMES, TARGETS, count},
};

/// The deepest cgroup, from the root, of which it is known what it lies in.
const MAX_CGROUP_DEPTH: u32 = 64;

/// Whether samples of this task (a trusted pointer to a `struct task_struct`) are wanted: it passes
/// all filters that there are.
#[inline(always)]
pub fn wanted(task: *const u8) -> bool {
    is_target(task) && passes(task)
}

/// Whether a target passes the filters by cgroup and name now.
#[inline(always)]
pub fn passes(task: *const u8) -> bool {
    (config::cgroup() == 0 || is_in_cgroup(task)) && has_name(task)
}

/// Whether the task is a target, which it stays.
#[inline(always)]
pub fn is_target(task: *const u8) -> bool {
    if !config::only_targets() {
        return true;
    }
    let offset = match config::thread_targets() {
        true => config::task_pid_offset(),
        false => config::task_tgid_offset(),
    };
    // SAFETY: a number of the task; a plain lookup, whose value is not used.
    unsafe { TARGETS.get(task.add(offset).cast::<u32>().read()) }.is_some()
}

/// Whether the task is in the wanted cgroup or below it. Ids of cgroups are never used again.
#[inline(always)]
fn is_in_cgroup(task: *const u8) -> bool {
    // SAFETY: pointers from one kernel structure to the next, see above.
    unsafe {
        let set = pointer(task, config::task_cgroups_offset());
        let mut cgroup = pointer(set, config::css_set_cgroup_offset());
        for _ in 0..MAX_CGROUP_DEPTH {
            let node = pointer(cgroup, config::cgroup_node_offset());
            let id = node.add(config::node_id_offset()).cast::<u64>().read();
            if id == config::cgroup() {
                return true;
            }
            let parent = pointer(cgroup, config::cgroup_parent_offset());
            if parent.is_null() {
                return false;
            }
            cgroup = pointer(parent, config::css_cgroup_offset());
        }
    }
    false
}

/// Whether the thread, or the first thread of its process, has a wanted name now.
#[inline(always)]
fn has_name(task: *const u8) -> bool {
    if !config::only_names() {
        return true;
    }
    let Some(names) = NAMES.get(0) else {
        return false;
    };
    names.matches(&name(task)) || names.matches(&name(leader(task)))
}

/// The first thread of the task's process.
#[inline(always)]
pub fn leader(task: *const u8) -> *const u8 {
    // SAFETY: a field of the task that holds a pointer to a task.
    unsafe { pointer(task, config::task_leader_offset()) }
}

/// The task's name.
#[inline(always)]
pub fn name(task: *const u8) -> [u8; NAME_BYTES] {
    // SAFETY: 16 bytes of text, between fields that are pointers: two whole words.
    let words = unsafe { task.add(config::task_comm_offset()).cast::<[u64; 2]>().read() };
    // SAFETY: the same size, and any bytes are a name.
    unsafe { core::mem::transmute::<[u64; 2], [u8; NAME_BYTES]>(words) }
}

/// The pointer in a field of a kernel structure.
///
/// # Safety
///
/// The verifier must know the structure, and that the field is a pointer.
#[inline(always)]
unsafe fn pointer(structure: *const u8, offset: usize) -> *const u8 {
    // SAFETY: as the caller promises.
    unsafe { structure.add(offset).cast::<*const u8>().read() }
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
