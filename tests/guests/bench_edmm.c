/* SPDX-License-Identifier: MIT
 *
 * usage: bench_edmm PAGES
 * What changes to the pages of a running enclave cost: each ioctl is one over all the pages, each
 * EACCEPT and EMODPE an ECALL of its own. Prints nanoseconds a page: `restrict_ns`, `accept_ns`,
 * `extend_ns`, `trim_ns`, `remove_ns`, and `ecall_ns`, of an empty ECALL.
 */
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static uint64_t pages = 1000;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void tell(const char *name, double start)
{
	printf("%s %.0f\n", name, (now() - start) / (double)pages);
}

static void each(const char *name, uint64_t leaf, uint64_t flags)
{
	double start = now();

	for (uint64_t i = 0; i < pages; i++)
		if (encl_enclu(&e, 0, leaf, e.base + e.heap + i * PAGE, flags, 0, NULL) !=
		    (leaf == EMODPE ? EMODPE : 0)) /* which leaves its number */
			bail(name, "the page does not accept");
	tell(name, start);
}

int main(int argc, char **argv)
{
	double start;

	if (argc > 1)
		pages = strtoull(argv[1], NULL, 10);
	if (encl_load(&e, &(struct encl_opts){.threads = 1, .heap = pages * PAGE}))
		bail("load", e.err);

	struct sgx_enclave_restrict_permissions restricted = {
		.offset = e.heap, .length = pages * PAGE, .permissions = SI_R };
	struct sgx_enclave_modify_types types = {
		.offset = e.heap, .length = pages * PAGE, .page_type = SI_TRIM >> 8 };
	struct sgx_enclave_remove_pages gone = { .offset = e.heap, .length = pages * PAGE };

	for (int i = 0; i < 100; i++) /* the first ones stop */
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	start = now();
	for (uint64_t i = 0; i < pages; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	tell("ecall_ns", start);
	start = now();
	if (ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restricted))
		bail("restrict", strerror(errno));
	tell("restrict_ns", start);
	each("accept_ns", EACCEPT, SI_REG | SI_R | SI_PR);
	each("extend_ns", EMODPE, SI_REG | SI_R | SI_W);
	start = now();
	if (ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &types))
		bail("trim", strerror(errno));
	tell("trim_ns", start);
	each("accept_trim_ns", EACCEPT, SI_TRIM | SI_MODIFIED);
	start = now();
	if (ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &gone))
		bail("remove", strerror(errno));
	tell("remove_ns", start);
	return 0;
}
