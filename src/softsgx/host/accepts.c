/* SPDX-License-Identifier: MIT
 *
 * An enclave that accepts pages, or extends their permissions, one after the other: the same ENCLU
 * with the next page. What the law says of them is asked before they come (sgx/foreseen.py);
 * here each stop is compared with what was asked, in all that may differ, and answered. What differs
 * is Python's, and nothing has been done then.
 *
 * Where the thread has to change the page's protection it goes on through that call (softsgx_batch
 * in vdso.S), and from there to where it was: the stop is the only one.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>

/*
 * The block: words of 64 bits, by these names (host/accepts.py reads them here).
 * tid: the thread. rip, leaf, next: what its ENCLU has to be, and of which page (RCX); step: from one
 * page to the next. secinfo: the page in ELRANGE that RBX has to be in. slot, row: what the word at an
 * address here has to be, if that is not 0. code, info: addresses here of the ENCLU and of SECINFO's
 * page; info_at: of the 64 bytes that SECINFO has to be. fresh: what an address of a page is less
 * than ours, where it has to be zero, or 0. flags: RFLAGS that stay; keeps: RAX stays, or is 0.
 * changes: whether the page's protection becomes `prot`, by the code at `batch`, then at `carried`, or
 * at `stop` if it fails, and the frame at `frame`, which is `frame_at` here. most: pages to take. poll_ns: as wait_any() has it. regs_at:
 * where the registers that the thread of the last page goes on with are to be.
 * Told: done: pages taken; got, status: of whoever had something else to tell, 0 if nobody.
 */
#define WORDS \
	F(tid) F(rip) F(leaf) F(next) F(step) F(secinfo) F(slot) F(row) F(code) F(info) F(info_at) \
	F(fresh) F(flags) F(keeps) F(changes) F(prot) F(batch) F(carried) F(stop) F(frame) F(frame_at) F(most) \
	F(poll_ns) F(regs_at) F(done) F(got) F(status)

#include "await.h"

#define F(name) #name " "
EXPORT const char softsgx_accepts_words[] = WORDS;
#undef F

#define PAGE 4096
#define ENCLU_BYTES 3
#define TF 0x100
#define SIGILL_STOP (SIGILL << 8 | 0x7f)
#define CLEAN_FLAGS 0x202 /* no TF, and no NT, with which IRET faults */

/* What is at `frame`: a row of softsgx_batch, registers as it pops them, whether it is on its way. */
struct frame {
	uint64_t row[8], regs[21], spare, underway;
};

static bool is_zero(const uint64_t *page)
{
	uint64_t any = 0;

	for (int i = 0; i < PAGE / 8; i++)
		any |= page[i];
	return !any;
}

static bool is_next(const struct block *b, const struct user_regs_struct *regs)
{
	const volatile uint64_t *slot = (const volatile uint64_t *)b->slot;

	if (regs->rip != b->rip || (uint32_t)regs->rax != b->leaf || regs->rcx != b->next
	    || (regs->rbx & -(uint64_t)PAGE) != b->secinfo || regs->rbx % 64 || regs->eflags & TF)
		return false;
	return (!slot || *slot == b->row) && !memcmp((const void *)b->code, "\x0f\x01\xd7", ENCLU_BYTES)
	       && !memcmp((const char *)b->info + regs->rbx % PAGE, (const void *)b->info_at, 64)
	       && (!b->fresh || is_zero((const uint64_t *)(b->fresh + b->next)));
}

/* The registers with which a thread makes the call, and has its own again behind it. */
static struct user_regs_struct over(const struct block *b, const struct user_regs_struct *regs)
{
	struct frame *frame = (struct frame *)b->frame_at;
	struct user_regs_struct first = *regs;

	memset(frame->row, 0, sizeof(frame->row));
	frame->row[0] = SYS_mprotect;
	frame->row[1] = regs->rcx;
	frame->row[2] = PAGE;
	frame->row[3] = b->prot;
	memcpy(frame->regs, regs, sizeof(frame->regs));
	frame->underway = 1;
	first.rbx = b->frame + offsetof(struct frame, row);
	first.rbp = 1;
	first.r13 = b->carried;
	first.r14 = b->stop;
	first.r15 = b->frame + offsetof(struct frame, underway);
	first.rsp = b->frame + offsetof(struct frame, regs);
	first.rip = b->batch;
	first.eflags = CLEAN_FLAGS;
	first.orig_rax = (unsigned long long)-1;
	return first;
}

/* One page, from its stop to where its thread runs on. */
static enum taken take(struct block *b)
{
	struct user_regs_struct regs, first;

	if (ptrace(PTRACE_GETREGS, (pid_t)b->tid, NULL, &regs) < 0 || !is_next(b, &regs))
		return OTHER;
	b->next += b->step;
	b->done++;
	regs.rip += ENCLU_BYTES;
	regs.eflags &= b->flags;
	if (!b->keeps)
		regs.rax = 0;
	first = b->changes ? over(b, &regs) : regs;
	memcpy((void *)b->regs_at, &regs, sizeof(regs));
	if (ptrace(PTRACE_SETREGS, (pid_t)b->tid, NULL, &first) < 0
	    || ptrace(PTRACE_CONT, (pid_t)b->tid, NULL, NULL) < 0)
		return LOST; /* killed: its end is reported by a later wait */
	return TAKEN;
}

/* Wait and take pages until `most` are taken, or something else has happened. */
EXPORT void softsgx_accepts(struct block *b)
{
	b->done = b->got = b->status = 0;
	answer(b, SIGILL_STOP, take);
}
