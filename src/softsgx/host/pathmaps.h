/* SPDX-License-Identifier: MIT
 *
 * Part of paths.S: an mmap of a file's code, which comes there since the filter sees a descriptor and
 * not its file. That of a file in which no CPUID has to be replaced is made from the stub as a call on
 * a path is. What the file is told by fstat says, below the red zone, where a signal could write at any
 * time. As no register is left that a call keeps, the arguments hold it all meanwhile: the protection
 * is known, so RDX has the length (bits 0-31), the flags (32-47) and the stub's offset (48-63), and
 * RDI and R8 change places.
 *
 * The first file of the table may be one whose own instructions are led: the C library. They are led
 * as soon as it is mapped, since the program's first call on a path would have to stop for that. All
 * signals are blocked meanwhile, and what has to be known is the table's: no register is.
 */
#define PROT_READ_EXEC	5
#define MAP_PRIVATE	2
#define MAP_KINDS	0x2f		/* MAP_TYPE, MAP_ANONYMOUS */
#define NR_FSTAT	5
#define TF		0x100
#define RED_ZONE	128
#define STAT_BYTES	144
#define FILES		64
#define FILE_BYTES	40
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
#define SIZE		0x4000
#define REACH		(1 << 30)
#define REACH_BITS	31
#define MASK		-(RED_ZONE + STAT_BYTES)(%rsp)	/* where fstat has written before */
#define KEPT		-(RED_ZONE + STAT_BYTES - 8)(%rsp)
#define WAY		-(RED_ZONE + STAT_BYTES - 16)(%rsp)
#define FD		-(RED_ZONE + STAT_BYTES - 24)(%rsp)

softsgx_paths_enter_maps:
	lahf
	seto	%al
	cmpb	$0, softsgx_paths_off(%rip)
	jne	slow
	cmpb	$0, softsgx_paths_alone(%rip)
	jne	slow
	cmpq	$0, softsgx_paths_files(%rip)
	je	slow
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
	mov	(%rcx), %rax
	test	%rax, %rax
	jz	told
	cmp	8(%rsi), %rax		/* st_ino */
	jne	file
	mov	8(%rcx), %rax
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
	lea	softsgx_paths_files(%rip), %rax
	cmp	%rax, %rcx
	jne	told
	mov	%edx, %eax
	cmp	softsgx_paths_length(%rip), %rax
	jne	told
	cmp	softsgx_paths_offset(%rip), %r9
	jne	told
	cmp	$LIBRARY, %r10
	jne	told
	cmpq	$0, softsgx_paths_linked(%rip)
	jne	told
	/* The first file. R9 has the descriptor, the flags and the stub's offset from now on, R8 the
	 * address; the other arguments are the table's. */
	mov	%rdx, %rax
	shr	$32, %rax
	shl	$32, %rax
	mov	%edi, %ecx
	or	%rcx, %rax
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
	mov	%r8, %rdi
	mov	softsgx_paths_length(%rip), %rsi
	mov	$PROT_READ_EXEC, %edx
	mov	$LIBRARY, %r10d
	mov	%r9d, %r8d
	mov	softsgx_paths_offset(%rip), %r9
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
	/* Where the kernel lets nobody write to code nothing is led yet. */
	lea	softsgx_paths(%rip), %rdi
	mov	$SIZE, %esi
	mov	$PROT_ALL, %edx
	mov	$NR_MPROTECT, %eax
	syscall
	test	%rax, %rax
	jnz	locked
	mov	%r8, %rdi
	mov	softsgx_paths_length(%rip), %rsi
	mov	$NR_MPROTECT, %eax
	syscall
	test	%rax, %rax
	jnz	lock
	lea	softsgx_paths(%rip), %rdi
	mov	%r8, %r11
	sub	%rdi, %r11
	lea	REACH(%r11), %rcx
	shr	$REACH_BITS, %rcx
	jnz	close
	lock cmpxchg %r8, softsgx_paths_linked(%rip)
	jne	close
	lea	softsgx_paths_fixes(%rip), %rsi
	mov	softsgx_paths_n_fixes(%rip), %ecx
fix:
	movzwl	(%rsi), %eax
	add	%r11d, (%rdi, %rax)
	add	$2, %rsi
	dec	%ecx
	jnz	fix
	lea	softsgx_paths_leads(%rip), %rsi
	mov	softsgx_paths_n_leads(%rip), %ecx
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
	mov	softsgx_paths_length(%rip), %rsi
	mov	$PROT_READ_EXEC, %edx
	mov	$NR_MPROTECT, %eax
	syscall
lock:
	lea	softsgx_paths(%rip), %rdi
	mov	$SIZE, %esi
	mov	$PROT_READ_EXEC, %edx
	mov	$NR_MPROTECT, %eax
	syscall
locked:
	mov	%r9, %rcx
	shr	$48, %rcx
	lea	softsgx_paths + (softsgx_paths_plain1 - stub1)(%rip), %rax
	add	%rax, %rcx
	mov	%rcx, WAY
	mov	%r9d, %eax
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
	mov	softsgx_paths_length(%rip), %rsi
	mov	$PROT_READ_EXEC, %edx
	mov	$LIBRARY, %r10d
	mov	FD, %r8
	mov	softsgx_paths_offset(%rip), %r9
	jmp	*WAY
softsgx_paths_finished:
refused:
	mov	$SIG_SETMASK, %edi
	lea	MASK, %rsi
	xor	%edx, %edx
	mov	$SET_BYTES, %r10d
	mov	$NR_SIGPROCMASK, %eax
	syscall
softsgx_paths_let:
unlead:
	mov	$slow1 - stub1, %r11d
	mov	%r9, %rax
	shr	$32, %rax
	shl	$32, %rax
	or	softsgx_paths_length(%rip), %rax
	mov	%r9d, %edi
	mov	%rax, %rdx
softsgx_paths_unled:
	mov	softsgx_paths_offset(%rip), %r9
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
