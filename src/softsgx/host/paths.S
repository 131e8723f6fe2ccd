/* SPDX-License-Identifier: MIT
 *
 * Calls on paths that run without a stop: is this a path that the tracer has to look at?
 *
 * The tracer copies softsgx_paths .. softsgx_paths_end into a page of the process, and behind it,
 * for each system call instruction that is used often, one of the two stubs below with its fields
 * filled in. There it replaces the `mov $NR, %eax` before the instruction by a jump to the stub, or
 * the `mov $DIRECTORY, %edi` that stands there in its place; the
 * instruction itself stays as it is, and stops as ever. A path of which a component is listed, and
 * one that is odd in any other way, goes on there. All others are called for from the stub, at the
 * places that the seccomp filter lets pass (host/basefilter.py).
 *
 * RAX, RCX and R11 are free here: the call overwrites the last two, and the replaced instruction the
 * first. Nothing else is touched: no stack, no vector register, and the flags are given back, since
 * SYSCALL saves them in R11. A signal never shows this code: from where the call has not been made
 * the tracer rolls back to the instruction, from behind it forward (host/pathcode.py), and it does
 * the same at a fault of the loads below, so that the kernel says EFAULT.
 *
 * RAX while a path is looked at: bits 0-15 the flags (LAHF; overflow in bit 0), from 16 on how many
 * bytes were seen, bit 29 that a file is made, bit 30 that nothing is opened, bit 31 that nothing can be followed, bits 32-63
 * the stub's offset. Mappings of files, and other calls on descriptors, are pathmaps.h's.
 */
	.text
	.balign	64
softsgx_paths:

#define O_NOFOLLOW	0x20000
#define AT_SYMLINK_NOFOLLOW	0x100
#define O_PATH		0x200000	/* opens a link */
#define O_CREAT		0x40		/* makes what a link names, .. */
#define O_EXCL_OR_NOFOLLOW	0x20080	/* .. but with these */
#define PATH_MAX_BIT	28		/* 4096 bytes, in bits 16.. */
#define CREATE_BIT	29
#define NO_OPEN_BIT	30
#define NO_LINK_BIT	31
#define NR_READLINKAT	267
#define ENOENT		2
#define EINVAL		22
#define INVERTED	1
#define BITS		512

	.macro	keep_above		/* RCX: the flags in bits 32-47, above them the stub's offset; R11 is gone */
	mov	%rax, %rcx
	shr	$32, %rcx
	shl	$16, %rcx
	movzwl	%ax, %r11d
	or	%r11, %rcx
	shl	$32, %rcx
	.endm

#include "pathfirst.h"
#include "pathmaps.h"
#include "pathnames.h"

/*
 * rt_sigprocmask: it concerns the tracer if it blocks a signal of exceptions, or if the thread may block
 * one. Who does not has a slot on the short way (short.S) that says so. RCX is the set.
 */
#define SIG_UNBLOCK	1
#define FORCED_SIGNALS	0x4d8	/* SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: bit n - 1 each */
#define SELECTOR	0x73

	enter	masks, rsi
	bts	$NO_LINK_BIT, %rax
	test	%rcx, %rcx
	jz	fast
	cmp	$SIG_UNBLOCK, %edi
	je	fast
	mov	(%rcx), %r11
	test	$FORCED_SIGNALS, %r11d
	jnz	slow
	mov	softsgx_paths_slots(%rip), %r11
	test	%r11, %r11
	jz	slow
	mov	$SELECTOR, %ecx
	lsl	%ecx, %ecx
	jnz	slow
	test	%ecx, %ecx
	jz	slow			/* it has none */
	cmpq	$0, (%r11, %rcx)	/* S_ROW; 1: it may */
	je	fast
	jmp	slow

creates:
	bts	$CREATE_BIT, %rax
scan:
	cmpb	$0, softsgx_paths_off(%rip)
	jne	slow
	test	%rcx, %rcx
	jz	slow
part:
	mov	$-1, %r11d
next:
	add	$0x10000, %rax
	bt	$PATH_MAX_BIT, %eax
	jc	slow
	cmpb	$'/', (%rcx)
	je	slash
	cmpb	$0, (%rcx)
	je	last
	crc32b	(%rcx), %r11d
	inc	%rcx
	jmp	next
slash:
	inc	%rcx
	.set	at, 0
	.rept	8
	cmp	softsgx_paths_any + at(%rip), %r11d
	je	slow
	.set	at, at + 4
	.endr
more:
	cmpb	$'/', (%rcx)
	je	another
	cmpb	$0, (%rcx)
	jne	part
	/* A path that ends with slashes: the component before them is its last. */
	add	$0x10000, %rax
	bt	$PATH_MAX_BIT, %eax
	jc	slow
	cmp	$-1, %r11d
	je	root
	cmp	$CRC_OF_DOTS, %r11d
	je	slow
	jmp	ended
