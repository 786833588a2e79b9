//! The smallest programs that show whether the kernel takes a program type or a helper.
//!
//! Assembled by hand, so that probing needs neither a compiler nor an object file. Instruction
//! format: Documentation/bpf/standardization/instruction-set.rst of the kernel.

/// One BPF instruction, as the kernel reads it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    code: u8,
    /// Destination register in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, immediate: i32) -> Insn {
    Insn { code, registers: dst | src << 4, offset: 0, immediate }
}

/// `dst = value`
const fn set(dst: u8, value: i32) -> Insn {
    insn(0xb7, dst, 0, value)
}

/// `dst = src`
const fn copy(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0)
}

/// `dst += value`
const fn add(dst: u8, value: i32) -> Insn {
    insn(0x07, dst, 0, value)
}

/// `r0 = helper(r1, …, r5)`
const fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, helper)
}

/// `return r0`
const EXIT: Insn = insn(0x95, 0, 0, 0);

/// The stack pointer's register; the stack lies below it.
const FP: u8 = 10;

// Numbers of helpers: `___BPF_FUNC_MAPPER` of include/uapi/linux/bpf.h.
const GET_STACK: i32 = 67;
const PROBE_READ_USER: i32 = 112;
const PROBE_READ_KERNEL: i32 = 113;
const GET_CURRENT_TASK_BTF: i32 = 158;
const TASK_PT_REGS: i32 = 175;
const LOOP: i32 = 181;

/// `return 0`: for program types.
pub(super) const NOTHING: &[Insn] = &[set(0, 0), EXIT];

/// `bpf_get_stack(ctx, fp - 64, 64, 0)`
pub(super) const KERNEL_STACK: &[Insn] =
    &[copy(2, FP), add(2, -64), set(3, 64), set(4, 0), call(GET_STACK), set(0, 0), EXIT];

/// `bpf_task_pt_regs(bpf_get_current_task_btf())`
pub(super) const USER_REGISTERS: &[Insn] =
    &[call(GET_CURRENT_TASK_BTF), copy(1, 0), call(TASK_PT_REGS), set(0, 0), EXIT];

/// `bpf_probe_read_user(fp - 8, 8, 0)`
pub(super) const READ_USER: &[Insn] = &read(PROBE_READ_USER);

/// `bpf_probe_read_kernel(fp - 8, 8, 0)`
pub(super) const READ_KERNEL: &[Insn] = &read(PROBE_READ_KERNEL);

const fn read(helper: i32) -> [Insn; 7] {
    [copy(1, FP), add(1, -8), set(2, 8), set(3, 0), call(helper), set(0, 0), EXIT]
}

/// `bpf_loop(1, step, NULL, 0)`, and `step` behind it. Needs [`loop_btf`].
pub(super) const LOOPING: &[Insn] = &[
    set(1, 1),
    // r2 = address of the function that many instructions behind the next one (a 64-bit load of
    // two slots; source register 4: BPF_PSEUDO_FUNC).
    insn(0x18, 2, 4, 5),
    insn(0, 0, 0, 0),
    set(3, 0),
    set(4, 0),
    call(LOOP),
    EXIT,
    // step:
    set(0, 0),
    EXIT,
];

/// Where `step` begins in [`LOOPING`], in instructions.
const STEP_AT: u32 = 7;

/// A callback needs BTF that calls it a static function: `int main()` and `static int step()`.
/// Format: Documentation/bpf/btf.rst of the kernel. (Little-endian, as every host we run on.)
pub(super) fn loop_btf() -> Vec<u8> {
    const STRINGS: &[u8] = b"\0int\0main\0step\0";
    const INT: u32 = 1 << 24;
    const FUNC: u32 = 12 << 24;
    const FUNC_PROTO: u32 = 13 << 24;
    const GLOBAL: u32 = 1;
    #[rustfmt::skip]
    let types: [u32; 13] = [
        // 1: a signed integer of 4 bytes, 32 bits
        1, INT, 4, 1 << 24 | 32,
        // 2: a function without parameters that returns it
        0, FUNC_PROTO, 1,
        // 3, 4: two such functions
        5, FUNC | GLOBAL, 2,
        10, FUNC, 2,
    ];
    let types_len = size_of_val(&types) as u32;
    // Magic, version, flags; length of the header; offset and length of types, then of strings.
    let header = [0x0001_eb9f, 24, 0, types_len, types_len, STRINGS.len() as u32];
    let words = header.iter().chain(&types);
    let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend_from_slice(STRINGS);
    bytes
}

/// Pairs of instruction and type of [`loop_btf`]: which function begins where.
pub(super) const LOOP_FUNCTIONS: [[u32; 2]; 2] = [[0, 3], [STEP_AT, 4]];
