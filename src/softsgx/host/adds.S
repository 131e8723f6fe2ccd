/* SPDX-License-Identifier: MIT
 *
 * ADD_PAGES without a stop: is it the call that the tracer has said will be answered 0?
 *
 * The tracer copies softsgx_adds .. softsgx_adds_end into a page of the process, followed by one that
 * says where what they share is (adds.h), and replaces the `mov $NR, %eax` before a system call
 * instruction by a jump here. What is all the same as was foreseen is copied there and counted, and
 * the call is over, with no call at all. Whatever differs goes on to the program's instruction, which stops as
 * ever. No rule is written here.
 *
 * The count is the last thing that is done, by one locked instruction: the tracer closes what they
 * share by another, and takes what was counted then. One thread alone may be here when it is open.
 *
 * RAX, RCX and R11 are free: the call overwrites them. The others are kept in what is shared, where
 * the tracer finds them if a signal comes: from before the count it rolls back to the
 * instruction, from behind it forward (host/adds.py); and a fault of the loads and stores below goes
 * back, too, so that the kernel says EFAULT.
 */
#include "adds.h"

	.macro	give_back
	mov	ADDS_KEPT(%rcx), %rdi
	mov	ADDS_KEPT + 8(%rcx), %rsi
	mov	ADDS_KEPT + 16(%rcx), %r8
	mov	ADDS_KEPT + 24(%rcx), %r9
	mov	ADDS_KEPT + 32(%rcx), %r10
	mov	ADDS_KEPT + 48(%rcx), %rax
	.endm

	.text
	.balign	64
softsgx_adds:
	lahf
	seto	%al
softsgx_adds_flagged:
	cmp	softsgx_adds_cmd(%rip), %esi
	jne	slow
	mov	softsgx_adds + 4096(%rip), %rcx
	test	%rcx, %rcx
	jz	slow
	cmpl	$0, ADDS_STATE + 4(%rcx)
	je	slow
	mov	%rdi, ADDS_KEPT(%rcx)
	mov	%rsi, ADDS_KEPT + 8(%rcx)
	mov	%r8, ADDS_KEPT + 16(%rcx)
	mov	%r9, ADDS_KEPT + 24(%rcx)
	mov	%r10, ADDS_KEPT + 32(%rcx)
	mov	%rsp, ADDS_KEPT + 40(%rcx)
	mov	%rax, ADDS_KEPT + 48(%rcx)
softsgx_adds_kept:
	mov	ADDS_STATE(%rcx), %rax
	mov	%rax, %r11
	shr	$32, %r11
	mov	%eax, %r8d
	cmp	%r11d, %r8d
	jae	undo
	cmp	%edi, ADDS_FD(%rcx)
	jne	undo
	/* struct sgx_enclave_add_pages: src, offset, length, secinfo, flags, count */
	test	$7, %dl			/* none is in two pages, or two lines of the cache */
	jnz	undo
	mov	(%rdx), %rsi
	test	$0xfff, %esi
	jnz	undo
	mov	%rsi, %r9
	sub	ADDS_SOURCE(%rcx), %r9
	cmp	ADDS_LAST(%rcx), %r9
	ja	undo
	shl	$12, %r8
	mov	%r8, %r9
	add	ADDS_OFFSET(%rcx), %r9
	cmp	%r9, 8(%rdx)
	jne	undo
	mov	ADDS_LENGTH(%rcx), %r9
	cmp	%r9, 16(%rdx)
	jne	undo
	mov	ADDS_FLAGS(%rcx), %r9
	cmp	%r9, 32(%rdx)
	jne	undo
	mov	24(%rdx), %rdi
	.set	at, 0
	.rept	8
	mov	at(%rdi), %r9
	cmp	%r9, ADDS_SECINFO + at(%rcx)
	jne	undo
	.set	at, at + 8
	.endr
	lea	ADDS_PAGES(%rcx, %r8), %rdi
	mov	ADDS_LENGTH(%rcx), %r8
	add	%rsi, %r8
copy:
	.set	at, 0
	.rept	4
	mov	at(%rsi), %r9
	mov	at + 8(%rsi), %r10
	mov	%r9, at(%rdi)
	mov	%r10, at + 8(%rdi)
	.set	at, at + 16
	.endr
	add	$64, %rsi
	add	$64, %rdi
	cmp	%r8, %rsi
	jne	copy
	lock addq $0, (%rdx)		/* can it be told? The kernel writes all of it */
	lock addq $0, 40(%rdx)
	mov	ADDS_LENGTH(%rcx), %r8
	shr	$12, %r8
	add	%rax, %r8
	lock cmpxchg %r8, ADDS_STATE(%rcx)
softsgx_adds_counted:
	jne	undo
	mov	ADDS_LENGTH(%rcx), %r8
	mov	%r8, 40(%rdx)
	give_back
	add	$127, %al		/* overflows if it was 1 */
	sahf
	lea	ADDS_STACK(%rcx), %rsp	/* SYSCALL leaves the flags in R11 */
	pushfq
	pop	%r11
	mov	ADDS_KEPT + 40(%rcx), %rsp
	mov	softsgx_adds_behind(%rip), %rcx
	mov	$0, %eax
	jmp	*softsgx_adds_behind(%rip)
softsgx_adds_over:
undo:
	give_back
softsgx_adds_undone:
slow:
	add	$127, %al
	sahf
softsgx_adds_restored:
	mov	softsgx_adds_nr(%rip), %eax
	jmp	*softsgx_adds_at(%rip)

	.balign	8
softsgx_adds_at:			/* the system call instruction, .. */
	.quad	0
softsgx_adds_behind:			/* .. and where it ends */
	.quad	0
softsgx_adds_cmd:
	.long	0
softsgx_adds_nr:
	.long	0
softsgx_adds_end:

softsgx_adds_layout:			/* of what is shared, for host/adds.py */
	.long	ADDS_STATE, ADDS_FD, ADDS_OFFSET, ADDS_FLAGS, ADDS_SOURCE, ADDS_LAST, ADDS_LENGTH, ADDS_SECINFO
	.long	ADDS_KEPT, ADDS_PAGES, ADDS_MOST
softsgx_adds_told:
