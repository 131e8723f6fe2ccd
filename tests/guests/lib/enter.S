/* SPDX-License-Identifier: MIT
 *
 * The two ways in. Both save all callee-saved registers: after an asynchronous exit the CPU leaves
 * nothing in R12-R15 (synthetic state), and the vDSO gives back only RBX and RBP.
 */
	.macro save
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	.endm
	.macro restore
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	.endm

	.text
/* int encl_vdso_enter(void *call, uint32_t leaf, struct sgx_enclave_run *run) */
	.globl	encl_vdso_enter
	.type	encl_vdso_enter, @function
encl_vdso_enter:
	save
	push	%rdx			/* seventh argument: run; the stack is aligned now */
	mov	%esi, %ecx		/* fourth: EENTER or ERESUME */
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	mov	encl_vdso@GOTPCREL(%rip), %rax
	call	*(%rax)
	add	$8, %rsp
	restore
	ret

/* int encl_raw_enter(void *call, uint64_t tcs, uint32_t leaf) */
	.globl	encl_raw_enter, encl_raw_enter_spoil
	.globl	encl_raw_enclu, encl_raw_aep, encl_raw_aep_spoil, encl_raw_failed
	.type	encl_raw_enter, @function
	.type	encl_raw_enter_spoil, @function
encl_raw_enter_spoil:
	lea	encl_raw_aep_spoil(%rip), %rcx
	jmp	1f
encl_raw_enter:
	lea	encl_raw_aep(%rip), %rcx
1:	save
	mov	%edx, %eax
	mov	%rsi, %rbx
encl_raw_enclu:
	.byte	0x0f, 0x01, 0xd7	/* EENTER or ERESUME; EEXIT comes out behind it */
	xor	%eax, %eax
2:	restore
	ret
encl_raw_aep:				/* RAX = 3, RBX = TCS, RCX = here */
	.byte	0x0f, 0x01, 0xd7
	ud2
encl_raw_failed:			/* handlers come here with the RSP of the entry */
	mov	$-1, %eax
	jmp	2b
/* int encl_raw_ecall(void *call, uint64_t tcs): EENTER as loaders write it. */
	.globl	encl_raw_ecall, encl_raw_ecall_enclu
	.type	encl_raw_ecall, @function
encl_raw_ecall:
	save
	mov	$0x7f, %al		/* flags that EENTER leaves alone: OF, SF, AF, CF */
	inc	%al
	stc
	mov	%rsi, %rbx
	lea	encl_raw_aep(%rip), %rcx
	mov	$2, %rax
encl_raw_ecall_enclu:
	.byte	0x0f, 0x01, 0xd7
	xor	%eax, %eax
	restore
	ret
/* The same with prefixes that change nothing; what it enters for ends in one call. */
	.globl	encl_raw_enter_prefixed, encl_raw_prefixed
	.type	encl_raw_enter_prefixed, @function
encl_raw_enter_prefixed:
	lea	1f(%rip), %rcx
	save
	mov	%edx, %eax
	mov	%rsi, %rbx
encl_raw_prefixed:
	.byte	0x2e, 0x64, 0x67, 0x48, 0x0f, 0x01, 0xd7
	xor	%eax, %eax
	restore
	ret
1:	.byte	0x65, 0x4f, 0x0f, 0x01, 0xd7
	ud2
encl_raw_aep_spoil:
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	pcmpeqd	%xmm\n, %xmm\n
	.endr
	fninit
	fld1
	fldpi
	xor	%edx, %edx
	not	%rdx
	mov	%rdx, %rsi
	mov	%rdx, %rdi
	mov	%rdx, %r8
	mov	%rdx, %r15
	fninit
	.byte	0x0f, 0x01, 0xd7
	ud2
	.section .note.GNU-stack, "", @progbits
