//! Keeping time: at every switch of a CPU from one task to the next, how long each did what, and
//! in which stack it begins to wait.
//!
//! A switch happens hundreds of thousands of times a second, so what it costs counts. A thread
//! carries the stacks of its last waits with all that their walks depended on; where these words
//! of its stack are the same again, so is the stack, and nothing is walked or sent.

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        bpf_probe_read_kernel, bpf_task_pt_regs,
    },
    programs::BtfTracePointContext,
};
use profiler_ebpf::{
    threads::{Clock, phase, stack, wait},
    walk::depends,
    wire::{Control, Counter, MAX_KERNEL_FRAMES, Outcome, PROOF_WORDS, SLOTS},
};

use crate::{
    config, kernel,
    maps::{CONTROL, Proof, SCRATCH, Scratch, Slot, THREADS, Thread, count},
    proof::{near, proves, span},
    stack::{
        PtRegs, begin_walk, has_user_stack, kernel_stack, mix, read_registers, set_kernel_frames,
        walk,
    },
    stacks::{Made, Owner, make_known},
    sums::{add, send_all, send_sums},
    targets,
};

/// A wait that is not wanted has no slot.
const UNWANTED: u32 = SLOTS as u32;
/// Not known yet.
const UNKNOWN: u32 = UNWANTED + 1;
/// No state to wait in.
const DEAD: u32 = u32::MAX;

