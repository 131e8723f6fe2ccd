/* SPDX-License-Identifier: MIT
 *
 * usage: extends
 * Permissions of pages that grow from inside (EMODPE), while somebody sends SIGUSR1 at each: the
 * handler looks at what a signal's handler sees of a thread inside, and every page works afterwards.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/ioctl.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define PAGES 20

static struct encl e;
static volatile unsigned long handled, inside;

static void handler(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	uint64_t rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];

	(void)number, (void)info;
	handled++;
	inside += rip >= e.base && rip < e.base + e.size;
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
	sigset_t mask;
	uint64_t wrong = 0;

	check_errno(sigaction(SIGUSR1, &action, NULL), 0, "sigaction");
	if (encl_load(&e, &(struct encl_opts){.threads = 1, .heap = PAGES * PAGE}))
		bail("load", e.err);

	struct sgx_enclave_restrict_permissions restricted = {
		.offset = e.heap, .length = PAGES * PAGE, .permissions = SI_R };

	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restricted), 0, "restrict");
	handled = 0; /* what met its mappings */
	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t page = e.base + e.heap + i * PAGE;

		wrong += encl_enclu(&e, 0, EACCEPT, page, SI_REG | SI_R | SI_PR, 0, NULL) != 0;
		wrong += encl_enclu(&e, 0, EMODPE, page, SI_REG | SI_R | SI_W, 0, NULL) != EMODPE;
		encl_op(&e, OP_POKE, page + 8 * i, i + 1, 0, 0);
		wrong += encl_op(&e, OP_PEEK, page + 8 * i, 0, 0, 0) != i + 1;
	}
	CHECK_EQ(wrong, 0, "extended");
	CHECK_EQ(handled, PAGES, "handled");
	CHECK_EQ(inside, 0, "never_shown_inside");
	sigprocmask(SIG_BLOCK, NULL, &mask);
	CHECK_EQ(sigismember(&mask, SIGUSR1), 0, "mask");
	return tap_failed;
}
