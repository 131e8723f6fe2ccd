/* SPDX-License-Identifier: MIT
 *
 * usage: handed
 * An enclave that one process enters all the time is mapped and entered by another program, too, which
 * inherits its descriptor and has nothing else in common.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define STATE_FD 99
#define OFTEN 100

static struct encl e;

static int wrong(int times)
{
	int bad = 0;

	for (int i = 0; i < times; i++)
		bad += encl_op(&e, OP_SUM, (uint64_t)i, 3, 0, 0) != mix((uint64_t)i, 3);
	return bad;
}

static int other(void)
{
	if (pread(STATE_FD, &e, sizeof(e), 0) != sizeof(e))
		return 100;
	if (encl_map(&e))
		return 102;
	return wrong(OFTEN);
}

int main(int argc, char **argv)
{
	static const char *names[] = {"other_first", "other_again"};
	int fd, status;

	if (argc > 1)
		return other();
	if (encl_load(&e, &(struct encl_opts){.threads = 2, .heap = PAGE}))
		bail("load", e.err);
	fd = memfd_create("state", 0);
	if (fd < 0 || dup2(fd, STATE_FD) < 0 || pwrite(fd, &e, sizeof(e), 0) != sizeof(e))
		bail("state", "cannot be handed over");
	fcntl(e.fd, F_SETFD, 0);
	for (int i = 0; i < 2; i++) {
		pid_t pid;

		CHECK_EQ(wrong(OFTEN), 0, i ? "between" : "before");
		pid = fork();
		if (pid == 0) {
			/* Its libraries and our vDSO lie elsewhere. */
			execl("/proc/self/exe", argv[0], "other", (char *)NULL);
			_exit(99);
		}
		waitpid(pid, &status, 0);
		CHECK_EQ(status, 0, names[i]);
	}
	CHECK_EQ(wrong(OFTEN), 0, "after");
	return tap_failed;
}
