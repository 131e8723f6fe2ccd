/* SPDX-License-Identifier: MIT
 *
 * Part of paths.S: where calls on paths come in, and a first look at a bit for each component. Behind a
 * system call the caches have little of this page, and lists are many lines of it. What has a bit, or no
 * letters at its end, is looked at again by the lists. A path without end is the kernel's to refuse.
 */
	.macro	enter name, path
softsgx_paths_enter_\name:
	lahf
	seto	%al
	mov	%\path, %rcx
	.endm

	.macro	enter_open name, path, flags, creates
	enter	\name, \path
	test	$O_PATH, %\flags
	jnz	slow
	test	$O_CREAT, %\flags
	jz	1f
	test	$O_EXCL_OR_NOFOLLOW, %\flags
	jz	\creates
	jmp	2f
1:	test	$O_NOFOLLOW, %\flags
	jz	first_open_\path
2:	bts	$NO_LINK_BIT, %rax
	jmp	first_open_\path
	.endm

	.macro	enter_at name, path, flags
	enter	\name, \path
	bts	$NO_OPEN_BIT, %rax
	test	$AT_SYMLINK_NOFOLLOW, %\flags
	jz	first_\path
	bts	$NO_LINK_BIT, %rax
	jmp	first_\path
	.endm

	.macro	enter_name name, path	/* a link is itself meant */
	enter	\name, \path
	bts	$NO_OPEN_BIT, %rax
	bts	$NO_LINK_BIT, %rax
	jmp	first_\path
	.endm

	.macro	enter_file name, path	/* it is what a link leads to */
	enter	\name, \path
	bts	$NO_OPEN_BIT, %rax
	jmp	first_\path
	.endm

	.macro	enter_told name, path, buffer	/* the same, and it writes to an address of ours */
	enter	\name, \path
	bts	$NO_OPEN_BIT, %rax
	test	%\buffer, %\buffer
	jns	first_\path
	jmp	slow
	.endm

	.macro	quick name, path, bits
	.balign	64
\name\()_\path:
	cmpb	$0, softsgx_paths_off(%rip)
	jne	slow
	test	%rcx, %rcx
	jz	slow
	mov	$-1, %r11d
	jmp	2f
1:	crc32b	(%rcx), %r11d
	inc	%rcx
2:	cmpb	$'/', (%rcx)
	je	3f
	cmpb	$0, (%rcx)
	jne	1b
	and	$BITS - 1, %r11d
	bt	%r11d, softsgx_paths_\bits\()_bits(%rip)
	jnc	fast
4:	mov	%\path, %rcx
	jmp	scan
3:	inc	%rcx
	and	$BITS - 1, %r11d
	bt	%r11d, softsgx_paths_any_bits(%rip)
	jc	4b
	mov	$-1, %r11d
	jmp	2b
	.endm

	quick	first, rdi, last
	quick	first, rsi, last
	quick	first_open, rdi, opened
	quick	first_open, rsi, opened

	enter_open	open0, rdi, esi, slow
	enter_open	open1, rsi, edx, creates
	enter_at	at_r10, rsi, r10d
	enter_at	at_rdx, rsi, edx
	enter_name	name0, rdi
	enter_name	name1, rsi
	enter_file	file0, rdi
	enter_told	told0, rdi, rsi
	enter_file	file1, rsi
