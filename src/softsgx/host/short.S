/* SPDX-License-Identifier: MIT
 *
 * The short way: EENTER and EEXIT of an ordinary ECALL by the thread itself, with no stop.
 *
 * A second writing of eenter() and eexit() in softsgx/sgx/enclu.py, for the case that those
 * find usual: it only looks at what the tracer has found there and wrote into a row (one for each
 * TCS) and a slot (one for each thread). Whatever is not so goes the long way, to the tracer.
 * The SDM's sentence stands beside each check (SDM, EENTER, EEXIT: "Operation").
 *
 * A thread finds its slot by the limit of a segment that is its own (a TLS entry of the GDT, set
 * by ptrace): no register, no memory and no system call is needed for it.
 *
 * A program's own ENCLU is left by a pad in the place of the instruction that loads its leaf.
 * Any instruction may be the last before a stop. Its label says what the tracer has to do then
 * (supervisor/inside/settle.py): EENTER is always rolled back, EEXIT back or forward; nothing
 * here changes memory below the stack pointer, and only RAX, RCX and flags hold values of ours.
 */

/* A row; rows and slots are the tracer's too (host/short.py; a test compares). */
#define R_LOCK		0	/* bit 0: a thread that came this way is inside, or is looking */
#define R_OPEN		8	/* the tracer lets threads in */
#define R_HELD		12	/* a thread that the tracer let in is inside */
#define R_COUNT		16	/* entries this way */
#define R_TCS		64
#define R_ENTRY		72
#define R_OFSBASE	80
#define R_OGSBASE	88
#define R_GPR		96	/* the address of SSA[0].GPRSGX */
#define R_STUB		104
#define R_SLOT		112	/* the slot of the thread that is inside */
#define ROW		128
#define ROW_SHIFT	7
#define ROWS		1024
#define ROWS_SHIFT	10
#define HASH		0x9e3779b1

/* A slot. */
#define S_ROW		0	/* the word to clear at EEXIT: R_LOCK or R_HELD; 0 outside, 1: the long way */
#define S_AEP		8
#define S_FS		16
#define S_GS		24
#define S_FLAGS		32
#define S_PAD		40	/* where a program's own ENCLU was left for; 0: our vDSO's was */
#define SLOT		64
#define SLOTS		4096
#define FRAME		256
#define SELECTOR	0x73	/* GDT_ENTRY_TLS_MAX << 3 | 3 */

#define GPR_URSP	0x90
#define GPR_URBP	0x98
#define EENTER		2
#define EEXIT		4

	.section .note.GNU-stack, "", @progbits
	.text

	.macro tracer_label name
	.globl	softsgx_\name
softsgx_\name:
	.endm

	/* From RCX = the thread's slot to RCX = the row, with all but RAX, RCX and flags as inside. */
	.macro enter_row name
	cmpq	$0, S_ROW(%rcx)		/* "if in enclave mode: #GP"; or the tracer wants to see it */
	jne	.L\name\()_long
	mov	%rbx, %rax
	shr	$12, %rax
	imul	$HASH, %eax, %eax
	shr	$(32 - ROWS_SHIFT), %eax
	shl	$ROW_SHIFT, %eax
	add	rows_at(%rip), %rax
	cmp	%rbx, R_TCS(%rax)	/* RBX names a TCS that the tracer has checked */
	je	.L\name\()_take
	sub	$-ROW, %rax
	cmp	%rbx, R_TCS(%rax)
	jne	.L\name\()_long
.L\name\()_take:
	lock btsl $0, R_LOCK(%rax)	/* "if another logical processor executes with it: #GP" */
tracer_label \name\()_taken
	jc	.L\name\()_long
	cmpq	$1, R_OPEN(%rax)	/* open, and not held; all other checks as in tcs.checked */
	jne	.L\name\()_undo
	cmp	%rbx, R_TCS(%rax)	/* again: a row changes while it is closed and not locked */
	jne	.L\name\()_undo
	mov	%rax, S_ROW(%rcx)
tracer_label \name\()_owned
	incq	R_COUNT(%rax)
