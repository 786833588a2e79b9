//! Small pieces of code that linkers and C libraries leave without unwind information, although
//! their stack layout is known: PLT stubs, `_init` and `_fini`, and the system calls that start a
//! thread.

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::{
    RowAt, UnwindError,
    elf::File,
    rows::Builder,
    rule::{END, Rules},
};

/// Sections of stubs that only jump. The linkers name them so (System V ABI x86-64, 5.2.2; mold
/// and lld follow).
const JUMPS: [&[u8]; 3] = [b".iplt", b".plt.got", b".plt.sec"];
/// Start-up and shut-down functions whose two halves come from different objects (glibc `crti.S`
/// and `crtn.S`).
const HALVES: [&[u8]; 2] = [b".init", b".fini"];
/// `sub $8, %rsp` and `endbr64`.
pub const SUB: [u8; 4] = [0x48, 0x83, 0xec, 8];
const ENDBR: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// glibc ends the unwind information of clone, clone3 and vfork before the system call, on
/// purpose, and has the child's begin behind it: the hole is as long as the call.
const MAX_HOLE: u64 = 32;

/// The most bytes between two functions that are aligned to 16.
const MAX_PADDING: u64 = 15;

/// Rows for such code; they count where there are no others.
pub fn find(file: &File<'_>, rows: &[RowAt], rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let mut ranges: Vec<(u64, u64, Rule)> = Vec::new();
    if let Some((start, end)) = file.text_of(b".plt") {
        // The push of a lazy stub, where there is one, ends at byte 11 of its 16.
        ranges.push((start, end, Rule { cfa: cfa::PLT, cfa_offset: 11, ..pushed(0) }));
    }
    for (start, end) in JUMPS.iter().filter_map(|name| file.text_of(name)) {
        ranges.push((start, end, pushed(8)));
    }
    for (start, end) in HALVES.iter().filter_map(|name| file.text_of(name)) {
        let code = file.code(start, end).unwrap_or_default();
        let marked = if code.starts_with(&ENDBR) { ENDBR.len() } else { 0 };
        if code[marked..].starts_with(&SUB) && end - start > 16 {
            let body = start + (marked + SUB.len()) as u64;
            ranges.push((start, body, pushed(8)));
            // The last instruction is `ret`, behind the `add` that takes the 8 bytes back.
            ranges.push((body, end - 1, pushed(16)));
            ranges.push((end - 1, end, pushed(8)));
        }
    }
    let mut found = Builder::default();
    ranges.sort_unstable_by_key(|(start, ..)| *start);
    for (start, end, rule) in ranges {
        found.push(start, rules.number(&rule))?;
        found.push(end, 0)?;
    }
    let holes = holes(rows, rules)?;
    super::rows::fill_gaps(&holes, &found.finish())
}

/// Tells the holes between functions, no longer than an alignment makes them, from code without
/// unwind information.
pub fn mark_padding(rows: &mut [RowAt], rules: &mut Rules) {
    let padding = rules.number(&Rule { cfa: cfa::PADDING, ..Rule::NONE });
    for at in 1..rows.len().saturating_sub(1) {
        let [before, hole, after] = [rows[at - 1], rows[at], rows[at + 1]];
        let short = after.address() - hole.address() <= MAX_PADDING;
        if short && before.rule() != 0 && hole.rule() == 0 && after.rule() != 0 {
            rows[at] = RowAt::new(hole.address(), padding);
        }
    }
}

/// `rsp + offset` is the CFA, below which the return address lies.
fn pushed(offset: i32) -> Rule {
    Rule { cfa: cfa::SP, cfa_offset: offset, ra: saved::AT_CFA, ra_offset: -8, ..Rule::NONE }
}

/// In a short hole before a start of a thread, what held before the hole still holds.
fn holes(rows: &[RowAt], rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let root = rules.number(&END);
    let mut found = Builder::default();
    for three in rows.windows(3) {
        let [before, hole, after] = three else { continue };
        let short = after.address() - hole.address() <= MAX_HOLE;
        let goes_on = ![0, root].contains(&before.rule());
        if short && goes_on && hole.rule() == 0 && after.rule() == root {
            found.push(hole.address(), before.rule())?;
            found.push(after.address(), 0)?;
        }
    }
    Ok(found.finish())
}
