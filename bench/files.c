/* SPDX-License-Identifier: MIT
 *
 * A program that has nothing to do with SGX and asks the kernel for files, which is what softsgx
 * has to look at in every program: the guest of bench/bystander.py.
 *
 * usage: files ROUNDS
 * Prints `open_ns`, `stat_ns`, `read_ns`, `exec_ns`: open and close of a file, stat of it, read
 * of a page (which softsgx does not see), and a fork, exec and wait of itself (ROUNDS / 20 times: the
 * first few are learned from).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 20000, execs = rounds / 20;
	const char *self = "/proc/self/exe";
	static char page[4096], path[4096];
	struct stat st;
	double a, b, c, d, e;
	ssize_t n;
	int fd;

	if (rounds < 1)
		return 0;
	n = readlink(self, path, sizeof(path) - 1);
	fd = n > 0 ? open(path, O_RDONLY) : -1;
	if (fd < 0)
		return 1;
	a = now();
	for (long i = 0; i < rounds; i++) {
		int f = open(path, O_RDONLY);

		if (f < 0 || close(f))
			return 1;
	}
	b = now();
	for (long i = 0; i < rounds; i++)
		if (stat(path, &st))
			return 1;
	c = now();
	for (long i = 0; i < rounds; i++)
		if (pread(fd, page, sizeof(page), 0) <= 0)
			return 1;
	d = now();
	for (long i = 0; i < execs; i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			execl(path, path, "0", (char *)NULL);
			_exit(1);
		}
		if (waitpid(pid, &status, 0) != pid || status)
			return 1;
	}
	e = now();
	printf("open_ns %.0f\nstat_ns %.0f\nread_ns %.0f\nexec_ns %.0f\n", (b - a) / (double)rounds,
	       (c - b) / (double)rounds, (d - c) / (double)rounds,
	       execs ? (e - d) / (double)execs : 0.0);
	return 0;
}
