/* SPDX-License-Identifier: MIT
 *
 * What programs stop for that have nothing to do with enclaves: they fork, exec, set handlers, hear of
 * children that ended, and end.
 *
 * Before anybody has opened the device nothing is decided at such a stop: it is noted. So it is noted
 * here, in a log that the tracer in Python reads before it deals with anything else. A process that
 * was made and ended meanwhile is in no log at all. Whatever is unusual is Python's, with the stop as
 * it is. docs/decisions/0021 says why.
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
#include "cpuids.h"
#include "execs.h"
#include "shares.h"

/*
 * The block: words of 64 bits, by these names (host/bystanders.py reads them here).
 * rows, n_rows: the threads that are known; most_rows: room for so many. log, n_log, most_log: what
 * happened. early, n_early, most_early: first stops of children of whom no parent has told yet.
 * execs: the words of execs.c, 0 if nothing is prepared here. place: as they have it.
 * image_bytes, paths_bytes: of our memory in a process; aep: where in a page of the former an ENCLU
 * stands. main: the process whose end is Python's. beat: a word that counts stops. polls: whether there
 * is more than one processor. answers: of CPUID, as programs have them; 0 where they have none.
 * Told: looked: whether the exec that is Python's was tried here. got, status: an event that is
 * Python's; 0 if there is none.
 */
#define WORDS \
	F(rows) F(n_rows) F(most_rows) F(log) F(n_log) F(most_log) F(early) F(n_early) F(most_early) \
	F(execs) F(place) F(image_bytes) F(paths_bytes) F(aep) F(main) F(beat) F(polls) F(answers) \
	F(looked) F(got) F(status)

#include "block.h"
#include "polls.h"

#define F(name) #name " "
EXPORT const char softsgx_bystanders_words[] = WORDS;
#undef F

#define STOPPED(event, number) ((event) << 16 | (number) << 8 | 0x7f)
#define FIRST_STOP STOPPED(PTRACE_EVENT_STOP, SIGTRAP)
#define ACTION_BYTES 32
#define SYSCALL_BYTES 2
#define CLONE3_BYTES 8
#define JUMP 0xe9
#define CLONE_CLEAR_SIGHAND_ (1ull << 32) /* Linux 5.5 */
#define PLACES 4096
#define MOST_ALIKE 3
#define MOST_ENDS 1000

/*
 * A thread that is known. plain: all that it may do here is done here. space: a number of its memory,
 * image, paths: what of ours is there, 0 for nothing. waits: whether its vfork child runs: 1 if that is
 * in the log, 2 if Python knows. action: what it does with SIGILL. traps: where CPUIDs are that stop.
 * rip, alike: where signals came last, and how many there, with nothing else between.
 */
struct row {
	uint64_t tid, plain, space, image, paths, waits, action, traps[MOST_TRAPS], rip, alike;
};

/*
 * BORN: of tid; a: its parent, b: whether that waits for it, c: what they share. EXEC: a: the recipe,
 * b, c: image and paths, then where the mappings begin. END: a: the status. RUNS: tid waits for no
 * vfork child any more. ACTION: a: the signal, then struct sigaction.
 */
enum { BORN, EXEC, END, RUNS, ACTION };

struct entry {
	uint64_t kind, tid, a, b, c, n;
	union {
		uint64_t starts[MOST_MAPS];
		char action[ACTION_BYTES];
	};
};

struct early {
	uint64_t tid, status;
};

/* Where a thread was found last is where it is, mostly: there may be thousands. */
static struct row *find(const struct block *b, uint64_t tid)
{
	static uint32_t places[PLACES];
	struct row *rows = (struct row *)b->rows;
	uint32_t *place = &places[tid % PLACES];

	if (*place < b->n_rows && rows[*place].tid == tid)
		return rows + *place;
	for (uint64_t i = 0; i < b->n_rows; i++)
		if (rows[i].tid == tid) {
			*place = (uint32_t)i;
			return rows + i;
		}
	return NULL;
}

static uint64_t new_space(void)
{
	static uint64_t last = 1ull << 63;

	return ++last;
}

static struct entry *note(struct block *b, uint64_t kind, uint64_t tid)
{
	struct entry *entry = (struct entry *)b->log + b->n_log++;

