/* SPDX-License-Identifier: MIT
 *
 * Part of paths.S: an mmap of a file's code, which comes there since the filter sees a descriptor and
 * not its file. One that is not executable concerns nobody but who holds the device, and a shared one
 * who may hold it: nobody before it is opened. That of a file in which no CPUID has to be replaced is made from the stub as a call on a path is. What the file is told by fstat says, below the red zone, where a signal could write at any
 * time. As no register is left that a call keeps, the arguments hold it all meanwhile: the protection
 * is known, so RDX has the length (bits 0-31), the flags (32-47) and the stub's offset (48-63), and
 * RDI and R8 change places.
 *
 * A file may have a plan: what is done to it as soon as it is mapped. Its CPUIDs are replaced and led to
 * what answers them (pathcpuids.h), or it is the C library, whose instructions are led, since the
 * program's first call on a path would have to stop for that. All signals are blocked meanwhile, and
 * what has to be known is the plan's: no register is.
 */
#define PROT_READ_EXEC	5
#define PROT_EXEC	4
#define MAP_SHARED	1		/* and MAP_SHARED_VALIDATE */
#define MAP_PRIVATE	2
#define MAP_FIXED	0x10
#define MAP_DENYWRITE	0x800
#define MAP_FIXED_NOREPLACE 0x100000
#define MAP_KINDS	0x2f		/* MAP_TYPE, MAP_ANONYMOUS */
#define NR_FSTAT	5
#define TF		0x100
#define RED_ZONE	128
#define STAT_BYTES	144
#define FILES		144
#define FILE_BYTES	48
#define FIXES		320
#define LEADS		40
#define LEAD_BYTES	16
#define LIBRARY		0x812		/* MAP_PRIVATE, MAP_FIXED, MAP_DENYWRITE */
#define NR_MMAP		9
#define NR_MPROTECT	10
#define NR_SIGPROCMASK	14
#define SIG_SETMASK	2
#define SET_BYTES	8
#define PROT_ALL	7
#define SIZE		0x8000
#define REACH		(1 << 30)
#define REACH_BITS	31
#define MASK		-(RED_ZONE + STAT_BYTES)(%rsp)	/* where fstat has written before */
#define KEPT		-(RED_ZONE + STAT_BYTES - 8)(%rsp)
#define WAY		-(RED_ZONE + STAT_BYTES - 16)(%rsp)
#define FD		-(RED_ZONE + STAT_BYTES - 24)(%rsp)
#define LENGTH		-(RED_ZONE + STAT_BYTES - 32)(%rsp)
#define OFFSET		-(RED_ZONE + STAT_BYTES - 40)(%rsp)
#define PLANS		15
#define PLAN_BYTES	40
#define PLAN_LENGTH	8		/* of a plan: where it is mapped, then what is mapped of it, .. */
#define PLAN_OFFSET	16		/* .. from where, .. */
#define PLAN_N_LEADS	24
#define PLAN_N_CPUIDS	28
#define PLAN_CPUIDS	32		/* .. and where in our memory its CPUIDs are told of, .. */
#define PLAN_STUBS	36		/* .. and have their stubs, one after the other */

#include "pathcpuids.h"

	.macro	plan	to		/* of R9; RAX is lost */
	mov	%r9, %\to
	shr	$16, %\to
	and	$0xffff, %\to
	lea	softsgx_paths(%rip), %rax
	add	%rax, %\to
	.endm

	.macro	protect_ours prot
	lea	softsgx_paths(%rip), %rdi
	mov	$SIZE, %esi
	mov	$\prot, %edx
	mov	$NR_MPROTECT, %eax
	syscall
	.endm

#define HELD	1024			/* descriptors that are known one by one */

	/* A call on a descriptor: is it, or may it be, one that concerns the tracer? */
	.macro	held	fd
	cmp	$HELD, %\fd
	jae	slow
	bt	%\fd, softsgx_paths_held(%rip)
	jc	slow
	.endm

	enter	fd0, rdi
	bts	$NO_LINK_BIT, %rax
	held	edi
	jmp	fast

softsgx_paths_enter_maps:
	lahf
	seto	%al
	test	$MAP_SHARED, %r10b
	jnz	1f
	test	$PROT_EXEC, %dl
	jz	data
1:	cmpb	$0, softsgx_paths_off(%rip)
	jne	slow
	cmpb	$0, softsgx_paths_alone(%rip)
	jne	slow
	cmpq	$0, softsgx_paths_files + 8(%rip)
	je	slow
	test	$MAP_SHARED, %r10b
	jnz	shared
	cmp	$PROT_READ_EXEC, %rdx
	jne	slow
	mov	%r10d, %ecx
	and	$MAP_KINDS, %ecx
	cmp	$MAP_PRIVATE, %ecx
	jne	slow
	mov	%r8d, %ecx
	cmp	%rcx, %r8
	jne	slow
	mov	%esi, %ecx
	cmp	%rcx, %rsi
	jne	slow
	movzwl	%ax, %r11d
	mov	%rax, %rcx
	shr	$32, %rcx
	shl	$16, %rcx
	or	%r11, %rcx
	shl	$32, %rcx
	or	%rsi, %rcx
	mov	%rcx, %rdx
