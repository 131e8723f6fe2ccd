/* SPDX-License-Identifier: MIT
 *
 * usage: signals [MILLISECONDS]
 * A timer signal each millisecond and SIGUSR1 from another thread while a computation runs inside,
 * through the vDSO and by raw ENCLU. Each signal is an AEX first: the handler must find the thread
 * outside, at the AEP, ready to ERESUME, with nothing of the enclave in its registers. Then an
 * enclave is loaded under the timer.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include "again.h"
#include "loader.h"
#include "tap.h"

#define ENOUGH 6

static struct encl e;
static volatile long alarms, users, at_aep, wrong;
static volatile uint64_t wrong_rip, wrong_rax, wrong_rbx, wrong_rcx, wrong_other;
static volatile uint64_t aep; /* where a raw entry's AEP is; 0: the vDSO's, which we cannot know */
static volatile int running;

static void handler(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t rip = (uint64_t)r[REG_RIP], rcx = (uint64_t)r[REG_RCX];
	uint64_t other = (uint64_t)(r[REG_RDX] | r[REG_RSI] | r[REG_RDI] | r[REG_R8] | r[REG_R9]
				    | r[REG_R10] | r[REG_R11] | r[REG_R12] | r[REG_R13] | r[REG_R14]
				    | r[REG_R15]);
	bool tcs = false;
	bool inside = rip >= e.base && rip < e.base + e.size;
	bool maybe_aep = rip == rcx && r[REG_RAX] == ERESUME;

	(void)info;
	for (int n = 0; n < e.threads; n++)
		tcs |= (uint64_t)r[REG_RBX] == e.base + e.tcs[n];
	if (sig == SIGALRM) {
		again();
		alarms++;
	} else {
		users++;
	}
	if (inside || (maybe_aep && (!tcs || other || (aep && rip != aep)))) {
		wrong++;
		wrong_rip = rip;
		wrong_rax = (uint64_t)r[REG_RAX];
		wrong_rbx = (uint64_t)r[REG_RBX];
		wrong_rcx = rcx;
		wrong_other = other;
	} else if (maybe_aep) {
		at_aep++;
	}
}

static void *pester(void *arg)
{
	for (unsigned int n = 1; running; n++) {
		pthread_kill(*(pthread_t *)arg, SIGUSR1);
		usleep((useconds_t)again_pause_us(n, 3000));
	}
	return NULL;
}

/* One computation of some `rounds`, pestered; the checks are named after how it was entered. */
static void run(bool raw, uint64_t rounds, const char *names[])
{
	struct call c = {.op = OP_SUM, .a = 7, .b = rounds};
	pthread_t self = pthread_self(), t;
	uint64_t sum = mix(7, rounds);
	int tries = 0;
	bool left;

	alarms = users = at_aep = wrong = 0;
	aep = raw ? (uint64_t)encl_raw_aep : 0;
	running = 1;
	pthread_create(&t, NULL, pester, &self);
	again_begin(1000);
	do /* what was calibrated on a busy machine is soon done */
		left = raw ? encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0 : encl_do(&e, 0, &c);
	while (left && c.ret == sum && (alarms < 6 || users < 3 || at_aep < 6) && ++tries < 64);
	again_end();
	running = 0;
	pthread_join(t, NULL);
	check(left && c.ret == sum, names[0], "ret %#lx; %s", c.ret, e.err);
	check(alarms > 5 && users > 2 && at_aep > 5, names[1], "%ld SIGALRM, %ld SIGUSR1, %ld at the AEP",
	      alarms, users, at_aep);
	check(!wrong, names[2], "%ld times; last rip %#lx rax %#lx rbx %#lx rcx %#lx, or of the rest %#lx",
	      wrong, wrong_rip, wrong_rax, wrong_rbx, wrong_rcx, wrong_other);
}

static volatile int over;
static volatile uint64_t made[3];
static int raw_calls;

/* Calls so short that a signal lands anywhere on the way in and out, not only inside. */
static void *short_calls(void *arg)
{
	int n = (int)(intptr_t)arg;
	void *why = NULL;

	for (uint64_t i = 0; !over && !why; made[n] = ++i) {
		struct call c = {.op = OP_SUM, .a = i, .b = i % 64};

		if (raw_calls ? encl_raw_enter(&c, e.base + e.tcs[n], EENTER) : !encl_do(&e, n, &c))
			why = "a call failed";
		else if (c.ret != mix(i, i % 64))
			why = "wrong sum";
	}
	made[n] = ENOUGH;
	return why;
}

static void short_ones(bool raw, const char *name)
{
	struct timespec some = {.tv_nsec = 300000000};
	void *why[3] = {NULL, NULL, NULL};
	pthread_t t[3], p;

	wrong = 0;
	aep = 0;
	over = 0;
	raw_calls = raw;
	running = 1;
	memset((void *)made, 0, sizeof(made));
	for (intptr_t n = 0; n < 3; n++)
		pthread_create(&t[n], NULL, short_calls, (void *)n);
	pthread_create(&p, NULL, pester, &t[1]);
	again_begin(1000);
	while (nanosleep(&some, &some))
		;
	for (int n = 0; n < 3; n++)
		while (made[n] < ENOUGH)
			usleep(1000);
	again_end();
	running = 0;
	pthread_join(p, NULL); /* before the thread that it pesters is gone */
	over = 1;
	for (int n = 0; n < 3; n++)
		pthread_join(t[n], &why[n]);
	check(!why[0] && !why[1] && !why[2], name, "%s, %s, %s; %s", (char *)why[0], (char *)why[1],
	      (char *)why[2], e.err);
}

/* Loading under fire: ADD_PAGES may come back with a short count, and every page must be there. */
static void load_pestered(void)
{
	static struct encl big;
	int ret;

	again_begin(1000);
	ret = encl_load(&big, &(struct encl_opts){.threads = MAX_THREADS, .heap = 16 << 20});
	again_end();
	check(ret == 0, "load_pestered", "%s", big.err);
	check(encl_op(&big, OP_SUM, 1, 10, 0, 0) == mix(1, 10), "load_enters", "%s", big.err);
	encl_free(&big);
}

/* How many rounds take that long outside. */
static uint64_t calibrate(long milliseconds)
{
	struct timespec a, b;
	volatile uint64_t sink;

	clock_gettime(CLOCK_MONOTONIC, &a);
	sink = mix(1, 5000000);
	clock_gettime(CLOCK_MONOTONIC, &b);
	(void)sink;
	return (uint64_t)(5e6 * (double)milliseconds * 1e6
			  / ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)));
}

int main(int argc, char **argv)
{
	static const char *vdso[] = {"vdso_sum", "vdso_signals", "vdso_state"};
	static const char *raw[] = {"raw_sum", "raw_signals", "raw_state"};
	static char stack[1 << 16];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
	uint64_t rounds = calibrate(argc > 1 ? atol(argv[1]) : 300);

	if (encl_load(&e, &(struct encl_opts){.threads = 3}))
		bail("load", e.err);
	sigaltstack(&alt, NULL);
	sigaction(SIGALRM, &act, NULL);
	act.sa_flags &= ~SA_ONSTACK;
	sigaction(SIGUSR1, &act, NULL);
	run(false, rounds, vdso);
	run(true, rounds, raw);
	short_ones(false, "vdso_short_calls");
	short_ones(true, "raw_short_calls");
	CHECK_EQ(wrong, 0, "short_calls_state");
	load_pestered();
	return tap_failed;
}
