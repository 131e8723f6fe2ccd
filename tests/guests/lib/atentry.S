/* SPDX-License-Identifier: MIT
 *
 * What exec leaves: an interpreter (PT_INTERP) that prints the registers of its first instruction,
 * the flags, the signals that it blocks and what lies below its stack pointer, raw, and ends.
 */
	.globl	_start
	.text
_start:
	pushfq
	push	%rax
	push	%rbx
	push	%rcx
	push	%rdx
	push	%rsi
	push	%rdi
	push	%rbp
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	sub	$8, %rsp
	mov	$14, %eax		/* rt_sigprocmask */
	xor	%edi, %edi
	xor	%esi, %esi
	mov	%rsp, %rdx
	mov	$8, %r10d
	syscall
	mov	$1, %eax		/* write */
	mov	$1, %edi
	lea	-1024(%rsp), %rsi
	mov	$(1024 + 17 * 8), %edx
	syscall
	mov	$231, %eax		/* exit_group */
	xor	%edi, %edi
	syscall
	.section .note.GNU-stack, "", @progbits
