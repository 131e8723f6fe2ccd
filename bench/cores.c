/* SPDX-License-Identifier: MIT
 *
 * How much more several threads do than one where other work may run, too: the bare baseline of
 * ECALLs by several threads (bench/entering.py).
 *
 * usage: cores ROUNDS [THREADS]
 * The threads share ROUNDS rounds of some 100 ns in registers. Prints `ns_per_round X` of the wall
 * clock, over all threads' rounds, from when all are there.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 64, STEPS = 100 };

static long rounds;
static pthread_barrier_t all_there;
static struct timespec begun[MOST];

static void *worker(void *arg)
{
	unsigned long x = (unsigned long)arg;
	long thread = (long)arg;

	pthread_barrier_wait(&all_there);
	clock_gettime(CLOCK_MONOTONIC, &begun[thread]);
	for (long i = 0; i < rounds; i++)
		for (int n = 0; n < STEPS; n++)
			asm volatile("imul $3, %0, %0" : "+r"(x));
	return (void *)x;
}

int main(int argc, char **argv)
{
	long all = argc > 1 ? atol(argv[1]) : 1000000;
	int threads = argc > 2 ? atoi(argv[2]) : 1;
	pthread_t t[MOST];
	struct timespec b;
	double first = 0;

	if (threads < 1 || threads > MOST || all < threads)
		return 2;
	rounds = all / threads;
	pthread_barrier_init(&all_there, NULL, (unsigned int)threads + 1);
	for (long n = 0; n < threads; n++)
		if (pthread_create(&t[n], NULL, worker, (void *)n))
			return 1;
	pthread_barrier_wait(&all_there);
	for (int n = 0; n < threads; n++)
		pthread_join(t[n], NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	for (int n = 0; n < threads; n++) {
		double ns = (double)(b.tv_sec - begun[n].tv_sec) * 1e9 + (double)(b.tv_nsec - begun[n].tv_nsec);

		first = ns > first ? ns : first;
	}
	printf("ns_per_round %.3f\n", first / (double)(rounds * threads));
	return 0;
}
