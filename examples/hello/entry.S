/* SPDX-License-Identifier: MIT
 *
 * The TCS and the enclave's first and last instructions.
 */
	.section .tcs, "aw"
	.quad	0, 0			/* STATE, FLAGS: the CPU's */
	.quad	0x1000			/* OSSA: SSA_OFF */
	.long	0, 1			/* CSSA (the CPU's), NSSA: one frame */
	.quad	enclave_entry		/* OENTRY */
	.quad	0			/* AEP: the CPU's */
	.quad	0, 0			/* OFSBASE, OGSBASE: this enclave uses neither */
	.long	0xffffffff, 0xffffffff	/* FSLIMIT, GSLIMIT: of 32-bit enclaves */
	.section .ssa, "aw"
	.fill	4096
	.section .stack, "aw"
	.fill	8192

	.text
	.globl	enclave_entry
enclave_entry:				/* RBX = TCS, RCX = where to return, RDI = struct hello */
	lea	0x4000(%rbx), %rax	/* the end of the stack: CODE_OFF after the TCS */
	xchg	%rax, %rsp
	push	%rax
	push	%rcx
	cld
	call	enclave_main
	xor	%edx, %edx		/* leave nothing of the enclave in a register */
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	pop	%rbx			/* EEXIT goes to RBX */
	xor	%ecx, %ecx
	pop	%rsp
	mov	$4, %eax		/* EEXIT */
	.byte	0x0f, 0x01, 0xd7	/* ENCLU */
	ud2
	.section .note.GNU-stack, "", @progbits
