/* SPDX-License-Identifier: MIT
 *
 * usage: rawcalls PATH < calls
 * System calls by number, as they are told: a line "NR ARG…" gives one, a line of its answer comes
 * back. F is a descriptor of PATH, D a dup of it, N one of /dev/null, B a zeroed buffer, U the name
 * "user.x", anything else a number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[1 << 16];

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "", O_RDWR), null = open("/dev/null", O_RDWR), dup_fd;
	char line[256], *word, *rest;

	if (fd < 0 || null < 0) {
		perror(argv[1]);
		return 1;
	}
	dup_fd = dup(fd);
	while (fgets(line, sizeof(line), stdin)) {
		long a[7] = {0}, ret;
		int n = 0;

		for (word = strtok_r(line, " \n", &rest); word && n < 7; word = strtok_r(NULL, " \n", &rest))
			a[n++] = !strcmp(word, "F") ? fd : !strcmp(word, "D") ? dup_fd : !strcmp(word, "N") ? null
				 : !strcmp(word, "B") ? (long)buffer : !strcmp(word, "U") ? (long)"user.x"
				 : strtol(word, NULL, 0);
		memset(buffer, 0, sizeof(buffer));
		errno = 0;
		ret = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
		printf("%ld %s\n", ret < 0 ? -1 : ret, ret < 0 ? strerrorname_np(errno) : "");
		fflush(stdout);
	}
	return 0;
}
