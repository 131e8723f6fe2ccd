    # CPUID and its look-alikes. Labels that begin with "site" are where CPUID's two bytes are,
    # "no" marks look-alikes, and "maybe" is CPUID right behind a table, which may be given up
    # as ambiguous.
    .text
    .globl _start, immediates, prefixes, behind_return, switch_arm, second_byte, hidden
    .type _start, @function
_start:
    .cfi_startproc
    xor %eax, %eax
site_start:
    cpuid
    mov $60, %eax
    syscall
    .cfi_endproc
    .size _start, . - _start

    .type immediates, @function
immediates:
    .cfi_startproc
    mov $0xa20f, %eax
    movabs $0x11a20f2233445566, %rax
    mov 0xa20f(%rax), %ecx
    lea -0x7f5df1f1(%rcx), %edx
    cmpl $0x0fa20fa2, 0x0fa20fa2(%rax)
    enter $0xa20f, $0
    leave
    jz 1f
    mov $7, %eax
site_after_immediates:
    cpuid
1:  ret
    .cfi_endproc
    .size immediates, . - immediates

    .type prefixes, @function
prefixes:
    .cfi_startproc
    mov $0x12, %eax
    .byte 0x66
site_data16: cpuid
    .byte 0xf3
site_rep: cpuid
    .byte 0x48
site_rex: cpuid
    .byte 0x66, 0x66, 0x2e, 0x4f
site_many: cpuid
site_twice: cpuid
site_thrice: cpuid
    ret
    .cfi_endproc
    .size prefixes, . - prefixes

    .type behind_return, @function
behind_return:
    .cfi_startproc
    mov (%rdi), %eax
    ret
no_table: .long 0xa20f, 0x0fa2, 0xa20f0000, 1
    .byte 0x0f, 0xa2
    .cfi_endproc
    .size behind_return, . - behind_return

    .type switch_arm, @function
switch_arm:
    .cfi_startproc
    lea 1f(%rip), %rax
    movslq (%rax,%rdi,4), %rdi
    add %rdi, %rax
    jmp *%rax
    .p2align 2
1:  .long 2f - 1b, 3f - 1b, 0xa20f
3:  xor %eax, %eax
maybe_arm: cpuid
    ret
2:  xor %ecx, %ecx
    mov $1, %eax
site_arm: cpuid
    mov %ebx, (%rsi)
    ret
    .cfi_endproc
    .size switch_arm, . - switch_arm

    # a jump to the second byte, which runs other instructions
    .type second_byte, @function
second_byte:
    .cfi_startproc
    jz . + 6
    xor %eax, %eax
    nop
no_ambiguous: cpuid
    .byte 0, 0, 0, 0, 0, 0, 0, 0
    ret
    .cfi_endproc
    .size second_byte, . - second_byte

    .type hidden, @function
hidden:
    .cfi_startproc
    jmp 1f
    .byte 0xe8
1:
no_inside_call: cpuid
    ret
    .cfi_endproc
    .size hidden, . - hidden

    .type no_data, @object
no_data: .long 0xa20f, 0xa20f, 0x900fa2c3, 0xa20f
    .size no_data, . - no_data

    # no FDE from here on: hand-written functions with a symbol, and one without
    .p2align 4
    .globl without_fde
    .type without_fde, @function
without_fde:
    push %rbx
    mov $4, %eax
site_without_fde: cpuid
    pop %rbx
    ret
    .size without_fde, . - without_fde
    .p2align 4
    push %rbx
    mov $0x80000000, %eax
site_nameless: cpuid
    pop %rbx
    ret
    .p2align 4
    .fill 512, 1, 0x90

    .section .rodata
no_rodata: .long 0xa20f
    .byte 0x31, 0xc0, 0x0f, 0xa2, 0xc3
    .section .note.GNU-stack, "", @progbits
