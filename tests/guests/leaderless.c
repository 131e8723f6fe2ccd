/* SPDX-License-Identifier: MIT
 *
 * usage: leaderless
 * A process whose first thread has ended, and whose memory is seen by the others' files in /proc
 * alone: a second thread loads an enclave, enters it and has faults in it. It is a child, of which
 * nothing was asked before. Without a device it opens a folder, and that is all.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

static bool leader_is_gone(void)
{
	char text[300] = "";
	int fd = open("/proc/self/stat", O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	return n > 0 && strncmp(strrchr(text, ')'), ") Z", 3) == 0;
}

static void *second(void *unused)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	struct sgx_enclave_run run = {0};
	struct call c = {.op = OP_POKE};
	static struct encl e;
	uint64_t heap;

	(void)unused;
	while (!leader_is_gone())
		;
	check(open("/dev", O_RDONLY | O_DIRECTORY) >= 0, "folder", "%s", strerror(errno));
	if (access(encl_device(), R_OK))
		_exit(tap_failed);
	if (encl_load(&e, &opts))
		bail("load", e.err);
	heap = e.base + e.heap;
	for (int i = 0; i < 100; i++)
		encl_op(&e, OP_POKE, heap, 7, 0, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, heap, 0, 0, 0), 7, "entered");
	check(!mprotect((void *)heap, 4096, PROT_READ), "mprotect", "%s", strerror(errno));
	c.a = heap;
	encl_call(&e, 0, &c, &run);
	CHECK_EQ(run.exception_vector, 14, "fault");
	if (!fork())
		_exit(encl_op(&e, OP_PEEK, heap, 0, 0, 0) != 7);
	int status;
	wait(&status);
	CHECK_EQ(status, 0, "child");
	execl("/bin/true", "true", NULL);
	_exit(1);
}

int main(void)
{
	pthread_t thread;
	int status = 1;

	setbuf(stdout, NULL);
	if (!fork()) {
		pthread_create(&thread, NULL, second, NULL);
		syscall(SYS_exit, 0);
	}
	wait(&status);
	CHECK_EQ(status, 0, "ended");
	return tap_failed;
}
