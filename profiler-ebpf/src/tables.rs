//! The walker's view of the maps and of user memory.

use core::hint::black_box;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use profiler_ebpf::{
    walk::{Env, depends},
    wire::{Mapping, PROOF_WORDS, PageRows, Row, Rule, SEGMENT_ROWS, Way},
};

use crate::maps::{MAPPINGS, Origin, PAGES, RULES, SEGMENTS, Scratch, WAYS, WINDOW_WORDS};

/// Tables in BPF maps, stack words through the window in the scratch space. With `PROVE` it notes
/// there what the walk depends on.
pub struct KernelEnv<const PROVE: bool> {
    /// Of this CPU.
    pub scratch: *mut Scratch,
}

impl<const PROVE: bool> Env for KernelEnv<PROVE> {
    type Segment = *const u32;
    const KNOWS_WAYS: bool = true;

    #[inline(always)]
    fn mapping(&self, index: u32) -> Option<&Mapping> {
        MAPPINGS.get(index)
    }

    #[inline(always)]
    fn page(&self, index: u32) -> Option<PageRows> {
        PAGES.get(index).copied()
    }

    #[inline(always)]
    fn segment(&self, number: u16) -> Option<Self::Segment> {
        // A constant would be promoted to read-only data, where the loader does not find this one.
        let key = black_box(0);
        SEGMENTS.get_value(u32::from(number), &key).map(|rows| rows.as_ptr())
    }

    #[inline(always)]
    fn row(&self, segment: Self::Segment, index: u32) -> Row {
        let index = index as usize & (SEGMENT_ROWS - 1);
        // SAFETY: a segment has SEGMENT_ROWS rows.
        Row(unsafe { *segment.add(index) })
    }

    #[inline(always)]
    fn rule(&self, number: u32) -> Option<&Rule> {
        RULES.get(number)
    }

    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        let word = self.read(address);
        if PROVE {
            note(self.scratch, address, word);
        }
        word
    }

    #[inline(always)]
    fn code(&mut self, address: u64) -> Option<u64> {
        // Not through the window, which the stack is about to be read by.
        read_word(address)
    }

    #[inline(always)]
    fn way(&self, address: u64) -> Option<&Way> {
        // Not on the program's stack, which is small.
        // SAFETY: fields of the scratch space of this CPU; no other reference to them lives.
        let place = unsafe {
            (*self.scratch).place = [u64::from((*self.scratch).header.pid), address];
            &(*self.scratch).place
        };
        // SAFETY: user space may change it meanwhile, and its memory be used for another: where it
        // leads is checked.
        unsafe { WAYS.get(place) }
    }

    #[inline(always)]
    fn register(&mut self, register: u32, address: u64) -> Option<u64> {
        let word = self.read(address);
        if PROVE {
            // SAFETY: a field of the scratch space of this CPU; no reference to it lives.
            let origins = unsafe { &mut (*self.scratch).origins };
            let origin = if register == depends::BP { &mut origins[0] } else { &mut origins[1] };
            origin.address = address;
            origin.is_read = u64::from(word.is_some());
            // Both at once the compiler would clear by memset(3), whose stack there is no room for.
            if let Some(word) = word {
                origin.value = word;
            }
        }
        word
    }

    #[inline(always)]
    fn depends(&mut self, on: u32) {
        if PROVE {
            self.depends_on(on, depends::BP, 0);
            self.depends_on(on, depends::BX, 1);
            // SAFETY: as above.
            unsafe { (*self.scratch).proof.depends |= on & depends::GENERAL };
        }
    }
}

impl<const PROVE: bool> KernelEnv<PROVE> {
    /// Notes where a register that a step depends on came from: a word, or the top frame.
    #[inline(always)]
    fn depends_on(&mut self, on: u32, register: u32, index: usize) {
        if on & register == 0 {
            return;
        }
        // SAFETY: fields of the scratch space of this CPU; no reference to them lives.
        let Origin { address, value, is_read } = unsafe { (*self.scratch).origins[index] };
        if address == 0 {
            // SAFETY: as above.
            unsafe { (*self.scratch).proof.depends |= register };
        } else {
            note(self.scratch, address, (is_read != 0).then_some(value));
        }
    }

    #[inline(always)]
    fn read(&mut self, address: u64) -> Option<u64> {
        // SAFETY: a field of the scratch space of this CPU; no reference to it lives.
        let start = unsafe { (*self.scratch).window_start };
        let offset = address.wrapping_sub(start);
        if offset <= ((WINDOW_WORDS - 1) * 8) as u64 && offset & 7 == 0 {
            // SAFETY: as above.
            return Some(unsafe {
                (*self.scratch).window[(offset >> 3) as usize & (WINDOW_WORDS - 1)]
            });
        }
        fetch(self.scratch, address)
    }
}

/// How far above the stack pointer a word of a proof may lie, in bytes: its place has 16 bits.
const MAX_PLACE: u64 = 8 << 16;

/// Notes a word that the walk has read.
#[inline(always)]
fn note(scratch: *mut Scratch, address: u64, word: Option<u64>) {
    // SAFETY: a field of the scratch space of this CPU; no reference to it lives.
    let proof = unsafe { &mut (*scratch).proof };
    let place = address.wrapping_sub(proof.start);
    let at = proof.words as usize;
    match word {
        Some(word) if place < MAX_PLACE && place & 7 == 0 && at < PROOF_WORDS => {
            proof.values[at & (PROOF_WORDS - 1)] = word;
            proof.places[at & (PROOF_WORDS - 1)] = (place >> 3) as u16;
            proof.words = at as u32 + 1;
        }
        _ => proof.words = PROOF_WORDS as u32 + 1,
    }
}

/// Reads the word at an address, with those above it into the window when all are readable.
#[inline(always)]
fn fetch(scratch: *mut Scratch, address: u64) -> Option<u64> {
    // SAFETY: the helper writes the size it is given into the window and never faults; no
    // reference to the window lives.
    unsafe {
        let window = &raw mut (*scratch).window;
        let size = (WINDOW_WORDS * 8) as u32;
        if bpf_probe_read_user(window.cast(), size, address as *const _) == 0 {
            (*scratch).window_start = address;
            return Some((*window)[0]);
        }
        // Near the end of the stack: just the word. The failed read has zeroed the window.
        (*scratch).window_start = u64::MAX;
    }
    read_word(address)
}

/// The 8 bytes of user memory at an address.
#[inline(always)]
pub fn read_word(address: u64) -> Option<u64> {
    let mut word = 0u64;
    // SAFETY: the helper writes 8 bytes, into one local word, and never faults.
    let failed = unsafe { bpf_probe_read_user((&raw mut word).cast(), 8, address as *const _) };
    (failed == 0).then_some(word)
}