softsgx_paths_packed:
	xchg	%rdi, %r8
softsgx_paths_swapped:
	lea	-(RED_ZONE + STAT_BYTES)(%rsp), %rsi
	jmp	stat
	.balign	128
	.skip	plain1 - stub1		/* the filter lets it pass here */
stat:
	mov	$NR_FSTAT, %eax
	syscall
	test	$TF, %r11d		/* who steps would be ended by a trap where all is blocked */
	mov	$slow1 - stub1, %r11d
	jnz	told
	test	%rax, %rax
	jnz	told
	lea	softsgx_paths_files - FILE_BYTES(%rip), %rcx
file:
	add	$FILE_BYTES, %rcx
	mov	8(%rcx), %rax
	test	%rax, %rax
	jz	told
	cmp	8(%rsi), %rax		/* st_ino */
	jne	file
	mov	(%rcx), %rax
	cmp	(%rsi), %rax		/* st_dev */
	jne	file
	mov	16(%rcx), %rax
	cmp	48(%rsi), %rax		/* st_size */
	jne	file
	imul	$1000000000, 88(%rsi), %rax	/* st_mtim */
	add	96(%rsi), %rax
	cmp	24(%rcx), %rax
	jne	file
	imul	$1000000000, 104(%rsi), %rax	/* st_ctim */
	add	112(%rsi), %rax
	cmp	32(%rcx), %rax
	jne	file
	mov	$plain1 - stub1, %r11d
	mov	40(%rcx), %rcx		/* where its plan is */
	test	%rcx, %rcx
	jz	told
	lea	softsgx_paths(%rip), %rsi
	add	%rcx, %rsi
	cmpl	$0, PLAN_N_CPUIDS(%rsi)
	je	1f
	mov	$slow1 - stub1, %r11d	/* but as it was mapped it stops */
1:	mov	%edx, %eax
	cmp	PLAN_LENGTH(%rsi), %rax
	jne	told
	cmp	PLAN_OFFSET(%rsi), %r9
	jne	told
	cmp	$LIBRARY, %r10
	jne	told
	cmpq	$0, (%rsi)
	jne	told
	movzwl	%di, %eax
	cmp	%rax, %rdi
	jne	told
	/* From now on R8 has the address, and R9 the descriptor (bits 0-15), where the plan is (16-31), the
	 * flags and the stub's offset; the other arguments are the plan's. */
	mov	%rdx, %rax
	shr	$32, %rax
	shl	$16, %rax
	or	%rcx, %rax
	shl	$16, %rax
	or	%rdi, %rax
	mov	%rax, %r9
softsgx_paths_leading:
	xor	%edi, %edi		/* SIG_BLOCK */
	lea	softsgx_paths_all(%rip), %rsi
	lea	MASK, %rdx
	mov	$SET_BYTES, %r10d
	mov	$NR_SIGPROCMASK, %eax
	syscall
softsgx_paths_blocked:
	test	%rax, %rax
	jnz	unlead
	mov	%r9, KEPT
	plan	rcx
	mov	PLAN_LENGTH(%rcx), %rsi
	mov	%rsi, LENGTH
	mov	%r8, %rdi
	mov	$PROT_READ_EXEC, %edx
	mov	$LIBRARY, %r10d
	movzwl	%r9w, %r8d
	mov	PLAN_OFFSET(%rcx), %r9
	mov	%r9, OFFSET
	jmp	map
	.balign	128
	.skip	plain1 - stub1		/* the filter lets it pass here */
map:
	mov	$NR_MMAP, %eax
	syscall
	mov	KEPT, %r9
	mov	%rdi, %r8
	cmp	%rax, %r8
	jne	refused
	plan	r10
	/* Where the kernel lets nobody write to code nothing is led yet; but CPUID has to be replaced. */
	protect_ours	PROT_ALL
	test	%rax, %rax
	jnz	unwritten
	mov	%r8, %rdi
	mov	LENGTH, %rsi
	mov	$NR_MPROTECT, %eax
	syscall
	test	%rax, %rax
	jnz	unwritten_there
	lea	softsgx_paths(%rip), %rdi
	mov	%r8, %r11
	sub	%rdi, %r11
	cmpl	$0, PLAN_N_LEADS(%r10)
	je	claim
	lea	REACH(%r11), %rcx
	shr	$REACH_BITS, %rcx
	jnz	close
