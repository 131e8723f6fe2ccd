/* SPDX-License-Identifier: MIT
 *
 * usage: ends HOW ROUNDS [SEED]
 * Processes whose threads stop for a tracer in every way, ended at any moment:
 *   group   by exit_group(2) of another thread
 *   exec    by exec(2) of another thread; what it becomes exits with 7
 *   kill    by SIGKILL from outside
 *   fault   by an exception inside the enclave, with another thread beside it
 *   shared  by SIGKILL, while another process changes pages of the enclave that both have
 * Prints how many ended as they should.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"

static unsigned int seed;
static const char *self;
static struct encl shared;

static void some_time(void)
{
	int most = 1 << (10 + rand_r(&seed) % 15); /* microseconds to tens of milliseconds */

	for (volatile int n = rand_r(&seed) % most; n > 0; n--)
		;
}

/* Every kind of stop, for ever. */
static void *stops(void *arg)
{
	(void)arg;
	for (;;) {
		static __thread struct encl e;
		struct call c = {.op = OP_NOP};
		unsigned int a, b, x, d;
		void *p;
		int fd;

		__cpuid_count(0x12, 0, a, b, x, d);
		fd = open(self, O_RDONLY);
		p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
		munmap(p, 4096);
		close(fd);
		if (encl_load(&e, &(struct encl_opts){.threads = 1}))
			continue;
		for (int i = 0; i < 3; i++)
			encl_do(&e, 0, &c);
		encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
		mprotect((void *)e.base, e.size, PROT_NONE);
		encl_free(&e);
	}
	return NULL;
}

static void *ends_the_group(void *arg)
{
	(void)arg;
	some_time();
	_exit(7); /* no destructors under the other threads */
}

static void *execs(void *arg)
{
	(void)arg;
	some_time();
	execl(self, self, "seven", "1", NULL);
	_exit(1);
}

static void *sleeps(void *arg)
{
	pause();
	return arg;
}

static void child(const char *how)
{
	struct call c = {.op = OP_FAULT, .a = F_UD2};
	static struct encl e;
	pthread_t t;

	if (!strcmp(how, "fault")) {
		pthread_create(&t, NULL, sleeps, NULL);
		if (encl_load(&e, &(struct encl_opts){.threads = 1}))
			_exit(1);
		encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
		_exit(2);
	}
	if (!strcmp(how, "group"))
		pthread_create(&t, NULL, ends_the_group, NULL);
	else if (!strcmp(how, "exec"))
		pthread_create(&t, NULL, execs, NULL);
	if (strcmp(how, "shared")) {
		pthread_create(&t, NULL, stops, NULL);
		stops(NULL);
	}
	for (;;)
		encl_op(&shared, OP_SUM, 1, 10, 0, 0);
}

/* Pages that a child maps lose and get permissions; each ioctl stops the child, too. */
static void change_pages(void)
{
	struct sgx_enclave_restrict_permissions r = {.offset = shared.heap, .length = PAGE};

	for (int i = 0; i < 50; i++) {
		r.permissions = i % 2 ? SI_R : SI_R | SI_W;
		ioctl(shared.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &r);
		encl_enclu(&shared, 0, EMODPE, shared.base + shared.heap, SI_REG | SI_R | SI_W, 0, NULL);
	}
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	int rounds = argc > 2 ? atoi(argv[2]) : 1, good = 0;

	self = argv[0];
	seed = argc > 3 ? (unsigned int)atoi(argv[3]) : 1;
	if (!strcmp(how, "seven"))
		return 7;
	if (!strcmp(how, "shared") && encl_load(&shared, &(struct encl_opts){.threads = 2, .heap = PAGE}))
		return 2;
	for (int i = 0; i < rounds; i++) {
		int status, killed = !strcmp(how, "kill") || !strcmp(how, "shared");
		pid_t pid = fork();

		seed += 17;
		if (!pid) {
			prctl(PR_SET_DUMPABLE, 0); /* no core files */
			child(how);
		}
		if (killed) {
			some_time();
			some_time();
			if (!strcmp(how, "shared"))
				change_pages();
			kill(pid, SIGKILL);
		}
		waitpid(pid, &status, 0);
		if (killed)
			good += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
		else if (!strcmp(how, "fault"))
			good += WIFSIGNALED(status) && WTERMSIG(status) == SIGILL;
		else
			good += WIFEXITED(status) && WEXITSTATUS(status) == 7;
	}
	printf("%d\n", good);
	return good != rounds;
}
