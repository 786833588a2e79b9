//! Haskell's code, as GHC makes it. It keeps its own stack and has no unwind information, but it runs
//! in the one frame on the C stack that the runtime's `StgRun` makes, and that has (GHC,
//! `rts/StgCRun.c`): a walk from it goes to whoever had it run, `hs_main` and `main` in the end.

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::{
    RowAt, UnwindError,
    elf::File,
    rows::{Builder, holes},
    rule::Rules,
    stubs::SUB,
};

/// What `StgRun` leaves free on the C stack for the code that it runs, in bytes
/// (`RESERVED_C_STACK_BYTES`).
const RESERVED: i32 = 16384;
/// What it saves there: six registers, the return address behind them.
const SAVED: i32 = 6 * 8 + 8;
/// `add $8, %rsp`, as [`SUB`] stands before calls of C functions, behind them.
const ADD: [u8; 4] = [0x48, 0x83, 0xc4, 8];
/// The most bytes between the two.
const MAX_CALL: usize = 256;

/// The frame that Haskell's code of a file runs in, if it has such code; `rules` are those of its tables.
pub fn frame(rules: &Rules) -> Option<Rule> {
    rules.list.iter().find(|rule| is_run(rule)).copied()
}

/// Rows for the text of a Haskell program that has no other rows.
pub fn find(
    file: &File<'_>,
    rows: &[RowAt],
    frame: Rule,
    rules: &mut Rules,
) -> Result<Vec<RowAt>, UnwindError> {
    let called = Rule { cfa_offset: frame.cfa_offset + 8, ..frame };
    let [frame, called] = [frame, called].map(|rule| rules.number(&rule));
    let mut found = Builder::default();
    for (start, end) in holes(&file.text, rows) {
        found.push(start, frame)?;
        for (from, to) in calls(file.code(start, end).unwrap_or_default()) {
            found.push(start + from as u64, called)?;
            found.push(start + to as u64, frame)?;
        }
        found.push(end, 0)?;
    }
    Ok(found.finish())
}

/// Whether this is the rule of `StgRun` behind its first instructions.
fn is_run(rule: &Rule) -> bool {
    let at_end = |how, offset: i32, words: i32| how == saved::AT_CFA && offset == -8 * words;
    rule.cfa == cfa::SP
        && rule.cfa_offset == RESERVED + SAVED
        && at_end(rule.ra, rule.ra_offset, 1)
        && at_end(rule.fp, rule.fp_offset, 6)
        && at_end(saved::AT_CFA, rule.bx_offset, 7)
}

/// Where the stack pointer is moved for a call: from behind the first instruction to behind the last.
fn calls(code: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut moved = None;
    code.array_windows().enumerate().filter_map(move |(at, bytes)| match *bytes {
        SUB => {
            moved = Some(at + SUB.len());
            None
        }
        ADD => {
            let from = moved.take().filter(|from| at.saturating_sub(*from) <= MAX_CALL)?;
            Some((from, at + ADD.len()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_between_two_moves_of_the_stack_pointer() {
        let call = [&SUB[..], &[0xe8, 1, 2, 3, 4], &ADD].concat();
        let code = [&[0x90; 3][..], &SUB, &[0; MAX_CALL], &call, &call, &SUB].concat();
        let first = 3 + 4 + MAX_CALL + 4;
        let found = |code| calls(code).collect::<Vec<_>>();
        assert_eq!(found(&code), [(first, first + 9), (first + 13, first + 22)]);
        let apart = [&SUB[..], &[0; MAX_CALL + 1], &ADD, &ADD].concat();
        assert_eq!(found(&apart), []);
        assert_eq!(found(&SUB), []);
        assert_eq!(found(&[]), []);
    }
}
