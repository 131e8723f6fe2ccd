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
#define SLOT		64
#define SLOTS		4096
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

	.balign	64
tracer_label enter		/* RAX = EENTER, RBX = TCS, RCX = AEP */
	mov	%rcx, %rax
	mov	$SELECTOR, %ecx
	lsl	%ecx, %ecx
	jnz	.Llong
	add	slots_at(%rip), %rcx
	mov	%rax, S_AEP(%rcx)
	cmpq	$0, S_ROW(%rcx)		/* "if in enclave mode: #GP"; or the tracer wants to see it */
	jne	.Llong
	mov	%rbx, %rax
	shr	$12, %rax
	imul	$HASH, %eax, %eax
	shr	$(32 - ROWS_SHIFT), %eax
	shl	$ROW_SHIFT, %eax
	add	rows_at(%rip), %rax
	cmp	%rbx, R_TCS(%rax)	/* RBX names a TCS that the tracer has checked */
	je	.Ltake
	sub	$-ROW, %rax
	cmp	%rbx, R_TCS(%rax)
	jne	.Llong
.Ltake:
	lock btsl $0, R_LOCK(%rax)	/* "if another logical processor executes with it: #GP" */
tracer_label taken
	jc	.Llong
	cmpq	$1, R_OPEN(%rax)	/* open, and not held; all other checks as in tcs.checked */
	jne	.Lundo
	cmp	%rbx, R_TCS(%rax)	/* again: a row changes while it is closed and not locked */
	jne	.Lundo
	mov	%rax, S_ROW(%rcx)
tracer_label owned
	incq	R_COUNT(%rax)
tracer_label counted
	rdfsbase %rax			/* "CR_SAVE_FS, CR_SAVE_GS <- FS, GS" */
	mov	%rax, S_FS(%rcx)
	rdgsbase %rax
	mov	%rax, S_GS(%rcx)
tracer_label saved
	mov	S_ROW(%rcx), %rcx
	mov	R_OFSBASE(%rcx), %rax	/* "FS.base <- TCS.OFSBASE + SECS.BASEADDR" */
	wrfsbase %rax
	mov	R_OGSBASE(%rcx), %rax
	wrgsbase %rax
	mov	R_GPR(%rcx), %rax
	mov	%rsp, GPR_URSP(%rax)	/* "SSA.U_RSP <- RSP, SSA.U_RBP <- RBP" */
	mov	%rbp, GPR_URBP(%rax)
	mov	$-61, %eax		/* flags as vdso.S has them: SF and PF */
	test	%eax, %eax
	mov	$0, %eax		/* "RAX <- CSSA": rows are open at 0 alone */
	jmp	*R_STUB(%rcx)

tracer_label undo
.Lundo:
	movl	$0, R_LOCK(%rax)
.Llong:
	mov	$EENTER, %eax
	jmp	*long_at(%rip)

	/* For each row, since every register has its value now: "RCX <- next, RIP <- OENTRY". */
	.balign	16
tracer_label stubs
	.set	n, 0
	.rept	ROWS + 1
	mov	after_at(%rip), %rcx
	jmp	*(softsgx_rows + n * ROW + R_ENTRY)(%rip)
	.balign	16
	.set	n, n + 1
	.endr
tracer_label enter_end

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
tracer_label end
	.byte	0
