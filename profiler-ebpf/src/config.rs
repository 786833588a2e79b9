//! Settings that user space fixes when it loads the programs. They live in frozen read-only data,
//! so the verifier takes them as constants and removes what is switched off.

use core::ptr::read_volatile;

/// Nothing but the processes in the target table is sampled.
#[unsafe(no_mangle)]
static ONLY_TARGETS: u8 = 0;
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
/// Offset of `tgid` in `struct task_struct`, from the host's BTF.
#[unsafe(no_mangle)]
static TASK_TGID: u32 = 0;

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
getter!(user_stacks, USER_STACKS, bool, |value| value != 0);
getter!(kernel_stacks, KERNEL_STACKS, bool, |value| value != 0);
getter!(task_flags_offset, TASK_FLAGS, usize, |value| value as usize);
getter!(task_tgid_offset, TASK_TGID, usize, |value| value as usize);
getter!(task_mm_offset, TASK_MM, usize, |value| value as usize);
getter!(task_execve_offset, TASK_EXECVE, usize, |value| value as usize);
getter!(task_execve_mask, TASK_EXECVE_MASK, u8, |value| value);
getter!(wake_bytes, WAKE_BYTES, u64, u64::from);
