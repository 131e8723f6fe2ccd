/* SPDX-License-Identifier: MIT
 *
 * An enclave that accepts pages, copies or not, or extends their permissions: one ENCLU a page. What the law says of
 * a page depends on what state it is in, not on which page it is; so it is asked once for each kind
 * of page (device/accepted.py), and here a stop is told its kind by a table of the enclave's pages, and
 * is answered by the rule that was made of it. What no rule is for is Python's, and nothing has been
 * done then.
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
 * enclaves, threads, rules, runs: addresses here of tables of the structures below. n_rules: how many
 * there are. most: leaves to take. poll_ns: as wait_any() has it. together: whether we may stay where
 * a thread is.
 * Told: done: leaves taken; n_runs: what they were; got, status: of whoever had something else to tell,
 * 0 if nobody; missed: the key of a rule that there is not, 0 if it was something else.
 */
#define WORDS \
	F(enclaves) F(threads) F(rules) F(runs) F(n_rules) F(most) F(poll_ns) F(together) \
	F(done) F(n_runs) F(got) F(status) F(missed)

#include "await.h"
#include "putregs.h"
#include "together.h"

#define F(name) #name " "
EXPORT const char softsgx_accepts_words[] = WORDS;
#undef F

#define PAGE 4096
#define ENCLU_BYTES 3
#define EACCEPTCOPY 7
#define TF 0x100
#define SIGILL_STOP (SIGILL << 8 | 0x7f)
#define CLEAN_FLAGS 0x202 /* no TF, and no NT, with which IRET faults */
#define THREADS 64
#define RUNS 256
#define ALONE 8 /* leaves in a row of one thread, from which on we stay with it */

/* ELRANGE; kinds, memory: addresses here of the table, a byte a page, and of the enclave's pages.
 * Kind 0: what Python alone knows. */
struct enclave {
	uint64_t base, size, kinds, memory;
};

/* Found by its number modulo THREADS. slot: the address here of what its word on the short way is at,
 * or 0; inside: what that is while it is in this enclave. batch, carried, stop, frame: where the
 * calls are made, where it goes on behind them, or if one fails, and where the frame is there
 * (frame_at: here). Told: page, end: what its last leaf was on; rule: that answered it; way: whether it
 * went on by the frame then (1); regs: with which it goes on behind its ENCLU. Python tells the same of
 * a thread that it has sent by the frame (way: 2). bound: whether nobody sees where it may run, so that it
 * can be bound for moments. */
struct thread {
	uint64_t tid, enclave, slot, inside[2], batch, carried, stop, frame, frame_at, bound;
	uint64_t page, end, rule, way;
	struct user_regs_struct regs;
};

/* key: see key_of(). info: SECINFO. kind: of the page afterwards. fresh: it comes by a fault, and has to
 * be zero. changes: whether its protection becomes `prot`. flags: RFLAGS that stay; keeps: RAX stays,
 * or is 0. copies: it becomes a copy of RDX's page. */
struct rule {
	uint64_t key, info[8], kind, fresh, changes, prot, flags, keeps, copies;
};

/* Pages [first, last) of an enclave by one rule, in the order in which they came. */
struct run {
	uint64_t enclave, rule, first, last;
};

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

/* Of a leaf: EAX, the kinds of RDX's page, if it has one, of SECINFO's and of its own. */
static uint64_t key_of(uint64_t leaf, uint8_t source, uint8_t info, uint8_t kind)
{
	return leaf << 32 | (uint64_t)source << 16 | (uint64_t)info << 8 | kind;
}

/* Whether a thread has yet to change the protection of a page. */
static bool is_changing(const struct block *b, uint64_t enclave, uint64_t page)
{
	const struct thread *t = (const struct thread *)b->threads;

	for (int i = 0; i < THREADS; i++, t++)
		if (t->way && t->enclave == enclave && t->page <= page && page < t->end
		    && ((const volatile struct frame *)t->frame_at)->underway)
			return true;
	return false;
}

/* The rule for what stands at an ENCLU, NULL if it is Python's. */
static const struct rule *rule_for(struct block *b, const struct thread *t, const struct enclave *e,
				   const struct user_regs_struct *regs)
{
	const struct rule *rules = (const struct rule *)b->rules;
	const volatile uint64_t *slot = (const volatile uint64_t *)t->slot;
	const uint8_t *kinds = (const uint8_t *)e->kinds;
	const char *memory = (const char *)e->memory;
	uint64_t code = regs->rip - e->base, info = regs->rbx - e->base, page = regs->rcx - e->base;
	uint64_t key, source = regs->rdx - e->base;
	bool copies = (uint32_t)regs->rax == EACCEPTCOPY;

	if (code > e->size - ENCLU_BYTES || info >= e->size || page >= e->size || info % 64 || page % PAGE
	    || info / PAGE == page / PAGE || regs->eflags & TF
	    || memcmp(memory + code, "\x0f\x01\xd7", ENCLU_BYTES))
		return NULL;
	if (slot && *slot != t->inside[0] && *slot != t->inside[1])
		return NULL;
	if (!kinds[info / PAGE] || !kinds[page / PAGE])
		return NULL;
	if (copies && (source >= e->size || source % PAGE || source == page || !kinds[source / PAGE]))
		return NULL;
	key = key_of((uint32_t)regs->rax, copies ? kinds[source / PAGE] : 0, kinds[info / PAGE],
		     kinds[page / PAGE]);
	for (uint64_t i = 0; i < b->n_rules; i++)
		if (rules[i].key == key && !memcmp(memory + info, rules[i].info, sizeof(rules[i].info))) {
			if ((rules[i].fresh && !is_zero((const uint64_t *)(memory + page)))
			    || (rules[i].changes && (!t->frame || is_changing(b, t->enclave, page / PAGE))))
				return NULL;
			return &rules[i];
		}
	b->missed = key;
	return NULL;
}

