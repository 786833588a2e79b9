//! Files made by hand: segments of text and tables of call frame information, byte by byte.

use std::time::{Duration, Instant};

use profiler_ebpf::wire::{Rule, cfa, saved};

use super::{check_shape, rule_at};
use crate::unwind::{MAX_FILE_RULES, RowAt, TextRange, UnwindRows, compile, trampoline};

/// Where the first segment lies, and where in the file.
const TEXT: u64 = 0x40_1000;
const TEXT_OFFSET: u64 = 0x1000;

const SHT_PROGBITS: u32 = 1;
const SHF_COMPRESSED: u64 = 1 << 11;

/// An ELF file to be.
#[derive(Default)]
pub struct Made {
    /// Address and bytes of executable segments.
    pub segments: Vec<(u64, Vec<u8>)>,
    sections: Vec<(&'static str, u64, Vec<u8>)>,
}

impl Made {
    pub fn with_text(size: usize) -> Self {
        Self { segments: vec![(TEXT, vec![0x90; size])], sections: Vec::new() }
    }

    fn section(mut self, name: &'static str, flags: u64, bytes: Vec<u8>) -> Self {
        self.sections.push((name, flags, bytes));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; TEXT_OFFSET as usize];
        let mut headers = Vec::new();
        for (address, text) in &self.segments {
            file.resize(file.len().next_multiple_of(4096) + (address % 4096) as usize, 0);
            let size = text.len() as u64;
            headers.extend([1u32, 5].map(u32::to_le_bytes).concat());
            let words = [file.len() as u64, *address, *address, size, size, 4096];
            headers.extend(words.map(u64::to_le_bytes).concat());
            file.extend(text);
        }
        let mut names = vec![0];
        let mut table = vec![0; 64];
        let mut add = |name: &str, flags: u64, bytes: &[u8], file: &mut Vec<u8>| {
            table.extend([names.len() as u32, SHT_PROGBITS].map(u32::to_le_bytes).concat());
            let words = [flags, 0, file.len() as u64, bytes.len() as u64, 0, 1, 0];
            names.extend(name.as_bytes().iter().chain(&[0]));
            table.extend(words.map(u64::to_le_bytes).concat());
            file.extend(bytes);
        };
        for (name, flags, bytes) in &self.sections {
            add(name, *flags, bytes, &mut file);
        }
        let count = self.sections.len() as u16 + 2;
        table.extend([names.len() as u32, 3].map(u32::to_le_bytes).concat());
        names.extend(b".shstrtab\0");
        let words = [0, 0, file.len() as u64, names.len() as u64, 0, 1, 0];
        table.extend(words.map(u64::to_le_bytes).concat());
        file.extend(&names);
        file.resize(file.len().next_multiple_of(8), 0);
        let table_at = file.len() as u64;
        file.extend(&table);
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend([2u16, 62].map(u16::to_le_bytes).concat());
        header.extend(1u32.to_le_bytes());
        header.extend([0, 64, table_at].map(u64::to_le_bytes).concat());
        header.extend(0u32.to_le_bytes());
        let words = [64, 56, self.segments.len() as u16, 64, count, count - 1];
        header.extend(words.map(u16::to_le_bytes).concat());
        header.extend(headers);
        file[..header.len()].copy_from_slice(&header);
        file
    }

    fn compile(&self) -> UnwindRows {
        let compiled = compile(&self.bytes()).unwrap();
        check_shape(&compiled);
        compiled
    }
}

/// A table of call frame information to be.
struct Frames {
    bytes: Vec<u8>,
    /// `.eh_frame`, not `.debug_frame`.
    is_eh: bool,
    augmented: bool,
    cie: u32,
}

/// rsp + 8, return address below it: what every function begins with.
const INITIAL: &[u8] = &[0x0c, 7, 8, 0x90, 1];

impl Frames {
    fn eh() -> Self {
        Self { bytes: Vec::new(), is_eh: true, augmented: false, cie: 0 }.cie("", INITIAL)
    }

    fn debug() -> Self {
        Self { bytes: Vec::new(), is_eh: false, augmented: false, cie: 0 }.cie("", INITIAL)
    }

    fn entry(&mut self, content: &[u8], instructions: &[u8]) {
        let len = content.len() + instructions.len();
        let padding = (len + 4).next_multiple_of(8) - 4 - len;
        self.bytes.extend(((len + padding) as u32).to_le_bytes());
        self.bytes.extend(content);
        self.bytes.extend(instructions);
        self.bytes.resize(self.bytes.len() + padding, 0);
    }

