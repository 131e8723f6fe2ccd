/* SPDX-License-Identifier: MIT
 *
 * usage: amid ENCLAVES
 * Enclaves loaded by one thread, while signals come for another that has a seccomp filter of its own: a
 * filter for an enclave's place does not reach it by TSYNC, so it is stopped in the midst of an mmap.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

static volatile int ready, over;

static void nothing(int number)
{
	(void)number;
}

static void *filtered(void *unused)
{
	struct sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog program = {1, allow};
	long error = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);

	ready = error ? -1 : 1;
	while (!over)
		;
	return unused;
}

static void *pester(void *whom)
{
	struct timespec pause = {0, 20000};

	while (!over) {
		pthread_kill(*(pthread_t *)whom, SIGUSR1);
		nanosleep(&pause, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 10;
	pthread_t one, other;

	signal(SIGUSR1, nothing);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	pthread_create(&one, NULL, filtered, NULL);
	while (!ready)
		sched_yield();
	if (ready < 0)
		bail("filter", "refused");
	pthread_create(&other, NULL, pester, &one);
	for (int i = 0; i < n; i++) {
		struct call c = {.op = OP_SUM, .a = (uint64_t)i, .b = 3};
		struct encl *e = calloc(1, sizeof(*e));

		if (encl_load(e, &(struct encl_opts){.threads = 1}))
			bail("load", e->err);
		if (!encl_do(e, 0, &c) || c.ret != mix((uint64_t)i, 3))
			bail("enter", e->err);
		if (i % 2)
			encl_free(e);
	}
	over = 1;
	pthread_join(other, NULL);
	pthread_join(one, NULL);
	check(true, "amid", "-");
	return tap_failed;
}
