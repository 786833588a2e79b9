//! Signal trampolines without unwind information, known by their instructions.

use profiler_ebpf::wire::{Rule, cfa};

use super::{
    RowAt, UnwindError,
    elf::File,
    rows::Builder,
    rule::{self, Rules},
};

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov $15, %rax` and `mov $15, %eax`: 15 is `rt_sigreturn` on x86-64. musl, Go and others end
/// signal handlers by one of these and a system call.
const NUMBER: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0], &[0xb8, 0x0f, 0, 0, 0]];

/// Shorter holes are padding between functions: looking at each would read all text in.
const MIN_HOLE: u64 = 16;
/// Longer ones are no C library's, and looking at them would read them in from the disk.
const MAX_HOLE: u64 = 4 << 20;

/// The rule of a trampoline: its stack pointer points to a `ucontext`, in which rbp, rsp and rip
/// were saved at these offsets (Linux, `arch/x86/include/uapi/asm/sigcontext.h`).
pub fn signal_frame() -> Rule {
    rule::signal(0xa0, 0x78, 0xa8)
}

/// Rows for the trampolines in text that has no other rows.
pub fn find(file: &File<'_>, rows: &[RowAt], rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let mut found = Builder::default();
    for text in &file.text {
        let end = text.address + text.size;
        let mut at = rows.partition_point(|row| row.address() <= text.address);
        let mut address = text.address;
        let mut rule = at.checked_sub(1).map_or(0, |before| rows[before].rule);
        while address < end {
            let next = rows.get(at).map_or(end, |row| row.address().min(end));
            if rule == 0 && (MIN_HOLE..MAX_HOLE).contains(&(next - address)) {
                scan(file, address, next, rules, &mut found)?;
            }
            address = next;
            rule = rows.get(at).map_or(0, |row| row.rule());
            at += 1;
        }
    }
    Ok(found.finish())
}

/// Finds trampolines between two addresses of one text range.
fn scan(
    file: &File<'_>,
    start: u64,
    end: u64,
    rules: &mut Rules,
    found: &mut Builder,
) -> Result<(), UnwindError> {
    let Some(code) = file.code(start, end) else {
        return Ok(());
    };
    let mut from = 0;
    while let Some(length) = code[from..].iter().position(|byte| *byte == SYSCALL[1]) {
        let stop = from + length + 1;
        let before = code[..stop].strip_suffix(&SYSCALL);
        let prefix = NUMBER.iter().find(|prefix| before.is_some_and(|code| code.ends_with(prefix)));
        if let Some(prefix) = prefix {
            let first = start + (stop - SYSCALL.len() - prefix.len()) as u64;
            // The handler's return address is looked up one byte earlier, like every other.
            found.push(first.saturating_sub(1), rules.number(&signal_frame()))?;
            found.push(start + stop as u64, 0)?;
        }
        from = stop;
    }
    Ok(())
}

/// Has the rule of a trampoline hold behind its end: while its system call runs, that is where the
/// thread stands.
pub fn extend(rows: &mut [RowAt], rules: &[Rule]) {
    for at in 1..rows.len() {
        let kind = |row: &RowAt| rules[row.rule() as usize].cfa;
        let is_hole = matches!(kind(&rows[at]), cfa::NONE | cfa::PADDING);
        let room = rows.get(at + 1).is_none_or(|next| next.address() > rows[at].address() + 1);
        if kind(&rows[at - 1]) == cfa::SIGNAL && is_hole && room {
            rows[at] = RowAt::new(rows[at].address() + 1, rows[at].rule());
        }
    }
}

/// Where the trampoline begins that a byte of a file lies in, just before, or just behind, where
/// its system call returns to.
#[must_use]
pub fn around(file: &[u8], offset: u64) -> Option<u64> {
    let behind = usize::try_from(offset).ok()?.checked_add(1)?;
    let longest = NUMBER[0].len() + SYSCALL.len();
    let starts = behind.saturating_sub(longest + 1)..=behind;
    starts.rev().find(|start| file.get(*start..).is_some_and(is_trampoline)).map(|at| at as u64)
}

/// Whether a function's code is such a trampoline.
pub fn is_trampoline(code: &[u8]) -> bool {
    NUMBER.iter().any(|prefix| code.strip_prefix(*prefix).is_some_and(|c| c.starts_with(&SYSCALL)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trampoline_is_found_around_its_bytes() {
        let file = [&[0x90; 16][..], NUMBER[0], &SYSCALL, &[0x90; 16]].concat();
        let found: Vec<u64> = (0..50).filter(|offset| around(&file, *offset) == Some(16)).collect();
        assert_eq!(found, (15..=25).collect::<Vec<u64>>());
        assert_eq!((0..50).filter_map(|offset| around(&file, offset)).count(), found.len());
        assert_eq!(around(&file, u64::MAX), None);
    }
}