another:
	inc	%rcx
	add	$0x10000, %rax
	bt	$PATH_MAX_BIT, %eax
	jc	slow
	jmp	more
last:
	cmp	$-1, %r11d
	je	empty
ended:
	.set	at, 0
	.rept	20
	cmp	softsgx_paths_any + at(%rip), %r11d
	je	slow
	.set	at, at + 4
	.endr
	cmpb	$0, softsgx_paths_opened(%rip)
	je	nobody
	.set	at, 0
	.rept	4
	cmp	softsgx_paths_mappings_last + at(%rip), %r11d
	je	slow
	.set	at, at + 4
	.endr
nobody:
	bt	$NO_OPEN_BIT, %eax
	jc	fast
	dots
	.set	at, 0
	.rept	16
	cmp	softsgx_paths_opened_last + at(%rip), %r11d
	je	slow
	.set	at, at + 4
	.endr
fast:
	bt	$CREATE_BIT, %eax
	jc	create
	lea	softsgx_paths(%rip), %r11
	mov	%rax, %rcx
	shr	$32, %rcx
	add	%r11, %rcx
	bt	$NO_LINK_BIT, %eax
	lea	plain1 - stub1(%rcx), %rcx
	jc	leave
	lea	probe1 - plain1(%rcx), %rcx
	jmp	leave
	/* What is opened is made if it is not there. A link in the way may lead to nothing but for us: is
	 * there one? The buffer is nowhere, so readlinkat tells of it by EFAULT. The open's flags are that
	 * buffer but for a bit, and the mode is the length and more; above that are the flags, bits 32-47, and
	 * the stub's offset. */
create:
	cmpb	$0, softsgx_paths_alone(%rip)
	jne	slow
	movzwl	%r10w, %ecx
	cmp	%rcx, %r10
	jne	slow
	mov	%edx, %ecx
	cmp	%rcx, %rdx
	jne	slow
	keep_above
	lea	0x10000(%rcx, %r10), %r10
softsgx_paths_creating:
	bts	$63, %rdx
	jmp	ask
	.balign	128
	.skip	plain1 - stub1		/* the filter lets it pass here */
ask:
	mov	$NR_READLINKAT, %eax
	syscall
	btr	$63, %rdx
	mov	$plain1 - stub1, %r11d
	cmp	$-EINVAL, %rax		/* it is there, and no link */
	je	1f
	cmp	$-ENOENT, %rax
	je	1f
	mov	$slow1 - stub1, %r11d
1:	mov	%r10, %rcx
	shr	$48, %rcx
	shl	$32, %rcx
	mov	%r10, %rax
	shr	$32, %rax
	movzwl	%ax, %eax
	or	%rcx, %rax
	movzwl	%r10w, %r10d
softsgx_paths_created:
	jmp	softsgx_paths_unpacked
empty:	/* no path at all is a descriptor's (AT_EMPTY_PATH) */
	mov	%eax, %r11d
	shr	$16, %r11d
	and	$0xfff, %r11d
	cmp	$1, %r11d
	jne	slow
	cmpb	$0, softsgx_paths_opened(%rip)
	je	fast
	held	edi
	jmp	fast
slow:
	mov	%rax, %rcx
	shr	$32, %rcx
	lea	softsgx_paths + (slow1 - stub1)(%rip), %r11
	add	%r11, %rcx
leave:
	add	$127, %al		/* overflows if it was 1 */
softsgx_paths_sahf:
	sahf
softsgx_paths_restored:
	jmp	*%rcx

	.balign	64
softsgx_paths_any:			/* CRC-32C of a component, without the last inversion */
	.fill	8, 4, 0
softsgx_paths_last:			/* of one that matters at the end alone */
	.fill	12, 4, 0
softsgx_paths_opened_last:		/* and there to what opens it */
	.fill	16, 4, 0
softsgx_paths_mappings_last:		/* of one that does so once somebody has opened the device */
	.fill	4, 4, 0
	.balign	64
softsgx_paths_any_bits:			/* by the CRC's low bits: of one anywhere */
	.fill	BITS / 64, 8, 0
softsgx_paths_last_bits:		/* at the end */
	.fill	BITS / 64, 8, 0
softsgx_paths_opened_bits:		/* and there of what is opened */
	.fill	BITS / 64, 8, 0
softsgx_paths_off:			/* not 0: look at none */
	.byte	0
softsgx_paths_opened:			/* not 0: somebody may have a descriptor of the device */
	.byte	0
softsgx_paths_alone:			/* not 0: make no call but the program's; it has a filter of its own */
	.byte	0
	.balign	8
softsgx_paths_held:			/* a bit each: a descriptor of the device, or of what is watched so */
	.fill	HELD / 64, 8, 0
softsgx_paths_slots:			/* of the short way, or 0 */
	.quad	0
