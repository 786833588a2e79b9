//! Recognizing the kernel stack in which a task leaves its CPU, without unwinding it: unwinding takes
//! a microsecond, and a switch hardly more.
//!
//! The kernel's unwinder goes from one return address to the next, and where the next one lies
//! follows from those before it. So where the same return addresses lie at the same distances from
//! the place at which a task leaves its CPU, the stack is the same. Only the topmost one may be
//! farther away or nearer: system calls move their stack by a random distance
//! (`CONFIG_RANDOMIZE_KSTACK_OFFSET`). It lies in the entry code, each part of which calls a function
//! of its own, so it follows from the one below.

use core::{ffi::c_void, hint::black_box, ptr::read_volatile};

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel, bpf_task_pt_regs};
use profiler_ebpf::wire::{
    KERNEL_PROOF_SPAN, KERNEL_PROOF_WORDS, MAX_KERNEL_FRAMES, PAYLOAD_WORDS, PROOF_SPAN,
};

use crate::{
    maps::{KernelProof, SCRATCH, Scratch},
    stack::mix,
};

/// Where the words of a kernel stack are read to: before those of the user stack, behind anything
/// that frames need.
const WINDOW: usize = PAYLOAD_WORDS - (PROOF_SPAN + KERNEL_PROOF_SPAN) / 8;
const WINDOW_WORDS: usize = KERNEL_PROOF_SPAN / 8;
const _: () = {
    assert!(WINDOW_WORDS.is_power_of_two());
    assert!(KERNEL_PROOF_WORDS.is_power_of_two() && (MAX_KERNEL_FRAMES + 1).is_power_of_two());
};
/// Kernel and modules lie above (Documentation/arch/x86/x86_64/mm.rst).
const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;
/// The first frames are our own and the tracepoint's, and their return addresses lie below what is
/// read.
const MAX_TRACING: u32 = 6;

/// A pointer as a number, by a detour through memory. That of a tracepoint's context is the place on
/// its kernel stack where a task leaves its CPU: what the tracepoint hands to the program lies there.
#[inline(always)]
pub fn number_of(pointer: *mut c_void, scratch: &mut Scratch) -> u64 {
    // SAFETY: a plain store and a load of this CPU's scratch space.
    unsafe {
        (&raw mut scratch.number).cast::<*mut c_void>().write_volatile(pointer);
        read_volatile(&raw const scratch.number)
    }
}

/// Reads `span` bytes of the kernel stack from `start` on.
#[inline(always)]
fn read(scratch: &mut Scratch, start: u64, span: u32) -> bool {
    let span = black_box(span);
    if span == 0 || span > KERNEL_PROOF_SPAN as u32 {
        return false;
    }
    // SAFETY: the window has room for KERNEL_PROOF_SPAN bytes; the helper never faults.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut scratch.words[WINDOW]).cast(), span, start as *const c_void)
    };
    failed == 0
}

/// Whether the kernel stack is the one that the proof is of.
#[inline(always)]
pub fn proves(proof: &KernelProof, scratch: &mut Scratch, place: u64) -> bool {
    if proof.words == 0 || !read(scratch, place, proof.span) {
        return false;
    }
    let mut hash = 0;
    for at in 0..KERNEL_PROOF_WORDS {
        // The compiler would count down, and the verifier lose sight of the end.
        if at as u32 >= black_box(proof.words) {
            break;
        }
        let place = proof.places[at] as usize & (WINDOW_WORDS - 1);
        hash = mix(hash, scratch.words[WINDOW + place]);
    }
    hash == proof.hash
}

/// Finds what proves the kernel stack whose frames are in the payload: every word that may be the
/// return address of one of them. Some are left over from earlier calls. It stays without words where
/// the stack is too large, or not all return addresses are found.
#[inline(always)]
pub fn learn(scratch: &mut Scratch, number: u32, task: *const u8, place: u64) {
    scratch.kernel_proof.words = 0;
    let Some(words) = read_all(scratch, task, place) else { return };
    for first in 1..MAX_TRACING {
        if is_found(scratch, number, first, words) {
            // The topmost one is left out, see above.
            take(scratch, number, words - 1, false);
            return;
        }
    }
}

/// Leaves words that no longer look like return addresses out of a proof, when the stack proved to
/// be the same without them: they were left over from earlier calls.
#[inline(always)]
pub fn refine(
    proof: &mut KernelProof,
    scratch: &mut Scratch,
    number: u32,
    task: *const u8,
    place: u64,
) {
    if proof.words == 0 || read_all(scratch, task, place).is_none() {
        return;
    }
    copy(&raw mut scratch.kernel_proof, &raw const *proof);
    let words = scratch.kernel_proof.words;
    scratch.kernel_proof.words = 0;
    scratch.frame = 0;
    take(scratch, number, words, true);
    copy(&raw mut *proof, &raw const scratch.kernel_proof);
}