	*entry = (struct entry){.kind = kind, .tid = tid};
	return entry;
}

static bool has_room(const struct block *b)
{
	return b->n_log + 2 <= b->most_log && b->n_rows < b->most_rows;
}

/* It has stopped: so it does not wait for a vfork child. */
static void runs(struct block *b, struct row *row)
{
	struct entry *entry = (struct entry *)b->log;

	for (uint64_t i = 0; row->waits == 1 && i < b->n_log; i++, entry++)
		if (entry->kind == BORN && entry->a == row->tid)
			entry->b = 0;
	if (row->waits == 2)
		note(b, RUNS, row->tid);
	row->waits = 0;
}

static void keep_early(struct block *b, pid_t tid, int status)
{
	((struct early *)b->early)[b->n_early++] =
		(struct early){(uint64_t)tid, (uint64_t)(uint32_t)status};
}

static bool take_early(struct block *b, pid_t tid, int *status)
{
	struct early *early = (struct early *)b->early;

	for (uint64_t i = 0; i < b->n_early; i++) {
		if (early[i].tid != (uint64_t)tid)
			continue;
		*status = (int)early[i].status;
		early[i] = early[--b->n_early];
		return true;
	}
	return false;
}

/*
 * What a clone, fork or vfork shares, as processes.py has it: false if it is not to be told here. What
 * clone3 was given can be another by now, if by the kernel itself, which writes a pidfd and tids.
 */
static bool shared(const struct row *row, int event, uint64_t *flags, bool *given)
{
	struct user_regs_struct regs;
	unsigned char insn[SYSCALL_BYTES];
	struct iovec ours[2] = {{insn, sizeof(insn)}, {flags, CLONE3_BYTES}}, theirs[2];
	unsigned long n = 1;

	if (ptrace(PTRACE_GETREGS, (pid_t)row->tid, NULL, &regs) < 0)
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
	/* i386's numbers mean other calls. */
	if (process_vm_readv((pid_t)row->tid, ours, n, theirs, n, 0)
		    != (ssize_t)(SYSCALL_BYTES + (n - 1) * CLONE3_BYTES)
	    || insn[0] != 0x0f || insn[1] != 0x05)
		return false;
	*given = n == 2;
	return !(*flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_UNTRACED))
	       && (!(*flags & CLONE_VM) || event == PTRACE_EVENT_VFORK);
}

static bool bore(struct block *b, struct row *row, int event)
{
	static struct polls polls = {.pause = 1};
	unsigned long message;
	struct entry *entry;
	uint64_t flags;
	struct row *new;
	bool given;
	int status;
	pid_t tid;

	if (!has_room(b) || ptrace(PTRACE_GETEVENTMSG, (pid_t)row->tid, NULL, &message) < 0
	    || !shared(row, event, &flags, &given))
		return false;
	tid = (pid_t)message;
	if (find(b, (uint64_t)tid))
		return false;
	if (!take_early(b, tid, &status)) {
		if (b->n_early == b->most_early || wait_for(&polls, b->polls, tid, &status) != tid)
			return false;
	}
	if (status != FIRST_STOP || (given && !is_so((pid_t)row->tid, tid, flags))) {
		keep_early(b, tid, status);
		return false;
	}
	new = (struct row *)b->rows + b->n_rows++;
	*new = *row;
	new->tid = (uint64_t)tid;
	new->plain = 1;
	new->waits = new->rip = new->alike = 0;
	if (!(flags & CLONE_VM))
		new->space = new_space();
	if (flags & CLONE_CLEAR_SIGHAND_ && row->action == HANDLED)
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
	entry->c = row->paths = e->paths;
	entry->n = e->n_found;
	memcpy(entry->starts, (const void *)e->starts, e->n_found * sizeof(uint64_t));
	memcpy(row->traps, (const void *)e->traps, sizeof(row->traps));
	row->action = row->action == HANDLED ? NONE : row->action;
	row->space = new_space();
	return true;
}

/*
 * A signal that is no exception's, nor stops, in code of the program's own. One more at the same place
 * may be of those that leave a thread no time at all (storms.py); but a shell waits for many children at
 * one place, of each of which it hears once.
 */