/// At every switch: `(preempt, prev, next, prev_state)`.
#[inline(always)]
pub fn take(ctx: &BtfTracePointContext) {
    let Some(control) = CONTROL.get(0) else { return };
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if control.end != 0 {
        return;
    }
    let (prev, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
    let (preempted, state): (u64, u64) = (ctx.arg(0), ctx.arg(3));
    leave(ctx, control, prev, now, if preempted & 0xff != 0 { 0 } else { state as u32 });
    enter(control, next, now);
}

/// What a target carries; null: it is none, or there is no room for it now.
#[inline(always)]
fn thread_of(task: *const u8) -> *mut Thread {
    let thread = THREADS.get(task);
    if thread.is_null() && targets::is_target(task) { THREADS.make(task) } else { thread }
}

/// A task gets the CPU.
#[inline(always)]
fn enter(control: &Control, task: *const u8, now: u64) {
    if number(task, config::task_pid_offset()) == 0 {
        return;
    }
    let thread = thread_of(task);
    // Where there was no room for it, the next event finds what it did until then.
    if thread.is_null() {
        return;
    }
    // SAFETY: what the task carries; it is switched by one CPU at a time.
    let thread = unsafe { &mut *thread };
    if thread.clock.phase == phase::NONE {
        begin_waiting(control, thread, task, wait::UNSEEN);
    }
    thread.clock.switch_in(now);
}

/// Makes a thread of which nothing is known one that waits since the recording began, or since it
/// was made.
#[inline(always)]
pub fn begin_waiting(control: &Control, thread: &mut Thread, task: *const u8, state: u32) {
    let started = word(task, config::task_start_offset());
    let (born, state) =
        if started > control.begin { (started, wait::NEW) } else { (control.begin, state) };
    thread.clock = Clock::waiting(born, state, word(task, config::task_run_delay_offset()));
    identify(thread, task);
    let slot = &mut thread.slots[0];
    (slot.stack, slot.state) = (stack::NONE, state);
    slot.proof.words = PROOF_WORDS as u32 + 1;
    (thread.slot, thread.next) = (0, 1);
}

/// A task leaves the CPU, in this state of the kernel.
#[inline(always)]
fn leave(
    ctx: &BtfTracePointContext,
    control: &Control,
    task: *const u8,
    now: u64,
    kernel_state: u32,
) {
    if number(task, config::task_pid_offset()) == 0 {
        return;
    }
    let thread = thread_of(task);
    if thread.is_null() {
        // There is no later event that makes up for it.
        if wait::from_kernel(kernel_state).is_none() && targets::is_target(task) {
            count(Counter::NoThread, 1);
        }
        return;
    }
    // SAFETY: what the task carries; it is switched by one CPU at a time.
    let thread = unsafe { &mut *thread };
    if thread.clock.phase == phase::NONE {
        let started = word(task, config::task_start_offset());
        let born = if started > control.begin { started } else { control.begin };
        thread.clock = Clock::running(born);
        thread.slot = UNWANTED;
        identify(thread, task);
    }
    let delay = word(task, config::task_run_delay_offset());
    // A number: of an option that is none the compiler would keep a register that nothing was put
    // into, which the verifier does not take.
    let state = black_box(wait::from_kernel(kernel_state).unwrap_or(DEAD));
    let wait = if state == DEAD {
        thread.clock.end(now, delay)
    } else {
        thread.clock.switch_out(now, state, delay)
    };
    add(thread, wait);
    thread.waker = 0;
    if !is_same(thread, task) {
        // Another program, or another name: what was counted belongs to the one before.
        send_all(thread);
        identify(thread, task);
    }
    if state == DEAD {
        send_all(thread);
        return;
    }
    if !targets::passes(task) {
        thread.clock.take_on_cpu();
        thread.slot = UNWANTED;
        return;
    }
    count(Counter::Switches, 1);
    thread.slot = slot_of(ctx, thread, task, state);
}

/// Whether the thread is still what it was: the same id, program and names.
#[inline(always)]
fn is_same(thread: &Thread, task: *const u8) -> bool {
    let (comm, process) = (name(task), name(targets::leader(task)));
    thread.tid == number(task, config::task_pid_offset())
        && thread.exec_id == word(task, config::task_exec_id_offset())
        && thread.comm[0] == comm[0]
        && thread.comm[1] == comm[1]
        && thread.process[0] == process[0]
        && thread.process[1] == process[1]
}

/// Makes a thread know who it is, and nothing of its stacks.
#[inline(always)]
fn identify(thread: &mut Thread, task: *const u8) {
    thread.pid = number(task, config::task_tgid_offset());
    thread.tid = number(task, config::task_pid_offset());
    thread.exec_id = word(task, config::task_exec_id_offset());
    thread.comm = name(task);
    thread.process = name(targets::leader(task));
}

/// The slot of the stack that a task waits in from now on.
#[inline(always)]
fn slot_of(ctx: &BtfTracePointContext, thread: &mut Thread, task: *const u8, state: u32) -> u32 {
    // SAFETY: helper without preconditions.
    let number = config::wait_scratch() + unsafe { bpf_get_smp_processor_id() };
    let Some(scratch) = SCRATCH.get_ptr_mut(number) else {
        count(Counter::NoScratch, 1);
        return UNWANTED;
    };
    let top = top(task);
    // SAFETY: the scratch space of this CPU for switches, which do not interrupt each other. The
    // callbacks of bpf_loop use it, too, so no reference lives across such a call.
    let place = unsafe { kernel::number_of(ctx.as_ptr(), &mut *scratch) };
    let has_kernel_stack = move |slot: &Slot| {
        // SAFETY: as above.
        let scratch = unsafe { &mut *scratch };
        !config::kernel_stacks() || kernel::proves(&slot.kernel_proof, scratch, place)
    };
    for index in 0..SLOTS {
        let slot = &thread.slots[index];
        if slot.state == state
            && is_at(slot, &top)
            && has_kernel_stack(slot)
            // SAFETY: as above.
            && proves(slot, unsafe { &mut *scratch })
        {
            return index as u32;
        }
    }
    // SAFETY: as above.
    let kernel = unsafe { look(ctx, &mut *scratch) };
    let known = find_known(number, state, place, kernel);
    if known != UNKNOWN {
        return known;
    }
    walk_anew(number, place, kernel);
    keep(number, state, kernel)
}

/// What `switch_task` does where the last stacks do not tell at once: each a function of its own, with
/// a stack of its own. The kernel's verifier takes global functions by themselves, with any arguments,
/// so that these are numbers; without that it follows all of them once for each way that leads here,
/// and gives up. The first: the slot of the stack whose kernel frames are in scratch space `number`, or
/// [`UNKNOWN`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_known(number: u32, state: u32, place: u64, kernel: u64) -> u32 {
    let Some((task, thread, scratch)) = leaving(number) else { return UNWANTED };
    // SAFETY: the current task leaves this CPU, so what it carries is this CPU's.
    let thread = unsafe { &mut *thread };
    let Some(index) = find_by_kernel(thread, scratch, &top(task), state, kernel) else {
        return UNKNOWN;
    };
    let slot = &mut thread.slots[index as usize & (SLOTS - 1)];
    // SAFETY: as in `slot_of`.
    unsafe { kernel::refine(&mut slot.kernel_proof, &mut *scratch, number, task, place) };
    index
}

