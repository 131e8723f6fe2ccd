/* SPDX-License-Identifier: MIT
 *
 * usage: scribble [MILLISECONDS [SEED]]
 * Random bytes over all memory that its tracer shares with it, by one thread, while others enter and
 * leave under signals. What the calls answer is not asked: a program that does that may crash. It
 * forks for each try and says how the child ended; another process beside it must not notice.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "again.h"
#include "loader.h"
#include "tap.h"

#define THREADS 4
#define MAX_AREAS 8

static struct { uint64_t start, end; } area[MAX_AREAS];
static int areas;

/* Whoever shares memory with us has it from a file of this name. */
static void find_areas(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], prot[8];
	uint64_t a, b;

	areas = 0;
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "softsgx-short") && areas < MAX_AREAS
		    && sscanf(line, "%lx-%lx %7s", &a, &b, prot) == 3 && prot[1] == 'w')
			area[areas].start = a, area[areas++].end = b;
	if (f)
		fclose(f);
}

static struct encl e;
static uint64_t state;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	return state ^= state << 17;
}

static void handler(int sig)
{
	if (sig == SIGALRM)
		again();
}

static void *caller(void *arg)
{
	for (uint64_t i = 0;; i++) {
		struct sgx_enclave_run run = {0};
		struct call c = {.op = OP_SUM, .a = i, .b = i % 20};

		encl_call(&e, (int)(intptr_t)arg, &c, &run);
	}
	return NULL;
}

/* Mostly what could be meant: addresses of rows and slots, small numbers, one bit. */
static void scribble(void)
{
	int n = (int)(next() % (uint64_t)areas);
	uint64_t words = (area[n].end - area[n].start) / 8;
	volatile uint64_t *to = (volatile uint64_t *)area[n].start;
	uint64_t rows = 0x20100 / 8, at = next() % 4 ? next() % words : next() % 2 ? next() % rows
									       : rows + next() % 256;
	uint64_t value = next();

	switch (next() % 6) {
	case 0:
		value = area[n].start + next() % (area[n].end - area[n].start);
		break;
	case 1:
		value = area[n].start + (next() % 1024) * 128 + (next() % 2) * 12;
		break;
	case 2:
		value = next() % 3;
		break;
	case 3:
		value = to[at] ^ 1ull << next() % 64;
		break;
	case 4:
		value = to[next() % words];
		break;
	default:
		break;
	}
	to[at] = value;
}

static int attempt(long milliseconds)
{
	struct timespec begin, now;
	pthread_t t[THREADS];

	if (encl_load(&e, &(struct encl_opts){.threads = THREADS, .heap = PAGE}))
		return 1;
	for (int i = 0; i < 40; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	find_areas();
	if (!areas)
		return 2;
	for (intptr_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, caller, (void *)i);
	again_begin(500);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		for (int i = 0; i < 20; i++)
			scribble();
		pthread_kill(t[next() % THREADS], SIGUSR1);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < milliseconds);
	return 0;
}

int main(int argc, char **argv)
{
	long left = argc > 1 ? atol(argv[1]) : 1000;
	struct timespec begin, now;
	int tries = 0, unshared = 0;
	static struct encl own;

	state = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	state = state * 0x9e3779b97f4a7c15ull | 1;
	signal(SIGALRM, handler);
	signal(SIGUSR1, handler);
	if (encl_load(&own, &(struct encl_opts){.threads = 1}))
		bail("load", own.err);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		pid_t pid = fork();
		int status = 0;
		struct call c = {.op = OP_SUM, .a = 3, .b = 4};

		if (pid == 0) {
			alarm(0);
			state += (uint64_t)tries * 0x1234567;
			_exit(attempt(100));
		}
		for (int i = 0; i < 20; i++)
			if (!encl_do(&own, 0, &c) || c.ret != mix(3, 4))
				bail("beside", own.err);
		waitpid(pid, &status, 0);
		unshared += WIFEXITED(status) && WEXITSTATUS(status) == 2;
		tries++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < left);
	/* A child whose own memory has taken the place goes the long way. */
	check(unshared < tries, "shared", "%d of %d had nothing to write to", unshared, tries);
	return tap_failed;
}
