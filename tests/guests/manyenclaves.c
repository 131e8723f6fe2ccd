/* SPDX-License-Identifier: MIT
 *
 * usage: manyenclaves N
 * N enclaves at once, none of whose descriptors stays open; prints how many could be entered.
 */
#include <stdlib.h>
#include <unistd.h>
#include "loader.h"

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1, good = 0;
	struct encl *e = calloc((size_t)n, sizeof(*e));

	for (int i = 0; i < n; i++) {
		if (encl_load(&e[i], &(struct encl_opts){.threads = 1})) {
			fprintf(stderr, "%d: %s\n", i, e[i].err);
			return 1;
		}
		close(e[i].fd);
	}
	for (int i = 0; i < n; i++)
		good += encl_op(&e[i], OP_SUM, (uint64_t)i, 3, 0, 0) == mix((uint64_t)i, 3);
	printf("%d\n", good);
	return good != n;
}
