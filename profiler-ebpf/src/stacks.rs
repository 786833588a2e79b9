//! Stacks of waits and of who ends them, each of which is sent once.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_ebpf::wire::{Counter, MAX_STACK_COPY, Outcome, STACK_PAGE, mapping_kind};

use crate::{
    config,
    maps::{STACKS, Scratch, Thread, count},
    stack::{hand_up, is_for_host, mix, send, waiting},
    sums::write_name,
};

/// log2 of the nanoseconds, some 134 ms, in which a CPU copies so much of stacks that lead through
/// made code:
const COPY_TIME: u32 = 27;
/// in bytes, with a page for each stack beside.
const MAX_COPIED: u64 = 2 << 20;
/// The most of them that a CPU copies in a recording: each has a name of its own.
const MAX_COPIES: u64 = 1 << 14;
/// About how many bytes of a stack are copied at the most while many wait for their reader.
const SMALL_COPY: u64 = 16 << 10;

/// Whose stack it is.
#[derive(Clone, Copy)]
pub struct Owner {
    pub pid: u32,
    pub tid: u32,
    /// Name of the thread.
    pub comm: [u64; 2],
}

impl Owner {
    #[inline(always)]
    pub fn of(thread: &Thread) -> Self {
        Self { pid: thread.pid, tid: thread.tid, comm: thread.comm }
    }
}

/// What a walk that ended is called, which is sent unless it was before. `kind` makes a name of a
/// number; `here` stands for what tells apart stacks that the host is to go on with.
#[inline(always)]
pub fn make_known(
    scratch: &mut Scratch,
    kind: fn(u64) -> u64,
    here: impl FnOnce(&mut Scratch) -> u64,
    owner: Owner,
) -> Made {
    let frames = scratch.hash;
    let mut hash = mix(frames, u64::from(scratch.outcome));
    if is_for_host(scratch.outcome) {
        hash = mix(hash, here(scratch));
        if is_followed(scratch) && !is_sent(kind(hash)) && !may_copy(scratch) {
            scratch.outcome = Outcome::NotCopied as u32;
            hash = mix(frames, u64::from(scratch.outcome));
        }
    }
    let stack = kind(hash);
    Made { stack, is_sent: is_sent(stack) || send_new(scratch, stack, owner) }
}

/// A stack that has a name.
pub struct Made {
    /// The name.
    pub stack: u64,
    /// User space knows it. False: there was no room to send it.
    pub is_sent: bool,
}

#[inline(always)]
fn is_sent(stack: u64) -> bool {
    // SAFETY: a plain lookup, whose value is not used.
    unsafe { STACKS.get(stack) }.is_some()
}

/// Whether the host is to go on with a walk that stands in code made at run time.
#[inline(always)]
fn is_followed(scratch: &Scratch) -> bool {
    scratch.outcome == Outcome::RowsPending as u32
        && scratch.walk.mapping.kind == mapping_kind::FOLLOWED
}

/// Whether another stack that leads through made code may be copied now. What waits for unwind rows
/// ends once they are there; this may not, and there is no bound to the rate of waits.
#[inline(always)]
fn may_copy(scratch: &mut Scratch) -> bool {
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() } >> COPY_TIME;
    if scratch.copied_at != now {
        (scratch.copied_at, scratch.copied) = (now, 0);
    }
    scratch.copied < MAX_COPIED
        && scratch.copies < MAX_COPIES
        && waiting() < 2 * config::wake_bytes()
}

#[inline(always)]
fn send_new(scratch: &mut Scratch, stack: u64, owner: Owner) -> bool {
    scratch.header.copy_bytes = 0;
    scratch.header.copy_holes = 0;
    let mut is_all = true;
    if is_for_host(scratch.outcome) {
        is_all = waiting() < config::wake_bytes();
        hand_up(scratch, if is_all { MAX_STACK_COPY as u64 } else { SMALL_COPY });
        if is_followed(scratch) {
            scratch.copied += u64::from(scratch.header.copy_bytes) + STACK_PAGE;
            scratch.copies += 1;
        }
    }
    fill_header(scratch, stack, owner);
    if !send(scratch) {
        count(Counter::StackUnsent, 1);
        return false;
    }
    // A small copy may be too short: where it is met again, there may be more room.
    if is_all && STACKS.insert(stack, 1, 0).is_err() {
        count(Counter::StackAgain, 1);
    }
    true
}

/// Fills in what the header says beside the frames.
#[inline(always)]
pub fn fill_header(scratch: &mut Scratch, stack: u64, owner: Owner) {
    let header = &mut scratch.header;
    // SAFETY: helper without preconditions.
    header.time = unsafe { bpf_ktime_get_ns() };
    header.cpu = 0;
    header.stack = stack;
    (header.pid, header.tid) = (owner.pid, owner.tid);
    // SAFETY: 16 bytes that begin at a multiple of 8 in the header, and any bytes are a name.
    unsafe { write_name((&raw mut header.comm).cast(), owner.comm) };
}
