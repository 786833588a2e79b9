# A 32-bit program that works for ever.
        .text
        .globl _start
_start: call work
work:   inc %eax
        jmp work
        .section .note.GNU-stack,"",@progbits