/// Copies a proof. A plain assignment would be a loop that the verifier has to follow.
#[inline(always)]
pub fn copy(to: *mut KernelProof, from: *const KernelProof) {
    // SAFETY: both are map values of this size.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<KernelProof>() as u32, from.cast()) };
}

/// Reads all of the task's kernel stack that is in use, up to the user's registers; gives its words.
#[inline(always)]
fn read_all(scratch: &mut Scratch, task: *const u8, place: u64) -> Option<u32> {
    // SAFETY: the helper has no precondition but a task.
    let registers = unsafe { bpf_task_pt_regs(task.cast_mut().cast()) };
    let span = number_of(registers as *mut c_void, scratch).wrapping_sub(place);
    let fits = span <= KERNEL_PROOF_SPAN as u64 && read(scratch, place, span as u32);
    fits.then_some(span as u32 / 8)
}

/// Whether all return addresses from frame `first` on are there, one above the other.
#[inline(always)]
fn is_found(scratch: &mut Scratch, number: u32, first: u32, words: u32) -> bool {
    scratch.frame = first;
    let mut context = number;
    // SAFETY: the callback has the signature that bpf_loop wants, and looks its state up.
    unsafe {
        bpf_loop(words, match_next as *mut c_void, (&raw mut context).cast(), 0);
    }
    // SAFETY: volatile, as the callback wrote it.
    let next = unsafe { read_volatile(&raw const scratch.frame) };
    let is_found = first < scratch.header.kernel_frames && next == scratch.header.kernel_frames;
    scratch.frame = first;
    is_found
}

/// Goes on to the next frame where the word is a return address.
#[inline(never)]
extern "C" fn match_next(index: u32, number: *mut u32) -> i64 {
    // SAFETY: the context that bpf_loop was given.
    let Some(scratch) = SCRATCH.get_ptr_mut(unsafe { *number }) else { return 1 };
    // SAFETY: the scratch space of this CPU.
    let scratch = unsafe { &mut *scratch };
    let frame = scratch.frame;
    if frame >= scratch.header.kernel_frames {
        return 1;
    }
    let address = scratch.words[frame as usize & MAX_KERNEL_FRAMES];
    if scratch.words[WINDOW + (index as usize & (WINDOW_WORDS - 1))] == address {
        scratch.frame = frame + 1;
    }
    0
}

/// Takes those words into the proof that may be return addresses of frames: of all words up to a
/// number, or of those places that it has already.
#[inline(always)]
fn take(scratch: &mut Scratch, number: u32, words: u32, again: bool) {
    scratch.kernel_proof.hash = 0;
    scratch.kernel_proof.span = 0;
    scratch.again = u32::from(again);
    let mut context = number;
    // SAFETY: as above.
    let looked =
        unsafe { bpf_loop(words, take_if_return as *mut c_void, (&raw mut context).cast(), 0) };
    if looked != i64::from(words) {
        scratch.kernel_proof.words = 0;
    }
}

#[inline(never)]
extern "C" fn take_if_return(index: u32, number: *mut u32) -> i64 {
    // SAFETY: as above.
    let Some(scratch) = SCRATCH.get_ptr_mut(unsafe { *number }) else { return 1 };
    // SAFETY: as above.
    let scratch = unsafe { &mut *scratch };
    let place = match scratch.again {
        0 => index as usize,
        _ => scratch.kernel_proof.places[index as usize & (KERNEL_PROOF_WORDS - 1)] as usize,
    };
    let place = place & (WINDOW_WORDS - 1);
    let word = scratch.words[WINDOW + place];
    if word < KERNEL_TEXT {
        return 0;
    }
    for at in 0..MAX_KERNEL_FRAMES {
        if at as u32 >= black_box(scratch.header.kernel_frames) {
            return 0;
        }
        if at as u32 >= scratch.frame && scratch.words[at] == word {
            break;
        }
    }
    let taken = scratch.kernel_proof.words as usize;
    if taken >= KERNEL_PROOF_WORDS {
        return 1;
    }
    scratch.kernel_proof.places[taken & (KERNEL_PROOF_WORDS - 1)] = place as u16;
    scratch.kernel_proof.hash = mix(scratch.kernel_proof.hash, word);
    scratch.kernel_proof.words = taken as u32 + 1;
    scratch.kernel_proof.span = (place as u32 + 1) * 8;
    0
}
