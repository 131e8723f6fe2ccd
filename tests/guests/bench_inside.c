/* SPDX-License-Identifier: MIT
 *
 * usage: bench_inside [OCALLS [ROUNDS]]
 * What interrupts an enclave at work. `ns_per_ocall X`: a leaving that clears registers first, as
 * Intel's do_ocall, and the entry after it. `ns_computing X`: one long ECALL; `ns_signalled X`: the
 * same while a timer sends 1,000 signals a second (AEX, a handler that does nothing, ERESUME);
 * `ns_after X`: an empty ECALL afterwards.
 */
#include <signal.h>
#include <sys/time.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

static double now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* One ECALL that computes; by how long it took. */
static double compute(uint64_t rounds)
{
	struct call c = {.op = OP_SUM, .a = 7, .b = rounds};
	double before = now_ns(CLOCK_MONOTONIC);

	if (!encl_do(&e, 0, &c))
		bail("ecall", e.err);
	check(c.ret == mix(7, rounds), "sum", "wrong");
	return now_ns(CLOCK_MONOTONIC) - before;
}

int main(int argc, char **argv)
{
	long calls = argc > 1 ? atol(argv[1]) : 100000;
	uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 60000000;
	struct itimerval each = {{0, 1000}, {0, 1000}}, none = {{0, 0}, {0, 0}};
	double before = 0, plain, with;

	if (encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	for (long i = -80; i < calls; i++) {
		struct call c = {.op = OP_SUM, .a = 1, .b = 1, .c = 1};

		if (!i)
			before = now_ns(CLOCK_MONOTONIC);
		if (!encl_do(&e, 0, &c))
			bail("ocall", e.err);
	}
	printf("ns_per_ocall %.1f\n", (now_ns(CLOCK_MONOTONIC) - before) / (double)calls);

	plain = compute(rounds);
	signal(SIGALRM, on_signal);
	setitimer(ITIMER_REAL, &each, NULL);
	with = compute(rounds);
	setitimer(ITIMER_REAL, &none, NULL);
	check(signals > 0, "signals", "none came");
	before = now_ns(CLOCK_MONOTONIC);
	for (long i = 0; i < calls; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	printf("ns_after %.1f\n", (now_ns(CLOCK_MONOTONIC) - before) / (double)calls);
	printf("ns_computing %.1f\nns_signalled %.1f\n", plain, with);
	return tap_failed;
}
