# Hand-written functions: with call-frame information, without it but with a frame pointer, and without
# both.
        .text
        .globl with_cfi
        .type with_cfi, @function
with_cfi:
        .cfi_startproc
        push %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        sub $4096, %rsp
        .cfi_adjust_cfa_offset 4096
        call burn
        add $4096, %rsp
        .cfi_adjust_cfa_offset -4096
        pop %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_endproc
        .size with_cfi, .-with_cfi

# Pushes in a loop, without a frame pointer; the CFA is kept in another register.
        .globl pushes_in_loop
        .type pushes_in_loop, @function
pushes_in_loop:
        .cfi_startproc
        push %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbx, 0
        push %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset %rbp, 0
        mov %rsp, %rbp
        .cfi_def_cfa %rbp, 24
        mov $20, %ecx
1:      push %rcx
        dec %ecx
        jnz 1b
        call burn
        mov %rbp, %rsp
        .cfi_def_cfa %rsp, 24
        pop %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbp
        pop %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore %rbx
        ret
        .cfi_endproc
        .size pushes_in_loop, .-pushes_in_loop

        .globl without_cfi
        .type without_cfi, @function
without_cfi:
        push %rbp
        mov %rsp, %rbp
        sub $256, %rsp
        call burn
        leave
        ret
        .size without_cfi, .-without_cfi

# rbp is a number like any other here.
        .globl without_both
        .type without_both, @function
without_both:
        push %rbx
        push %rbp
        sub $40, %rsp
        mov $1, %ebp
        lea 1f(%rip), %rbx
        jmp *%rbx
1:      call burn
        add $40, %rsp
        pop %rbp
        pop %rbx
        ret
        .size without_both, .-without_both

# As vector code has it: the stack is aligned, and the stack pointer kept in memory.
        .globl aligned
        .type aligned, @function
aligned:
        mov %rsp, %rax
        sub $128, %rsp
        and $-64, %rsp
        mov %rax, 96(%rsp)
        push %rbp
        push %rbp
        xor %ebp, %ebp
        call burn
        pop %rbp
        pop %rbp
        mov 96(%rsp), %rsp
        ret
        .size aligned, .-aligned

# The stack is aligned, and the stack pointer kept in a register that the called function leaves alone.
        .globl kept_in_register
        .type kept_in_register, @function
kept_in_register:
        mov %rsp, %rcx
        and $-32, %rsp
        sub $96, %rsp
        call leaf
        add %rdi, %rax
        mov %rcx, %rsp
        ret
        .size kept_in_register, .-kept_in_register

        .p2align 4
        .type leaf, @function
leaf:
        mov %rdi, %rax
1:      imul $31, %rax, %rax
        dec %rdi
        jnz 1b
        ret
        .size leaf, .-leaf

# The stack pointer is kept behind an array that has as many words as r9 says.
        .globl behind_array
        .type behind_array, @function
behind_array:
        .cfi_startproc
        mov %rsp, %rax
        .cfi_def_cfa_register %rax
        mov $24, %r9d
        neg %r9
        lea -16(%rsp,%r9,8), %r10
        neg %r9
        mov %r10, %rsp
        and $-1024, %rsp
        mov %rax, 8(%rsp,%r9,8)
        # DW_CFA_def_cfa_expression: *(rsp + 8 + r9 * 8) + 8
        .cfi_escape 0x0f, 10, 0x77, 8, 0x79, 0, 0x38, 0x1e, 0x22, 0x06, 0x23, 8
        mov %rdi, %rax
1:      imul $31, %rax, %rax
        dec %rdi
        jnz 1b
        mov 8(%rsp,%r9,8), %rsi
        .cfi_def_cfa %rsi, 8
        mov %rsi, %rsp
        .cfi_def_cfa_register %rsp
        ret
        .cfi_endproc
        .size behind_array, .-behind_array
        .section .note.GNU-stack,"",@progbits
