/* SPDX-License-Identifier: MIT
 *
 * What bystanders.c notes of a fork, vfork or clone.
 */
#ifndef SOFTSGX_BIRTHS_H
#define SOFTSGX_BIRTHS_H

#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>
#include "bystanders.h"
#include "polls.h"
#include "shares.h"

#define SYSCALL_BYTES 2
#define CLONE3_BYTES 8
#define CLONE_CLEAR_SIGHAND_ (1ull << 32) /* Linux 5.5 */
#define OF_THREADS (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_FILES)

/*
 * Whether it is at that event: one that has made threads may be at its end already, where what is asked of
 * the event is answered otherwise.
 */
static inline bool is_at(pid_t tid, int event)
{
	siginfo_t info;

	return ptrace(PTRACE_GETSIGINFO, tid, NULL, &info) == 0 && info.si_code >> 8 == event;
}

/*
 * What a clone, fork or vfork says to share, false where that is not to be told here. given: by what lies
 * in memory, which can be another by now, if by the kernel itself, which writes a pidfd and tids.
 */
static inline bool asked_to_share(pid_t tid, uint64_t *flags, bool *given)
{
	struct user_regs_struct regs;
	unsigned char insn[SYSCALL_BYTES];
	struct iovec ours[2] = {{insn, sizeof(insn)}, {flags, CLONE3_BYTES}}, theirs[2];
	unsigned long n = 1;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return false;
	*flags = 0;
	theirs[0] = (struct iovec){(void *)(regs.rip - SYSCALL_BYTES), sizeof(insn)};
	theirs[1] = (struct iovec){(void *)regs.rdi, CLONE3_BYTES};
	switch (regs.orig_rax) {
	case SYS_fork:
		break;
	case SYS_vfork:
		*flags = CLONE_VM | CLONE_VFORK;
		break;
	case SYS_clone:
		*flags = regs.rdi;
		break;
	case SYS_clone3:
		n = 2;
		break;
	default:
		return false;
	}
	*given = n == 2;
	/* i386's numbers mean other calls. */
	return process_vm_readv(tid, ours, n, theirs, n, 0)
		       == (ssize_t)(SYSCALL_BYTES + (n - 1) * CLONE3_BYTES)
	       && insn[0] == 0x0f && insn[1] == 0x05;
}

/* What they share, as processes.py has it: false if that is unusual. */
static inline bool shared(const struct row *row, pid_t tid, int event, uint64_t *flags, bool *given)
{
	bool thread;

	if (!asked_to_share((pid_t)row->tid, flags, given))
		return false;
	if (*given) {
		thread = !syscall(SYS_tgkill, (pid_t)row->first, tid, 0);
		*flags = thread ? OF_THREADS : *flags & ~(uint64_t)CLONE_THREAD;
		*given = !thread;
	} else {
		thread = *flags & CLONE_THREAD;
	}
	if (*flags & CLONE_UNTRACED)
		return false;
	if (thread)
		return event == PTRACE_EVENT_CLONE && (*flags & OF_THREADS) == OF_THREADS;
	return !(*flags & CLONE_SIGHAND) && (!(*flags & CLONE_VM) || event == PTRACE_EVENT_VFORK);
}

/* The first stop of who was just born. */
static inline bool first_stop(struct block *b, pid_t tid, int *status)
{
	static struct polls polls = {.pause = 1};

	return take_early(b, tid, status)
	       || (b->n_early < b->most_early && wait_for(&polls, b->polls, tid, status) == tid);
}

/*
 * Who makes threads stops before it ends, since another's exec takes its number: not while somebody
 * deals with it (processes.py). Its children have inherited that.
 */
static inline bool set_options(struct block *b, struct row *row, pid_t tid, bool thread)
{
	if (row->exits) {
		ptrace(PTRACE_SETOPTIONS, tid, NULL, (void *)b->options);
		return true;
	}
	if (!thread || row->tid != row->first)
		return true;
	if (ptrace(PTRACE_SETOPTIONS, (pid_t)row->tid, NULL, (void *)(b->options | PTRACE_O_TRACEEXIT)) < 0)
		return false;
	row->exits = 1;
	note(b, EXITS, row->tid);
	return true;
}

/* row: the parent, first: its process's first thread. */
static inline bool bore(struct block *b, struct row *row, const struct row *first, int event)
{
	unsigned long message;
	struct entry *entry;
	uint64_t flags;
	struct row *new;
	bool given;
	int status;
	pid_t tid;

	if (!has_room(b) || ptrace(PTRACE_GETEVENTMSG, (pid_t)row->tid, NULL, &message) < 0
	    || (row->exits && !is_at((pid_t)row->tid, event)))
		return false;
	tid = (pid_t)message;
	if (find(b, (uint64_t)tid) || !shared(row, tid, event, &flags, &given)
	    || !first_stop(b, tid, &status))
		return false;
	if (status != FIRST_STOP || (given && !is_so((pid_t)row->tid, tid, flags))
	    || !set_options(b, row, tid, flags & CLONE_THREAD)) {
		keep_early(b, tid, status);
		return false;
	}
	new = (struct row *)b->rows + b->n_rows++;
	*new = *first;
	new->tid = (uint64_t)tid;
	new->plain = 1;
	new->exits = new->waits = new->rip = new->alike = 0;
	if (!(flags & CLONE_THREAD))
		new->first = new->tid;
	place(b, new);
	if (flags & CLONE_CLEAR_SIGHAND_ && first->action == HANDLED)
		new->action = NONE;
	entry = note(b, BORN, (uint64_t)tid);
	entry->a = row->tid;
	entry->b = event == PTRACE_EVENT_VFORK;
	entry->c = flags;
	row->waits = entry->b;
	/* If one of them is killed meanwhile a later wait says so. */
	ptrace(PTRACE_CONT, tid, NULL, NULL);
	ptrace(PTRACE_CONT, (pid_t)row->tid, NULL, NULL);
	return true;
}

#endif
