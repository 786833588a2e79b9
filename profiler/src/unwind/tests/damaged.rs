//! Damaged files: an error or fewer rows, never a panic, a hang or rows out of shape.

use super::{check_shape, loader};
use crate::unwind::{UnwindError, compile};

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn survive(elf: &[u8]) {
    if let Ok(compiled) = compile(elf) {
        check_shape(&compiled);
    }
}

#[test]
fn truncated_files() {
    let whole = loader();
    for end in (0..200).chain((200..whole.len()).step_by(997)) {
        survive(&whole[..end]);
    }
}

#[test]
fn flipped_bytes_anywhere() {
    let whole = loader();
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..200 {
        let mut elf = whole.clone();
        for _ in 0..64 {
            let at = random.below(elf.len());
            elf[at] ^= 1 << random.below(8);
        }
        survive(&elf);
    }
}

#[test]
fn flipped_bytes_in_headers_and_tables() {
    use object::{Object, ObjectSection};
    let whole = loader();
    let (frames, headers) = {
        let file = object::File::parse(&*whole).unwrap();
        let frames = file.section_by_name(".eh_frame").unwrap().file_range().unwrap();
        let headers = file.section_by_name(".eh_frame_hdr").unwrap().file_range().unwrap();
        (frames, headers)
    };
    let places = [(0, 64), (64, 800), frames, frames, headers, {
        let table = u64::from_le_bytes(whole[40..48].try_into().unwrap());
        (table, whole.len() as u64 - table)
    }];
    let mut random = Random(0xfeed_beef_1234_5671);
    for round in 0..1200 {
        let mut elf = whole.clone();
        let (start, len) = places[round % places.len()];
        for _ in 0..=random.below(8) {
            let at = start as usize + random.below(len as usize);
            elf[at] = [0, 0xff, 0x7f, 0x80, random.below(256) as u8][random.below(5)];
        }
        survive(&elf);
    }
}

#[test]
fn other_files_are_named() {
    assert_eq!(compile(b"").unwrap_err(), UnwindError::NotElf);
    assert_eq!(compile(b"#!/bin/sh\n").unwrap_err(), UnwindError::NotElf);
    let mut elf = loader();
    assert!(matches!(compile(&elf[..40]).unwrap_err(), UnwindError::Damaged(_)));
    elf[18] = 183;
    let error = compile(&elf).unwrap_err();
    assert_eq!(error, UnwindError::NotSupported("machine number 183".to_owned()));
    elf[5] = 2;
    assert!(matches!(compile(&elf).unwrap_err(), UnwindError::NotSupported(_)));
    elf[4] = 1;
    assert!(matches!(compile(&elf).unwrap_err(), UnwindError::NotSupported(_)));
}

/// Without section headers the tables are found as the running program finds them.
#[test]
fn stripped_section_headers_lose_nothing() {
    let mut elf = loader();
    let whole = compile(&elf).unwrap();
    elf[40..48].fill(0);
    elf[60..64].fill(0);
    let stripped = compile(&elf).unwrap();
    assert_eq!(stripped.rows, whole.rows);
    assert_eq!(stripped.rules, whole.rules);
    assert_eq!(stripped.skipped, 0);
}
