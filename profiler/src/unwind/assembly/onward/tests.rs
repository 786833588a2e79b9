//! Code as compilers make it at run time, and its ways out.

use super::*;

/// The ways out from an offset of this code.
fn ways(code: &[u8], from: u64) -> Vec<Rule> {
    let mut page = Box::new([0xcc; PAGE]);
    page[..code.len()].copy_from_slice(code);
    ways_out(0x10_0000 + from, &mut 1000, &mut |at| (at == 0x10_0000).then(|| page.clone()))
}

fn by_sp(cfa_offset: i32) -> Rule {
    Rule { cfa: cfa::SP, cfa_offset, ra: saved::AT_CFA, ra_offset: -8, ..Rule::NONE }
}

#[test]
fn frames_are_known_from_their_ends() {
    // As HotSpot's second compiler has it.
    let code = [
        0x55, // push %rbp
        0x48, 0x83, 0xec, 0x20, // sub $32, %rsp
        0x85, 0xc0, // test %eax, %eax
        0x74, 0x0b, // je to the call
        0x48, 0x83, 0xc4, 0x20, // add $32, %rsp
        0x5d, // pop %rbp
        0x49, 0x3b, 0xa7, 0x50, 4, 0, 0,    // cmp 0x450(%r15), %rsp
        0xc3, // ret
        0xe8, 0, 0, 0x10, 0, // call
        0xeb, 0xec, // jmp to the add
    ];
    let saved = |cfa_offset| Rule { fp: saved::AT_CFA, fp_offset: -16, ..by_sp(cfa_offset) };
    assert_eq!(code.len(), 29);
    // The call ends in the middle of nothing: its jump goes back.
    for (from, expected) in [
        (0, by_sp(8)),
        (1, saved(16)),
        (5, saved(48)),
        (13, saved(16)),
        (14, by_sp(8)),
        (21, by_sp(8)),
        (27, saved(48)),
    ] {
        assert_eq!(ways(&code, from).first(), Some(&expected), "from {from}");
    }
}

#[test]
fn what_is_put_aside_on_the_way_is_still_there() {
    // sub $24, %rsp; mov %rbp, 16(%rsp); xor %ebp, %ebp; mov 16(%rsp), %rbp; add $24, %rsp; ret
    let code = [
        0x48, 0x83, 0xec, 24, 0x48, 0x89, 0x6c, 0x24, 16, 0x31, 0xed, 0x48, 0x8b, 0x6c, 0x24, 16,
        0x48, 0x83, 0xc4, 24, 0xc3,
    ];
    assert_eq!(ways(&code, 0), [by_sp(8)]);
    let stored = Rule { fp: saved::AT_CFA, fp_offset: -16, ..by_sp(32) };
    assert_eq!(ways(&code, 9), [stored]);
    // push %rbp; pop %rbp; push %rax; pop %rbp; ret
    let lost = Rule { fp: saved::UNDEFINED, ..by_sp(8) };
    assert_eq!(ways(&[0x55, 0x5d, 0x50, 0x5d, 0xc3], 0), [lost]);
    // What was saved below the stack pointer is not there: push %rax; pop %rbp; ret.
    assert_eq!(ways(&[0x50, 0x5d, 0xc3], 0), [Rule { fp: saved::UNDEFINED, ..by_sp(8) }]);
}

#[test]
fn frame_pointers_lead_out() {
    // mov %rbp, %rsp; pop %rbp; ret 16
    let expected = Rule {
        cfa: cfa::BP,
        cfa_offset: 32,
        fp: saved::AT_CFA,
        fp_offset: -32,
        ra: saved::AT_CFA,
        ra_offset: -24,
        ..Rule::NONE
    };
    assert_eq!(ways(&[0x48, 0x89, 0xec, 0x5d, 0xc2, 16, 0], 0), [expected]);
    let left = Rule { cfa_offset: 16, fp_offset: -16, ra_offset: -8, ..expected };
    assert_eq!(ways(&[0xc9, 0xc3], 0), [left]);
}

#[test]
fn code_that_does_not_return_has_no_way_out() {
    for code in [
        &[0x59, 0xff, 0xe0][..],         // pop %rcx; jmp *%rax
        &[0xeb, 0xfe],                   // jmp to itself
        &[0x48, 0x83, 0xe4, 0xf0, 0xc3], // and $-16, %rsp; ret
        &[0x48, 0x8b, 0x23, 0xc3],       // mov (%rbx), %rsp; ret
        &[0x0f, 0x0b],                   // ud2
        &[0x06],
        &[],
    ] {
        assert_eq!(ways(code, 0), [], "{code:x?}");
    }
    // je to the end; ret; jmp *%rax: where a table of jumps leads to is no way out.
    assert_eq!(ways(&[0x74, 0x01, 0xc3, 0xff, 0xe0], 0), [by_sp(8)]);
    // movabs $0x100010, %rbx; mov (%rdi), %rbx; pop %rcx; jmp *%rbx
    let replaced = [0x48, 0xbb, 0x10, 0, 0x10, 0, 0, 0, 0, 0, 0x48, 0x8b, 0x1f, 0x59, 0xff, 0xe3];
    assert_eq!(ways(&replaced, 0), []);
    // Delegates of Mono: mov %rdi, %rax; jmp *-32(%rax).
    assert_eq!(ways(&[0x48, 0x89, 0xf8, 0xff, 0x60, 0xe0], 0), [by_sp(8)]);
    // A jump to other code is one.
    assert_eq!(ways(&[0x58, 0xe9, 0, 0, 0, 0x10], 0), [by_sp(16)]);
    assert_eq!(ways_out(u64::MAX, &mut 1000, &mut |_| Some(Box::new([0x90; PAGE]))), []);
}

#[test]
fn numbers_in_registers_are_jumped_to() {
    // movabs $0x100040, %r11; lea -32(%r11), %r11; jmp *%r11
    let jumps =
        [0x49, 0xbb, 0x40, 0, 0x10, 0, 0, 0, 0, 0, 0x4d, 0x8d, 0x5b, 0xe0, 0x41, 0xff, 0xe3];
    let mut code = [0xcc; 0x22];
    code[..jumps.len()].copy_from_slice(&jumps);
    // pop %rcx; ret
    code[0x20..].copy_from_slice(&[0x59, 0xc3]);
    assert_eq!(ways(&code, 0), [by_sp(16)]);
}

#[test]
fn endless_code_is_followed_so_far() {
    let mut steps = 5000;
    let mut read = |_| Some(Box::new([0x90; PAGE]));
    assert_eq!(ways_out(0x10_0000, &mut steps, &mut read), []);
    assert_eq!(steps, 5000 - MAX_STEPS);
    steps = 10;
    assert_eq!(ways_out(0x10_0000, &mut steps, &mut read), []);
    assert_eq!(steps, 0);
}
