//! A walk over this thread's own stack, from a known call structure to the thread's start.

use std::{arch::asm, collections::HashMap, fs::File, hint::black_box, os::unix::fs::FileExt};

use profiler_ebpf::{
    walk::Walk,
    wire::{FRAME_BY_POINTER, FRAME_EXACT, Outcome, Registers, TEXT_PAGE},
};

use super::image::Image;
use crate::unwind::{UnwindRows, compile};

const DEPTH: u64 = 40;

/// This process's files with text at the addresses where they are loaded.
fn image() -> Image<impl FnMut(u64) -> Option<u64>> {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut image = Image::new(move |address| {
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_le_bytes(word))
    });
    let mut compiled: HashMap<String, UnwindRows> = HashMap::new();
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, "r-xp", offset, _, _, path] = fields[..] else { continue };
        let Ok(elf) = std::fs::read(path) else { continue };
        let start = u64::from_str_radix(range.split_once('-').unwrap().0, 16).unwrap();
        let offset = u64::from_str_radix(offset, 16).unwrap();
        let rows = compiled.entry(path.to_owned()).or_insert_with(|| compile(&elf).unwrap());
        let text = rows.text.iter().find(|text| text.offset & !(TEXT_PAGE - 1) == offset).unwrap();
        image.map(rows, text, start.wrapping_sub(text.address & !(TEXT_PAGE - 1)));
    }
    image
}

/// Calls itself, then walks. Gives each frame's address and how the walk ended.
#[inline(never)]
fn recurse(depth: u64) -> (Vec<u64>, Outcome) {
    if depth > 0 {
        let result = recurse(black_box(depth - 1));
        // What comes after the call keeps it from being a jump.
        black_box(&result);
        return result;
    }
    let (ip, sp, bp): (u64, u64, u64);
    // SAFETY: it only copies registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp);
    }
    let mut image = image();
    let registers = Registers { ip, sp, bp, flags: FRAME_EXACT, ..Registers::default() };
    let mut walk = Walk::new(registers, image.mappings());
    let mut frames = vec![walk.frame()];
    while frames.len() < 1000 {
        let outcome = walk.step(&mut image);
        if outcome != Outcome::Walking {
            return (frames, outcome);
        }
        frames.push(walk.frame());
    }
    (frames, Outcome::TooDeep)
}

#[test]
fn a_walk_reaches_the_start_of_the_thread() {
    let (frames, outcome) = std::thread::spawn(|| recurse(DEPTH)).join().unwrap();
    assert_eq!(outcome, Outcome::Complete, "{frames:x?}");
    let by_pointer = frames.iter().filter(|frame| **frame & FRAME_BY_POINTER != 0).count();
    assert_eq!(by_pointer, 0, "{frames:x?}");
    let mut calls: HashMap<u64, u64> = HashMap::new();
    for frame in &frames {
        *calls.entry(*frame).or_default() += 1;
    }
    assert_eq!(calls.values().max(), Some(&DEPTH), "{frames:x?}");
    assert_eq!(frames[0] & FRAME_EXACT, FRAME_EXACT);
    // The thread's start has a dozen functions of std and libc, not many more.
    assert!((DEPTH as usize + 4..DEPTH as usize + 40).contains(&frames.len()), "{frames:x?}");
}
