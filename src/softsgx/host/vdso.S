/* SPDX-License-Identifier: MIT
 *
 * The synthetic vDSO: what a tracee finds behind AT_SYSINFO_EHDR instead of the
 * kernel's own, which either has no __vdso_sgx_enter_enclave or has one whose
 * exception table would swallow the faults that the tracer has to see.
 *
 * Written from the contract in <asm/sgx.h> (struct sgx_enclave_run and
 * vdso_sgx_enter_enclave_t), not from the kernel's code. No relocations, no
 * writable data: the slots in .slots are filled by the tracer (vdso.py) before
 * the first instruction of the program runs.
 */

#define EINVAL	22
#define ENOSYS	38

/* ENCLU leaves (SDM, ENCLU). */
#define EENTER	2
#define ERESUME	3
#define EEXIT	4

/* exit: no sandbox forbids it, few programs make it. See base_program() in bpf.py. */
#define ENTER_CALL	60
#define NONE_BLOCKED	0x80000000

#define RT_SIGPROCMASK	14
#define FORCED_SIGNALS	0x4d8	/* SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV: bit n - 1 each */

/* struct sgx_enclave_run; tests/host/test_vdso_layout.py holds these against <asm/sgx.h>. */
#define RUN_TCS			0
#define RUN_FUNCTION		8
#define RUN_EXCEPTION_VECTOR	12
#define RUN_EXCEPTION_ERROR	14
#define RUN_EXCEPTION_ADDR	16
#define RUN_USER_HANDLER	24
#define RUN_RESERVED		40
#define RUN_SIZE		256

/* The frame: RBP is the one register that survives an enclave by the contract. */
#define FRAME_RUN	16	/* the seventh argument, above RBP and the return address */
#define FRAME_RBX	-8

	.section .note.GNU-stack, "", @progbits

	.text

	.macro global_function name
	.globl	\name
	.type	\name, @function
\name:
	.endm

	.macro end_function name
	.size	\name, . - \name
	.endm

	/* A label that only the tracer knows: in .symtab, not in .dynsym. */
	.macro tracer_label name
	.globl	\name
	.hidden	\name
\name:
	.endm

/* ---- int __vdso_sgx_enter_enclave(rdi, rsi, rdx, ecx function, r8, r9, run) ---- */

	.balign	16
global_function __vdso_sgx_enter_enclave
	.cfi_startproc
	push	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	mov	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	push	%rbx
	.cfi_offset %rbx, -24
	mov	%ecx, %eax

	/*
	 * EAX: the leaf. RDI, RSI, RDX, R8 to R15 belong to the enclave; RBX and
	 * RCX are the two that ENCLU takes, so they are free until then.
	 */
.Lenter:
	lea	-EENTER(%rax), %ecx
	cmp	$(ERESUME - EENTER), %ecx
	ja	.Linvalid

	mov	FRAME_RUN(%rbp), %rbx
	mov	$(RUN_RESERVED - RUN_SIZE), %rcx
.Lreserved:
	cmpq	$0, RUN_SIZE(%rbx, %rcx)
	jne	.Linvalid
	add	$8, %rcx
	jnz	.Lreserved

	mov	RUN_TCS(%rbx), %rbx

	/*
	 * The short way in (short.S), where the tracer has opened one; it comes out at
	 * softsgx_long if it cannot go on, or behind the ENCLU below.
	 */
tracer_label softsgx_try
	cmp	$EENTER, %eax
	jne	softsgx_long
	cmpb	$0, softsgx_short_open(%rip)
	je	softsgx_long
	lea	softsgx_aep(%rip), %rcx
	jmp	*softsgx_short_enter(%rip)

	/*
	 * Whether the thread blocks a signal that an exception inside would force:
	 * asked here, where it is ten times cheaper than by ptrace. EAX gets
	 * NONE_BLOCKED if it does not; the tracer looks itself if it may.
	 */
tracer_label softsgx_long
	push	%rdi
	push	%rsi
	push	%rdx
	push	%r10
	push	%rax
	push	$-1
	xor	%edi, %edi
	xor	%esi, %esi
	mov	%rsp, %rdx
	mov	$8, %r10d
	mov	$RT_SIGPROCMASK, %eax
	syscall
	pop	%rcx
	pop	%rax
	pop	%r10
	pop	%rdx
	pop	%rsi
	pop	%rdi
	test	$FORCED_SIGNALS, %ecx
	jnz	softsgx_enclu
	or	$NONE_BLOCKED, %eax

	/*
	 * ENCLU, for EENTER and for an ERESUME that is asked for: a system call, since
	 * its stop touches no signal, as ENCLU does not. EAX is the leaf; the call's
	 * number is ENTER_CALL whatever that is, so that nothing else can be called
	 * from here, and the tracer finds the leaf above it. RCX, which would be the
	 * AEP, is the system call's; R11 is lost.
	 */
tracer_label softsgx_enclu
	shl	$32, %rax
	or	$ENTER_CALL, %rax
