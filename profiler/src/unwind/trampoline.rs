//! Code without unwind information that is known by its instructions: signal trampolines, and where
//! the function of a coroutine returns to that was made by hand.

use profiler_ebpf::wire::{Rule, cfa};

use super::{
    RowAt, UnwindError,
    elf::File,
    rows::{Builder, holes},
    rule::{self, END, Rules},
};

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov $15, %rax` and `mov $15, %eax`: 15 is `rt_sigreturn` on x86-64. musl, Go and others end
/// signal handlers by one of these and a system call.
const NUMBER: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0], &[0xb8, 0x0f, 0, 0, 0]];

/// `hlt`: where a call before it returns to, it never does.
const HLT: u8 = 0xf4;
/// `xor %rdi, %rdi` and `xor %edi, %edi`: the status of an exit.
const NO_STATUS: [&[u8]; 2] = [&[0x48, 0x31, 0xff], &[0x31, 0xff]];

/// Longer holes are no C library's, and looking at them would read them in from the disk.
const MAX_HOLE: u64 = 4 << 20;

/// The rule of a trampoline: its stack pointer points to a `ucontext`, in which rbp, rsp and rip
/// were saved at these offsets (Linux, `arch/x86/include/uapi/asm/sigcontext.h`).
pub fn signal_frame() -> Rule {
    rule::signal(0xa0, 0x78, 0xa8)
}

/// Rows for such code in text that has no other rows.
pub fn find(file: &File<'_>, rows: &[RowAt], rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    let mut found = Builder::default();
    for (start, end) in holes(&file.text, rows) {
        if end - start < MAX_HOLE {
            scan(file, start, end, rules, &mut found)?;
        }
    }
    Ok(found.finish())
}

/// Finds such code between two addresses of one text range.
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
    let is_last = |byte: &u8| *byte == HLT || *byte == SYSCALL[1];
    while let Some(length) = code[from..].iter().position(is_last) {
        let stop = from + length + 1;
        let known = signal_return(&code[..stop]).map(|size| (size, signal_frame()));
        let known = known.or_else(|| Some((exit(&code[..stop])?, END)));
        if let Some((size, rule)) = known {
            // What returns here is looked up one byte earlier, like every return address.
            let before = (start + (stop - size) as u64).saturating_sub(1);
            found.push(before, rules.number(&rule))?;
            found.push(start + stop as u64, 0)?;
        }
        from = stop;
    }
    Ok(())
}

/// The size of the trampoline at the end of some code.
fn signal_return(code: &[u8]) -> Option<usize> {
    let before = code.strip_suffix(&SYSCALL)?;
    let number = NUMBER.iter().find(|number| before.ends_with(number))?;
    Some(number.len() + SYSCALL.len())
}

/// The size of the code at the end of some that exits with status 0 and says that it does not
/// return, as boost's fcontext has it below the function of a context.
fn exit(code: &[u8]) -> Option<usize> {
    let before = code.strip_suffix(&[HLT])?;
    // `call` by distance, or through a word at a distance.
    let call = [&[0xe8][..], &[0xff, 0x15]].into_iter().find_map(|call| {
        let size = call.len() + 4;
        let at = before.len().checked_sub(size)?;
        before[at..].starts_with(call).then_some(size)
    })?;
    let before = &before[..before.len() - call];
    let status = NO_STATUS.iter().find(|status| before.ends_with(status))?;
    Some(status.len() + call + 1)
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
