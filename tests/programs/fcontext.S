# Stacks switched by hand, without call-frame information, in the way of boost's fcontext.
        .text
# Keeps this stack at %rdi and goes on with the one in %rsi.
        .globl switch_to
        .type switch_to, @function
switch_to:
        push %rbp
        push %rbx
        push %r12
        push %r13
        push %r14
        push %r15
        mov %rsp, (%rdi)
        mov %rsi, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbx
        pop %rbp
        ret
        .size switch_to, .-switch_to

# A stack that ends at %rdi and begins with the function in %rsi.
        .globl make_stack
        .type make_stack, @function
make_stack:
        and $-16, %rdi
        lea begins(%rip), %rax
        mov %rax, -8(%rdi)
        lea finishes(%rip), %rax
        mov %rax, -16(%rdi)
        mov %rsi, -24(%rdi)
        lea -56(%rdi), %rax
        ret
begins:
        push %rbp
        jmp *%rbx
finishes:
        xor %rdi, %rdi
        call _exit@PLT
        hlt
        .size make_stack, .-make_stack

        .section .note.GNU-stack, "", @progbits
