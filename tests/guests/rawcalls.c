/* SPDX-License-Identifier: MIT
 *
 * usage: rawcalls PATH < calls
 * System calls by number, as they are told: a line "NR ARG…" gives one, a line of its answer comes
 * back. F is a descriptor of PATH, D a dup of it, R and W ones for reading and for writing alone, N
 * one of /dev/null, G of a file with text, E of an empty one, A one to append to, P and Q a pipe's
 * ends to write and to read, T a directory's, S a socket's, O one of O_PATH, B a zeroed buffer, M one
 * of -1, U the name "user.x", anything else a number.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[1 << 16];
static long minus_one = -1;
static int fds[128];

/* A file that has no name any more. */
static int file(const char *text, int flags)
{
	char path[] = "/tmp/rawcallsXXXXXX";
	int made = mkstemp(path), fd = open(path, O_RDWR | flags);

	if (write(made, text, strlen(text)) != (ssize_t)strlen(text))
		abort();
	close(made);
	unlink(path);
	return fd;
}

static void others(const char *path)
{
	int ends[2];

	fds['R'] = open(path, O_RDONLY);
	fds['W'] = open(path, O_WRONLY);
	fds['G'] = file("some text", 0);
	fds['E'] = file("", 0);
	fds['A'] = file("more", O_APPEND);
	if (pipe(ends))
		abort();
	fds['Q'] = ends[0], fds['P'] = ends[1];
	fds['T'] = open("/", O_RDONLY | O_DIRECTORY);
	fds['S'] = socket(AF_UNIX, SOCK_STREAM, 0);
	fds['O'] = open("/dev/null", O_PATH);
}

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "", O_RDWR), null = open("/dev/null", O_RDWR), dup_fd;
	char line[256], *word, *rest;

	if (fd < 0 || null < 0) {
		perror(argv[1]);
		return 1;
	}
	dup_fd = dup(fd);
	others(argv[1]);
	while (fgets(line, sizeof(line), stdin)) {
		long a[7] = {0}, ret;
		int n = 0;

		for (word = strtok_r(line, " \n", &rest); word && n < 7; word = strtok_r(NULL, " \n", &rest))
			a[n++] = !strcmp(word, "F") ? fd : !strcmp(word, "D") ? dup_fd : !strcmp(word, "N") ? null
				 : !strcmp(word, "M") ? (long)&minus_one
				 : !word[1] && fds[word[0] & 0x7f] ? fds[word[0] & 0x7f]
				 : !strcmp(word, "B") ? (long)buffer : !strcmp(word, "U") ? (long)"user.x"
				 : strtol(word, NULL, 0);
		minus_one = -1;
		memset(buffer, 0, sizeof(buffer));
		errno = 0;
		ret = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
		printf("%ld %s\n", ret < 0 ? -1 : ret, ret < 0 ? strerrorname_np(errno) : "");
		fflush(stdout);
	}
	return 0;
}