/// The second: walks that stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_anew(number: u32, place: u64, kernel: u64) -> u32 {
    let Some((task, thread, scratch)) = leaving(number) else { return 0 };
    count(Counter::Walks, 1);
    if config::kernel_stacks() {
        // SAFETY: as in `slot_of`.
        unsafe { kernel::learn(&mut *scratch, number, task, place) };
    }
    // SAFETY: as in `slot_of` and above.
    unsafe {
        (*scratch).hash = mix(mix(kernel, (*thread).exec_id), u64::from((*thread).pid));
        (*scratch).header.pid = (*thread).pid;
        if begin_proof(&mut *scratch, task) && begin_walk(&mut *scratch) {
            walk::<true>(number);
        }
    }
    0
}

/// The third: gives what was walked a slot.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keep(number: u32, state: u32, kernel: u64) -> u32 {
    let Some((_, thread, scratch)) = leaving(number) else { return UNWANTED };
    // SAFETY: as in `slot_of` and above.
    unsafe { remember(&mut *thread, &mut *scratch, kernel, state) }
}

/// The task that leaves this CPU, with what it carries, and the scratch space of this number.
#[inline(always)]
fn leaving(number: u32) -> Option<(*const u8, *mut Thread, *mut Scratch)> {
    // SAFETY: helper without preconditions.
    let task = unsafe { bpf_get_current_task_btf() }.cast_const().cast::<u8>();
    let thread = THREADS.get(task);
    let scratch = SCRATCH.get_ptr_mut(number)?;
    (!thread.is_null()).then_some((task, thread, scratch))
}

/// The slot of a stack whose kernel frames are these, and whose user frames are proved.
#[inline(always)]
fn find_by_kernel(
    thread: &Thread,
    scratch: *mut Scratch,
    top: &Top,
    state: u32,
    kernel: u64,
) -> Option<u32> {
    for index in 0..SLOTS {
        let slot = &thread.slots[index];
        if slot.state == state
            && slot.kernel == kernel
            && is_at(slot, top)
            // SAFETY: as in `slot_of`.
            && proves(slot, unsafe { &mut *scratch })
        {
            return Some(index as u32);
        }
    }
    None
}

/// Reads the registers of the top user frame, which a proof begins with; whether there is one.
/// Without, they are zeros.
#[inline(always)]
fn begin_proof(scratch: &mut Scratch, task: *const u8) -> bool {
    let has_stack = read_registers(scratch, task);
    if !has_stack {
        (scratch.regs.ip, scratch.regs.sp, scratch.regs.bp, scratch.regs.bx) = (0, 0, 0, 0);
    }
    scratch.proof.start = scratch.regs.sp;
    scratch.proof.words = 0;
    scratch.proof.depends = 0;
    scratch.origins[0].address = 0;
    scratch.origins[1].address = 0;
    has_stack
}

/// Where the user stack begins.
struct Top {
    ip: u64,
    sp: u64,
    bp: u64,
    bx: u64,
}

/// Puts the kernel frames into the payload, and gives a number that stands for them.
#[inline(always)]
pub fn look(ctx: &BtfTracePointContext, scratch: &mut Scratch) -> u64 {
    let frames = if config::kernel_stacks() { kernel_stack(ctx.as_ptr(), scratch) } else { 0 };
    set_kernel_frames(scratch, frames);
    let frames = black_box(frames);
    let mut kernel = 0;
    for index in 0..MAX_KERNEL_FRAMES as u32 {
        if index >= frames {
            break;
        }
        kernel = mix(kernel, scratch.words[index as usize]);
    }
    scratch.outcome = Outcome::NoUserStack as u32;
    kernel
}

