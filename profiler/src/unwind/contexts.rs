//! Functions that go over to another stack. From where the stack pointer is the other's to where its
//! return address lies on top of it, the C library's unwind information speaks of neither (glibc's
//! swapcontext(3) and setcontext(3)).

use super::{
    RowAt, UnwindError,
    elf::{DYNAMIC_SYMBOLS, File, SYMBOLS},
    rows::Builder,
    rule::{Rules, UNSUPPORTED},
};

/// The functions.
const SWITCHES: [&[u8]; 4] = [b"swapcontext", b"setcontext", b"__swapcontext", b"__setcontext"];
/// Larger ones are others'.
const MAX_SIZE: u64 = 4096;
/// `mov offset32(register), %rsp`, for registers without REX.B but rsp itself.
const LOAD: [u8; 2] = [0x48, 0x8b];
/// Its length.
const LOAD_LENGTH: usize = 7;
/// The most bytes to `push`: a dozen loads of registers.
const MAX_LOADS: usize = 128;

/// Rows for that code, which count more than others.
pub fn find(file: &File<'_>, rules: &mut Rules) -> Result<Vec<RowAt>, UnwindError> {
    // What has no dynamic symbols is linked statically, C library and all.
    let is_static = file.section(DYNAMIC_SYMBOLS.0).is_none();
    let symbols = if is_static { SYMBOLS } else { DYNAMIC_SYMBOLS };
    let mut functions = file.functions(symbols, &SWITCHES);
    functions.retain(|(start, end)| end - start <= MAX_SIZE);
    functions.sort_unstable();
    functions.dedup();
    let mut found = Builder::default();
    let mut reached = 0;
    for (start, end) in functions {
        let code = file.code(start, end).unwrap_or_default();
        for (from, to) in between(code) {
            let (from, to) = (start + from as u64, start + to as u64);
            if from >= reached {
                found.push(from, rules.number(&UNSUPPORTED))?;
                found.push(to, 0)?;
                reached = to;
            }
        }
    }
    Ok(found.finish())
}

/// Where code has the other stack pointer, and the return address not there yet: the first byte, and
/// that behind the last.
fn between(code: &[u8]) -> Vec<(usize, usize)> {
    let is_load = |at: usize| {
        code[at..].starts_with(&LOAD)
            // ModRM (Intel SDM vol. 2, table 2-2): 32 bits of offset, to rsp, not by a SIB byte.
            && code.get(at + 2).is_some_and(|modrm| modrm & 0xf8 == 0xa0 && modrm & 7 != 4)
    };
    let loads = (0..code.len()).filter(|at| is_load(*at)).map(|at| at + LOAD_LENGTH);
    loads
        .filter_map(|from| {
            let rest = code.get(from..)?;
            // `push %rcx`, which no byte of the loads before looks like.
            let push = rest.iter().take(MAX_LOADS).position(|byte| *byte == 0x51)?;
            Some((from, from + push + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of glibc's swapcontext(3), as of 2.36.
    const END: &[u8] = &[
        0x0f, 0xae, 0x92, 0xc0, 0x01, 0x00, 0x00, // ldmxcsr 0x1c0(%rdx)
        0x48, 0x8b, 0xa2, 0xa0, 0x00, 0x00, 0x00, // mov 0xa0(%rdx),%rsp
        0x48, 0x8b, 0x6a, 0x78, // mov 0x78(%rdx),%rbp
        0x4c, 0x8b, 0x6a, 0x50, // mov 0x50(%rdx),%r13
        0x48, 0x8b, 0x8a, 0xa8, 0x00, 0x00, 0x00, // mov 0xa8(%rdx),%rcx
        0x51, // push %rcx
        0x31, 0xc0, 0xc3, // xor %eax,%eax; ret
    ];

    #[test]
    fn the_code_between_two_stacks_is_found() {
        assert_eq!(between(END), [(14, 30)]);
        let mut other = END.to_vec();
        // To r12: the stack pointer stays.
        other[7] = 0x4c;
        assert_eq!(between(&other), []);
        for len in 0..END.len() {
            let _ = between(&END[..len]);
        }
    }
}
