/* SPDX-License-Identifier: MIT
 *
 * usage: illtogether [rounds]
 * Several threads run into illegal instructions inside, and the handler of SIGILL enters by ENCLU
 * itself to have them passed, as Gramine's does. While one is in its handler, so with SIGILL blocked,
 * another's SIGILL finds the handler all the same: none dies, in a process forked meanwhile neither.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define THREADS 4
#define FORKS 20

static struct encl e;
static int rounds = 100;
static __thread int me;
static __thread volatile sig_atomic_t handled;
static bool child;
static int passed[THREADS];

static void on_ill(int sig, siginfo_t *info, void *context)
{
	struct call c = {.op = OP_HANDLE, .a = 2};

	(void)sig, (void)info, (void)context;
	if (child)
		return;
	handled += encl_raw_enter(&c, e.base + e.tcs[me], EENTER) == 0;
}

static void *faults(void *arg)
{
	me = (int)(long)arg;
	for (int i = 0; i < rounds; i++) {
		struct call c = {.op = OP_FAULT, .a = F_UD2};

		if (encl_raw_enter(&c, e.base + e.tcs[me], EENTER))
			break;
	}
	passed[me] = handled;
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_sigaction = on_ill, .sa_flags = SA_SIGINFO};
	int died = 0, status;
	pthread_t t[THREADS];

	if (argc > 1)
		rounds = atoi(argv[1]);
	if (encl_load(&e, &(struct encl_opts){.threads = THREADS}))
		bail("load", e.err);
	sigaction(SIGILL, &act, NULL);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, faults, (void *)i);
	for (int i = 0; i < FORKS; i++) {
		pid_t pid = fork();

		if (!pid) {
			child = true;
			raise(SIGILL);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		died += !WIFEXITED(status);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 1; i < THREADS; i++)
		passed[0] += passed[i];
	CHECK_EQ(passed[0], THREADS * rounds, "all_passed");
	CHECK_EQ(died, 0, "children_died");
	return tap_failed;
}
