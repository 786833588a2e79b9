//! Settings that user space fixes when it loads the programs. They live in frozen read-only data,
//! so the verifier takes them as constants and removes what is switched off.

use core::ptr::read_volatile;

/// Nothing but what is in the target table is sampled.
#[unsafe(no_mangle)]
static ONLY_TARGETS: u8 = 0;
/// The target table holds threads, not processes.
#[unsafe(no_mangle)]
static THREAD_TARGETS: u8 = 0;
/// Nothing but threads and processes of certain names is sampled.
#[unsafe(no_mangle)]
static ONLY_NAMES: u8 = 0;
/// Nothing but what is in this cgroup, or below it, is sampled. 0: any.
#[unsafe(no_mangle)]
static CGROUP: u64 = 0;
/// Collect user stacks.
#[unsafe(no_mangle)]
static USER_STACKS: u8 = 1;
/// Collect kernel stacks.
#[unsafe(no_mangle)]
static KERNEL_STACKS: u8 = 1;
/// Offset of `flags` in `struct task_struct`, from the host's BTF.
#[unsafe(no_mangle)]
static TASK_FLAGS: u32 = 0;
/// Offset of `mm` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_MM: u32 = 0;
/// Offset of the byte of `struct task_struct` that holds the bit `in_execve`.
#[unsafe(no_mangle)]
static TASK_EXECVE: u32 = 0;
/// Mask of that bit; 0 when the kernel has none.
#[unsafe(no_mangle)]
static TASK_EXECVE_MASK: u8 = 0;
/// Bytes that the ring buffer must hold before its reader is woken.
#[unsafe(no_mangle)]
static WAKE_BYTES: u32 = 1 << 20;
/// Offset of `tgid` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_TGID: u32 = 0;
/// Offset of `pid`, the number of a thread, in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_PID: u32 = 0;
/// Offset of `comm` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_COMM: u32 = 0;
/// Offset of `group_leader` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_LEADER: u32 = 0;
/// Offset of `cgroups` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_CGROUPS: u32 = 0;
/// Offset of `dfl_cgrp`, the cgroup of the second version, in `struct css_set`.
#[unsafe(no_mangle)]
static CSS_SET_CGROUP: u32 = 0;
/// Offset of `kn` in `struct cgroup`.
#[unsafe(no_mangle)]
static CGROUP_NODE: u32 = 0;
/// Offset of `self.parent` in `struct cgroup`.
#[unsafe(no_mangle)]
static CGROUP_PARENT: u32 = 0;
/// Offset of `cgroup` in `struct cgroup_subsys_state`.
#[unsafe(no_mangle)]
static CSS_CGROUP: u32 = 0;
/// Offset of `id` in `struct kernfs_node`.
#[unsafe(no_mangle)]
static NODE_ID: u32 = 0;

/// Offset of `__state` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_STATE: u32 = 0;
/// Offset of `on_cpu` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_ON_CPU: u32 = 0;
/// Offset of `exit_state` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_EXIT_STATE: u32 = 0;
/// Offset of `start_time` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_START: u32 = 0;
/// Offset of `self_exec_id`, which changes with each execve(2), in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_EXEC_ID: u32 = 0;
/// Offset of `sched_info.run_delay` in `struct task_struct`.
#[unsafe(no_mangle)]
static TASK_RUN_DELAY: u32 = 0;
/// Waits shorter than this, in nanoseconds, are summed without their stacks.
#[unsafe(no_mangle)]
static MIN_WAIT: u64 = 0;
/// Longer ones, too.
#[unsafe(no_mangle)]
static MAX_WAIT: u64 = u64::MAX;
/// The scratch space for switches on the first CPU, and that for passes over all tasks.
#[unsafe(no_mangle)]
static WAIT_SCRATCH: u32 = 0;
/// See [`WAIT_SCRATCH`].
#[unsafe(no_mangle)]
static VISIT_SCRATCH: u32 = 0;
/// Who ends a wait is asked for.
#[unsafe(no_mangle)]
static WAKERS: u8 = 0;
/// The scratch space for wakings on the first CPU.
#[unsafe(no_mangle)]
static WAKE_SCRATCH: u32 = 0;
/// Bytes that may wait in the ring buffers for a pass over all tasks to go on.
#[unsafe(no_mangle)]
static VISIT_BYTES: u32 = 1 << 18;

macro_rules! getter {
    ($(#[$doc:meta])* $name:ident, $global:ident, $kind:ty, $map:expr) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> $kind {
            // SAFETY: an initialized static; volatile, as user space patches it before loading.
            ($map)(unsafe { read_volatile(&raw const $global) })
        }
    };
}

getter!(only_targets, ONLY_TARGETS, bool, |value| value != 0);
getter!(thread_targets, THREAD_TARGETS, bool, |value| value != 0);
getter!(only_names, ONLY_NAMES, bool, |value| value != 0);
getter!(cgroup, CGROUP, u64, |value| value);
getter!(user_stacks, USER_STACKS, bool, |value| value != 0);
getter!(kernel_stacks, KERNEL_STACKS, bool, |value| value != 0);
getter!(task_flags_offset, TASK_FLAGS, usize, |value| value as usize);
getter!(task_tgid_offset, TASK_TGID, usize, |value| value as usize);
getter!(task_pid_offset, TASK_PID, usize, |value| value as usize);
getter!(task_comm_offset, TASK_COMM, usize, |value| value as usize);
getter!(task_leader_offset, TASK_LEADER, usize, |value| value as usize);
getter!(task_cgroups_offset, TASK_CGROUPS, usize, |value| value as usize);
getter!(css_set_cgroup_offset, CSS_SET_CGROUP, usize, |value| value as usize);
getter!(cgroup_node_offset, CGROUP_NODE, usize, |value| value as usize);
getter!(cgroup_parent_offset, CGROUP_PARENT, usize, |value| value as usize);
getter!(css_cgroup_offset, CSS_CGROUP, usize, |value| value as usize);
getter!(node_id_offset, NODE_ID, usize, |value| value as usize);
getter!(task_mm_offset, TASK_MM, usize, |value| value as usize);
getter!(task_execve_offset, TASK_EXECVE, usize, |value| value as usize);
getter!(task_execve_mask, TASK_EXECVE_MASK, u8, |value| value);
getter!(wake_bytes, WAKE_BYTES, u64, u64::from);
getter!(task_state_offset, TASK_STATE, usize, |value| value as usize);
getter!(task_on_cpu_offset, TASK_ON_CPU, usize, |value| value as usize);
getter!(task_exit_state_offset, TASK_EXIT_STATE, usize, |value| value as usize);
getter!(task_start_offset, TASK_START, usize, |value| value as usize);
getter!(task_exec_id_offset, TASK_EXEC_ID, usize, |value| value as usize);
getter!(task_run_delay_offset, TASK_RUN_DELAY, usize, |value| value as usize);
getter!(min_wait, MIN_WAIT, u64, |value| value);
getter!(max_wait, MAX_WAIT, u64, |value| value);
getter!(visit_bytes, VISIT_BYTES, u64, u64::from);
getter!(wait_scratch, WAIT_SCRATCH, u32, |value| value);
getter!(wakers, WAKERS, bool, |value| value != 0);
getter!(wake_scratch, WAKE_SCRATCH, u32, |value| value);
getter!(visit_scratch, VISIT_SCRATCH, u32, |value| value);
