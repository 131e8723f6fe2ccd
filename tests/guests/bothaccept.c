/* SPDX-License-Identifier: MIT
 *
 * usage: bothaccept [PAGES]
 * A process and its child share an enclave, and each accepts pages of its own, one after the other: what one
 * changes has to be changed in the other, too, which stands at such a leaf itself.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static int accepts(int who, uint64_t pages)
{
	uint64_t zone = e.base + e.free + (uint64_t)who * pages * PAGE;
	int bad = 0;

	for (uint64_t i = 0; i < pages; i++)
		bad += encl_enclu(&e, who, EACCEPT, zone + i * PAGE, SI_REG | SI_R | SI_W | SI_PENDING, 0, NULL) != 0;
	return bad != 0;
}

int main(int argc, char **argv)
{
	uint64_t pages = argc > 1 ? strtoull(argv[1], NULL, 10) : 400;
	int status = -1, bad;
	pid_t child;

	if (encl_load(&e, &(struct encl_opts){.threads = 2, .size = 4 * pages * PAGE}))
		bail("load", e.err);
	if (mmap((void *)(e.base + e.free), 2 * pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 e.fd, 0) == MAP_FAILED)
		bail("map", strerror(errno));
	for (int i = 0; i < 8; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	child = fork();
	if (!child)
		_exit(accepts(1, pages));
	bad = accepts(0, pages);
	check(waitpid(child, &status, 0) == child && !status, "child", "%#x", (unsigned)status);
	CHECK_EQ(bad, 0, "parent");
	return tap_failed;
}
