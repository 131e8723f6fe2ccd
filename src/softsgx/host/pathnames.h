/* SPDX-License-Identifier: MIT
 *
 * Part of paths.S: other names than a path that is followed.
 *
 * An open of "." or "..", as all make that list the folder where they are. It concerns
 * the tracer if that is one with something of ours in it, /dev above all. So fstatat is asked which it is, and
 * writes below the red zone, as for a mapping. Another thread that goes elsewhere at that moment makes
 * the program list a folder as the machine has it; what is opened in that is looked at as ever.
 *
 * The flags are known to be 32 bits, and the mode to be 0: so R10 has the flags (bits 32-63), and RDI
 * beside the descriptor what RAX had: the flags of the processor (bits 32-47), the stub's offset (48-63).
 */
#define CRC_OF_DOT	0x21479d57	/* of "." */
#define CRC_OF_DOTS	0x90bc85c	/* of ".." */
#define NR_NEWFSTATAT	262
#define FOLDERS		8

	.macro	dots			/* of what is opened, the last component */
	cmp	$CRC_OF_DOT, %r11d
	je	dot
	cmp	$CRC_OF_DOTS, %r11d
	je	two
	.endm

root:					/* "/" is no node, but who opens it may list it */
	bt	$NO_OPEN_BIT, %eax
	jc	fast
	jmp	slow
two:
	dec	%rcx
dot:
	lea	-1(%rcx), %r11
	cmp	%rsi, %r11		/* there is more of it, or open's path */
	jne	slow
	bt	$CREATE_BIT, %eax
	jc	slow
	cmpb	$0, softsgx_paths_alone(%rip)
	jne	slow
	test	%r10, %r10
	jnz	slow
	mov	%edx, %r11d
	cmp	%r11, %rdx
	jne	slow
	mov	%edi, %r11d
	cmp	%r11, %rdi
	jne	slow
	keep_above
	mov	%rdx, %r11
	shl	$32, %r11
	or	%rcx, %rdi
softsgx_paths_dotting:
	mov	%r11, %r10
	lea	-(RED_ZONE + STAT_BYTES)(%rsp), %rdx
softsgx_paths_dotted:
	jmp	where
	.balign	128
	.skip	plain1 - stub1		/* the filter lets it pass here */
where:
	mov	$NR_NEWFSTATAT, %eax
	syscall
	mov	$slow1 - stub1, %r11d
	test	%rax, %rax
	jnz	asked
	lea	softsgx_paths_folders - 16(%rip), %rcx
folder:
	add	$16, %rcx
	mov	(%rcx), %rax
	test	%rax, %rax
	jz	1f
	cmp	8(%rdx), %rax		/* st_ino */
	jne	folder
	mov	8(%rcx), %rax
	cmp	(%rdx), %rax		/* st_dev */
	jne	folder
	jmp	asked
1:	mov	$plain1 - stub1, %r11d
asked:
	mov	%r10, %rdx
	shr	$32, %rdx
	xor	%r10d, %r10d
softsgx_paths_asked:
	mov	%rdi, %rcx
	shr	$48, %rcx
	shl	$32, %rcx
	mov	%rdi, %rax
	shr	$32, %rax
	movzwl	%ax, %eax
	or	%rcx, %rax
	mov	%edi, %edi
softsgx_paths_undotted:
	jmp	softsgx_paths_unpacked

/*
 * connect: it concerns the tracer if its address may be a name of a socket of ours. Of one that ends within
 * its size alone the code sees what the kernel sees. Other sizes are the filter's.
 */
#define AF_UNIX		1
#define LEAST_SIZE	13		/* struct sockaddr_un with the name of AESM's socket */
#define MOST_SIZE	110

	enter	connect, rsi
	bts	$NO_OPEN_BIT, %rax
	bts	$NO_LINK_BIT, %rax
	lea	-LEAST_SIZE(%rdx), %r11
	cmp	$(MOST_SIZE - LEAST_SIZE), %r11
	ja	slow
	cmpw	$AF_UNIX, (%rcx)
	jne	fast
	mov	$2, %r11d
within:
	cmpb	$0, (%rcx, %r11)
	je	ends
	inc	%r11
	cmp	%rdx, %r11
	jb	within
	jmp	slow
ends:
	add	$2, %rcx
	jmp	scan
