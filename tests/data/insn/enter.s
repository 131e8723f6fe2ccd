    # enter_form(regs, target): loads the registers, the stack pointer too, and jumps
    .text
    .globl enter_form
enter_form:
    mov %rsi, target(%rip)
    mov %rdi, %rax
    mov 8(%rax), %rbx
    mov 16(%rax), %rcx
    mov 24(%rax), %rdx
    mov 32(%rax), %rsi
    mov 40(%rax), %rdi
    mov 48(%rax), %rbp
    mov 56(%rax), %rsp
    mov 64(%rax), %r8
    mov 72(%rax), %r9
    mov 80(%rax), %r10
    mov (%rax), %rax
    jmp *target(%rip)
    .bss
target: .quad 0
    .section .note.GNU-stack, "", @progbits
