/* SPDX-License-Identifier: MIT
 *
 * usage: bench_ecall [CALLS [THREADS [raw]]]
 * Empty ECALLs (EENTER + EEXIT) through the vDSO, or by raw ENCLU, from when all threads have made one;
 * prints `ns_per_ecall X`, of the wall clock, over all threads' calls (so on N free cores more threads
 * give a smaller number), and `cpu_ns_per_ecall X`, of this process's own time.
 */
#include <pthread.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static long calls = 100000;
static int raw;
static pthread_barrier_t all_there;
static struct timespec begun[MAX_THREADS];

static void *worker(void *arg)
{
	int n = (int)(intptr_t)arg;
	struct sgx_enclave_run run = {0};
	struct call c = {.op = OP_NOP};

	for (long i = 0; i < calls; i++) {
		if (raw ? encl_raw_ecall(&c, e.base + e.tcs[n])
			: encl_call(&e, n, &c, &run) || run.function != EEXIT)
			bail("ecall", "an ECALL failed");
		if (i)
			continue;
		pthread_barrier_wait(&all_there);
		clock_gettime(CLOCK_MONOTONIC, &begun[n]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 1;
	pthread_t t[MAX_THREADS];
	struct timespec b, used, used_up;
	double first = 0;

	if (argc > 1)
		calls = atol(argv[1]);
	raw = argc > 3;
	if (threads < 1 || threads > MAX_THREADS || calls < 1)
		bail("usage", "bench_ecall [CALLS [THREADS [raw]]]");
	if (encl_load(&e, &(struct encl_opts){.threads = threads}))
		bail("load", e.err);
	/* Finds the vDSO, and lets an emulator make ready what it will. */
	for (int i = 0; i < 40 * threads; i++) {
		struct call c = {.op = OP_NOP};

		if (!encl_do(&e, i % threads, &c))
			bail("ecall", e.err);
	}
	pthread_barrier_init(&all_there, NULL, (unsigned int)threads + 1);
	for (intptr_t n = 0; n < threads; n++)
		pthread_create(&t[n], NULL, worker, (void *)n);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	pthread_barrier_wait(&all_there);
	for (int n = 0; n < threads; n++)
		pthread_join(t[n], NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used_up);
	/* Who waits here with them may be the last to run again. */
	for (int n = 0; n < threads; n++) {
		double ns = (double)(b.tv_sec - begun[n].tv_sec) * 1e9 + (double)(b.tv_nsec - begun[n].tv_nsec);

		first = ns > first ? ns : first;
	}
	check(first > 0, "ecalls", "no time has passed");
	printf("ns_per_ecall %.1f\n", first / (double)calls / threads);
	printf("cpu_ns_per_ecall %.1f\n", ((double)(used_up.tv_sec - used.tv_sec) * 1e9
					   + (double)(used_up.tv_nsec - used.tv_nsec)) / (double)calls / threads);
	return tap_failed;
}
