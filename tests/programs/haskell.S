# A frame as the run-time library of Haskell makes it, and code that runs in it as GHC makes it: without
# unwind information, with rbp for a stack of its own.
        .text
        .globl run
        .type run, @function
run:
        .cfi_startproc
        sub $48, %rsp
        mov %rsp, %rax
        sub $16384, %rsp
        mov %rbx, (%rax)
        mov %rbp, 8(%rax)
        mov %r12, 16(%rax)
        mov %r13, 24(%rax)
        mov %r14, 32(%rax)
        mov %r15, 40(%rax)
        .cfi_def_cfa %rsp, 0
        .cfi_offset %rbx, 16384
        .cfi_offset %rbp, 16392
        .cfi_offset %r12, 16400
        .cfi_offset %r13, 16408
        .cfi_offset %r14, 16416
        .cfi_offset %r15, 16424
        .cfi_offset %rip, 16432
        # DW_CFA_val_expression: rsp is rsp + 16440
        .cfi_escape 0x16, 7, 4, 0x77, 0xb8, 0x80, 0x01
        mov %rsi, %rbp
        lea 1f(%rip), %rax
        mov %rax, (%rbp)
        jmp code_info
1:      mov %rbx, %rax
        add $16384, %rsp
        mov (%rsp), %rbx
        mov 8(%rsp), %rbp
        mov 16(%rsp), %r12
        mov 24(%rsp), %r13
        mov 32(%rsp), %r14
        mov 40(%rsp), %r15
        add $48, %rsp
        ret
        .cfi_endproc
        .size run, .-run

        .p2align 4
        # What describes the code lies before it.
        .quad 4294967301, 14
        .globl code_info
        .type code_info, @function
code_info:
        add $-16, %rbp
        mov %rdi, 8(%rbp)
        mov %rdi, %rax
1:      imul $31, %rax, %rax
        dec %rax
        dec %rdi
        jnz 1b
        mov 8(%rbp), %rdi
        sub $8, %rsp
        call burn
        add $8, %rsp
        mov %rax, %rbx
        add $16, %rbp
        jmp *(%rbp)
        .size code_info, .-code_info
        .section .note.GNU-stack,"",@progbits
