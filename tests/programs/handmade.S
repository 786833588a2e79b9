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
        .section .note.GNU-stack,"",@progbits
