/* SPDX-License-Identifier: MIT
 *
 * What programs stop for that have nothing to do with enclaves: they make threads, fork, exec, set
 * handlers, hear of children that ended, and end.
 *
 * Before anybody has opened the device nothing is decided at such a stop: it is noted. So it is noted
 * here, in a log that the tracer in Python reads before it deals with anything else. What was made and
 * ended meanwhile is in no log at all. Whatever is unusual is Python's, with the stop as it is.
 * docs/decisions/0021 says why.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bystanders.h"
#include "births.h"

#define JUMP 0xe9
#define PAGE_BYTES 4096
#define MOST_ALIKE 3
#define MOST_ENDS 1000

#define F(name) #name " "
EXPORT const char softsgx_bystanders_words[] = WORDS;
#undef F

static bool executed(struct block *b, struct row *row)
{
	static struct polls polls = {.pause = 1};
	struct execs *e = (struct execs *)b->execs;
	struct entry *entry;
	bool polling;

	if (!e || !e->n_recipes || !has_room(b))
		return false;
	e->tid = row->tid;
	e->place = b->place;
	e->stage = UNKNOWN;
	polling = worth(&polls, b);
	e->poll_ns = polling ? POLL_NS : 0;
	softsgx_execs(e);
	if (polling && e->stage != UNKNOWN)
		polled(&polls, !e->poll_ns);
	if (e->stage != DONE) {
		b->looked = 1;
		return false;
	}
	if ((int64_t)e->mem >= 0)
		close((int)e->mem);
	entry = note(b, EXEC, row->tid);
	entry->a = e->recipe;
	entry->b = row->image = e->base;
	row->far = 0;
	entry->c = row->paths = e->paths;
	entry->n = e->n_found;
	memcpy(entry->starts, (const void *)e->starts, e->n_found * sizeof(uint64_t));
	memcpy(row->traps, (const void *)e->traps, sizeof(row->traps));
	row->action = row->action == HANDLED ? NONE : row->action;
	return true;
}

/*
 * A signal that is no exception's, nor stops, in code of the program's own. One more at the same place
 * may be of those that leave a thread no time at all (storms.py); but a shell waits for many children at
 * one place, of each of which it hears once.
 */
static bool delivered(const struct block *b, struct row *row, const struct row *first, int number)
{
	struct user_regs_struct regs;

	if (number & 0x80 || 1ull << number & (1ull << SIGILL | 1ull << SIGTRAP | 1ull << SIGBUS
					       | 1ull << SIGFPE | 1ull << SIGSEGV | 1ull << SIGSYS
					       | 1ull << SIGSTOP))
		return false;
	/* A jump may be in a hole between the program's functions, and be ours. */
	if (ptrace(PTRACE_GETREGS, (pid_t)row->tid, NULL, &regs) < 0
	    || regs.rax == (unsigned long long)-EINTR || regs.orig_rax == SYS_recvmmsg
	    || (unsigned char)ptrace(PTRACE_PEEKTEXT, (pid_t)row->tid, (void *)regs.rip, NULL) == JUMP
	    || regs.rip - first->image < b->image_bytes || regs.rip - first->paths < b->paths_bytes
	    || (first->far && regs.rip - first->far < PAGE_BYTES))
		return false;
	row->alike = row->rip == regs.rip ? row->alike + 1 : 0;
	row->rip = regs.rip;
	if (row->alike >= (number == SIGCHLD ? MOST_ENDS : MOST_ALIKE))
		return false;
	ptrace(PTRACE_CONT, (pid_t)row->tid, NULL, (void *)(uintptr_t)number);
	return true;
}

static enum action action_of(const char *action)
{
	uint64_t handler;

	memcpy(&handler, action, sizeof(handler));
	return handler == (uint64_t)SIG_DFL ? NONE : handler == (uint64_t)SIG_IGN ? ODD : HANDLED;
}

