//! The sums of a thread's waits: adding to them, and sending them when there is no more room or
//! the thread is over.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ringbuf_query,
};
use profiler_ebpf::{
    threads::Wait,
    wire::{Counter, PROOF_WORDS, SLOTS, sum_kind},
};

use crate::{
    config,
    maps::{Sums, TIMES, Thread, count},
};

/// What [`send_sums`] sends beside slots.
const SHORT: u32 = SLOTS as u32;
const LONG: u32 = SHORT + 1;
const WHOLE: u32 = SHORT + 2;
const NONE: Sums = Sums { blocked: 0, runnable: 0, longest: 0, waits: 0 };
/// Bytes of sums that must wait for their reader to be woken.
const WAKE_BYTES: u64 = 1 << 18;

/// Adds a wait that is over to where it belongs.
#[inline(always)]
pub fn add(thread: &mut Thread, wait: Wait) {
    let whole = wait.whole();
    let slot = thread.slot as usize;
    if whole == 0 || slot >= SLOTS {
        return;
    }
    if config::wakers() && thread.slots[slot & (SLOTS - 1)].waker != thread.waker {
        send_sums(thread, slot as u32);
        thread.slots[slot & (SLOTS - 1)].waker = thread.waker;
    }
    let sums = if whole < config::min_wait() {
        &mut thread.short
    } else if whole > config::max_wait() {
        &mut thread.long
    } else {
        &mut thread.slots[slot & (SLOTS - 1)].sums
    };
    sums.blocked += wait.blocked;
    sums.runnable += wait.runnable;
    sums.waits += 1;
    if whole > sums.longest {
        sums.longest = whole;
    }
}

/// Sends all that a thread has summed, and makes it know nothing of its stacks.
#[inline(always)]
pub fn send_all(thread: &mut Thread) {
    for index in 0..SLOTS {
        send_sums(thread, index as u32);
        // A wait that is open goes on in its slot.
        thread.slots[index].proof.words = PROOF_WORDS as u32 + 1;
    }
    send_sums(thread, SHORT);
    send_sums(thread, LONG);
    send_sums(thread, WHOLE);
}

/// Sends sums, if there are any: those of a slot, [`SHORT`], [`LONG`], or [`WHOLE`] for the time on
/// CPU. A function of its own, as it is called at many places.
#[inline(never)]
pub fn send_sums(thread: &mut Thread, which: u32) {
    let index = which as usize & (SLOTS - 1);
    let (mut stack, mut waker, mut state, mut on_cpu) = (0, 0, 0, 0);
    let mut kind = sum_kind::STACK;
    let mut sums = NONE;
    if which == WHOLE {
        kind = sum_kind::THREAD;
        on_cpu = thread.clock.take_on_cpu();
    } else {
        let source = if which == SHORT {
            kind = sum_kind::SHORT;
            &mut thread.short
        } else if which == LONG {
            kind = sum_kind::LONG;
            &mut thread.long
        } else {
            (stack, state) = (thread.slots[index].stack, thread.slots[index].state);
            waker = thread.slots[index].waker;
            &mut thread.slots[index].sums
        };
        if source.waits == 0 {
            return;
        }
        (sums.blocked, sums.runnable) = (source.blocked, source.runnable);
        (sums.longest, sums.waits) = (source.longest, source.waits);
        (source.blocked, source.runnable, source.longest, source.waits) = (0, 0, 0, 0);
    }
    let wake = if sums_waiting() >= WAKE_BYTES { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    let Some(mut entry) = TIMES.reserve(0) else {
        count(Counter::TimeLost, sums.blocked + sums.runnable + on_cpu);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: room for a record, whose every field is written; names are 16 bytes that begin at a
    // multiple of 8.
    unsafe {
        (*record).stack = stack;
        (*record).waker = waker;
        (*record).born = thread.clock.born;
        (*record).blocked = sums.blocked;
        (*record).runnable = sums.runnable;
        (*record).on_cpu = on_cpu;
        (*record).longest = sums.longest;
        (*record).waits = sums.waits;
        (*record).pid = thread.pid;
        (*record).tid = thread.tid;
        (*record).state = state;
        (*record).kind = kind;
        write_name((&raw mut (*record).comm).cast(), thread.comm);
        write_name((&raw mut (*record).process).cast(), thread.process);
    }
    entry.submit(u64::from(wake));
}

/// Writes a name word by word: a copy would be a call of memmove(3), which the verifier does not
/// take.
///
/// # Safety
///
/// There must be room for 16 bytes, at a multiple of 8.
#[inline(always)]
pub unsafe fn write_name(target: *mut u64, name: [u64; 2]) {
    // SAFETY: as the caller promises.
    unsafe {
        target.write(name[0]);
        target.add(1).write(name[1]);
    }
}

/// Bytes of sums that wait for their reader.
#[inline(always)]
pub fn sums_waiting() -> u64 {
    // SAFETY: the static is the ring buffer's definition, which the loader turns into the map.
    unsafe { bpf_ringbuf_query((&raw const TIMES).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA)) }
}
