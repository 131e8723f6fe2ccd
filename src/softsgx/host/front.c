/* SPDX-License-Identifier: MIT
 *
 * The front: the process that a shell started, which stands for the program (cli/front.py says what
 * for). It makes its child, the tracer, which goes on with Python and the stack as they are, and
 * itself goes to another stack and never comes back. It uses nothing of libc, whose thread is the
 * child's from then on.
 */
#include "start.h"

#include <fcntl.h>
#include <linux/wait.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

/* What the tracer tells the front: struct message, down a pipe. The same numbers in cli/front.py. */
enum kind { PROGRAM = 1, STOPPED, WENT_ON, GONE, LEFT, DONE };

struct message {
	int32_t kind, value;
};

#define STOPS (BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU))
#define KEPT (STOPS | BIT(SIGSTOP) | BIT(SIGCHLD) | BIT(SIGURG) | BIT(SIGWINCH))
#define ENDS (BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGQUIT) | BIT(SIGHUP))

#define PR_GET_TID_ADDRESS_ 40 /* not in all headers */

struct front {
	int link, tracer;
	int at, have;
	struct message messages[64];
};

/* Whether the tracer has told something more. */
static bool more(struct front *f)
{
	if (f->at < f->have)
		return true;
	long bytes = CALL(read, f->link, f->messages, sizeof f->messages, 0, 0);

	f->at = 0;
	f->have = bytes > 0 ? (int)(bytes / sizeof f->messages[0]) : 0;
	return f->have > 0;
}

static void kill_(int pid, int number)
{
	CALL(kill, pid, number, 0, 0, 0);
}

static int self(void)
{
	return (int)CALL(getpid, 0, 0, 0, 0, 0);
}

/* End as the program did; without a second core file. */
_Noreturn static void die(int number)
{
	uint64_t none[2];

	none[0] = none[1] = 0;
	CALL(prlimit64, 0, RLIMIT_CORE, none, 0, 0);
	if (number != SIGKILL && number != SIGSTOP)
		dispose(number, 0);
	mask(SIG_UNBLOCK, BIT(number));
	kill_(self(), number);
	leave(128 + number);
}

_Noreturn static void end(int status)
{
	if ((status & 0x7f) == 0)
		leave(status >> 8 & 0xff);
	die(status & 0x7f);
}

/* Be stopped as the program is, until somebody continues us.
 *
 * Pending before it is unblocked: any SIGCONT takes it back (prepare_signal, Linux 6.1), so the
 * program cannot go on in between and leave us stopped. */
static void stop(struct front *f, int number)
{
	kill_(self(), number);
	if (more(f))
		kill_(self(), SIGCONT);
	mask(SIG_UNBLOCK, BIT(number));
	mask(SIG_BLOCK, ALL);
}

/* The tracer has ended; how: as wait(2) tells. status: the program's, if it was told. */
_Noreturn static void finish(struct front *f, int status, int how)
{
	while (more(f)) { /* told after we looked */
		struct message m = f->messages[f->at++];

		if (m.kind == DONE)
			status = m.value;
	}
	end(status >= 0 && how == 0 ? status : how);
}

static void to_null(void)
{
	long null = CALL(open, "/dev/null", O_RDWR | O_CLOEXEC, 0, 0, 0);

	for (int fd = 0; fd < 3 && null >= 0; fd++)
		if (fd != null)
			CALL(dup3, null, fd, O_CLOEXEC, 0, 0);
	if (null > 2)
		CALL(close, null, 0, 0, 0, 0);
}

/* A path below /proc. */
static void path_of(char *to, const char *folder, int number, const char *name)
{
	char digits[12];
	int n = 0;

	while (*folder)
		*to++ = *folder++;
	do
		digits[n++] = (char)('0' + number % 10);
	while (number /= 10);
	while (n > 0)
		*to++ = digits[--n];
	do
		*to++ = *name;
	while (*name++);
}

