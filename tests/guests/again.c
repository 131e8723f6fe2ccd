/* SPDX-License-Identifier: MIT
 *
 * usage: again TIMES [STEP]
 * Loads an enclave at an address of its own choice, as Gramine does, enters it, and executes
 * itself, TIMES times: the enclave of each program lies STEP times 4 GiB above that of the next.
 */
#include <stdlib.h>
#include "loader.h"
#include "tap.h"

#define BASE 0x100000000000ull

int main(int argc, char **argv)
{
	struct encl e;
	struct call c = {.op = OP_NOP};
	int times = argc > 1 ? atoi(argv[1]) : 0, step = argc > 2 ? atoi(argv[2]) : 0;
	char next[16];

	if (encl_plan(&e, &(struct encl_opts){.heap = PAGE, .size = 64 * PAGE}) || encl_sign(&e) ||
	    encl_open(&e))
		bail("plan", e.err);
	e.base = BASE + ((uint64_t)(times * step) << 32);
	if (encl_create(&e) || encl_add_all(&e, 0) || encl_init(&e) || encl_map(&e))
		bail("load", e.err);
	for (int i = 0; i < 3; i++)
		check(encl_do(&e, 0, &c), "entered", "%s", e.err);
	if (times > 0) {
		snprintf(next, sizeof(next), "%d", times - 1);
		execl("/proc/self/exe", argv[0], next, argv[2], (char *)NULL);
		bail("exec", strerror(errno));
	}
	return tap_failed;
}