    /// The entry that the following functions refer to.
    fn cie(mut self, augmentation: &str, instructions: &[u8]) -> Self {
        self.cie = self.bytes.len() as u32;
        let mut content = (if self.is_eh { 0 } else { u32::MAX }).to_le_bytes().to_vec();
        content.push(1);
        content.extend(augmentation.as_bytes());
        // Alignment factors 1 and -8, return address in column 16.
        content.extend([0, 1, 0x78, 16]);
        self.augmented = augmentation.starts_with('z');
        if self.augmented {
            content.extend([1, 0]);
        }
        self.entry(&content, instructions);
        self
    }

    fn function(mut self, start: u64, size: u64, instructions: &[u8]) -> Self {
        let here = self.bytes.len() as u32 + 4;
        let cie = if self.is_eh { here - self.cie } else { self.cie };
        let mut content = cie.to_le_bytes().to_vec();
        content.extend(start.to_le_bytes());
        content.extend(size.to_le_bytes());
        if self.augmented {
            content.push(0);
        }
        self.entry(&content, instructions);
        self
    }
}

/// The rule of rsp + offset with the return address below.
fn by_sp(cfa_offset: i32) -> Rule {
    Rule { cfa: cfa::SP, cfa_offset, ra: saved::AT_CFA, ra_offset: -8, ..Rule::NONE }
}

/// Address and rule of each row.
fn list(compiled: &UnwindRows) -> Vec<(u64, Rule)> {
    let rule = |row: &RowAt| compiled.rules[row.rule() as usize];
    compiled.rows.iter().map(|row| (row.address(), rule(row))).collect()
}

/// The rule that some instructions lead to.
fn rule_of(instructions: &[u8]) -> Rule {
    let frames = Frames::eh().function(TEXT, 0x10, instructions);
    let made = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes);
    rule_at(&made.compile(), TEXT)
}

/// `DW_CFA_def_cfa_expression`.
fn cfa_expression(operations: &[u8]) -> Vec<u8> {
    [&[0x0f, operations.len() as u8], operations].concat()
}

/// `DW_CFA_expression` for a register.
fn expression(register: u8, operations: &[u8]) -> Vec<u8> {
    [&[0x10, register, operations.len() as u8], operations].concat()
}

#[test]
fn a_prologue_makes_rows_and_gaps_end_them() {
    // push %rbp at 1, mov %rsp, %rbp at 4, ret at 0x20.
    let program = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x5c, 0x0c, 7, 8, 0xc6];
    let frames = Frames::eh().function(TEXT, 0x30, &program).function(TEXT + 0x40, 0x10, &[]);
    let compiled = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile();
    let pushed = Rule { fp: saved::AT_CFA, fp_offset: -16, ..by_sp(16) };
    let framed = Rule { cfa: cfa::BP, ..pushed };
    let expected = [
        (TEXT, by_sp(8)),
        (TEXT + 1, pushed),
        (TEXT + 4, framed),
        (TEXT + 0x20, by_sp(8)),
        (TEXT + 0x30, Rule::NONE),
        (TEXT + 0x40, by_sp(8)),
        (TEXT + 0x50, Rule::NONE),
    ];
    assert_eq!(list(&compiled), expected);
    assert_eq!(compiled.text, [TextRange { address: TEXT, offset: TEXT_OFFSET, size: 0x100 }]);
    assert_eq!(compiled.skipped, 0);
}

#[test]
fn overlapping_functions_keep_the_first_and_text_clips() {
    let frames = Frames::eh()
        .function(TEXT + 0x20, 0x40, &[0x0e, 32])
        .function(TEXT + 0x10, 0x20, &[0x0e, 16])
        .function(TEXT + 0x10, 0x20, &[0x0e, 64])
        .function(TEXT + 0xf0, 0x1000, &[0x0e, 48])
        .function(TEXT - 0x10, 0x18, &[0x0e, 24])
        .function(0, 0x10, &[])
        .function(u64::MAX - 4, 0x10, &[])
        .function(TEXT + 0x4000, 0x10, &[]);
    let compiled = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile();
    let expected = [
        (TEXT, by_sp(24)),
        (TEXT + 8, Rule { cfa: cfa::PADDING, ..Rule::NONE }),
        (TEXT + 0x10, by_sp(16)),
        (TEXT + 0x30, by_sp(32)),
        (TEXT + 0x60, Rule::NONE),
        (TEXT + 0xf0, by_sp(48)),
        (TEXT + 0x100, Rule::NONE),
    ];
    assert_eq!(list(&compiled), expected);
}

