/* SPDX-License-Identifier: MIT
 *
 * usage: filters [enclave]
 * Filters of a program's own that ask for a tracer. Without one the call is ENOSYS (seccomp(2),
 * SECCOMP_RET_TRACE), whoever else wants to hear of it. Without `enclave` no SGX is needed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static int install(long number, unsigned data, bool by_prctl)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | data),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(*code), code};

	if (by_prctl)
		return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* In a child: the errno of the call, 0 where it succeeds; before the filter it has to succeed. */
static void refused(const char *name, long number, long a, long b, long c, unsigned data, bool by_prctl)
{
	int status;

	if (!fork()) {
		if (syscall(number, a, b, c) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    install(number, data, by_prctl))
			_exit(255);
		if (!fork()) /* filters are inherited */
			_exit(syscall(number, a, b, c) < 0 ? errno : 0);
		wait(&status);
		if (!WIFEXITED(status) || WEXITSTATUS(status) != ENOSYS)
			_exit(254);
		_exit(syscall(number, a, b, c) < 0 ? errno : 0);
	}
	wait(&status);
	check(WIFEXITED(status) && WEXITSTATUS(status) == ENOSYS, name, "wait status %#x", status);
}

static void *other(void *unused)
{
	return syscall(SYS_getpid) < 0 && errno == ENOSYS ? NULL : unused;
}

int main(int argc, char **argv)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	pthread_t thread;
	void *wrong;

	if (argc > 1 && !strcmp(argv[1], "enclave")) {
		if (encl_load(&e, &opts))
			bail("load", e.err);
		/* calls that the device hears of, too */
		refused("mprotect_of_enclave", SYS_mprotect, (long)(e.base + e.heap), 4096, PROT_READ, 0, false);
		refused("madvise_of_enclave", SYS_madvise, (long)(e.base + e.heap), 4096, MADV_NORMAL, 7, true);
	}
	refused("getppid", SYS_getppid, 0, 0, 0, 0, false);
	refused("getppid_by_prctl", SYS_getppid, 0, 0, 0, 0xffff, true);
	refused("open", SYS_open, (long)"/dev/null", O_RDONLY, 0, 1, false);
	refused("access_of_device", SYS_access, (long)"/dev", R_OK, 0, 1, true);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (install(SYS_getpid, 3, false))
		bail("install", strerror(errno));
	pthread_create(&thread, NULL, other, &e);
	pthread_join(thread, &wrong);
	check(!wrong, "thread", "it ran");
	if (argc > 1 && !strcmp(argv[1], "enclave"))
		check(encl_op(&e, OP_PEEK, e.base + e.heap, 0, 0, 0) == 0, "ecall", "with a filter");
	return tap_failed;
}