tracer_label \name\()_counted
	mov	%rcx, R_SLOT(%rax)
	rdfsbase %rax			/* "CR_SAVE_FS, CR_SAVE_GS <- FS, GS" */
	mov	%rax, S_FS(%rcx)
	rdgsbase %rax
	mov	%rax, S_GS(%rcx)
tracer_label \name\()_saved
	mov	S_ROW(%rcx), %rcx
	mov	R_OFSBASE(%rcx), %rax	/* "FS.base <- TCS.OFSBASE + SECS.BASEADDR" */
	wrfsbase %rax
	mov	R_OGSBASE(%rcx), %rax
	wrgsbase %rax
	mov	R_GPR(%rcx), %rax
	mov	%rsp, GPR_URSP(%rax)	/* "SSA.U_RSP <- RSP, SSA.U_RBP <- RBP" */
	mov	%rbp, GPR_URBP(%rax)
	.endm

	/* From RCX = the slot: the flags as they were, by RAX. */
	.macro flags_back
	mov	S_FLAGS(%rcx), %eax
	add	$0x7f, %al
	sahf
	.endm

	.balign	64
tracer_label enter		/* of our vDSO: RAX = EENTER, RBX = TCS, RCX = AEP */
	mov	%rcx, %rax
	mov	$SELECTOR, %ecx
	lsl	%ecx, %ecx
	jnz	.Lenter_long
	add	slots_at(%rip), %rcx
	mov	%rax, S_AEP(%rcx)
	movq	$0, S_PAD(%rcx)
	enter_row enter
	mov	$-61, %eax		/* flags as vdso.S has them: SF and PF */
	test	%eax, %eax
	mov	R_STUB(%rcx), %rax
	mov	after_at(%rip), %rcx	/* "RCX <- next" */
	jmp	*%rax

tracer_label enter_undo
.Lenter_undo:
	movl	$0, R_LOCK(%rax)
.Lenter_long:
	mov	$EENTER, %eax
	jmp	*long_at(%rip)

	/*
	 * Of a program's own ENCLU, from the pad of its leaf: RCX = slot, with AEP, flags and pad.
	 * EENTER changes no flag.
	 */
	.balign	64
tracer_label raw
	enter_row raw
	mov	R_SLOT(%rcx), %rcx
	flags_back
	mov	S_ROW(%rcx), %rax
	mov	R_STUB(%rax), %rax
	mov	S_PAD(%rcx), %rcx
	mov	PAD_NEXT(%rcx), %rcx	/* "RCX <- next" */
	jmp	*%rax

tracer_label raw_undo
.Lraw_undo:
	movl	$0, R_LOCK(%rax)
.Lraw_long:
	flags_back
	mov	S_PAD(%rcx), %rax
	mov	S_AEP(%rcx), %rcx
	lea	PAD_LONG(%rax), %rax
	jmp	*%rax

	/* For each row, since every other register has its value now: "RIP <- OENTRY". */
	.balign	16
tracer_label stubs
	.set	n, 0
	.rept	ROWS + 1
	mov	$0, %eax		/* "RAX <- CSSA": rows are open at 0 alone */
	jmp	*(softsgx_rows + n * ROW + R_ENTRY)(%rip)
	.balign	16
	.set	n, n + 1
	.endr
tracer_label enter_end

	/*
	 * What a pad of a program's ENCLU is made from: it stands for the "mov $2, %eax" before it.
	 * The tracer puts four addresses behind it. RBX = TCS, RCX = AEP; RAX is free.
	 */
	.balign	64
tracer_label pad
	mov	$0, %eax		/* changes no flag */
	lahf
	seto	%al
	ror	$47, %rcx		/* an AEP of the upper half: the long way */
tracer_label pad_turned
	test	$0x1ffff, %ecx
	rol	$47, %rcx		/* leaves ZF */
	jnz	.Lpad_near
	shl	$16, %rcx
tracer_label pad_shifted
	or	%rcx, %rax
tracer_label pad_packed
	mov	$SELECTOR, %ecx
	lsl	%ecx, %ecx
	jnz	.Lpad_unpack
	add	.Lpad_slots(%rip), %rcx
	mov	%ax, S_FLAGS(%rcx)
	shr	$16, %rax
