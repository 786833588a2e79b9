//! Stacks of waits and of who ends them, each of which is sent once.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_ebpf::wire::Counter;

use crate::{
    maps::{STACKS, Scratch, Thread, count},
    stack::{hand_up, send},
    sums::write_name,
};

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

/// Sends a stack, unless it was sent before; false: there was no room for it.
#[inline(always)]
pub fn make_known(scratch: &mut Scratch, stack: u64, is_for_host: bool, owner: Owner) -> bool {
    // SAFETY: a plain lookup, whose value is not used.
    if unsafe { STACKS.get(stack) }.is_some() {
        return true;
    }
    scratch.header.copy_bytes = 0;
    scratch.header.copy_holes = 0;
    if is_for_host {
        hand_up(scratch);
    }
    fill_header(scratch, stack, owner);
    if !send(scratch) {
        count(Counter::StackUnsent, 1);
        return false;
    }
    if STACKS.insert(stack, 1, 0).is_err() {
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
