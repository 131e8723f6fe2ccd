/* SPDX-License-Identifier: MIT
 *
 * usage: bench_faults [N [other]]
 * An exception inside that a program with an ENCLU of its own handles, as Gramine does: its handler enters once more, the
 * enclave mends what it was, and returning from the signal resumes. Then as many of its own that are no enclave's. other: with
 * another thread, which does nothing.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static volatile long inside, outside, wrong;

static void handler(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct call mend = {.op = OP_HANDLE, .a = 2, .b = 0x77, .c = 1};

	if ((uint64_t)r[REG_RIP] != (uint64_t)encl_raw_aep) {
		outside++;
		r[REG_RIP] += 2;
		return;
	}
	inside++;
	wrong += sig != SIGILL || info->si_code != ILL_ILLOPN || r[REG_TRAPNO] != 6 || r[REG_ERR] ||
		 encl_raw_enter(&mend, e.base + e.tcs[0], EENTER) || mend.ret != 1;
}

static void *pauses(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
	static char stack[1 << 16];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	long n = argc > 1 ? atol(argv[1]) : 2000;
	double begin, between, end;
	pthread_t thread;

	if (encl_load(&e, &(struct encl_opts){.heap = 4 * PAGE}))
		bail("load", e.err);
	sigaltstack(&alt, NULL);
	sigaction(SIGILL, &act, NULL);
	if (argc > 2 && pthread_create(&thread, NULL, pauses, NULL))
		bail("thread", strerror(errno));
	begin = now();
	for (long i = 0; i < n; i++) {
		struct call c = {.op = OP_FAULT, .a = F_UD2};

		wrong += encl_raw_enter(&c, e.base + e.tcs[0], EENTER) || c.ret != 0x77;
	}
	between = now();
	for (long i = 0; i < n; i++)
		asm volatile("ud2");
	end = now();
	check(inside == n && outside == n && !wrong, "handled", "%ld inside, %ld outside, %ld wrong", inside,
	      outside, wrong);
	printf("us_inside %.1f\nus_outside %.1f\n", (between - begin) / (double)n, (end - between) / (double)n);
	return tap_failed;
}
