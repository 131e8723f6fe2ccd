/* SPDX-License-Identifier: MIT
 *
 * A process that shares this one's memory has all its threads stand, looks at their registers, and lets them
 * go on: as what looks for leaks does at a program's end (LeakSanitizer). Without an enclave, and with
 * threads that are inside one again and again.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define MOST 16

static const char *when;
static volatile unsigned long counts[MOST];
static volatile int over;
static int pipes[2];
static struct encl e;
static volatile int entering, bad_calls;
static pthread_barrier_t all;

/* The helper shares its parent's errno, which stands. */
static long raw(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 asm("r10") = d;

	asm volatile("syscall"
		     : "=a"(ret)
		     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret;
}

static long raw_ptrace(long request, long tid, void *addr, void *data)
{
	return raw(SYS_ptrace, request, tid, (long)addr, (long)data);
}

static long raw_wait(long tid, int *status)
{
	return raw(SYS_wait4, tid, (long)status, __WALL, 0);
}

static void *counts_up(void *number)
{
	long n = (long)number;

	pthread_barrier_wait(&all);
	while (!over) {
		struct call c = {.op = OP_SUM, .a = 1, .b = 1000};
		struct sgx_enclave_run run = {0};

		if (entering && n == 1 && encl_call(&e, 0, &c, &run))
			bad_calls++;
		counts[n]++;
	}
	return NULL;
}

static void *waits(void *unused)
{
	char byte;

	pthread_barrier_wait(&all);
	return (void *)(read(pipes[0], &byte, 1) == 1 ? unused : NULL);
}

static struct {
	long tids[MOST], attached[MOST], waited[MOST], regs[MOST], set[MOST], detached[MOST];
	int n, status[MOST], moved, twice, unknown, other;
	struct user_regs_struct by_regs[MOST], by_set[MOST];
	size_t length[MOST];
} seen;

static int helper(void *unused)
{
	unsigned long before[MOST];
	struct iovec iov;
	int i, k;

	(void)unused;
	for (i = 0; i < seen.n; i++) {
		seen.attached[i] = raw_ptrace(PTRACE_ATTACH, seen.tids[i], NULL, NULL);
		seen.waited[i] = raw_wait(seen.tids[i], &seen.status[i]);
	}
	for (k = 0; k < MOST; k++)
		before[k] = counts[k];
	for (i = 0; i < seen.n; i++) {
		seen.regs[i] = raw_ptrace(PTRACE_GETREGS, seen.tids[i], NULL, &seen.by_regs[i]);
		iov = (struct iovec){&seen.by_set[i], sizeof(seen.by_set[i])};
		seen.set[i] = raw_ptrace(PTRACE_GETREGSET, seen.tids[i], (void *)NT_PRSTATUS, &iov);
		seen.length[i] = iov.iov_len;
	}
	seen.unknown = (int)raw_ptrace(PTRACE_GETREGS, 1, NULL, &seen.by_set[MOST - 1]);
	for (volatile long spin = 0; spin < 3000000; spin++)
		;
	for (k = 0; k < MOST; k++)
		seen.moved |= before[k] != counts[k];
	for (i = 0; i < seen.n; i++)
		seen.detached[i] = raw_ptrace(PTRACE_DETACH, seen.tids[i], NULL, NULL);
	seen.twice = (int)raw_ptrace(PTRACE_DETACH, seen.tids[0], NULL, NULL);
	return 0;
}

/* It ends with all of them standing. */
static int leaves(void *unused)
{
	(void)unused;
	for (int i = 0; i < seen.n; i++) {
		raw_ptrace(PTRACE_ATTACH, seen.tids[i], NULL, NULL);
		raw_wait(seen.tids[i], &seen.status[i]);
	}
	return 0;
}

static const char *named(const char *what)
{
	static char name[64];

	snprintf(name, sizeof(name), "%s_%s", when, what);
	return name;
}

static int threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;

	seen.n = 0;
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && seen.n < MOST)
			seen.tids[seen.n++] = atol(entry->d_name);
	closedir(dir);
	return seen.n;
}

static int by(int (*what)(void *))
{
	static char stack[65536] __attribute__((aligned(16)));
	int status = -1;
	pid_t child = clone(what, stack + sizeof(stack), CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_UNTRACED, NULL);

	prctl(PR_SET_PTRACER, child, 0, 0, 0);
	if (child < 0 || waitpid(child, &status, __WALL) != child)
		return -1;
	return status;
}

static void go_on(const char *what)
{
	unsigned long before[3] = {counts[1], counts[2]};

	while (counts[1] == before[0] || counts[2] == before[1])
		sched_yield();
	check(true, named(what), " ");
}

static void all_stand(void)
{
	long attached = 0, waited = 0, regs = 0, set = 0, detached = 0, stopped = 0, same = 0, length = 0;
	int status;

	CHECK_EQ(threads(), 4, named("threads"));
	status = by(helper);
	for (int i = 0; i < seen.n; i++) {
		attached += seen.attached[i] == 0;
		waited += seen.waited[i] == seen.tids[i];
		stopped += seen.status[i] == (SIGSTOP << 8 | 0x7f);
		regs += seen.regs[i] == 0;
		set += seen.set[i] == 0;
		detached += seen.detached[i] == 0;
		length += seen.length[i] == sizeof(struct user_regs_struct);
		same += !memcmp(&seen.by_regs[i], &seen.by_set[i], sizeof(seen.by_set[i])) &&
			seen.by_regs[i].rsp && seen.by_regs[i].rip;
	}
	CHECK_EQ(status, 0, named("helper"));
	CHECK_EQ(attached, 4, named("attached"));
	CHECK_EQ(waited, 4, named("waited"));
	CHECK_EQ(stopped, 4, named("status"));
	CHECK_EQ(regs, 4, named("regs"));
	CHECK_EQ(set, 4, named("regset"));
	CHECK_EQ(length, 4, named("length"));
	CHECK_EQ(same, 4, named("same"));
	CHECK_EQ(seen.moved, 0, named("stand"));
	CHECK_EQ(seen.unknown, -ESRCH, named("others"));
	CHECK_EQ(detached, 4, named("detached"));
	CHECK_EQ(seen.twice, -ESRCH, named("detached_twice"));
	go_on("go_on");
	CHECK_EQ(by(leaves), 0, named("leaves"));
	go_on("go_on_then");
}

int main(void)
{
	pthread_t t[3];

	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (pipe(pipes))
		bail("pipe", strerror(errno));
	pthread_barrier_init(&all, NULL, 4);
	pthread_create(&t[0], NULL, counts_up, (void *)1);
	pthread_create(&t[1], NULL, counts_up, (void *)2);
	pthread_create(&t[2], NULL, waits, pipes);
	pthread_barrier_wait(&all);
	when = "bare";
	all_stand();
	if (encl_load(&e, &(struct encl_opts){.heap = PAGE}))
		bail("load", e.err);
	entering = 1;
	when = "inside";
	all_stand();
	over = 1;
	CHECK_EQ(bad_calls, 0, "calls");
	CHECK_EQ(write(pipes[1], "x", 1), 1, "write");
	for (int i = 0; i < 3; i++) {
		void *ret = NULL;

		pthread_join(t[i], &ret);
		if (i == 2)
			check(ret == pipes, "read_goes_on", "its call ended");
	}
	return tap_failed;
}
