//! Recognizing the user stack in which a task leaves its CPU, without walking it: a walk is a function
//! of the registers of the top frame and of the stack words that it read. Where these are the same
//! again, so is the stack.

use core::hint::black_box;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use profiler_ebpf::wire::{PAYLOAD_WORDS, PROOF_SPAN, PROOF_WORDS};

use crate::{
    maps::{Proof, Scratch, Slot},
    stack::mix,
    tables::read_word,
};

/// Where words of the user stack are read to: the end of the payload, which is free until a stack is
/// handed up.
const WINDOW: usize = PAYLOAD_WORDS - PROOF_SPAN / 8;
/// Words above the stack pointer that tell stacks apart which the host is to walk.
const NEAR_WORDS: usize = 256;

/// Whether the words that the walk of a slot's stack read are still the same.
#[inline(always)]
pub fn proves(slot: &Slot, scratch: &mut Scratch) -> bool {
    let words = slot.proof.words;
    if words == 0 {
        return true;
    }
    let span = black_box(slot.span);
    if span > PROOF_SPAN as u32 {
        return false;
    }
    if span > 0 {
        // SAFETY: the window has room for PROOF_SPAN bytes; the helper never faults.
        let failed = unsafe {
            bpf_probe_read_user((&raw mut scratch.words[WINDOW]).cast(), span, slot.sp as *const _)
        };
        if failed != 0 {
            return false;
        }
    }
    for at in 0..PROOF_WORDS {
        // The compiler would count down from `words`, and the verifier lose sight of the end.
        if at as u32 >= black_box(words) {
            break;
        }
        let place = slot.proof.places[at] as usize;
        let value = slot.proof.values[at];
        let is_same = if place < PROOF_SPAN / 8 {
            scratch.words[WINDOW + (place & (PROOF_SPAN / 8 - 1))] == value
        } else {
            is_at(slot.sp + (place as u64) * 8, value)
        };
        if !is_same {
            return false;
        }
    }
    true
}

/// Whether a word of user memory is this one.
#[inline(never)]
fn is_at(address: u64, value: u64) -> bool {
    read_word(address) == Some(value)
}

/// A number that stands for the words above the stack pointer; `otherwise`, where they are not all
/// there.
#[inline(always)]
pub fn near(scratch: &mut Scratch, sp: u64, otherwise: u64) -> u64 {
    // SAFETY: as in `proves`.
    let failed = unsafe {
        let window = (&raw mut scratch.words[WINDOW]).cast();
        bpf_probe_read_user(window, NEAR_WORDS as u32 * 8, sp as *const _)
    };
    if failed != 0 {
        return otherwise;
    }
    let mut hash = 0;
    for at in 0..NEAR_WORDS {
        hash = mix(hash, scratch.words[WINDOW + at]);
    }
    hash
}

/// Bytes above the stack pointer in which those words of a proof lie that are read together.
#[inline(always)]
pub fn span(proof: &Proof) -> u32 {
    let mut last = 0;
    for at in 0..PROOF_WORDS {
        if at as u32 >= black_box(proof.words) {
            break;
        }
        let place = u32::from(proof.places[at]);
        if place >= last && place < PROOF_SPAN as u32 / 8 {
            last = place + 1;
        }
    }
    last * 8
}
