/* SPDX-License-Identifier: MIT
 *
 * usage: killed [TIMES]
 * Processes that change the permissions of an enclave's pages are killed while they do; another one maps
 * the pages, too. For who compares what it can do there with what the enclave says (--verify).
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define HEAP 64

static struct encl e;

static void changes(uint64_t offset)
{
	for (;; offset ^= PAGE) {
		struct sgx_enclave_restrict_permissions restricted = {
			.offset = offset, .length = PAGE, .permissions = SI_R};

		ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restricted);
		encl_enclu(&e, 1, EACCEPT, e.base + offset, SI_REG | SI_R | SI_PR, 0, NULL);
		encl_enclu(&e, 1, EMODPE, e.base + offset, SI_REG | SI_R | SI_W, 0, NULL);
	}
}

int main(int argc, char **argv)
{
	unsigned int times = argc > 1 ? (unsigned int)atoi(argv[1]) : 60;
	pid_t other, child;
	int bad = 0;

	if (encl_load(&e, &(struct encl_opts){.threads = 2, .heap = HEAP * PAGE}))
		bail("load", e.err);
	e.heap = (e.heap + PAGE) & -2 * PAGE;
	other = fork();
	while (!other)
		pause();
	for (unsigned int i = 0; i < times; i++) {
		child = fork();
		if (!child)
			changes(e.heap + i * 2 % (HEAP - 2) * PAGE);
		for (volatile unsigned int k = 0; k < i * 7919u * 77 % 4000000; k++)
			;
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		bad += encl_op(&e, OP_SUM, i, 3, 0, 0) != mix(i, 3);
	}
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	CHECK_EQ(bad, 0, "killed");
	return tap_failed;
}
