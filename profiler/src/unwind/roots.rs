//! Start code without unwind information: the entry point of a file, and the functions of musl's
//! start-up that never return, are the outermost frames of their threads.

use super::{
    RowAt, UnwindError,
    elf::{DYNAMIC_SYMBOLS, File, SYMBOLS},
    rows::Builder,
    rule::{END, Rules},
};

/// Bytes of an entry point that has no symbol: the code that calls the first function in C is a
/// dozen instructions (glibc, musl, dietlibc).
const ENTRY_SIZE: u64 = 48;
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
    let mut starts = vec![(entry, entry + ENTRY_SIZE)];
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
