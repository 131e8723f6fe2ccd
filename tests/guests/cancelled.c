/* SPDX-License-Identifier: MIT
 *
 * usage: cancelled stack | kept   TIMES
 * Calls as C libraries make those that can be cancelled: by one instruction for all, which loads the number from
 * the stack (glibc 2.41), or gets it in RAX (its programs with threads, and musl's). Connects come first, and among them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "tap.h"

long by_stack(long a, long b, long c, long d, long e, long f, long nr);
long by_kept(long a, long b, long c, long d, long e, long f, long nr);

asm(".text\n"
    "by_stack:\n\t"
    "mov %rcx, %r10\n\t"
    "mov 8(%rsp), %rax\n\t"
    "syscall\n\t"
    "ret\n"
    "by_kept:\n\t" /* (flag, nr, a, b, c, d, e, f) in musl; the rest is as there */
    "mov %rcx, %r10\n\t"
    "mov %r9, %r11\n\t"
    "mov 8(%rsp), %rax\n\t"
    "push %r9\n\t"
    "push %r8\n\t"
    "push $0\n\t"
    "mov 8(%rsp), %r8\n\t"
    "mov 16(%rsp), %r9\n\t"
    "mov %r11, 8(%rsp)\n\t"
    "syscall\n\t"
    "add $24, %rsp\n\t"
    "ret\n");

static bool kept;

static long call(long nr, long a, long b, long c, long d)
{
	return (kept ? by_kept : by_stack)(a, b, c, d, 0, 0, nr);
}

static long open_(const char *path, int flags)
{
	return call(SYS_openat, AT_FDCWD, (long)path, flags, 0600);
}

static long connect_(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = "/nowhere/at/all"};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	long got = call(SYS_connect, fd, (long)&to, sizeof(to), 0);

	close(fd);
	return got;
}

int main(int argc, char **argv)
{
	int times = argc > 2 ? atoi(argv[2]) : 1, wrong = 0;
	char byte = 1;
	struct stat st;

	kept = argc > 1 && !strcmp(argv[1], "kept");
	for (int i = 0; i < 4; i++)
		wrong += connect_() != -ENOENT;
	check(!wrong, "connects", "%d", wrong);
	for (int i = 0; i < times; i++) {
		long fd = open_("/dev/zero", O_RDONLY);

		wrong += fd < 0 || call(SYS_read, fd, (long)&byte, 1, 0) != 1 || byte != 0 || call(SYS_close, fd, 0, 0, 0);
		wrong += open_("/nowhere/at all", O_RDONLY) != -ENOENT;
		if (i % 64 == 0)
			wrong += connect_() != -ENOENT || open_((char *)8, O_RDONLY) != -EFAULT;
		byte = 1;
	}
	check(!wrong, "opens", "%d", wrong);
	check(open_("/dev/sgx_enclave", O_RDWR) >= 0, "device", "%s", strerror(errno));
	check(!fstat((int)open_("/dev/sgx_enclave", O_RDWR), &st) && S_ISCHR(st.st_mode), "is_a_device", "%o", st.st_mode);
	return tap_failed;
}
