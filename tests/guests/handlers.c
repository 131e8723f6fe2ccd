/* SPDX-License-Identifier: MIT
 *
 * usage: handlers [nosgx]
 * ENCLU without the vDSO and CPUID are no signals to the program: from within a handler of SIGILL,
 * as Gramine enters, and with SIGILL blocked in every other way, its actions and its mask stay.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "loader.h"
#include "rawsig.h"
#include "tap.h"

struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	unsigned long mask;
};

static struct encl e;
static bool nosgx;
static volatile int handled, wrong;
static struct kernel_action before[32];
static char stack[1 << 16];

static struct kernel_action action(int sig)
{
	struct kernel_action a = {0};

	syscall(SYS_rt_sigaction, sig, NULL, &a, 8);
	return a;
}

static unsigned long mask(void)
{
	unsigned long m = 0;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &m, 8);
	return m;
}

/* What must not be seen: an ENCLU that enters and one that leaves, and a CPUID. */
static bool use(int n)
{
	struct call c = {.op = OP_SUM, .a = 3, .b = (uint64_t)n};
	unsigned int a, b, x, d;
	unsigned long m = mask();
	struct kernel_action now;

	__cpuid_count(0, 0, a, b, x, d);
	if (mask() != m)
		return false;
	if (!nosgx && (encl_raw_enter(&c, e.base + e.tcs[0], EENTER) || c.ret != mix(3, (uint64_t)n)))
		return false;
	for (int sig = 1; sig < 32; sig++) {
		now = action(sig);
		if (memcmp(&now, &before[sig], sizeof(now)))
			return false;
	}
	return mask() == m;
}

static void on_ill(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	handled++;
	wrong += sig != SIGILL || !use(handled) || info->si_code != SI_TKILL || !u;
	if (handled % 10)
		raise(SIGILL); /* pending until this handler returns, or nested with SA_NODEFER */
}

static void set(int sig, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	sigaddset(&act.sa_mask, SIGUSR1);
	sigaction(sig, &act, NULL);
	before[sig] = action(sig);
}

static void from_handler(int flags, const char *name)
{
	set(SIGILL, on_ill, flags);
	handled = wrong = 0;
	raise(SIGILL);
	check(handled == 10 && !wrong, name, "%d handled, %d wrong", handled, wrong);
}

static void blocked(const char *name)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	check(use(1) && use(2), name, "mask %#lx", mask());
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static volatile int over;

static void *sets(void *arg)
{
	(void)arg;
	while (!over) {
		struct sigaction act = {.sa_sigaction = on_ill, .sa_flags = SA_SIGINFO | SA_RESTART};

		sigaction(SIGILL, &act, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
	pthread_t t;
	sigset_t ill;
	int status;
	pid_t pid;

	nosgx = argc > 1 && !strcmp(argv[1], "nosgx");
	if (!nosgx && encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	sigaltstack(&alt, NULL);
	for (int sig = 1; sig < 32; sig++)
		before[sig] = action(sig);
	from_handler(SA_ONSTACK, "as_gramine");
	from_handler(SA_ONSTACK | SA_RESTART, "restart");
	from_handler(SA_NODEFER, "nested");
	blocked("all_blocked");
	set(SIGSEGV, on_ill, SA_ONSTACK);
	blocked("all_blocked_with_segv");

	/* A child has the same actions, and after exec none: it is asked to show them. */
	pid = fork();
	if (!pid) {
		sigemptyset(&ill);
		sigaddset(&ill, SIGILL);
		pthread_sigmask(SIG_BLOCK, &ill, NULL);
		_exit(use(3) ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	CHECK_EQ(status, 0, "forked");

	/* Once only is once only. */
	set(SIGILL, on_ill, SA_RESETHAND);
	handled = 9; /* the next is the last */
	raise(SIGILL);
	check(action(SIGILL).handler == NULL, "resethand", "handler %p", action(SIGILL).handler);

	signal(SIGILL, SIG_IGN);
	before[SIGILL] = action(SIGILL);
	check(use(4) && use(5), "ignored", "handler %p", action(SIGILL).handler);

	/* Another thread sets the action all the while. */
	set(SIGILL, on_ill, SA_RESTART);
	pthread_create(&t, NULL, sets, NULL);
	sigemptyset(&ill);
	sigaddset(&ill, SIGILL);
	pthread_sigmask(SIG_BLOCK, &ill, NULL);
	for (int i = 0; i < 200; i++) {
		struct call c = {.op = OP_NOP};
		unsigned int a, b, x, d;

		__cpuid_count(0, 0, a, b, x, d);
		if (!nosgx)
			encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
	}
	over = 1;
	pthread_join(t, NULL);
	check(action(SIGILL).handler == (void *)on_ill, "set_meanwhile", "handler %p", action(SIGILL).handler);

	/* What is really an illegal instruction still kills where SIGILL is blocked. */
	pid = fork();
	if (!pid) {
		use(1);
		__asm__ volatile("ud2");
		_exit(1);
	}
	waitpid(pid, &status, 0);
	check(WIFSIGNALED(status) && WTERMSIG(status) == SIGILL, "blocked_kills", "status %#x", status);
	return tap_failed;
}