claim:
	xor	%eax, %eax
	lock cmpxchg %r8, (%r10)
	jne	claimed
	cpuids	leads
leads:
	cmpl	$0, PLAN_N_LEADS(%r10)
	je	close
	lea	softsgx_paths_fixes(%rip), %rsi
	mov	softsgx_paths_n_fixes(%rip), %ecx
fix:
	movzwl	(%rsi), %eax
	add	%r11d, (%rdi, %rax)
	add	$2, %rsi
	dec	%ecx
	jnz	fix
	lea	softsgx_paths_leads(%rip), %rsi
	mov	PLAN_N_LEADS(%r10), %ecx
lead:
	mov	(%rsi), %edi
	add	%r8, %rdi
	mov	8(%rsi), %rax
	xor	(%rdi), %rax
	shl	$24, %rax		/* the five bytes that a jump is */
	jnz	other
	movb	$0xe9, (%rdi)
	mov	4(%rsi), %eax
	sub	%r11d, %eax
	mov	%eax, 1(%rdi)
other:
	add	$LEAD_BYTES, %rsi
	dec	%ecx
	jnz	lead
close:
	mov	%r8, %rdi
	mov	LENGTH, %rsi
	mov	$PROT_READ_EXEC, %edx
	mov	$NR_MPROTECT, %eax
	syscall
lock:
	protect_ours	PROT_READ_EXEC
locked:
	mov	%r9, %rcx
	shr	$48, %rcx
	lea	softsgx_paths + (softsgx_paths_plain1 - stub1)(%rip), %rax
	add	%rax, %rcx
	mov	%rcx, WAY
	movzwl	%r9w, %eax
	mov	%rax, FD
	mov	%r9, %rax
	shr	$32, %rax
	add	$127, %al
	sahf
	mov	$SIG_SETMASK, %edi	/* from here on no flag is changed */
	lea	MASK, %rsi
	mov	$0, %edx
	mov	$SET_BYTES, %r10d
	mov	$NR_SIGPROCMASK, %eax
	syscall
softsgx_paths_unblocked:
	mov	%r8, %rax
	mov	%r8, %rdi
	mov	%r9, %rcx
softsgx_paths_final:
	mov	LENGTH, %rsi
	mov	$PROT_READ_EXEC, %edx
	mov	$LIBRARY, %r10d
	mov	FD, %r8
	mov	OFFSET, %r9
	jmp	*WAY
softsgx_paths_finished:
data:					/* as fdprograms.py has it */
	test	$MAP_FIXED_NOREPLACE, %r10d
	jnz	slow
	test	$MAP_FIXED, %r10b
	jz	1f
	test	$MAP_DENYWRITE, %r10d
	jz	slow
1:	bts	$NO_LINK_BIT, %rax
	held	r8d
	jmp	fast
shared:
	cmpb	$0, softsgx_paths_opened(%rip)
	jne	slow
	test	$PROT_EXEC, %dl
	jnz	slow
	bts	$NO_LINK_BIT, %rax
	jmp	fast
unwritten_there:
	cmpl	$0, PLAN_N_CPUIDS(%r10)
	je	lock
	protect_ours	PROT_READ_EXEC
unwritten:
	cmpl	$0, PLAN_N_CPUIDS(%r10)
	je	locked
	jmp	refused
claimed:	/* by another thread, which makes our memory R-X again */
	cmpl	$0, PLAN_N_CPUIDS(%r10)
	je	close
refused:	/* or to be mapped anew: at an address that was asked for that is the same */
	mov	$SIG_SETMASK, %edi
	lea	MASK, %rsi
	xor	%edx, %edx
	mov	$SET_BYTES, %r10d
	mov	$NR_SIGPROCMASK, %eax
	syscall
softsgx_paths_let:
unlead:
	mov	$slow1 - stub1, %r11d
	plan	rcx
	movzwl	%r9w, %edi
	mov	%r9, %rax
	shr	$32, %rax
	shl	$32, %rax
	or	PLAN_LENGTH(%rcx), %rax
	mov	%rax, %rdx
softsgx_paths_unled:
	mov	PLAN_OFFSET(%rcx), %r9
	mov	$LIBRARY, %r10d
told:
softsgx_paths_told:
	mov	%edx, %esi
	xchg	%rdi, %r8
softsgx_paths_unswapped:
	mov	%rdx, %rcx
	shr	$48, %rcx
	mov	%rdx, %rax
	shr	$32, %rax
	movzwl	%ax, %eax
	shl	$32, %rcx
	or	%rcx, %rax
	mov	$PROT_READ_EXEC, %edx
softsgx_paths_unpacked:
	shr	$32, %rcx
	add	%r11, %rcx
	lea	softsgx_paths(%rip), %r11
	add	%r11, %rcx
	jmp	leave