/* An rt_sigaction: nobody else has these handlers. */
static bool handled(struct block *b, struct row *row)
{
	struct user_regs_struct regs;
	char action[ACTION_BYTES];
	struct iovec ours = {action, sizeof(action)}, theirs = {NULL, sizeof(action)};
	int number;

	if (!has_room(b) || ptrace(PTRACE_GETREGS, (pid_t)row->tid, NULL, &regs) < 0
	    || regs.orig_rax != SYS_rt_sigaction || !((regs.rip - b->aep) & 0xfff))
		return false;
	number = (int)regs.rdi;
	theirs.iov_base = (void *)regs.rsi;
	if ((number == SIGILL || number == SIGTRAP || number == SIGBUS || number == SIGFPE
	     || number == SIGSEGV)
	    && regs.rsi && regs.r10 == 8
	    && process_vm_readv((pid_t)row->tid, &ours, 1, &theirs, 1, 0) == sizeof(action)) {
		struct entry *entry = note(b, ACTION, row->tid);

		entry->a = (uint64_t)number;
		memcpy(entry->action, action, sizeof(action));
		if (number == SIGILL && row->action != ODD)
			row->action = action_of(action);
	}
	ptrace(PTRACE_CONT, (pid_t)row->tid, NULL, NULL);
	return true;
}

static bool ended(struct block *b, struct row *row, int status)
{
	uint64_t tid = row->tid;
	/* Who is killed may leave children of whom nobody tells, be it by another thread's exit. */
	bool leaves = tid == row->first && (status == SIGKILL || row->exits);

	if (tid == b->main || !has_room(b))
		return false;
	drop(b, row);
	if (leaves)
		b->killed = 1;
	if (leaves || !forget(b, tid))
		note(b, END, tid)->a = (uint64_t)(uint32_t)status;
	return true;
}

static bool take(struct block *b, struct row *row, int status)
{
	int event = status >> 16, number = status >> 8 & 0xff;
	struct row *first = row->tid == row->first ? row : find(b, row->first);

	if (!row->plain || !first || !first->plain)
		return false;
	if ((status & 0xff) != 0x7f)
		return ended(b, row, status);
	if (event && event != PTRACE_EVENT_SECCOMP) /* which a handler's call may be */
		row->rip = 0;
	if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE)
		return bore(b, row, first, event);
	if (event == 0 && !(number == SIGILL && first->image))
		return delivered(b, row, first, number);
	if (row != first || row->exits) /* what others change, too */
		return false;
	switch (event) {
	case 0:
		return asked((pid_t)row->tid, row->traps, (const uint32_t *)b->answers, row->action);
	case PTRACE_EVENT_SECCOMP:
		return handled(b, row);
	case PTRACE_EVENT_EXEC:
		return executed(b, row);
	default:
		return false;
	}
}

/* The next event, 0 where none comes soon, and one is to be adopted (processes.py) if its parent is gone. */
static pid_t next(const struct block *b, int *status)
{
	static struct polls polls = {.pause = 1};

	if (b->killed && b->n_early)
		return poll_for(b->polls, -1, status);
	return wait_for(&polls, b->polls, -1, status);
}

EXPORT void softsgx_bystanders(struct block *b)
{
	b->got = b->looked = 0;
	begin(b);
	for (;;) {
		int status;
		pid_t tid = next(b, &status);
		struct row *row;

		if (tid <= 0)
			return; /* somebody for Python, or nobody is left */
		++*(uint64_t *)b->beat;
		row = find(b, (uint64_t)tid);
		if (!row && status == FIRST_STOP && b->n_early < b->most_early) {
			keep_early(b, tid, status);
			continue;
		}
		if (row && status >> 16 == PTRACE_EVENT_EXIT && b->n_log < b->most_log) {
			note(b, OVER, row->tid);
			ptrace(PTRACE_CONT, tid, NULL, NULL);
			continue;
		}
		if (row && (status & 0xff) == 0x7f && b->n_log < b->most_log)
			runs(b, row);
		if (!row || !take(b, row, status)) {
			b->got = (uint64_t)tid;
			b->status = (uint64_t)(uint32_t)status;
			return;
		}
	}
}