/// Where the user stack of the current task begins.
#[inline(always)]
fn top(task: *const u8) -> Top {
    let mut top = Top { ip: 0, sp: 0, bp: 0, bx: 0 };
    if config::user_stacks() && has_user_stack(task) {
        // SAFETY: the helper gives a pointer that the verifier knows; fields are loaded by their
        // own sizes (`cs` is a union of several since 6.9).
        unsafe {
            let regs = bpf_task_pt_regs(task.cast_mut().cast()) as *const PtRegs;
            top = Top {
                ip: (&raw const (*regs).ip).read(),
                sp: (&raw const (*regs).sp).read(),
                bp: (&raw const (*regs).bp).read(),
                bx: (&raw const (*regs).bx).read(),
            };
        }
    }
    top
}

/// Whether a slot's stack begins there.
#[inline(always)]
fn is_at(slot: &Slot, top: &Top) -> bool {
    slot.stack > stack::NONE
        && slot.ip == top.ip
        && slot.sp == top.sp
        && slot.proof.words <= PROOF_WORDS as u32
        && (slot.proof.depends & depends::BP == 0 || slot.bp == top.bp)
        && (slot.proof.depends & depends::BX == 0 || slot.bx == top.bx)
}

/// Gives a stack that was just walked a slot, and sends it if it is new.
#[inline(always)]
fn remember(thread: &mut Thread, scratch: &mut Scratch, kernel: u64, state: u32) -> u32 {
    let (tid, born, since) = (thread.tid, thread.clock.born, thread.clock.since);
    // What is behind the frames so far is not known yet: it is this thread's, here, as long as its
    // stack looks like this.
    let here = move |scratch: &mut Scratch| {
        let sp = scratch.regs.sp;
        let near = near(scratch, sp, since);
        mix(born, mix(mix(u64::from(tid), sp), near))
    };
    let Made { stack, is_sent } = make_known(scratch, stack::of_wait, here, Owner::of(thread));
    let mut index = thread.next as usize & (SLOTS - 1);
    let mut is_there = false;
    for at in 0..SLOTS {
        if thread.slots[at].stack == stack && thread.slots[at].state == state {
            (index, is_there) = (at, true);
        }
    }
    let index = black_box(index) & (SLOTS - 1);
    if !is_there {
        send_sums(thread, index as u32);
        thread.next = (index as u32 + 1) & (SLOTS as u32 - 1);
    }
    // What does not reach its root may get further later on.
    let is_whole = scratch.outcome == Outcome::Complete as u32
        || scratch.outcome == Outcome::NoUserStack as u32;
    let provable = is_sent && is_whole && scratch.proof.depends & depends::GENERAL == 0;
    let slot = &mut thread.slots[index];
    (slot.stack, slot.state, slot.kernel) = (stack, state, kernel);
    (slot.ip, slot.sp) = (scratch.regs.ip, scratch.regs.sp);
    (slot.bp, slot.bx) = (scratch.regs.bp, scratch.regs.bx);
    slot.proof.words = PROOF_WORDS as u32 + 1;
    if provable && scratch.proof.words <= PROOF_WORDS as u32 {
        // SAFETY: both are map values of this size.
        unsafe {
            bpf_probe_read_kernel(
                (&raw mut slot.proof).cast(),
                size_of::<Proof>() as u32,
                (&raw const scratch.proof).cast(),
            );
        }
        slot.span = span(&scratch.proof);
    }
    slot.kernel_proof.words = 0;
    if config::kernel_stacks() {
        kernel::copy(&raw mut slot.kernel_proof, &raw const scratch.kernel_proof);
    }
    index as u32
}

/// A number of a task.
#[inline(always)]
pub fn number(task: *const u8, offset: usize) -> u32 {
    // SAFETY: a field of the task, at its offset in this kernel.
    unsafe { task.add(offset).cast::<u32>().read() }
}

/// A 64-bit number of a task.
#[inline(always)]
pub fn word(task: *const u8, offset: usize) -> u64 {
    // SAFETY: as above.
    unsafe { task.add(offset).cast::<u64>().read() }
}

#[inline(always)]
fn name(task: *const u8) -> [u64; 2] {
    // SAFETY: the same size.
    unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(targets::name(task)) }
}
