/* SPDX-License-Identifier: MIT
 *
 * usage: dispatch
 * Syscall user dispatch (PR_SET_SYSCALL_USER_DISPATCH): system calls of code outside of libc are
 * SIGSYS, before an enclave is loaded, and while it is mapped otherwise and entered.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include "loader.h"
#include "tap.h"

#define SET_SYSCALL_USER_DISPATCH 59

static struct encl e;
static volatile char selector;
static volatile int dispatched;

static void sigsys(int number)
{
	(void)number;
	selector = 0;
	dispatched++;
}

/* From this file's code. */
static long own_getpid(void)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "0"((long)SYS_getpid) : "rcx", "r11", "memory");
	return ret;
}

static void still(const char *name)
{
	dispatched = 0;
	selector = 1;
	own_getpid();
	selector = 0;
	CHECK_EQ(dispatched, 1, name);
}

int main(void)
{
	unsigned long start = 0, end = 0, a, b;
	FILE *maps = fopen("/proc/self/maps", "r");
	void *heap;
	char line[400];

	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "libc.so") && strstr(line, "r-xp") && sscanf(line, "%lx-%lx", &a, &b) == 2)
			start = a, end = b;
	fclose(maps);
	signal(SIGSYS, sigsys);
	if (prctl(SET_SYSCALL_USER_DISPATCH, 1, start, end - start, &selector)) {
		skip("dispatch", "not here");
		return 0;
	}
	still("dispatched");
	selector = 1;
	if (encl_load(&e, &(struct encl_opts){.heap = 8192}))
		bail("load", e.err);
	selector = 0;
	still("after_load");
	for (int i = 0; i < 4; i++) {
		selector = 0;
		CHECK_EQ(encl_op(&e, OP_SUM, (uint64_t)i, 3, 0, 0), mix((uint64_t)i, 3), "entered");
	}
	heap = (void *)(e.base + e.heap);
	selector = 1;
	check_errno(mprotect(heap, 4096, PROT_READ), 0, "mprotect");
	check_errno(mprotect(heap, 4096, PROT_READ | PROT_EXEC), EACCES, "mprotect_exec");
	check(close(open("/dev/null", O_RDONLY)) == 0, "open", "%s", strerror(errno));
	selector = 0;
	still("after_mprotect");
	return tap_failed;
}
