//! Taking one sample: who runs, its kernel stack, its user stack, and the record.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, bpf_perf_event_data},
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task_btf,
        bpf_get_smp_processor_id, bpf_get_stack, bpf_ktime_get_ns, bpf_loop, bpf_probe_read_kernel,
        bpf_probe_read_user, bpf_ringbuf_query, bpf_task_pt_regs,
    },
    programs::PerfEventContext,
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
    targets,
};

/// `struct pt_regs` of x86-64 (arch/x86/include/asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct PtRegs {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    bp: u64,
    bx: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    ax: u64,
    cx: u64,
    dx: u64,
    si: u64,
    di: u64,
    orig_ax: u64,
    ip: u64,
    cs: u64,
    flags: u64,
    sp: u64,
    ss: u64,
}

/// `PF_KTHREAD` (linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;
/// `PF_IO_WORKER`.
const PF_IO_WORKER: u32 = 0x10;
/// `PF_USER_WORKER`, since 6.4; before, the bit marks loaders of kernel modules for a moment.
const PF_USER_WORKER: u32 = 0x4000;
/// Code segment selector of 32-bit user code (`__USER32_CS`).
const USER32_CS: u64 = 0x23;
/// A power of two that is not less than the words of frames in a payload.
const FRAME_ROOM: usize = (MAX_KERNEL_FRAMES + 1 + MAX_USER_FRAMES).next_power_of_two();
const _: () = assert!(FRAME_ROOM <= PAYLOAD_WORDS);
/// Pages in a row that cannot be read before the stack is taken to end.
const MAX_MISSED: u32 = 4;

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
    if begin(ctx, unsafe { &mut *scratch }, [pid, ids as u32, cpu]) {
        let mut context = cpu;
        // SAFETY: the callback has the signature that bpf_loop wants, and looks its state up.
        unsafe {
            bpf_loop(MAX_USER_FRAMES as u32, step as *mut c_void, (&raw mut context).cast(), 0);
        }
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut *scratch };
    if scratch.outcome == Outcome::UnknownMapping as u32
        || scratch.outcome == Outcome::RowsPending as u32
    {
        hand_up(scratch);
    }
    send(scratch);
}

/// Fills the header and the kernel stack in and sets the walk up; whether there is one to do.
#[inline(always)]
fn begin(ctx: &PerfEventContext, scratch: &mut Scratch, [pid, tid, cpu]: [u32; 3]) -> bool {
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
    let kernel_frames = if config::kernel_stacks() { kernel_stack(ctx, scratch) } else { 0 };
    scratch.header.kernel_frames = kernel_frames;
    // The compiler knows how many they can be and leaves out all checks; the verifier of 6.1 does
    // not.
    scratch.next = black_box(kernel_frames);
    scratch.outcome = Outcome::NoUserStack as u32;
    config::user_stacks() && begin_walk(scratch)
}

/// Puts the kernel stack into the payload; gives the number of its frames.
#[inline(always)]
fn kernel_stack(ctx: &PerfEventContext, scratch: &mut Scratch) -> u32 {
    let data = ctx.as_ptr().cast::<bpf_perf_event_data>();
    // SAFETY: the context of a perf_event program.
    let user_mode = unsafe { (*data).regs.cs } & 3 != 0;
    if user_mode {
        return 0;
    }
    // SAFETY: the payload begins with room for MAX_KERNEL_FRAMES words.
    let bytes = unsafe {
        bpf_get_stack(
            ctx.as_ptr(),
            scratch.words.as_mut_ptr().cast(),
            (MAX_KERNEL_FRAMES * 8) as u32,
            0,
        )
    };
    if bytes > 0 && bytes <= (MAX_KERNEL_FRAMES * 8) as i64 { (bytes >> 3) as u32 } else { 0 }
}

