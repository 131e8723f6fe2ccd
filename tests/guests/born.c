/* SPDX-License-Identifier: MIT
 *
 * usage: born processes|threads
 * Children are forked while another process, or another thread, restricts pages of the enclave that
 * they share, one after the other: whatever was restricted by then a child cannot write to. A store
 * from outside is dropped there, as by hardware.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define PAGES 400

static struct encl e;
static struct {
	atomic_int restricted, over;
} *shared;

static void *restricts(void *unused)
{
	for (int i = 0; i < PAGES; i++) {
		struct sgx_enclave_restrict_permissions r = {
			.offset = e.heap + (uint64_t)i * PAGE, .length = PAGE, .permissions = SI_R };

		if (ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &r))
			bail("restrict", strerror(errno));
		shared->restricted = i + 1;
		for (volatile int k = 0; k < i * 7919 % 20000; k++)
			;
	}
	shared->over = 1;
	return unused;
}

/* Whether a store to one of the first pages was kept. */
static bool writes(int pages)
{
	for (int i = 0; i < pages; i++) {
		volatile uint64_t *at = (uint64_t *)(e.base + e.heap + (uint64_t)i * PAGE);

		*at = 1;
		if (*at == 1)
			return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	bool threads = argc > 1 && !strcmp(argv[1], "threads");
	int kept = 0, forks = 0, status;
	pthread_t t;
	pid_t other = 0, child;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (encl_plan(&e, &(struct encl_opts){.heap = PAGES * PAGE}) || encl_build(&e, 0))
		bail("load", e.err);
	for (int i = 0; i < 4; i++) /* the short way, where there is one */
		encl_do(&e, 0, &(struct call){.op = OP_NOP});
	if (threads) {
		pthread_create(&t, NULL, restricts, NULL);
	} else if (!(other = fork())) {
		restricts(NULL);
		_exit(0);
	}
	for (; !shared->over; forks++) {
		child = fork();
		if (!child)
			_exit(writes(shared->restricted));
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
			bail("child", "it did not end by itself");
		kept += WEXITSTATUS(status);
	}
	if (threads)
		pthread_join(t, NULL);
	else
		waitpid(other, NULL, 0);
	check(forks > 4, "forks", "%d", forks);
	check(!kept, "dropped", "%d of %d children could write", kept, forks);
	return tap_failed;
}