softsgx_paths_folders:			/* st_ino, st_dev of those with nodes in them; up to an inode 0 */
	.fill	FOLDERS * 2 + 1, 8, 0
softsgx_paths_files:	/* st_dev, st_ino, st_size, st_mtim and st_ctim in ns, plan; up to an inode 0 */
	.fill	FILES * FILE_BYTES / 8, 8, 0
softsgx_paths_files_end:
	.quad	0, 0
softsgx_paths_all: .quad -1
	cpuid_data
softsgx_paths_plans:
	.fill	PLANS * PLAN_BYTES / 8, 8, 0
softsgx_paths_library:			/* the plan that has leads */
	.fill	PLAN_BYTES / 8, 8, 0
softsgx_paths_n_fixes:
	.quad	0
softsgx_paths_leads:			/* where in it, the jump, what is there */
	.fill	LEADS * LEAD_BYTES / 8, 8, 0
softsgx_paths_fixes:			/* where in our memory numbers are that lack the distance */
	.fill	FIXES, 2, 0
softsgx_paths_fixes_end:
	.balign	128
softsgx_paths_end:

/* What the tracer fills in: N the call's number, L that of the call that does not follow a link, B the
 * jump to one of the entries above, S to the instruction itself, R behind it, I the stub's offset, M
 * the number, negated. C is no field: a call ends here.
 *
 * The stubs differ in how they tell, where nothing was found, that there is a link to nothing, which
 * may be one to a node, since that is there for us alone: by a flag in a register, by another call, or
 * not at all. Where the calls end in a stub is the same in all. */
	.macro	field kind, name
77:
	.pushsection .rodata
	.ascii	"\kind"
	.byte	77b - stub\name
	.popsection
	.endm

	.macro	number name, kind=N
	.byte	0xb8			/* mov $NR, %eax */
	field	\kind, \name
	.long	0
	.endm

	.macro	make name, kind=N
	number	\name, \kind
	syscall
	field	C, \name
	.endm

	.macro	jump kind, name
	.byte	0xe9
	field	\kind, \name
	.long	0
	.endm

	.macro	return name
	.byte	0x48, 0x8d, 0x0d	/* lea ..(%rip), %rcx */
	field	R, \name
	.long	0
	jump	R, \name
	.endm

	/* No flag is changed. */
	.macro	change register, by
	.if	\by == INVERTED || \by == -INVERTED
	not	%\register		/* an address that is nobody's */
	.byte	0x0f, 0x1f, 0x40, 0x00
	.else
	{disp32} lea	\by(%\register), %\register
	.endif
	.endm

	/* missing: where a call goes on that has found nothing; flag: what keeps it from following a
	 * link, in a register, or INVERTED; tells: whether what it answers then is the open's own answer. */
	.macro	stub name, missing, register, flag, tells
	.section .rodata
softsgx_paths_fields\name:
	.text
	.balign	128
softsgx_paths_stub\name:
stub\name:
	.byte	0x48, 0xb8		/* movabs $offset << 32, %rax */
	.long	0
	field	I, \name
	.long	0
	jump	B, \name
slow\name:
	number	\name
	jump	S, \name
plain\name:
	make	\name
softsgx_paths_plain\name:
	return	\name
probe\name:
	make	\name
softsgx_paths_probe\name:
	lea	2(%rax), %rcx		/* ENOENT */
	jrcxz	\missing\name
over\name:
	return	\name
again\name:
	change	\register, \flag
softsgx_paths_changed\name:
	make	\name, L
	change	\register, -\flag
softsgx_paths_again\name:
	.if	\tells
	lea	40(%rax), %rcx		/* ELOOP: a link */
	jrcxz	slow\name
	return	\name
	.else
	lea	2(%rax), %rcx		/* ENOENT: none either */
	jrcxz	over\name
	jmp	slow\name
	.fill	10, 1, 0xcc
	.endif
	/* Where another instruction was replaced than the one that loads the number: it comes here. */
softsgx_paths_moved\name:
	.byte	0xbf			/* mov $DIRECTORY, %edi: what was replaced */
	.long	0
	.byte	0x48, 0x8d, 0x88	/* lea -NR(%rax), %rcx */
	field	M, \name
	.long	0
	jrcxz	stub\name
	jump	S, \name
	.balign	128
	.endm

	stub	1, again, rsi, O_NOFOLLOW, 1
	stub	2, again, rdx, O_NOFOLLOW, 1
	stub	3, again, r10, AT_SYMLINK_NOFOLLOW, 0
	stub	4, again, rdx, AT_SYMLINK_NOFOLLOW, 0
	stub	5, again, rsi, 0, 0	/* another call's arguments begin alike */
	stub	6, slow, rsi, 0, 0
	stub	7, again, rsi, INVERTED, 0	/* another call's buffer is this one's */
	.section .rodata
softsgx_paths_fields8:
	.byte	0
