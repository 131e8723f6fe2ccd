/* SPDX-License-Identifier: MIT
 *
 * usage: storm [MILLISECONDS [THREADS [raw]]]
 * Threads that enter and leave as fast as they can, each on a TCS of its own, while signals come whose
 * handlers enter the same TCS again and fork, and while TCSs are taken away and given back: whoever
 * begins to enter after the call that took one away has returned must fail. raw: by ENCLU of its own.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "again.h"
#include "loader.h"
#include "rawsig.h"
#include "tap.h"

static struct encl e;
static bool raw;
static volatile int over;
static volatile long handled, nested, limit, forked, wrong_child;
static _Thread_local int own = -1, depth;
static _Thread_local uint64_t check_tls;

/* 0 and the right sum, 1 if EENTER failed, 2 if something is wrong */
static int enter(int thread, uint64_t a, uint64_t rounds)
{
	struct sgx_enclave_run run = {0};
	struct call c = {.op = OP_SUM, .a = a, .b = rounds};
	int ret;

	if (raw)
		return encl_raw_ecall(&c, e.base + e.tcs[thread]) ? 1 : c.ret != mix(a, rounds) ? 2 : 0;
	ret = encl_call(&e, thread, &c, &run);
	if (ret)
		return 2;
	if (run.function == EENTER)
		return 1;
	return run.function != EEXIT || c.ret != mix(a, rounds) ? 2 : 0;
}

static void handler(int sig)
{
	long n = __atomic_add_fetch(&handled, 1, __ATOMIC_RELAXED);
	int how, status = 0;

	if (sig == SIGALRM)
		again();
	if (own < 0 || depth >= NSSA)
		return;
	depth++;
	how = enter(own, (uint64_t)n, 3);
	if (how == 2)
		abort();
	__atomic_add_fetch(how ? &limit : &nested, 1, __ATOMIC_RELAXED);
	if (n % 64 == 0) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(enter(own, 5, 5) == 2);
		if (pid > 0) {
			while (waitpid(pid, &status, 0) < 0)
				;
			__atomic_add_fetch(&forked, 1, __ATOMIC_RELAXED);
			if (status)
				__atomic_add_fetch(&wrong_child, 1, __ATOMIC_RELAXED);
		}
	}
	depth--;
}

static void *caller(void *arg)
{
	uint64_t n = 0;

	own = (int)(intptr_t)arg;
	check_tls = (uint64_t)own * 77;
	for (; !over; n++)
		if (enter(own, n, n % 50) || check_tls != (uint64_t)own * 77)
			return "an ECALL is wrong";
	own = -1;
	return NULL;
}

static void pestered(long milliseconds, int threads)
{
	struct timespec begin, now;
	pthread_t t[MAX_THREADS];
	void *why, *first = NULL;

	for (intptr_t n = 0; n < threads; n++)
		pthread_create(&t[n], NULL, caller, (void *)n);
	again_begin(2000);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned int i = 0;; i++) {
		pthread_kill(t[i % (unsigned int)threads], SIGUSR1);
		usleep((useconds_t)again_pause_us(i / (unsigned int)threads + 1, 1000));
		clock_gettime(CLOCK_MONOTONIC, &now);
		if ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 >= milliseconds
		    && handled > 3 && nested)
			break;
	}
	again_end();
	over = 1;
	for (int n = 0; n < threads; n++) {
		pthread_join(t[n], &why);
		first = first ? first : why;
	}
	check(!first, "storm", "%s; %s", (char *)first, e.err);
	check(handled > 3 && nested > 0, "storm_signals", "%ld, %ld nested, %ld at the limit", handled,
	      nested, limit);
	check(!wrong_child, "storm_forks", "%ld of %ld", wrong_child, forked);
	for (int n = 0, bad = 0; n <= threads; n++) {
		bad += n < threads && enter(n, 1, 1) != 0;
		if (n == threads)
			CHECK_EQ(bad, 0, "all_free");
	}
}

/* A TCS is taken away and given back; `gone` is true from after the one to before the other. */
static volatile uint64_t gone, late, entered, refused;

static void *visitor(void *arg)
{
	(void)arg;
	while (!over) {
		uint64_t was = gone;
		int how = enter(0, 3, 2);

		if (how == 2)
			return "wrong";
		/* An odd number that stays the same over all of the call: nothing is there. */
		if (how == 0 && was % 2 && gone == was)
			late++;
		*(how ? &refused : &entered) += 1;
	}
	return NULL;
}

static int take_away(int way, void *page)
{
	struct sgx_enclave_modify_types trim = {.offset = e.tcs[0], .length = PAGE, .page_type = 4};

	switch (way) {
	case 0:
		return mprotect(page, PAGE, PROT_NONE);
	case 1:
		return munmap(page, PAGE);
	case 2: /* a frame of the SSA, which EENTER needs */
		return mprotect((char *)page + PAGE, PAGE, PROT_READ);
	default:
		return ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &trim);
	}
}

static int give_back(int way, void *page)
{
	if (way == 0)
		return mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	if (way == 1)
		return mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e.fd, 0)
		       == MAP_FAILED;
	return mprotect((char *)page + PAGE, PAGE, PROT_READ | PROT_WRITE);
}

static void changed(int way, const char *name, int times)
{
	void *page = (void *)(e.base + e.tcs[0]), *why;
	struct timespec pause = {.tv_nsec = 300000};
	int bad = 0;
	pthread_t t;

	over = 0;
	gone = late = entered = refused = 0;
	pthread_create(&t, NULL, visitor, NULL);
	for (int i = 0; i < times; i++) {
		uint64_t before = entered;

		while (entered < before + 50)
			sched_yield();
		bad |= take_away(way, page);
		gone++;
		before = refused;
		while (refused < before + 2)
			sched_yield();
		nanosleep(&pause, NULL);
		if (way == 3)
			break;
		gone++;
		bad |= give_back(way, page);
	}
	over = 1;
	pthread_join(t, &why);
	check(!why && !late && !bad, name, "%s, %lu entered late, %lu before, %d", (char *)why, late,
	      entered, bad);
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = SA_RESTART};
	long milliseconds = argc > 1 ? atol(argv[1]) : 300;
	int threads = argc > 2 ? atoi(argv[2]) : 8;

	raw = argc > 3;
	if (raw)
		raw_catch_faults();

	if (encl_load(&e, &(struct encl_opts){.threads = threads, .heap = PAGE}))
		bail("load", e.err);
	sigaction(SIGALRM, &act, NULL);
	sigaction(SIGUSR1, &act, NULL);
	for (int i = 0; i < 40; i++)
		enter(0, 1, 1);
	pestered(milliseconds, threads);
	changed(0, "mprotect_tcs", 5);
	changed(1, "munmap_tcs", 5);
	changed(2, "mprotect_ssa", 5);
	changed(3, "trim_tcs", 1);
	return tap_failed;
}