tracer_label softsgx_stop
	syscall
	/*
	 * The AEP: the stop of the call above finds the thread here. It is an ENCLU to
	 * whoever looks, as handlers of signals that came inside do; when they return it
	 * is #UD, which the tracer takes for ERESUME.
	 */
tracer_label softsgx_aep
	.byte	0x0f, 0x01, 0xd7
tracer_label softsgx_enclu_end
	/* EEXIT came back. RSP is the enclave's choice, RBP is still ours. */
	mov	FRAME_RUN(%rbp), %rbx
	movl	$EEXIT, RUN_FUNCTION(%rbx)

.Lexited:
	cmpq	$0, RUN_USER_HANDLER(%rbx)
	jne	.Lcall_handler
	xor	%eax, %eax

.Lreturn:
	/* By RBP, not by RSP: the enclave may have left something on the stack. */
	mov	FRAME_RBX(%rbp), %rbx
	.cfi_remember_state
	.cfi_restore %rbx
	leave
	.cfi_restore %rbp
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_restore_state

.Linvalid:
	mov	$-EINVAL, %eax
	jmp	.Lreturn

	/*
	 * The tracer comes here for an exception at ENCLU or inside the enclave:
	 * EAX the leaf (ERESUME after an AEX), EDI the vector, ESI the error
	 * code, RDX the address.
	 */
tracer_label softsgx_enclu_fault
	mov	FRAME_RUN(%rbp), %rbx
	mov	%eax, RUN_FUNCTION(%rbx)
	mov	%di, RUN_EXCEPTION_VECTOR(%rbx)
	mov	%si, RUN_EXCEPTION_ERROR(%rbx)
	mov	%rdx, RUN_EXCEPTION_ADDR(%rbx)
	jmp	.Lexited

	/*
	 * int handler(rdi, rsi, rdx, rsp, r8, r9, run): all but RSP are where the
	 * exit left them. RBX keeps the enclave's RSP over the call, since a
	 * handler that asks for another entry gives it back.
	 */
.Lcall_handler:
	mov	RUN_USER_HANDLER(%rbx), %rax
	mov	%rsp, %rcx
	and	$-16, %rsp
	sub	$8, %rsp
	push	%rbx
	mov	%rcx, %rbx
	cld
	call	*%rax
	mov	%rbx, %rsp
	test	%eax, %eax
	jle	.Lreturn
	jmp	.Lenter
	.cfi_endproc
end_function __vdso_sgx_enter_enclave

/* ---- the kernel's own functions ------------------------------------------------
 *
 * __vdso_NAME and its weak alias NAME jump through softsgx_slot_NAME, which
 * holds the real vDSO's function or, where it has none, softsgx_fallback_NAME.
 * vdso.py finds slots and fallbacks by these names: this list is the only one.
 */

	.macro forward name
	.balign	16
	.weak	\name
	.type	\name, @function
\name:
global_function __vdso_\name
	.cfi_startproc
	jmp	*softsgx_slot_\name(%rip)
	.cfi_endproc
end_function __vdso_\name
	.size	\name, . - \name

	.pushsection .slots, "aw", @nobits
	.balign	8
tracer_label softsgx_slot_\name
	.skip	8
	.popsection
	.endm

	.macro forward_or_syscall name, number
	forward	\name
	.balign	16
tracer_label softsgx_fallback_\name
	.cfi_startproc
	mov	$\number, %eax
	syscall
	ret
	.cfi_endproc
	.endm

	/* System call numbers: <asm/unistd_64.h>. */
	forward_or_syscall clock_gettime, 228
	forward_or_syscall gettimeofday, 96
	forward_or_syscall time, 201
	forward_or_syscall clock_getres, 229
	forward_or_syscall getcpu, 309

	/*
	 * getrandom(buffer, len, flags, opaque_state, opaque_len): opaque_len ~0
	 * asks how large a state to allocate. A success without an answer would
	 * be taken for one, so it is refused, and libc then uses the system call.
	 */
	forward	getrandom
	.balign	16
tracer_label softsgx_fallback_getrandom
	.cfi_startproc
	cmp	$-1, %r8
	je	.Lno_state
	mov	$318, %eax
	syscall
	ret
.Lno_state:
	mov	$-ENOSYS, %rax
	ret
	.cfi_endproc

/* ---- the short way: where it is in this process, and whether it is open --------- */

	.pushsection .slots, "aw", @nobits
	.balign	8
tracer_label softsgx_short_enter
	.skip	8
tracer_label softsgx_short_open
	.skip	8
	.popsection

/* ---- one instruction and a stop, for the tracer ---------------------------------- */

	.macro stop_after name, instruction:vararg
	.balign	16
tracer_label softsgx_\name
	.cfi_startproc
	.cfi_undefined %rip
	\instruction
	int3
	.cfi_endproc
	.endm

	stop_after cpuid, cpuid
	stop_after xgetbv, xgetbv

