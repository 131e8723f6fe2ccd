/* SPDX-License-Identifier: MIT
 *
 * usage: endaccepts ROUNDS [SEED]
 * Processes that are ended at any moment, by an exec or exit_group of a third thread or by a signal, while two
 * threads accept and remove pages: then their threads are on their way over a change of protection.
 * Prints how many ended as they should.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define ZONE 512
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)
#define ENDED 7

static struct encl e;
static unsigned int seed;
static char *name;

static unsigned int any(unsigned int n)
{
	return (unsigned int)rand_r(&seed) % n;
}

static void handler(int number)
{
	(void)number;
}

static void *accepts(void *number)
{
	int thread = *(int *)number;
	struct sgx_enclave_run run;

	for (;;)
		for (uint64_t at = e.free + (uint64_t)thread * PAGE; at < e.free + ZONE * PAGE; at += 2 * PAGE) {
			struct sgx_enclave_modify_types types = {
				.offset = at, .length = PAGE, .page_type = SI_TRIM >> 8 };
			struct sgx_enclave_remove_pages gone = {.offset = at, .length = PAGE};

			encl_enclu(&e, thread, EACCEPT, e.base + at, NEW, 0, &run);
			ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &types);
			encl_enclu(&e, thread, EACCEPT, e.base + at, SI_TRIM | SI_MODIFIED, 0, &run);
			ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &gone);
		}
	return NULL;
}

static void *ends(void *unused)
{
	usleep(any(20000));
	if (any(2))
		execl("/proc/self/exe", name, "ended", (char *)NULL);
	_exit(ENDED);
	return unused;
}

static void live(bool ends_itself)
{
	static int numbers[] = {0, 1};
	pthread_t t;

	signal(SIGUSR1, handler);
	if (encl_plan(&e, &(struct encl_opts){.threads = 2, .size = (ZONE + 128) * PAGE}) || encl_build(&e, 0))
		bail("load", e.err);
	encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
	if (mmap((void *)(e.base + e.free), ZONE * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e.fd, 0)
	    == MAP_FAILED)
		bail("map", strerror(errno));
	pthread_create(&t, NULL, accepts, &numbers[1]);
	if (ends_itself)
		pthread_create(&t, NULL, ends, NULL);
	accepts(&numbers[0]);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 10, good = 0, status;

	if (argc > 1 && !strcmp(argv[1], "ended"))
		return ENDED;
	name = argv[0];
	seed = argc > 2 ? (unsigned int)atoi(argv[2]) : 1;
	for (int i = 0; i < rounds; i++) {
		unsigned int how = any(4);
		pid_t child = fork();

		if (!child)
			live(how > 1);
		usleep(30000 + any(40000));
		for (int k = 0; how == 1 && k < 20; k++) {
			kill(child, SIGUSR1);
			usleep(any(500));
		}
		if (how < 2)
			kill(child, any(2) ? SIGKILL : SIGTERM);
		if (waitpid(child, &status, 0) != child)
			bail("child", strerror(errno));
		good += how < 2 ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == ENDED;
		seed += 2;
	}
	check(good == rounds, "ended", "%d of %d", good, rounds);
	return tap_failed;
}