tracer_label pad_halved
	mov	%rax, S_AEP(%rcx)
	lea	softsgx_pad(%rip), %rax
	mov	%rax, S_PAD(%rcx)
	jmp	*.Lpad_raw(%rip)
tracer_label pad_unpack
.Lpad_unpack:
	mov	%rax, %rcx
tracer_label pad_unpacked
	shr	$16, %rcx
.Lpad_near:
	add	$0x7f, %al
	sahf
tracer_label pad_long
	mov	$EENTER, %eax
	jmp	*.Lpad_enclu(%rip)
	.balign	8
tracer_label pad_words
.Lpad_slots:	.skip	8
.Lpad_raw:	.skip	8
.Lpad_enclu:	.skip	8
.Lpad_next:	.skip	8
tracer_label pad_end
	.set	PAD_LONG, softsgx_pad_long - softsgx_pad
	.set	PAD_NEXT, .Lpad_next - softsgx_pad

	/*
	 * Behind the calls of softsgx_batch (vdso.S), of a thread that is not to stop there: it goes on
	 * where it was. RSP: its registers, in the order of struct user_regs_struct; R15: a word
	 * that says that it is on its way; R14: where to go if not all calls were made.
	 */
	.balign	64
tracer_label carried
	test	%ebp, %ebp
	jz	.Lcarried
	jmp	*%r14
.Lcarried:
	movq	$0, (%r15)
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rax
	pop	%rcx
	pop	%rdx
	pop	%rsi
	pop	%rdi
	lea	8(%rsp), %rsp		/* orig_rax */
	iretq				/* RIP, CS, RFLAGS, RSP, SS */
tracer_label carried_end

	/*
	 * From the pad of a replaced "mov $4, %eax" before an ENCLU: RAX = its number << 16. RAX
	 * (to be 4) and RCX (to be the AEP) are free.
	 */
	.balign	64
tracer_label exit
	lahf
	seto	%al
	ror	$47, %rbx		/* "if RBX is not canonical: #GP"; the upper half is rare */
tracer_label turned
	test	$0x1ffff, %ebx
	rol	$47, %rbx		/* leaves ZF */
tracer_label turned_back
	jnz	softsgx_exit_long
	mov	$SELECTOR, %ecx
tracer_label no_rcx
	lsl	%ecx, %ecx
	jnz	softsgx_exit_long
	add	slots_at(%rip), %rcx
	mov	%eax, S_FLAGS(%rcx)
tracer_label stored
	cmpq	$1, S_ROW(%rcx)
	jbe	softsgx_exit_long
	mov	S_FS(%rcx), %rax	/* "FS, GS <- CR_SAVE_FS, CR_SAVE_GS" */
	wrfsbase %rax
	mov	S_GS(%rcx), %rax
	wrgsbase %rax
	mov	S_ROW(%rcx), %rax
	movq	$0, S_ROW(%rcx)
tracer_label no_row
	movl	$0, (%rax)		/* "mark the TCS as not busy" */
tracer_label freed
	mov	S_FLAGS(%rcx), %eax
	mov	S_AEP(%rcx), %rcx	/* "RCX <- CR_AEP" */
	add	$0x7f, %al
	sahf
tracer_label flags
	mov	$EEXIT, %eax
	jmp	*%rbx			/* "RIP <- RBX" */
tracer_label exit_long			/* the tracer finds flags and number in RAX */
	.byte	0x0f, 0x01, 0xd7
tracer_label exit_end

	/* A page of the process's own: what differs between processes, then the pads. */
	.section .head, "awx", @nobits
tracer_label head
slots_at:	.skip	8
rows_at:	.skip	8
long_at:	.skip	8
after_at:	.skip	8
	.balign	64
tracer_label pads
	.skip	4096 - 64

	/* Shared with the tracer, not inherited by fork. */
	.section .tables, "aw", @nobits
tracer_label rows
	.skip	(ROWS + 1) * ROW
	.balign	4096
tracer_label slots
	.skip	SLOTS * SLOT
	/* For each thread, what takes it from a stop over a call to where it was (accepts.c). */
tracer_label frames
	.skip	SLOTS * FRAME
tracer_label end
	.byte	0