/// Sets up the walk of the current task's user stack; whether there is one to walk.
#[inline(always)]
fn begin_walk(scratch: &mut Scratch) -> bool {
    // SAFETY: helper without preconditions.
    let task = unsafe { bpf_get_current_task_btf() };
    if !has_user_stack(task.cast()) {
        return false;
    }
    let mut regs = core::mem::MaybeUninit::<PtRegs>::uninit();
    // SAFETY: the helper gives the registers that the task entered the kernel with; the read
    // initializes all of `regs` or fails.
    let regs = unsafe {
        let source = bpf_task_pt_regs(task);
        if bpf_probe_read_kernel(
            regs.as_mut_ptr().cast(),
            size_of::<PtRegs>() as u32,
            source as *const c_void,
        ) != 0
        {
            scratch.outcome = Outcome::UnreadableStack as u32;
            return false;
        }
        regs.assume_init_ref()
    };
    if regs.cs == USER32_CS {
        scratch.outcome = Outcome::Compat as u32;
        return false;
    }
    // SAFETY: the value is copied at once.
    let mappings = unsafe { PROCESSES.get(scratch.header.pid) }
        .copied()
        .unwrap_or(ProcessMappings { first: 0, len: 0 });
    scratch.walk = Walk::new(registers(regs), mappings);
    scratch.window_start = u64::MAX;
    scratch.outcome = Outcome::Walking as u32;
    push_frame(scratch);
    true
}

/// Whether the registers that the current task entered the kernel with belong to memory that it
/// still has.
#[inline(always)]
fn has_user_stack(task: *const u8) -> bool {
    // SAFETY: the current task, whose fields lie at these offsets in this kernel.
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
        scratch.words[next] = scratch.walk.frame();
        scratch.next = next as u32 + 1;
    }
}

/// One iteration of the walk, called by `bpf_loop`; 1 ends it.
#[inline(never)]
extern "C" fn step(index: u32, cpu: *mut u32) -> i64 {
    // SAFETY: the context that bpf_loop was given.
    let Some(scratch) = SCRATCH.get_ptr_mut(unsafe { *cpu }) else {
        return 1;
    };
    let mut env = KernelEnv { scratch };
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

/// Copies the stack from the current frame on behind the frames, for the host to go on with.
#[inline(always)]
fn hand_up(scratch: &mut Scratch) {
    scratch.header.registers = scratch.walk.registers;
    let from = scratch.walk.registers.sp;
    let words = u64::from(scratch.next);
    let (mut at, mut copied, mut holes, mut missed) = (0u64, 0u64, 0u32, 0u32);
    for piece in 0..MAX_STACK_COPY as u64 / STACK_PAGE {
        let size = STACK_PAGE - (from.wrapping_add(at) & (STACK_PAGE - 1));
        let target = words * 8 + at;
        if target > (PAYLOAD_WORDS * 8) as u64 - STACK_PAGE || size > STACK_PAGE {
            break;
        }
        // SAFETY: the check above leaves room for a whole page.
        let failed = unsafe {
            bpf_probe_read_user(
                scratch.words.as_mut_ptr().cast::<u8>().add(target as usize).cast(),
                size as u32,
                from.wrapping_add(at) as *const c_void,
            )
        };
        at += size;
        // A page in the midst of large frames may never have been touched.
        if failed == 0 {
            (copied, missed) = (at, 0);
        } else if missed == MAX_MISSED {
            break;
        } else {
            holes |= 1 << piece;
            missed += 1;
        }
    }
    scratch.header.copy_holes = holes;
    scratch.header.copy_bytes = copied as u32;
}

/// Sends the record.
#[inline(always)]
fn send(scratch: &mut Scratch) {
    let header = &mut scratch.header;
    header.outcome = scratch.outcome;
    header.user_frames = scratch.next - header.kernel_frames;
    count(Counter::Frames, u64::from(header.user_frames));
    let size =
        SampleHeader::WORDS as u64 * 8 + u64::from(scratch.next) * 8 + u64::from(header.copy_bytes);
    if size > ((SampleHeader::WORDS + PAYLOAD_WORDS) * 8) as u64 {
        count(Counter::RingFull, 1);
        return;
    }
    // SAFETY: header and payload lie behind each other, and `size` does not exceed them.
    let record =
        unsafe { core::slice::from_raw_parts((&raw const *scratch).cast::<u8>(), size as usize) };
    // The reader looks in at its own pace, and is woken only when it must hurry.
    // SAFETY: the static is the ring buffer's definition, which the loader turns into the map.
    let waiting = unsafe {
        bpf_ringbuf_query((&raw const SAMPLES).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
    };
    // What it learns from a sample that was handed up spares the next ones that way.
    let urgent = waiting >= config::wake_bytes() || scratch.header.copy_bytes > 0;
    let wake = if urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    if SAMPLES.output_untyped::<[u8]>(record, u64::from(wake)).is_err() {
        count(Counter::RingFull, 1);
    }
}