/* ---- CPUID's answers without a stop ------------------------------------------------
 *
 * A stub (host/cpuidcode.py) comes here in place of a CPUID of the program's: EAX is the
 * leaf, ECX the sub-leaf, RBX where the stub takes what is found. CPUID writes all of RAX, RBX,
 * RCX and RDX, so these are free; neither stack nor flags change. What the tracer has put down
 * is answered (RCX is where), leaves that each core answers for itself are the processor's, and
 * the rest is left to the instruction itself, which traps.
 *
 * From softsgx_cpuid_packed on RDX has the sub-leaf above the leaf; AX is the flags (LAHF;
 * overflow in bit 0) until they are restored. A signal never shows this code: host/cpuidcode.py
 * puts the thread before the CPUID, or behind it.
 */
#define CPUID_NATIVE	17	/* from where a stub takes an answer: its own CPUID, */
#define CPUID_TRAPS	24	/* and the program's */
#define CPUID_ANSWER	24	/* bytes: leaf, sub-leaf, EAX, EBX, ECX, EDX */

	.balign	16
tracer_label softsgx_cpuid_lookup
	mov	%eax, %edx
tracer_label softsgx_cpuid_leaf
	lahf
	seto	%al
	shl	$32, %rcx
tracer_label softsgx_cpuid_shifted
	or	%rcx, %rdx
tracer_label softsgx_cpuid_packed
	lea	softsgx_cpuid_answers - CPUID_ANSWER(%rip), %rcx
	/* First those of leaves that have no sub-leaves, whatever ECX is. */
.Lnext_plain:
	add	$CPUID_ANSWER, %rcx
	cmpl	$-1, (%rcx)
	je	.Lnext
	cmp	%edx, (%rcx)
	jne	.Lnext_plain
	jmp	.Lfound
.Lnext:
	add	$CPUID_ANSWER, %rcx
	cmpq	$-1, (%rcx)
	je	.Lno_answer
	cmp	%rdx, (%rcx)
	jne	.Lnext
.Lfound:
	add	$0x7f, %al
	sahf
tracer_label softsgx_cpuid_found
	jmp	*%rbx

.Lno_answer:
	lea	softsgx_cpuid_leaves - 4(%rip), %rcx
.Lnext_leaf:
	add	$4, %rcx
	cmpl	$0, (%rcx)
	je	.Ltraps
	cmp	%edx, (%rcx)
	jne	.Lnext_leaf
	lea	CPUID_NATIVE(%rbx), %rbx
	jmp	.Lunpack
.Ltraps:
	lea	CPUID_TRAPS(%rbx), %rbx
.Lunpack:
	mov	%rdx, %rcx
	shr	$32, %rcx
	add	$0x7f, %al
	sahf
tracer_label softsgx_cpuid_restored
	mov	%edx, %eax
	jmp	*%rbx
tracer_label softsgx_cpuid_end

	/* For the tracer, behind the slots: leaves end with 0, answers of each kind with -1. */
	.pushsection .answers, "aw", @nobits
tracer_label softsgx_cpuid_leaves
	.skip	64
tracer_label softsgx_cpuid_answers
	.skip	29 * 64
tracer_label softsgx_cpuid_stubs
	.skip	8192
tracer_label softsgx_cpuid_stubs_end
	.popsection

/* An exception of its own, for a thread that has to get from a system call to a signal. */
	.balign	16
tracer_label softsgx_undefined
	.cfi_startproc
	.cfi_undefined %rip
	ud2
	.cfi_endproc

/*
 * Several system calls for the tracer, with one stop at their end. RBX is a row: a number, six
 * arguments, and what has to be answered; RBP how many there are. RBX is the first row that was
 * answered otherwise, and R12 its answer; R13 where to go on. `at`: a label of the call.
 */
#define CALL_ROW	64
	.macro make_calls at
.Lmake\@:
	mov	(%rbx), %rax
	mov	8(%rbx), %rdi
	mov	16(%rbx), %rsi
	mov	24(%rbx), %rdx
	mov	32(%rbx), %r10
	mov	40(%rbx), %r8
	mov	48(%rbx), %r9
tracer_label \at
	syscall
	mov	%rax, %r12
	cmp	56(%rbx), %rax
	jne	.Lover\@
	add	$CALL_ROW, %rbx
	dec	%ebp
	jnz	.Lmake\@
.Lover\@:
	xor	%esi, %esi
	mov	$ENTER_CALL, %eax
	.endm

/*
 * The one at softsgx_syscall is what the filters let pass. The tracer makes a single call by a step to
 * its exit, too, and what is behind it does not run then.
 */
	.balign	16
tracer_label softsgx_batch
	.cfi_startproc
	.cfi_undefined %rip
	make_calls softsgx_syscall
	jmp	*%r13
	.cfi_endproc

/*
 * The same for a program that exec has just made, which has no page of ours: the tracer copies it,
 * behind its rows, to where the call at its end is a place that the filter lets stop.
 */
	.balign	16
tracer_label softsgx_calls
	.cfi_startproc
	.cfi_undefined %rip
	make_calls softsgx_calls_made
	syscall
tracer_label softsgx_calls_end
	ud2			/* a filter that is not ours has answered it */
	.cfi_endproc
tracer_label softsgx_calls_behind

/* The name of a node like the device's, for calls that the kernel answers for it. */
tracer_label softsgx_null
	.asciz "/dev/null"
