/* SPDX-License-Identifier: MIT
 *
 * usage: stopped [TIMES]
 * A process whose child stops it again and again, and lets it go on, while it opens and maps the device: no
 * call knows of it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

int main(int argc, char **argv)
{
	int times = argc > 1 ? atoi(argv[1]) : 300, status = -1, bad = 0, error = 0;
	struct encl e;
	pid_t child;

	if (encl_load(&e, &(struct encl_opts){.heap = PAGE}))
		bail("load", e.err);
	child = fork();
	if (!child) {
		for (int i = 0; i < times; i++) {
			kill(getppid(), SIGSTOP);
			for (volatile int k = 0; k < i % 50 * 1000; k++)
				;
			kill(getppid(), SIGCONT);
			for (volatile int k = 0; k < i % 70 * 10000; k++)
				;
		}
		_exit(0);
	}
	while (!waitpid(child, &status, WNOHANG)) {
		int fd = open(encl_device(), O_RDWR);
		void *at = mmap((void *)(e.base + e.heap), PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, e.fd, 0);

		if (fd < 0 || at == MAP_FAILED) {
			error = errno;
			bad++;
		}
		close(fd);
	}
	check(!bad, "stopped", "%d, the last by %d", bad, error);
	CHECK_EQ(status, 0, "child");
	return tap_failed;
}
