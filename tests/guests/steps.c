/* SPDX-License-Identifier: MIT
 *
 * usage: steps [nested | far | raw | cleared]
 * One ECALL after another; the tracer (tests/supervisor/stepper.py) steps through the n-th and sends
 * SIGUSR1 before its n-th instruction. It is told by SIGUSR2 that one begins, and says by no
 * SIGUSR1 that there was none left. nested: the handler enters two TCSs, the one that is inside too.
 * raw: the same by ENCLU of its own. cleared: the enclave clears registers after it has loaded the leaf. far: the enclave is so large that a jump from its code does not leave it at the far end.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define WARM 40 /* calls until all is as it stays */

static struct encl e;
static volatile int handled, nested;
static int wrong;
static bool raw, cleared;
static __thread uint64_t own = 77;

static void one(int thread, uint64_t a)
{
	struct call c = {.op = OP_SUM, .a = a, .b = 2, .c = cleared};

	wrong += (raw ? encl_raw_ecall(&c, e.base + e.tcs[thread]) : !encl_do(&e, thread, &c)) || c.ret != mix(a, 2)
		 || own != 77;
}

static void handler(int sig)
{
	handled += sig == SIGUSR1;
	if (nested && sig == SIGUSR1) {
		one(1, 5);
		one(0, 6);
	}
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = handler};
	int n = 0;

	bool far = argc > 1 && strcmp(argv[1], "far") == 0;

	if (encl_load(&e, &(struct encl_opts){.threads = 2, .heap = PAGE, .size = far ? 16ull << 30 : 0}))
		bail("load", e.err);
	sigaction(SIGUSR1, &act, NULL);
	sigaction(SIGUSR2, &act, NULL);
	raw = argc > 1 && strcmp(argv[1], "raw") == 0;
	cleared = argc > 1 && strcmp(argv[1], "cleared") == 0;
	nested = argc > 1 && !far;
	for (int i = 0; i < WARM; i++) {
		one(0, 1);
		one(1, 1);
	}
	kill(getpid(), SIGUSR1); /* what the first call of a function leaves in registers is over */
	do {
		handled = 0;
		kill(getpid(), SIGUSR2);
		one(0, 7);
		/* What the handler changed about the mask is looked at once. */
		one(0, 1);
		one(0, 1);
		n++;
	} while (handled);
	CHECK_EQ(wrong, 0, "wrong");
	check(n > 50, "positions", "%d", n);
	return tap_failed;
}