/* The registers with which a thread makes the call, and has its own again behind it. */
static struct user_regs_struct over(struct thread *t, uint64_t prot)
{
	struct frame *frame = (struct frame *)t->frame_at;
	struct user_regs_struct first = t->regs;

	memset(frame->row, 0, sizeof(frame->row));
	frame->row[0] = SYS_mprotect;
	frame->row[1] = t->regs.rcx;
	frame->row[2] = PAGE;
	frame->row[3] = prot;
	memcpy(frame->regs, &t->regs, sizeof(frame->regs));
	frame->underway = 1;
	first.rbx = t->frame + offsetof(struct frame, row);
	first.rbp = 1;
	first.r13 = t->carried;
	first.r14 = t->stop;
	first.r15 = t->frame + offsetof(struct frame, underway);
	first.rsp = t->frame + offsetof(struct frame, regs);
	first.rip = t->batch;
	first.eflags = CLEAN_FLAGS;
	first.orig_rax = (unsigned long long)-1;
	return first;
}

/* Whether somebody has sent the signal: it met the thread at an ENCLU, or took the place of its own. */
static bool is_sent(const struct thread *t)
{
	siginfo_t info;

	return ptrace(PTRACE_GETSIGINFO, (pid_t)t->tid, NULL, &info) < 0 || info.si_code <= 0;
}

static void note(struct block *b, uint64_t enclave, uint64_t rule, uint64_t page)
{
	struct run *run = (struct run *)b->runs + b->n_runs - 1;

	if (b->n_runs && run->enclave == enclave && run->rule == rule) {
		if (page == run->last) {
			run->last++;
			return;
		}
		if (page + 1 == run->first) {
			run->first--;
			return;
		}
	}
	*++run = (struct run){enclave, rule, page, page + 1};
	b->n_runs++;
}

/* One leaf, from its stop to where its thread runs on, on this processor if it is not 0. */
static enum taken take(struct block *b, struct thread *t, uint64_t cpu)
{
	const struct enclave *e = (const struct enclave *)b->enclaves + t->enclave;
	struct user_regs_struct first;
	const struct rule *rule;

	if (ptrace(PTRACE_GETREGS, (pid_t)t->tid, NULL, &first) < 0)
		return OTHER;
	rule = rule_for(b, t, e, &first);
	if (!rule || is_sent(t))
		return OTHER;
	t->regs = first;
	t->regs.rip += ENCLU_BYTES;
	t->regs.eflags &= rule->flags;
	if (!rule->keeps)
		t->regs.rax = 0;
	t->page = (t->regs.rcx - e->base) / PAGE;
	t->end = t->page + 1;
	t->rule = (uint64_t)(rule - (const struct rule *)b->rules);
	t->way = rule->changes;
	((uint8_t *)e->kinds)[t->page] = (uint8_t)rule->kind;
	if (rule->copies)
		memcpy((char *)e->memory + t->page * PAGE,
		       (const char *)e->memory + (t->regs.rdx - e->base), PAGE);
	note(b, t->enclave, t->rule, t->page);
	b->done++;
	first = t->way ? over(t, rule->prot) : t->regs;
	if (!put_regs((pid_t)t->tid, &first) || !go_on((pid_t)t->tid, cpu))
		return LOST; /* killed: its end is reported by a later wait */
	return TAKEN;
}

/* Wait and take leaves until `most` are taken, or something else has happened. */
static void answer(struct block *b, uint64_t *cpu, cpu_set_t *was)
{
	uint64_t last = 0, alike = 0, none = 0;

	while (b->done < b->most && b->n_runs < RUNS) {
		int status = 0;
		pid_t tid = wait_any(*cpu ? &none : &b->poll_ns, &status);
		struct thread *t = (struct thread *)b->threads + (uint64_t)tid % THREADS;
		enum taken taken = OTHER;

		if (tid <= 0)
			return; /* a signal for Python, or nobody is left: its own wait says */
		if ((uint64_t)tid == t->tid && status == SIGILL_STOP) {
			alike = t->tid == last ? alike + 1 : 0;
			last = t->tid;
			if (alike == ALONE && b->together && t->bound && !*cpu)
				*cpu = stay(tid, was);
			taken = take(b, t, alike >= ALONE && t->bound ? *cpu : 0);
		}
		if (taken == OTHER) {
			b->got = (uint64_t)tid;
			b->status = (uint64_t)(uint32_t)status;
		}
		if (taken != TAKEN)
			return;
	}
}

EXPORT void softsgx_accepts(struct block *b)
{
	uint64_t cpu = 0;
	cpu_set_t was;

	b->done = b->n_runs = b->got = b->status = b->missed = 0;
	answer(b, &cpu, &was);
	if (cpu)
		sched_setaffinity(0, sizeof(was), &was);
}
