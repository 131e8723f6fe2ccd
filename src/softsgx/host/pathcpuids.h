/* SPDX-License-Identifier: MIT
 *
 * Part of pathmaps.h: the CPUIDs of a file that has been mapped. Each becomes UD2, as whatever exec
 * maps has them (programs/patches.py), and the instruction that loads its leaf, where one can be led,
 * a jump to a stub that is made here, as cpuidcode.py makes them: it answers without a stop. What the
 * stub does in place of that instruction is copied from the library. Or the CPUID itself becomes a
 * short jump, to a hole that has room for another.
 */
#define CPUIDS		120
#define CPUID_BYTES	8
#define CPUID_BACK	4	/* of a CPUID: where in the mapping it is, how long what is led before it is, .. */
#define CPUID_FIX	5	/* .. where in that a number is that lacks a distance, or 0, .. */
#define CPUID_FIRST	6	/* .. and how it begins */
#define CPUID_HOLE	255	/* in place of that length: it is led to a hole, that far behind a jump to it */
#define CPUID		0xa20f
#define SHORT_JUMP	0xeb
#define INT3		0xcc
#define TRAP		0xcccc0b0f	/* UD2, and nothing */
#define UD2_SECOND	0x0b
#define STUB_BYTES	64	/* of a stub: as cpuidcode.py has them */
#define STUB_START	29
#define STUB_TRAPS	24

	.macro	cpuid_data
softsgx_paths_lookup:			/* how far from here what answers CPUID is (vdso.S), or 0 */
	.quad	0
softsgx_paths_answer:			/* what a stub for a CPUID begins with, at address 0 of a CPUID at 0 */
	mov	8(%rcx), %eax
	mov	12(%rcx), %ebx
	mov	20(%rcx), %edx
	mov	16(%rcx), %ecx
	.byte	0xe9			/* behind the CPUID */
	.long	2 - 17
	cpuid
	.byte	0xe9
	.long	2 - 24
	.byte	0xe9			/* to it */
	.long	-STUB_START
	.balign	8
softsgx_paths_cpuids:
	.fill	CPUIDS * CPUID_BYTES / 8, 8, 0
	.endm

	/* R8: the mapping, R10: its plan, RDI: our memory, R11: the former from there; RAX, RCX, RDX and RSI are lost. */
	.macro	cpuids	done
	mov	PLAN_N_CPUIDS(%r10), %ecx
	test	%ecx, %ecx
	jz	\done
	mov	PLAN_CPUIDS(%r10), %esi
	add	%rdi, %rsi
	lea	REACH(%r11), %rax
	xor	%r11d, %r11d		/* the stub, 0 for none */
	shr	$REACH_BITS, %rax
	jnz	.Lcpuid
	cmpl	$0, softsgx_paths_lookup(%rip)
	je	.Lcpuid
	mov	PLAN_STUBS(%r10), %r11d
	add	%rdi, %r11
.Lcpuid:
	mov	(%rsi), %eax
	add	%r8, %rax
	movzbl	CPUID_BACK(%rsi), %edx
	cmpw	$CPUID, (%rax)
	jne	.Lstubbed
	movb	$UD2_SECOND, 1(%rax)
	test	%edx, %edx
	jz	.Lstubbed
	test	%r11, %r11
	jz	.Lstubbed
	mov	%rax, %rdi
	cmp	$CPUID_HOLE, %edx
	je	1f
	sub	%rdx, %rdi		/* what is led */
	jmp	2f
1:	movsbq	CPUID_FIX(%rsi), %rdx
	lea	2(%rdi, %rdx), %rdi	/* the hole */
2:	movzwl	CPUID_FIRST(%rsi), %edx
	cmp	%dx, (%rdi)
	jne	.Lunstubbed
	.set	at, 0
	.rept	4
	mov	softsgx_paths_answer + at(%rip), %rdx
	mov	%rdx, at(%r11)
	.set	at, at + 8
	.endr
	cmpb	$CPUID_HOLE, CPUID_BACK(%rsi)
	jne	1f
	movb	$SHORT_JUMP, (%rax)
	mov	CPUID_FIX(%rsi), %dl
	mov	%dl, 1(%rax)
1:	sub	%r11d, %eax
	add	%eax, 13(%r11)
	add	%eax, 20(%r11)
	add	%eax, 25(%r11)
	movzbl	CPUID_BACK(%rsi), %edx
	cmp	$CPUID_HOLE, %edx
	jne	1f
	movl	$TRAP, STUB_TRAPS(%r11)
	movb	$INT3, STUB_TRAPS + 4(%r11)
	xor	%edx, %edx
	jmp	3f
1:	mov	-1(%rdi, %rdx), %al
	mov	%al, STUB_START - 1(%r11, %rdx)
	dec	%edx
	jnz	1b
	movzbl	CPUID_FIX(%rsi), %edx
	test	%edx, %edx
	jz	2f
	lea	-STUB_START(%rdi), %eax
	sub	%r11d, %eax
	add	%eax, STUB_START(%r11, %rdx)
2:	movzbl	CPUID_BACK(%rsi), %edx
3:	lea	STUB_START(%r11, %rdx), %rdx
	movl	$0x1d8d48, (%rdx)	/* lea stub(%rip), %rbx */
	lea	-7(%r11), %eax
	sub	%edx, %eax
	mov	%eax, 3(%rdx)
	movb	$0xe9, 7(%rdx)		/* jmp lookup */
	lea	softsgx_paths - 12(%rip), %rax
	add	softsgx_paths_lookup(%rip), %eax
	sub	%edx, %eax
	mov	%eax, 8(%rdx)
	movb	$0xe9, (%rdi)
	lea	STUB_START - 5(%r11), %eax
	sub	%edi, %eax
	mov	%eax, 1(%rdi)
.Lunstubbed:
	movzbl	CPUID_BACK(%rsi), %edx
.Lstubbed:
	test	%edx, %edx
	jz	3f
	test	%r11, %r11
	jz	3f
	add	$STUB_BYTES, %r11
3:	add	$CPUID_BYTES, %rsi
	dec	%ecx
	jnz	.Lcpuid
	lea	softsgx_paths(%rip), %rdi
	mov	%r8, %r11
	sub	%rdi, %r11
	.endm
