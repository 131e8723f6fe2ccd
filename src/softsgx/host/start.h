/* SPDX-License-Identifier: MIT
 *
 * What front.c and start.c share: the block, and system calls without libc.
 */
#define _GNU_SOURCE
#include <asm/unistd.h>
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The block: words of 64 bits, by these names (host/start.py reads them here); behind them, to its
 * end at `size`, the stack of who is made.
 * step: what to do, one of enum step. result: what came of it, or a negative errno.
 * SPLIT: link, other: the front's end of its pipe, and the tracer's. fds, n_fds: what the program
 * inherits, as ints: the front has none of it. share: whether they may share their memory. beat: what
 * the tracer counts up with each stop that it takes; all ones: nobody is to wait for that.
 * LAUNCH: path, argv, environment: as execve(2) takes them. filter, n_filter: instructions of BPF.
 * mask: blocked signals. ignores_children: whether SIGCHLD is ignored. fds, n_fds: what is closed
 * for it. socket: told, the tracer's end. failed, error: told, by the child, if it ends before it
 * is the program: one of enum failure, and the errno.
 */
#define WORDS \
	F(size) F(step) F(result) F(link) F(other) F(share) F(beat) F(fds) F(n_fds) F(path) \
	F(argv) F(environment) F(filter) F(n_filter) F(mask) F(ignores_children) F(socket) F(failed) F(error)

struct block {
#define F(name) uint64_t name;
	WORDS
#undef F
};

/* The same numbers in host/start.py. */
enum step { SPLIT = 1, LAUNCH, LISTEN, LIMITS };
enum failure { FILTER = 1, EXEC };

#define BIT(number) (1ull << ((number) - 1))
/* What a fault of our own raises is not held back, and two cannot be; two are glibc's. */
#define OURS \
	(BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGKILL) | BIT(SIGSEGV) | \
	 BIT(SIGSTOP) | BIT(SIGSYS))
#define ALL (~(OURS | BIT(32) | BIT(33)))
#define MOST_SIGNALS 64

static inline long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define CALL6(name, a, b, c, d, e, f) \
	call(__NR_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(name, a, b, c, d, e) CALL6(name, a, b, c, d, e, 0)

_Noreturn static inline void leave(int status)
{
	for (;;)
		CALL(exit_group, status, 0, 0, 0, 0);
}

static inline void mask(int how, uint64_t signals)
{
	CALL(rt_sigprocmask, how, &signals, 0, 8, 0);
}

/* struct sigaction of the kernel's own. */
struct action {
	uint64_t handler, flags, restorer, mask;
};

static inline void dispose(int number, uint64_t handler)
{
	struct action action;

	action.handler = handler;
	action.flags = action.restorer = action.mask = 0;
	CALL(rt_sigaction, number, &action, 0, 8, 0);
}

static inline void close_all(const int *fds, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		CALL(close, fds[i], 0, 0, 0, 0);
}

static inline void *stack_of(struct block *b)
{
	return (void *)(((uintptr_t)b + b->size) & ~15ul);
}

/* Step SPLIT: returns in the tracer alone, or with an errno. */
long softsgx_becomes_two(struct block *b) __attribute__((visibility("hidden")));
