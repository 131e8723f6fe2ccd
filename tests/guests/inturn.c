/* SPDX-License-Identifier: MIT
 *
 * usage: inturn ENCLAVES
 * Enclaves by one thread, each added page by page, entered, and kept; at the end 1,000 calls that
 * have nothing to do with them.
 */
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define HEAP 200 /* pages */

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1, good = 0;
	struct encl *e = calloc((size_t)n, sizeof(*e));

	for (int i = 0; i < n; i++) {
		if (encl_plan(&e[i], &(struct encl_opts){.threads = 1, .heap = HEAP * PAGE})
		    || encl_build(&e[i], PAGE))
			bail("load", e[i].err);
		good += encl_op(&e[i], OP_SUM, (uint64_t)i, 3, 0, 0) == mix((uint64_t)i, 3);
	}
	for (int i = 0; i < 1000; i++)
		syscall(SYS_getpid);
	printf("%d\n", good);
	return good != n;
}
