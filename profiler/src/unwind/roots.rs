//! Start code without unwind information: the entry point of a file, and the functions of musl's
//! start-up that never return, are the outermost frames of their threads.

use iced_x86::{Decoder, DecoderOptions, FlowControl};

use super::{
    RowAt, UnwindError, assembly,
    elf::{DYNAMIC_SYMBOLS, File, SYMBOLS},
    rows::Builder,
    rule::{END, Rules},
};

/// The most bytes of start code: a dozen instructions that call the first function (glibc, musl,
/// dietlibc), two dozen of them (Free Pascal).
const MAX_ENTRY: u64 = 256;
/// The most jumps from an entry point to where it goes on.
const MAX_JUMPS: usize = 4;
/// Functions that are entered once and never return (musl 1.2, `crt1.c`, `__libc_start_main.c`,
/// `dlstart.c`).
const STARTS: [&[u8]; 4] =
    [b"_start_c", b"_dlstart_c", b"__libc_start_main", b"libc_start_main_stage2"];

/// Rows that end a walk in start code, for a file whose entry point has no other rows. None: it
/// has, so its C library has, too.
pub fn find(file: &File<'_>, rows: &[RowAt], rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let entry = file.entry();
    let at = rows.partition_point(|row| row.address() <= entry);
    let covered = at.checked_sub(1).is_some_and(|before| rows[before].rule() != 0);
    // Libraries have none.
    if entry == 0 || covered || file.text_from(entry).is_none_or(|text| entry < text.address) {
        return Ok(Vec::new());
    }
    let mut starts = start_code(file, entry);
    starts.extend(file.functions(SYMBOLS, &STARTS));
    starts.extend(file.functions(DYNAMIC_SYMBOLS, &STARTS));
    starts.sort_unstable();
    let end = rules.number(&END);
    let mut found = Builder::default();
    let mut reached = 0;
    for (start, stop) in starts {
        if start.max(reached) < stop {
            found.push(start.max(reached), end)?;
            found.push(stop, 0)?;
            reached = stop;
        }
    }
    Ok(found.finish())
}

/// The code from an entry point to where nothing goes on, piece by piece.
fn start_code(file: &File<'_>, entry: u64) -> Vec<(u64, u64)> {
    let functions = file.function_starts();
    let mut pieces = Vec::new();
    let mut from = Some(entry);
    while let Some(start) = from.filter(|_| pieces.len() <= MAX_JUMPS) {
        let code = file.code(start, start.saturating_add(MAX_ENTRY)).unwrap_or_default();
        let (end, jump) = extent(code, start, &functions);
        pieces.push((start, end));
        from = jump;
    }
    pieces
}

/// Where code that begins at an address ends, and where a jump at its end leads to. `functions` begin
/// at these addresses, sorted.
fn extent(code: &[u8], start: u64, functions: &[u64]) -> (u64, Option<u64>) {
    let mut end = start;
    let mut called = false;
    for instruction in &mut Decoder::with_ip(64, code, start, DecoderOptions::NONE) {
        // A call that does not return may be the last instruction.
        let is_zero = code.get((end - start) as usize) == Some(&0);
        let is_other = functions.binary_search(&end).is_ok();
        let is_behind = called && (is_zero || is_other || assembly::is_padding(&instruction));
        if instruction.is_invalid() || is_behind {
            break;
        }
        end = instruction.next_ip();
        called = false;
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => called = true,
            FlowControl::UnconditionalBranch => {
                return (end, Some(instruction.near_branch_target()));
            }
            FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => break,
            _ if assembly::is_stop(&instruction) => break,
            _ => {}
        }
    }
    (end, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry point of Free Pascal's programs, from its last instructions on (3.2.2).
    const PASCAL: &[u8] = &[
        0x4c, 0x89, 0xd7, // mov %r10,%rdi
        0x48, 0x31, 0xed, // xor %rbp,%rbp
        0xe8, 0x88, 0x21, 0x02, 0x00, // call
        0xc3, // ret
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x05,
    ];

    #[test]
    fn start_code_ends_where_nothing_goes_on() {
        let size = |code: &[u8]| extent(code, 0x1000, &[]).0 - 0x1000;
        assert_eq!(size(PASCAL), 12);
        // musl's: a call, padding, and the next function.
        let call = [0x48, 0x83, 0xe4, 0xf0, 0xe8, 1, 0, 0, 0];
        for padding in [&[0x66, 0x90][..], &[0xcc], &[0, 0]] {
            assert_eq!(size(&[&call, padding, &[0x55, 0xc3]].concat()), 9);
        }
        let next = [&call[..], &[0x55, 0xc3]].concat();
        assert_eq!(extent(&next, 0x1000, &[0x1000, 0x1009]), (0x1009, None));
        assert_eq!(size(&[&call[..], &[0xf4, 0x55]].concat()), 10);
        assert_eq!(extent(&[0x31, 0xed, 0xeb, 0x10, 0x55], 0x1000, &[]), (0x1004, Some(0x1014)));
        assert_eq!(extent(&[0xe8, 1], 0x1000, &[]), (0x1000, None));
        assert_eq!(extent(&[], 0x1000, &[]), (0x1000, None));
    }
}
