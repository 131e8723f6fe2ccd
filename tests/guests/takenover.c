/* SPDX-License-Identifier: MIT
 *
 * usage: takenover [TIMES]
 * Processes whose first thread builds an enclave, or accepts pages, while another one ends it all at some
 * moment: by exec, whose program then has the first thread's number, by exit_group(2), by a signal; or ends
 * itself. Whatever comes first: nobody ends by a signal but who is killed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define PAGES 256

enum { EXEC, EXIT_GROUP, KILL, EXIT, WAYS };
enum { BY_PAGE, ACCEPTING, BY_STRETCH, WORKS };

static struct encl e;
static volatile int started;
static uint8_t source[64 * PAGE] __attribute__((aligned(4096)));

struct plan {
	int way;
	unsigned int spins;
};

static void *ends(void *p)
{
	struct plan *plan = p;

	while (!started)
		;
	for (volatile unsigned int i = 0; i < plan->spins; i++)
		;
	if (plan->way == EXEC)
		execl("/bin/true", "true", NULL);
	if (plan->way == EXIT_GROUP)
		syscall(SYS_exit_group, 0);
	if (plan->way == KILL)
		kill(getpid(), SIGKILL);
	return NULL;
}

static void add(uint64_t each)
{
	struct secinfo info = {.flags = SI_REG | SI_R | SI_W};

	for (uint64_t at = 0; at < PAGES * PAGE; at += each) {
		struct sgx_enclave_add_pages arg = {.src = (uint64_t)source, .offset = e.free + at,
						    .length = each, .secinfo = (uint64_t)&info};

		if (ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg))
			_exit(2);
	}
}

static void child(struct plan *plan, int work)
{
	struct encl_opts opts = {.size = 4 * PAGES * PAGE};
	pthread_t t;

	if (work == ACCEPTING ? encl_load(&e, &opts)
			      : encl_plan(&e, &opts) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		_exit(3);
	if (work == ACCEPTING && mmap((void *)(e.base + e.free), PAGES * PAGE, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, e.fd, 0) == MAP_FAILED)
		_exit(4);
	pthread_create(&t, NULL, ends, plan);
	started = 1;
	for (uint64_t i = 0; work == ACCEPTING && i < PAGES; i++)
		if (encl_enclu(&e, 0, EACCEPT, e.base + e.free + i * PAGE, SI_REG | SI_R | SI_W | SI_PENDING, 0,
			       NULL))
			_exit(5);
	if (work != ACCEPTING)
		add(work == BY_PAGE ? PAGE : sizeof(source));
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned int times = argc > 1 ? (unsigned int)atoi(argv[1]) : 72;
	int bad = 0, last = 0;

	for (unsigned int i = 0; i < times; i++) {
		struct plan plan = {.way = i / WORKS % WAYS, .spins = i * 7919u * 31 % 3000000};
		pid_t pid = fork();
		int status = -1;

		if (!pid)
			child(&plan, i % WORKS);
		if (waitpid(pid, &status, 0) != pid || (status && !(plan.way == KILL && status == SIGKILL))) {
			bad++;
			last = status;
		}
	}
	check(!bad, "takenover", "%d of %u, the last by %#x", bad, times, (unsigned int)last);
	return tap_failed;
}