static bool delivered(const struct block *b, struct row *row, int number)
{
	struct user_regs_struct regs;

	if (number & 0x80 || 1ull << number & (1ull << SIGILL | 1ull << SIGTRAP | 1ull << SIGBUS
					       | 1ull << SIGFPE | 1ull << SIGSEGV | 1ull << SIGSYS
					       | 1ull << SIGSTOP))
		return false;
	/* A jump may be in a hole between the program's functions, and be ours. */
	if (ptrace(PTRACE_GETREGS, (pid_t)row->tid, NULL, &regs) < 0
	    || regs.rax == (unsigned long long)-EINTR
	    || (unsigned char)ptrace(PTRACE_PEEKTEXT, (pid_t)row->tid, (void *)regs.rip, NULL) == JUMP
	    || regs.rip - row->image < b->image_bytes || regs.rip - row->paths < b->paths_bytes)
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

/* Nobody needs to know of what began and ended here, unless it has children. */
static bool forget(struct block *b, uint64_t tid)
{
	struct entry *log = (struct entry *)b->log;
	uint64_t left = 0;
	bool born = false;

	for (uint64_t i = 0; i < b->n_log; i++) {
		if (log[i].kind == BORN && log[i].a == tid)
			return false;
		born |= log[i].kind == BORN && log[i].tid == tid;
	}
	for (uint64_t i = 0; born && i < b->n_log; i++) {
		struct row *parent;

		if (log[i].tid != tid) {
			log[left++] = log[i];
			continue;
		}
		parent = log[i].kind == BORN && log[i].b ? find(b, log[i].a) : NULL;
		if (parent)
			parent->waits = 0;
	}
	if (born)
		b->n_log = left;
	return born;
}

static bool ended(struct block *b, struct row *row, int status)
{
	uint64_t tid = row->tid;

	/* Who is killed may leave children of whom nobody tells. */
	if (tid == b->main || status == SIGKILL || !has_room(b))
		return false;
	*row = ((struct row *)b->rows)[--b->n_rows];
	if (!forget(b, tid))
		note(b, END, tid)->a = (uint64_t)(uint32_t)status;
	return true;
}

static bool take(struct block *b, struct row *row, int status)
{
	int event = status >> 16, number = status >> 8 & 0xff;

	if ((status & 0xff) != 0x7f)
		return ended(b, row, status);
	if (event && event != PTRACE_EVENT_SECCOMP) /* which a handler's call may be */
		row->rip = 0;
	switch (event) {
	case 0:
		if (number == SIGILL && row->image)
			return asked((pid_t)row->tid, row->traps, (const uint32_t *)b->answers,
				     row->action);
		return delivered(b, row, number);
	case PTRACE_EVENT_SECCOMP:
		return handled(b, row);
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
	case PTRACE_EVENT_CLONE:
		return bore(b, row, event);
	case PTRACE_EVENT_EXEC:
		return executed(b, row);
	default:
		return false;
	}
}

EXPORT void softsgx_bystanders(struct block *b)
{
	static struct polls polls = {.pause = 1};

	b->got = b->looked = 0;
	for (uint64_t i = 0; i < b->n_rows; i++) /* what was in the log is known now */
		if (((struct row *)b->rows)[i].waits)
			((struct row *)b->rows)[i].waits = 2;
	for (;;) {
		int status;
		pid_t tid = wait_for(&polls, b->polls, -1, &status);
		struct row *row;

		if (tid <= 0)
			return; /* a signal for Python, or nobody is left */
		++*(uint64_t *)b->beat;
		row = find(b, (uint64_t)tid);
		/* No first thread of a process: SIGCONT stops one that Python knows alone so, too. */
		if (!row && status == FIRST_STOP && b->n_early < b->most_early
		    && (!syscall(SYS_tgkill, tid, tid, 0) || errno != ESRCH)) {
			keep_early(b, tid, status);
			continue;
		}
		if (row && (status & 0xff) == 0x7f && b->n_log < b->most_log)
			runs(b, row);
		if (!row || !row->plain || !take(b, row, status)) {
			b->got = (uint64_t)tid;
			b->status = (uint64_t)(uint32_t)status;
			return;
		}
	}
}