#[test]
fn several_segments_of_text() {
    let mut made = Made::with_text(0x100);
    made.segments.push((0x50_0040, vec![0x90; 0x80]));
    let frames = Frames::eh().function(0x50_0040, 0x20, &[]).function(TEXT, 0x20, &[]);
    let compiled = made.section(".eh_frame", 2, frames.bytes).compile();
    assert_eq!(compiled.text.len(), 2);
    assert_eq!(compiled.text[1], TextRange { address: 0x50_0040, offset: 0x2040, size: 0x80 });
    assert_eq!(rule_at(&compiled, TEXT + 0x1f), by_sp(8));
    assert_eq!(rule_at(&compiled, TEXT + 0x20), Rule::NONE);
    assert_eq!(rule_at(&compiled, 0x50_0040), by_sp(8));
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

/// An `Elf64_Chdr` and a stream that stores the bytes as they are.
fn compressed(kind: u32, bytes: &[u8], claimed: u64) -> Vec<u8> {
    let mut section = [kind, 0].map(u32::to_le_bytes).concat();
    section.extend([claimed, 1].map(u64::to_le_bytes).concat());
    let len = bytes.len() as u16;
    if kind == 1 {
        section.extend([0x78, 0x01, 0x01]);
        section.extend([len, !len].map(u16::to_le_bytes).concat());
        section.extend(bytes);
        section.extend(adler32(bytes).to_be_bytes());
    } else {
        section.extend([0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(len).unwrap()]);
        section.extend(&(u32::from(len) << 3 | 1).to_le_bytes()[..3]);
        section.extend(bytes);
    }
    section
}

#[test]
fn debug_frame_fills_what_eh_frame_leaves() {
    let eh = Frames::eh().function(TEXT + 0x10, 0x10, &[0x0e, 16]);
    let debug = Frames::debug()
        .function(TEXT + 0x10, 0x10, &[0x0e, 99])
        .function(TEXT + 0x20, 0x10, &[0x0e, 24])
        .function(TEXT, 0x18, &[0x0e, 32]);
    let expected = [
        (TEXT, by_sp(32)),
        (TEXT + 0x10, by_sp(16)),
        (TEXT + 0x20, by_sp(24)),
        (TEXT + 0x30, Rule::NONE),
    ];
    let plain = debug.bytes.clone();
    let size = plain.len() as u64;
    let mut gnu = b"ZLIB".to_vec();
    gnu.extend(size.to_be_bytes());
    gnu.extend(&compressed(1, &plain, size)[24..]);
    for (name, flags, bytes) in [
        (".debug_frame", 0, plain.clone()),
        (".debug_frame", SHF_COMPRESSED, compressed(1, &plain, size)),
        (".debug_frame", SHF_COMPRESSED, compressed(2, &plain, size)),
        (".zdebug_frame", 0, gnu),
    ] {
        // One byte before it: linkers do not align compressed sections.
        let made = Made::with_text(0x100).section(".eh_frame", 2, eh.bytes.clone());
        let compiled = made.section(".odd", 0, vec![0]).section(name, flags, bytes).compile();
        assert_eq!(list(&compiled), expected, "{name} {flags}");
        assert_eq!(compiled.skipped, 0);
    }
    for claimed in [size + 1, 1 << 40, u64::MAX] {
        let bytes = compressed(1, &plain, claimed);
        let made = Made::with_text(0x100).section(".debug_frame", SHF_COMPRESSED, bytes);
        assert_eq!(list(&made.compile()), [], "claims {claimed} bytes");
    }
}

#[test]
fn rules_of_each_kind() {
    let plt = [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3a, 0x2a, 0x33, 0x24, 0x22];
    let expected = Rule { cfa: cfa::PLT, cfa_offset: 10, ..by_sp(0) };
    assert_eq!(rule_of(&cfa_expression(&plt)), expected);
    // Realigned stacks: *(rbp - 8), and rbp itself where it points to.
    let realigned = [cfa_expression(&[0x76, 0x78, 0x06]), expression(6, &[0x76, 0])].concat();
    let expected = Rule { cfa: cfa::DEREF_BP, cfa_offset: -8, fp: saved::AT_BP, ..by_sp(0) };
    assert_eq!(rule_of(&realigned), expected);
    // OpenSSL: *(rsp + 16) + 8, written in two ways.
    let expected = Rule { cfa: cfa::DEREF_SP, cfa_offset: 16, cfa_add: 8, ..by_sp(0) };
    assert_eq!(rule_of(&cfa_expression(&[0x77, 16, 0x06, 0x23, 8])), expected);
    assert_eq!(rule_of(&cfa_expression(&[0x77, 16, 0x06, 0x38, 0x22])), expected);
    // *(rsp + 8 + r9 * 8) + 8.
    let behind_array = [0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8];
    let expected =
        Rule { cfa: cfa::DEREF_INDEX, cfa_register: 9, cfa_offset: 8, cfa_add: 8, ..by_sp(0) };
    assert_eq!(rule_of(&cfa_expression(&behind_array)), expected);
    // Haskell's StgRun: all of the frame is behind the address that it is described by.
    let run =
        [vec![0x0e, 0], vec![0x11, 16, 0xfa, 0x6f], vec![0x16, 7, 4, 0x77, 0xb8, 0x80, 1]].concat();
    assert_eq!(rule_of(&run), by_sp(16440));
    // r10 as the frame's base; rbp in rbx.
    let expected = Rule {
        cfa: cfa::REGISTER,
        cfa_register: 10,
        fp: saved::REGISTER,
        fp_offset: 3,
        ..by_sp(0)
    };
    assert_eq!(rule_of(&[0x0c, 10, 0, 0x09, 6, 3]), expected);
    // The caller's rbp is lost; the return address is: the end.
    assert_eq!(rule_of(&[0x07, 6]), Rule { fp: saved::UNDEFINED, ..by_sp(8) });
    assert_eq!(rule_of(&[0x07, 16]).cfa, cfa::END);
    // A register relative to the CFA by an expression.
    let expected = Rule { fp: saved::AT_CFA, fp_offset: -24, ..by_sp(8) };
    assert_eq!(rule_of(&expression(6, &[0x08, 24, 0x1c])), expected);
}

#[test]
fn what_no_rule_can_say_is_unsupported() {
    for program in [
        // rsp + 8 + r9 * 8; a loop; a value beyond 32 bits; a vector register.
        cfa_expression(&[0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22]),
        cfa_expression(&[0x2f, 0xfd, 0xff]),
        vec![0x0e, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        vec![0x0c, 17, 8],
        // An empty expression; one that is too long; one that underflows its stack.
        cfa_expression(&[]),
        cfa_expression(&[0x96; 100]),
        cfa_expression(&[0x22]),
        // setcontext: rsp comes from memory. The return address is the CFA itself.
        vec![0x05, 7, 2],
        vec![0x14, 16, 0],
        vec![0x08, 16],
    ] {
        assert_eq!(rule_of(&program).cfa, cfa::UNSUPPORTED, "{program:x?}");
    }
}

#[test]
fn signal_trampolines() {
    let saved = |register, offset: u8| expression(register, &[0x77, offset | 0x80, 1]);
    let program = [
        cfa_expression(&[0x77, 0xa0, 1, 0x06]),
        expression(6, &[0x77, 0xf8, 0]),
        saved(7, 0x20),
        saved(16, 0x28),
    ]
    .concat();
    let frames = Frames::eh().cie("zRS", &[]).function(TEXT, 9, &program);
    let compiled = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile();
    assert_eq!(rule_at(&compiled, TEXT + 8), trampoline::signal_frame());

    let mut made = Made::with_text(0x100);
    let code = &mut made.segments[0].1;
    code[0x40..0x49].copy_from_slice(&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    code[0x80..0x87].copy_from_slice(&[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    code[0xc0..0xc7].copy_from_slice(&[0xb8, 0x10, 0, 0, 0, 0x0f, 0x05]);
    let signal = trampoline::signal_frame();
    let expected = [
        (TEXT + 0x3f, signal),
        (TEXT + 0x4a, Rule::NONE),
        (TEXT + 0x7f, signal),
        (TEXT + 0x88, Rule::NONE),
    ];
    assert_eq!(list(&made.compile()), expected);
    // With a table for that code, the table counts.
    let frames = Frames::eh().function(TEXT, 0x100, &[]);
    let compiled = made.section(".eh_frame", 2, frames.bytes).compile();
    assert_eq!(list(&compiled), [(TEXT, by_sp(8)), (TEXT + 0x100, Rule::NONE)]);
}

#[test]
fn functions_made_by_hand_return_to_an_exit() {
    let mut made = Made::with_text(0x100);
    let code = &mut made.segments[0].1;
    code[0x20..0x29].copy_from_slice(&[0x48, 0x31, 0xff, 0xe8, 1, 2, 0xf4, 4, 0xf4]);
    code[0x40..0x49].copy_from_slice(&[0x31, 0xff, 0xff, 0x15, 1, 2, 3, 4, 0xf4]);
    // Another status, and a call that returns.
    code[0x60..0x68].copy_from_slice(&[0x31, 0xf6, 0xe8, 1, 2, 3, 4, 0xf4]);
    code[0x80..0x88].copy_from_slice(&[0x31, 0xff, 0xe8, 1, 2, 3, 4, 0xcc]);
    let end = rule_at(&made.compile(), TEXT + 0x20);
    assert_eq!(end.cfa, cfa::END);
    let expected = [
        (TEXT + 0x1f, end),
        (TEXT + 0x29, Rule::NONE),
        (TEXT + 0x3f, end),
        (TEXT + 0x49, Rule::NONE),
    ];
    assert_eq!(list(&made.compile()), expected);
}

#[test]
fn functions_without_tables_are_followed() {
    let frame = |size, fp_offset, bx_offset| Rule {
        cfa: cfa::SP,
        cfa_offset: size,
        fp: if fp_offset == 0 { saved::SAME } else { saved::AT_CFA },
        fp_offset,
        ra: saved::AT_CFA,
        ra_offset: -8,
        bx_offset,
        ..Rule::NONE
    };
    let code: &[u8] = &[
        0x55, // push %rbp
        0x53, // push %rbx
        0x48, 0x83, 0xec, 0x28, // sub $0x28,%rsp
        0x31, 0xed, // xor %ebp,%ebp
        0x31, 0xdb, // xor %ebx,%ebx
        0x48, 0x83, 0xc4, 0x28, // add $0x28,%rsp
        0x5b, 0x5d, 0xc3, // pop %rbx; pop %rbp; ret
    ];
    let expected = [
        (0, frame(8, 0, 0)),
        (1, frame(16, 0, 0)),
        (2, frame(24, 0, 0)),
        (6, frame(64, 0, 0)),
        (8, frame(64, -16, 0)),
        (10, frame(64, -16, -24)),
        (14, frame(24, -16, -24)),
        (15, frame(16, -16, 0)),
        (16, frame(8, 0, 0)),
        (17, Rule::NONE),
    ];
    let aligned: &[u8] = &[
        0x48, 0x89, 0xe0, // mov %rsp,%rax
        0x48, 0x83, 0xe4, 0xc0, // and $-64,%rsp
        0x50, // push %rax
        0x31, 0xc0, // xor %eax,%eax
        0x5c, 0xc3, // pop %rsp; ret
    ];
    let kept = |offset| Rule { cfa: cfa::DEREF_SP, cfa_add: 8, ..frame(offset, 0, 0) };
    let by_rax = Rule { cfa: cfa::REGISTER, ..frame(8, 0, 0) };
    let expected_aligned =
        [(0, frame(8, 0, 0)), (7, by_rax), (8, kept(0)), (11, frame(8, 0, 0)), (12, Rule::NONE)];
    let switch: &[u8] = &[
        0x55, // push %rbp
        0x48, 0x89, 0x27, // mov %rsp,(%rdi)
        0x48, 0x89, 0xf4, // mov %rsi,%rsp
        0x5d, 0xc3, // pop %rbp; ret
    ];
    let expected_switch = [
        (0, frame(8, 0, 0)),
        (1, frame(16, 0, 0)),
        (7, frame(16, -16, 0)),
        (8, frame(8, 0, 0)),
        (9, Rule::NONE),
    ];
    let thread: &[u8] = &[
        0x0f, 0x05, 0x85, 0xc0, // syscall; test %eax,%eax
        0x75, 0x07, // jne to the end
        0x31, 0xed, 0x5f, // xor %ebp,%ebp; pop %rdi
        0x41, 0xff, 0xd1, // call *%r9
        0xf4, 0xc3, // hlt; ret
    ];
    let end = Rule { cfa: cfa::END, ra: saved::UNDEFINED, ..Rule::NONE };
    let lost = Rule { fp: saved::UNDEFINED, ..frame(8, 0, 0) };
    let expected_thread =
        [(0, frame(8, 0, 0)), (8, lost), (9, end), (13, frame(8, 0, 0)), (14, Rule::NONE)];
    // Zeros between two functions, an odd number of them, as Free Pascal has it.
    let zeros: &[u8] = &[0xc3, 0, 0, 0, 0x50, 0x58, 0xc3];
    let expected_zeros = [
        (0, frame(8, 0, 0)),
        (1, Rule { cfa: cfa::PADDING, ..Rule::NONE }),
        (4, frame(8, 0, 0)),
        (5, frame(16, 0, 0)),
        (6, frame(8, 0, 0)),
        (7, Rule::NONE),
    ];
    for (code, expected) in [
        (code, &expected[..]),
        (zeros, &expected_zeros),
        (thread, &expected_thread),
        (aligned, &expected_aligned),
        (switch, &expected_switch),
        // What is pushed is not taken back: no function.
        (&[0x55, 0xc3], &[]),
    ] {
        let mut made = Made::with_text(0x100);
        made.segments[0].1[..code.len()].copy_from_slice(code);
        let expected: Vec<_> = expected.iter().map(|(at, rule)| (TEXT + at, *rule)).collect();
        assert_eq!(list(&made.compile()), expected, "{code:x?}");
    }
}

#[test]
fn unreadable_entries_cost_only_themselves() {
    let good = TEXT + 0x80;
    for (name, program) in [
        ("restore_state without a state", vec![0x0b]),
        ("states without end", vec![0x0a; 100]),
        ("an operation that does not exist", vec![0x3f]),
        ("an offset without its bytes", vec![0x0e, 0x80, 0x80, 0x80, 0x80]),
        ("rules for too many registers", (0..64).flat_map(|r| [0x05, r, 1]).collect()),
        ("an expression longer than the entry", vec![0x0f, 0x7f]),
    ] {
        let bad = [&[0x0e, 99, 0x44], &*program].concat();
        let frames = Frames::eh().function(TEXT, 0x20, &bad).function(good, 0x10, &[]);
        let compiled = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile();
        let expected = [(good, by_sp(8)), (good + 0x10, Rule::NONE)];
        assert_eq!(list(&compiled), expected, "{name}");
        assert_eq!(compiled.skipped, 1, "{name}");
    }
    // An entry that claims to be longer than the section; a CIE that is a function.
    let mut frames = Frames::eh().function(good, 0x10, &[]);
    frames.cie = frames.bytes.len() as u32 - 32;
    let mut frames = frames.function(TEXT, 0x10, &[]);
    frames.bytes.extend([0xf0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let compiled = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile();
    assert_eq!(list(&compiled), [(good, by_sp(8)), (good + 0x10, Rule::NONE)]);
    assert_eq!(compiled.skipped, 2);
}

/// Tables that would take hours if something in here were quadratic.
#[test]
fn hostile_tables_end_soon() {
    let begin = Instant::now();
    // Each function has its rows computed from the start of the same large CIE.
    let mut frames = Frames::eh().cie("", &[0; 1 << 20]);
    for _ in 0..20_000 {
        frames = frames.function(TEXT, 0x10, &[]);
    }
    let skipped = Made::with_text(0x100).section(".eh_frame", 2, frames.bytes).compile().skipped;
    assert_eq!(skipped, 20_000);
    // Functions that all cover all text, with many rows each.
    let program = [0x41, 0x0e, 16, 0x41, 0x0e, 8].repeat(50);
    let mut frames = Frames::eh();
    for index in 0..20_000 {
        frames = frames.function(TEXT + index % 16, 0x1000, &program);
    }
    let compiled = Made::with_text(0x1000).section(".eh_frame", 2, frames.bytes).compile();
    assert!(compiled.rows.len() < 500, "{}", compiled.rows.len());
    // As many rules as bytes.
    let mut program = Vec::new();
    for offset in 0..20_000u32 {
        program.extend([
            0x41,
            0x0e,
            offset as u8 | 0x80,
            (offset >> 7) as u8 | 0x80,
            (offset >> 14) as u8,
        ]);
    }
    let frames = Frames::eh().function(TEXT, 0x8000, &program);
    let compiled = Made::with_text(0x8000).section(".eh_frame", 2, frames.bytes).compile();
    assert!(compiled.rules.len() <= MAX_FILE_RULES, "{}", compiled.rules.len());
    assert_eq!(rule_at(&compiled, TEXT + 10_000).cfa, cfa::UNSUPPORTED);
    // A section of zeros: terminators without end.
    Made::with_text(0x100).section(".eh_frame", 2, vec![0; 16 << 20]).compile();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
