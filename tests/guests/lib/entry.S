/* SPDX-License-Identifier: MIT
 *
 * The trusted side's first and last instructions.
 *
 * EENTER leaves RAX = CSSA, RBX = TCS, RCX = the address after the ENCLU outside, RSP and RBP as
 * they were outside, FS and GS as the TCS says. We must find a stack without any memory of ours.
 */
#include "ops.h"

	/* The loader reads this header at offset 0 (struct image_head). */
	.section .head, "ax"
	.quad	0x3147584753544553
	.quad	enclave_entry
	.quad	data_start
	.quad	data_end

	.text
	.globl	enclave_entry, enclave_leave
enclave_entry:
	cld
	mov	%rax, %rsi		/* second argument: CSSA */
	imul	$STACK_STEP, %rax, %rax
	neg	%rax
	add	%rbx, %rax		/* the stack ends where the TCS begins */
	xchg	%rax, %rsp
	push	%rax			/* RSP outside */
	push	%rcx			/* where to leave to */
	push	%rbp
	push	%rbx
	mov	%rbx, %rdx		/* third argument: the TCS; the fourth is RCX */
	call	enclave_main
enclave_leave:				/* RSP is ENTRY_FRAME below the top of the stack */
	pop	%rbx
	pop	%rbp
	pop	%rbx
	pop	%rsp
	/* Nothing of ours may leave in a register. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	mov	$4, %eax		/* EEXIT */
	.byte	0x0f, 0x01, 0xd7
	ud2				/* EEXIT does not return */

/* void enclave_leave_cleared(void *frame): as Intel's SDK leaves for an OCALL, the leaf first */
	.globl	enclave_leave_cleared
enclave_leave_cleared:
	mov	%rdi, %rsp
	pop	%rbx
	pop	%rbp
	pop	%rbx
	pop	%rsp
	mov	$4, %rax
	xor	%rcx, %rcx
	xor	%rdx, %rdx
	xor	%rsi, %rsi
	xor	%rdi, %rdi
	xor	%r8, %r8
	xor	%r9, %r9
	xor	%r10, %r10
	xor	%r11, %r11
	xor	%r12, %r12
	xor	%r13, %r13
	xor	%r14, %r14
	xor	%r15, %r15
	add	%rdx, %rdx
	cld
	.byte	0x0f, 0x01, 0xd7
	ud2

/*
 * void second_phase(uint64_t *frame, const void *xsave, void (*then)(void), uint8_t *aexnotify)
 *
 * From the handler of a notification to the frame of the interrupted code, as Intel's SDK does it:
 * the vector state from the SSA while that is still whole, the interrupted stack, EDECCSSA; then
 * notifications on again, `then`, and all registers from `frame`, which lies on that stack.
 */
	.globl	second_phase
second_phase:
	mov	%rdx, %r12
	mov	%rcx, %r13
	mov	$3, %eax		/* the XFRM of an enclave without options: x87 and SSE */
	xor	%edx, %edx
	xrstor	(%rsi)
	mov	%rdi, %rsp
	mov	$9, %eax		/* EDECCSSA */
	.byte	0x0f, 0x01, 0xd7
	movb	$1, (%r13)
	mov	%rsp, %rbp
	and	$-16, %rsp
	cld
	call	*%r12
	mov	%rbp, %rsp
	pop	%rax			/* in the order of GPRSGX, without RSP */
	pop	%rcx
	pop	%rdx
	pop	%rbx
	pop	%rbp
	pop	%rsi
	pop	%rdi
	pop	%r8
	pop	%r9
	pop	%r10
	pop	%r11
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	popfq
	ret	$RED_ZONE

/* uint64_t enclu(uint64_t leaf, const void *rbx, void *rcx, const void *rdx) */
	.globl	enclu
enclu:
	push	%rbx
	mov	%rdi, %rax
	mov	%rsi, %rbx
	xchg	%rdx, %rcx
	.byte	0x0f, 0x01, 0xd7
	pop	%rbx
	ret

/*
 * uint64_t fault(enum fault kind, uint64_t address): each faulty instruction begins 16 bytes after
 * the one before, and the handler is told how long it is. RAX is what a skipped one "returned".
 */
	.globl	fault
fault:
	lea	1f(%rip), %rdx
	shl	$4, %rdi
	add	%rdi, %rdx
	mov	%rsi, %rcx
	mov	$0x1234, %eax
	push	%rbx
	push	%rcx
	xor	%ebx, %ebx
	call	*%rdx
	pop	%rcx
	pop	%rbx
	ret
	.balign	16
1:	ud2				/* 2 bytes */
	ret
	.balign	16
	div	%ebx			/* 2 */
	ret
	.balign	16
	mov	(%rcx), %rax		/* 3 */
	ret
	.balign	16
	mov	%rax, (%rcx)		/* 3 */
	ret
	.balign	16
	jmp	*%rcx			/* 2, but RIP is the target when it faults */
	.balign	16
	int3				/* 1 */
	ret
	.balign	16
	hlt				/* 1 */
	ret
	.balign	16
	cpuid				/* 2: #UD inside an enclave */
	ret
	.balign	16
	syscall				/* 2: #UD inside an enclave */
	ret
	.balign	16
	in	$0x80, %al		/* 2 */
	ret
	.balign	16
	jmp	3f			/* 1: #MF at the FWAIT */
	.balign	16
	jmp	4f			/* 4: #XM at the DIVSS */
3:	fninit
	movl	$0x37b, -8(%rsp)	/* by zero is no masked exception */
	fldcw	-8(%rsp)
	movl	$0, -4(%rsp)
	fld1
	fidivs	-4(%rsp)
	fwait
	fnclex
	fninit
	ret
4:	movl	$0x1d80, -8(%rsp)	/* the same */
	ldmxcsr	-8(%rsp)
	mov	$0x3f800000, %edx
	movd	%edx, %xmm0
	pxor	%xmm1, %xmm1
	divss	%xmm1, %xmm0
	movl	$0x1f80, -8(%rsp)
	ldmxcsr	-8(%rsp)
	ret

/*
 * vectors(struct vectors *v, int avx, volatile uint64_t *stop): the registers hold the pattern for
 * as long as the loop runs; whatever happens meanwhile has to keep them.
 */
	.globl	vectors
vectors:
	sub	$24, %rsp
	stmxcsr	(%rsp)
	fnstcw	8(%rsp)
	ldmxcsr	544(%rdi)
	fninit
	fldcw	548(%rdi)
	fldl	512(%rdi)
	fldl	520(%rdi)
	fldl	528(%rdi)
	fldl	536(%rdi)
	test	%esi, %esi
	jnz	2f
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movups	32*\n(%rdi), %xmm\n
	.endr
	jmp	3f
2:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovups	32*\n(%rdi), %ymm\n
	.endr
3:	pause
	cmpq	$0, (%rdx)
	je	3b
	test	%esi, %esi
	jnz	4f
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	movups	%xmm\n, 32*\n(%rdi)
	xorps	%xmm\n, %xmm\n
	.endr
	jmp	5f
4:	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovups	%ymm\n, 32*\n(%rdi)
	.endr
	vzeroall
5:	fstpl	536(%rdi)
	fstpl	528(%rdi)
	fstpl	520(%rdi)
	fstpl	512(%rdi)
	stmxcsr	544(%rdi)
	fnstcw	548(%rdi)
	ldmxcsr	(%rsp)
	fninit
	fldcw	8(%rsp)
	add	$24, %rsp
	ret

	.section .note.GNU-stack, "", @progbits