/* A thread's state, and the CPU time that it has used; 0 if it is gone. */
static char state_of(int process, int tid, uint64_t *used)
{
	char path[96], text[512];
	int at, spaces = 0;
	uint64_t time = 0, sum = 0;

	path_of(path, "/proc/", process, "/task/");
	for (at = 0; path[at]; at++)
		;
	path_of(path + at, "", tid, "/stat");
	long fd = CALL(open, path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
	long n = fd < 0 ? 0 : CALL(read, fd, text, sizeof text - 1, 0, 0);

	if (fd >= 0)
		CALL(close, fd, 0, 0, 0, 0);
	if (n <= 0)
		return 0;
	for (at = (int)n; at > 0 && text[at] != ')'; at--)
		;
	/* Behind the name: a space and the state, then utime and stime as words 12 and 13. */
	for (int i = at + 1; i < n && spaces < 14; i++)
		if (text[i] == ' ') {
			sum += time;
			time = 0;
			spaces++;
		} else if (spaces == 12 || spaces == 13) {
			time = 10 * time + (uint64_t)(text[i] - '0');
		}
	*used = sum;
	return text[at + 2];
}

/* Whether a thread of the program, or what was that, is where the tracer alone lets it go on. */
static bool held(int program)
{
	char folder[48];
	uint64_t entries[64], unused;
	bool found = false;
	long bytes;

	path_of(folder, "/proc/", program, "/task/");
	long fd = CALL(open, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0);

	if (fd < 0)
		return true; /* it has ended, and its end was not told */
	while (!found && (bytes = CALL(getdents64, fd, entries, sizeof entries, 0, 0)) > 0) {
		for (char *at = (char *)entries; at < (char *)entries + bytes && !found;) {
			uint16_t length = *(uint16_t *)(at + 16); /* struct linux_dirent64 */
			int tid = 0;

			for (const char *d = at + 19; *d >= '0' && *d <= '9'; d++)
				tid = 10 * tid + *d - '0';
			at += length;
			if (!tid)
				continue;
			found = state_of(program, tid, &unused) == 't';
		}
	}
	CALL(close, fd, 0, 0, 0, 0);
	return found;
}

/* What the tracer has counted, or all ones. */
static uint64_t beat_of(const struct front *f, const struct block *b)
{
	uint64_t beat = ~0ull;
	struct iovec ours = {&beat, sizeof beat}, theirs = {(void *)&b->beat, sizeof beat};

	if (CALL6(process_vm_readv, f->tracer, &ours, 1, &theirs, 1, 0) != (long)sizeof beat)
		return ~0ull;
	return beat;
}

/*
 * A tracer that takes no stop any more (a fault of ours) keeps signals from the program. Seconds after
 * one that ends programs it is ended, and what it traces with it. It is none while it waits for a
 * stop: then it uses no time, and no thread stands in one, but for who is stopped by a signal, as we
 * are then.
 */
#define PATIENCE 5
#define AT_REST 3

struct watch {
	int left, number, rested; /* seconds; left 0: nothing is watched */
	uint64_t beat, used;
};

static void watch(const struct front *f, const struct block *b, struct watch *w, int program)
{
	uint64_t beat = beat_of(f, b), used = 0;
	bool rests = state_of(f->tracer, f->tracer, &used) == 'S' && used == w->used;

	w->used = used;
	if (beat == w->beat && program && rests && !held(program)) {
		if (++w->rested == AT_REST)
			w->left = 0;
		return;
	}
	w->rested = 0;
	if (beat == ~0ull || beat != w->beat) {
		w->beat = beat;
		w->left = PATIENCE;
	} else if (--w->left == 0) {
		kill_(f->tracer, SIGKILL);
		CALL(wait4, f->tracer, 0, 0, 0, 0);
		die(w->number);
	}
}

/* Stand for the program until it ends; signals are blocked. */
_Noreturn static void front(struct block *b, long tracer)
{
	struct front f;
	int early[MOST_SIGNALS], n_early = 0, program = 0, status = -1, how;
	struct timespec second = {1, 0};
	struct watch w = {0, 0, 0, 0, 0};
	uint64_t all = ALL;
	bool gone = false;
	siginfo_t info;

	f.link = (int)b->link;
	f.tracer = (int)tracer;
	f.at = f.have = 0;
	/* When we end the kernel would write into what is the tracer's thread now. */
	CALL(set_tid_address, 0, 0, 0, 0, 0);
	CALL(set_robust_list, 0, 3 * sizeof(void *), 0, 0, 0);
	CALL(close, b->other, 0, 0, 0, 0);
	close_all((const int *)b->fds, b->n_fds);
	to_null();
	for (;;) {
		long number = CALL(rt_sigtimedwait, &all, &info, w.left ? &second : 0, 8, 0);

		if (number == -EINTR)
			continue; /* it was stopped */
		if (number == -EAGAIN) {
			watch(&f, b, &w, program);
			continue;
		}
		if (number < 0 && CALL(wait4, f.tracer, &how, 0, 0, 0) != f.tracer)
			leave(2);
		if (number < 0) /* forbidden here: so nothing is passed on */
			finish(&f, status, how);
		while (more(&f)) {
			struct message m = f.messages[f.at++];

			switch (m.kind) {
			case PROGRAM:
				program = m.value;
				for (int i = 0; i < n_early; i++)
					kill_(program, early[i]);
				break;
			case STOPPED:
				if (!more(&f)) /* it has not gone on since */
					stop(&f, m.value);
				break;
			case GONE:
				gone = true;
				break;
			case LEFT:
				end(m.value);
			case DONE:
				status = m.value;
				break;
			}
		}
		if (number == SIGCHLD && CALL(wait4, f.tracer, &how, WNOHANG, 0, 0) > 0)
			finish(&f, status, how);
		if (ENDS & BIT(number) && !gone) {
			w.number = (int)number;
			w.beat = beat_of(&f, b);
			w.left = PATIENCE;
			w.rested = 0;
		}
		if (KEPT & BIT(number) || (info.si_code == SI_KERNEL && !gone))
			continue; /* the terminal has told the program as well */
		if (number == SIGCONT && (info.si_pid == f.tracer || info.si_pid == self()))
			continue; /* the program goes on already */
		if (gone && ENDS & BIT(number)) {
			kill_(f.tracer, SIGKILL);
			CALL(wait4, f.tracer, 0, 0, 0, 0);
			die((int)number);
		}
		if (program == 0 && n_early < MOST_SIGNALS)
			early[n_early++] = (int)number;
		else if (program != 0 && !gone)
			kill_(program, (int)number);
	}
}

/* softsgx_split(flags, stack, block, tid): as clone(2); the child returns, the parent is the front.
 * softsgx_shadow(): not 0 where calls are remembered by the processor, too (CET). */
long softsgx_split(uint64_t flags, void *stack, struct block *b, int *tid);
long softsgx_shadow(void);
__asm__(".text\n"
	".hidden softsgx_split\n.hidden softsgx_shadow\n"
	"softsgx_split:\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	mov %rsi, %rbx\n"
	"	mov %rdx, %r12\n"
	"	mov %rcx, %r10\n"
	"	xor %esi, %esi\n"
	"	xor %edx, %edx\n"
	"	mov $56, %eax\n" /* clone */
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jg 1f\n"
	"	pop %r12\n"
	"	pop %rbx\n"
	"	ret\n"
	"1:	mov %rbx, %rsp\n" /* from here the other stack is the child's alone */
	"	xor %ebp, %ebp\n"
	"	mov %r12, %rdi\n"
	"	mov %rax, %rsi\n"
	"	call softsgx_front\n"
	"	hlt\n"
	"softsgx_shadow:\n"
	"	xor %eax, %eax\n"
	"	rdsspq %rax\n" /* does nothing where there is none (SDM, "RDSSPD/RDSSPQ") */
	"	ret\n");

__attribute__((used, noreturn)) void softsgx_front(struct block *b, long tracer);
void softsgx_front(struct block *b, long tracer)
{
	front(b, tracer);
}

/* Returns in the tracer alone, or with an errno. */
long softsgx_becomes_two(struct block *b)
{
	/* A child cannot return on a shadow stack that it has not called on. */
	uint64_t flags = SIGCHLD | (b->share && !softsgx_shadow() ? CLONE_VM : 0);
	uint64_t before, all = ALL;
	int *tid = 0;

	/* Where libc's thread keeps its number: it is another now. */
	if (CALL(prctl, PR_GET_TID_ADDRESS_, &tid, 0, 0, 0) == 0 && tid)
		flags |= CLONE_CHILD_SETTID;
	CALL(fcntl, b->link, F_SETFL, O_NONBLOCK, 0, 0);
	CALL(rt_sigprocmask, SIG_BLOCK, &all, &before, 8, 0);
	long got = softsgx_split(flags, stack_of(b), b, tid);

	if (got < 0)
		mask(SIG_SETMASK, before);
	return got;
}
