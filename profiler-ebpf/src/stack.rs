//! What samples and waits have in common: the kernel stack, the walk of the user stack, and the
//! record that is sent.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, task_struct},
    helpers::generated::{
        bpf_get_stack, bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user, bpf_ringbuf_query,
        bpf_task_pt_regs,
    },
};
use profiler_ebpf::{
    walk::Walk,
    wire::{
        Counter, FRAME_EXACT, GENERAL_KNOWN, MAX_KERNEL_FRAMES, MAX_STACK_COPY, MAX_USER_FRAMES,
        Outcome, PAYLOAD_WORDS, ProcessMappings, Registers, STACK_PAGE, SampleHeader,
    },
};

use crate::{
    config,
    maps::{PROCESSES, SAMPLES, SCRATCH, Scratch, count},
    tables::KernelEnv,
};

/// `struct pt_regs` of x86-64 (arch/x86/include/asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PtRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
}

/// `PF_KTHREAD` (linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_IO_WORKER`.
const PF_IO_WORKER: u32 = 0x10;
/// `PF_USER_WORKER`, since 6.4; before, the bit marks loaders of kernel modules for a moment.
const PF_USER_WORKER: u32 = 0x4000;
/// Code segment selector of 32-bit user code (`__USER32_CS`).
pub const USER32_CS: u64 = 0x23;
/// A power of two that is not less than the words of frames in a payload.
const FRAME_ROOM: usize = (MAX_KERNEL_FRAMES + 1 + MAX_USER_FRAMES).next_power_of_two();
const _: () = assert!(FRAME_ROOM <= PAYLOAD_WORDS);
/// Pages in a row that cannot be read before the stack is taken to end.
const MAX_MISSED: u32 = 4;

/// Takes another word into a number that stands for all of them.
#[inline(always)]
pub fn mix(hash: u64, word: u64) -> u64 {
    // The multiplier of splitmix64 (Steele, Lea, Flood 2014); any odd one of mixed bits would do.
    let mixed = (hash.rotate_left(23) ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 31
}

/// Puts the kernel stack of the context into the payload; gives the number of its frames.
#[inline(always)]
pub fn kernel_stack(ctx: *mut c_void, scratch: &mut Scratch) -> u32 {
    // SAFETY: the payload begins with room for MAX_KERNEL_FRAMES words.
    let bytes = unsafe {
        bpf_get_stack(ctx, scratch.words.as_mut_ptr().cast(), (MAX_KERNEL_FRAMES * 8) as u32, 0)
    };
    if bytes > 0 && bytes <= (MAX_KERNEL_FRAMES * 8) as i64 { (bytes >> 3) as u32 } else { 0 }
}

/// How many kernel frames are in the payload, and where user frames begin.
#[inline(always)]
pub fn set_kernel_frames(scratch: &mut Scratch, frames: u32) {
    scratch.header.kernel_frames = frames;
    // The compiler knows how many they can be and leaves out all checks; the verifier of 6.1 does
    // not.
    scratch.next = black_box(frames);
}

/// Reads the registers that a task entered the kernel with, where they belong to a user stack that
/// is asked for; whether they are there.
#[inline(always)]
pub fn read_registers(scratch: &mut Scratch, task: *const u8) -> bool {
    if !config::user_stacks() || !has_user_stack(task) {
        return false;
    }
    // Not on the program's stack, which is small.
    let regs = &mut scratch.regs;
    // SAFETY: the helper gives the registers; the read fills all of `regs` or fails.
    let failed = unsafe {
        let source = bpf_task_pt_regs(task.cast_mut().cast::<task_struct>());
        bpf_probe_read_kernel(
            (&raw mut *regs).cast(),
            size_of::<PtRegs>() as u32,
            source as *const c_void,
        )
    };
    if failed != 0 {
        scratch.outcome = Outcome::UnreadableStack as u32;
    }
    failed == 0
}

/// Sets up the walk of the user stack whose registers were read; whether it can be walked.
#[inline(always)]
pub fn begin_walk(scratch: &mut Scratch) -> bool {
    if scratch.regs.cs == USER32_CS {
        scratch.outcome = Outcome::Compat as u32;
        return false;
    }
    // SAFETY: the value is copied at once.
    let mappings = unsafe { PROCESSES.get(scratch.header.pid) }
        .copied()
        .unwrap_or(ProcessMappings { first: 0, len: 0 });
    scratch.walk = Walk::new(registers(&scratch.regs), mappings);
    scratch.window_start = u64::MAX;
    scratch.outcome = Outcome::Walking as u32;
    push_frame(scratch);
    true
}

/// Whether the registers that a task entered the kernel with belong to memory that it still has.
#[inline(always)]
pub fn has_user_stack(task: *const u8) -> bool {
    // SAFETY: a trusted pointer to a task, whose fields lie at these offsets in this kernel.
    let (flags, mm, execve) = unsafe {
        (
            task.add(config::task_flags_offset()).cast::<u32>().read(),
            task.add(config::task_mm_offset()).cast::<u64>().read(),
            task.add(config::task_execve_offset()).read() & config::task_execve_mask(),
        )
    };
    // A kernel thread, a worker of io_uring or vhost, a task that is exiting or in execve(2).
    flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER) == 0 && mm != 0 && execve == 0
}

#[inline(always)]
fn registers(regs: &PtRegs) -> Registers {
    Registers {
        ip: regs.ip,
        sp: regs.sp,
        bp: regs.bp,
        bx: regs.bx,
        flags: FRAME_EXACT | GENERAL_KNOWN,
        general: [
            regs.ax, regs.dx, regs.cx, regs.bx, regs.si, regs.di, regs.bp, regs.sp, regs.r8,
            regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
    }
}

/// Records the frame that the walk stands at.
#[inline(always)]
fn push_frame(scratch: &mut Scratch) {
    let next = scratch.next as usize & (FRAME_ROOM - 1);
    if next < MAX_KERNEL_FRAMES + 1 + MAX_USER_FRAMES {
        let frame = scratch.walk.frame();
        scratch.words[next] = frame;
        scratch.next = next as u32 + 1;
        scratch.hash = mix(scratch.hash, frame);
    }
}

/// Walks on from the frame that the scratch space of this number stands at. With `PROVE` it notes
/// what the walk depends on.
#[inline(always)]
pub fn walk<const PROVE: bool>(scratch: u32) {
    let mut context = scratch;
    // SAFETY: the callback has the signature that bpf_loop wants, and looks its state up.
    unsafe {
        bpf_loop(
            MAX_USER_FRAMES as u32,
            step::<PROVE> as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
}

/// One iteration of the walk, called by `bpf_loop`; 1 ends it.
#[inline(never)]
extern "C" fn step<const PROVE: bool>(index: u32, number: *mut u32) -> i64 {
    // SAFETY: the context that bpf_loop was given.
    let Some(scratch) = SCRATCH.get_ptr_mut(unsafe { *number }) else {
        return 1;
    };
    let mut env = KernelEnv::<PROVE> { scratch };
    // SAFETY: the scratch space of this CPU. The walk and what `env` uses of it do not overlap.
    let outcome = unsafe { (*scratch).walk.step(&mut env) };
    // SAFETY: as above, and `env` is not used any more.
    let scratch = unsafe { &mut *scratch };
    if outcome as u32 != Outcome::Walking as u32 {
        scratch.outcome = outcome as u32;
        return 1;
    }
    if index >= MAX_USER_FRAMES as u32 - 2 {
        scratch.outcome = Outcome::TooDeep as u32;
        return 1;
    }
    push_frame(scratch);
    0
}

/// Whether the host can get further with a walk that ended so.
#[inline(always)]
pub fn is_for_host(outcome: u32) -> bool {
    outcome == Outcome::UnknownMapping as u32 || outcome == Outcome::RowsPending as u32
}

/// Copies the stack of the current task from the current frame on behind the frames, for the host
/// to go on with: about `most` bytes, in whole pages.
#[inline(always)]
pub fn hand_up(scratch: &mut Scratch, most: u64) {
    hand_up_by(scratch, most, MAX_MISSED, |target, size, address| {
        // SAFETY: the caller leaves room for `size` bytes; the helper never faults.
        unsafe { bpf_probe_read_user(target, size, address) == 0 }
    });
}

/// The same by any way to read: `(to, bytes, from)`, with room for a whole page at `to`. More unreadable
/// pages than `most_missed` in a row are the end of the stack.
#[inline(always)]
pub fn hand_up_by(
    scratch: &mut Scratch,
    most: u64,
    most_missed: u32,
    read: impl Fn(*mut c_void, u32, *const c_void) -> bool,
) {
    scratch.header.registers = scratch.walk.registers;
    let from = scratch.walk.registers.sp;
    let words = u64::from(scratch.next);
    let (mut at, mut copied, mut holes, mut missed) = (0u64, 0u64, 0u32, 0u32);
    for piece in 0..MAX_STACK_COPY as u64 / STACK_PAGE {
        let size = STACK_PAGE - (from.wrapping_add(at) & (STACK_PAGE - 1));
        let target = words * 8 + at;
        let is_full = target > (PAYLOAD_WORDS * 8) as u64 - STACK_PAGE || size > STACK_PAGE;
        if is_full || at >= most {
            break;
        }
        // SAFETY: the check above leaves room for a whole page.
        let place = unsafe { scratch.words.as_mut_ptr().cast::<u8>().add(target as usize) };
        let is_read = read(place.cast(), size as u32, from.wrapping_add(at) as *const c_void);
        at += size;
        // A page in the midst of large frames may never have been touched.
        if is_read {
            (copied, missed) = (at, 0);
        } else if missed == most_missed {
            break;
        } else {
            holes |= 1 << piece;
            missed += 1;
        }
    }
    scratch.header.copy_holes = holes;
    scratch.header.copy_bytes = copied as u32;
}

/// Sends the record; false: there is no room for it.
#[inline(always)]
pub fn send(scratch: &mut Scratch) -> bool {
    let header = &mut scratch.header;
    header.outcome = scratch.outcome;
    header.user_frames = scratch.next - header.kernel_frames;
    count(Counter::Frames, u64::from(header.user_frames));
    let size =
        SampleHeader::WORDS as u64 * 8 + u64::from(scratch.next) * 8 + u64::from(header.copy_bytes);
    if size > ((SampleHeader::WORDS + PAYLOAD_WORDS) * 8) as u64 {
        return false;
    }
    // SAFETY: header and payload lie behind each other, and `size` does not exceed them.
    let record =
        unsafe { core::slice::from_raw_parts((&raw const *scratch).cast::<u8>(), size as usize) };
    // The reader looks in at its own pace, and is woken only when it must hurry.
    // What it learns from a sample that was handed up spares the next ones that way.
    let urgent = waiting() >= config::wake_bytes() || scratch.header.copy_bytes > 0;
    let wake = if urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    SAMPLES.output_untyped::<[u8]>(record, u64::from(wake)).is_ok()
}

/// Bytes of samples and stacks that wait for their reader.
#[inline(always)]
pub fn waiting() -> u64 {
    // SAFETY: the static is the ring buffer's definition, which the loader turns into the map.
    unsafe {
        bpf_ringbuf_query((&raw const SAMPLES).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
    }
}
