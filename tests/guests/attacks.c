/* SPDX-License-Identifier: MIT
 *
 * usage: attacks WAY
 * Ways to make an enclave execute what was written: each tries to get bytes onto a page that was
 * added RX, around the filters that stop a program's calls. The page has to stay what it was.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define EVIL 0x4141414141414141ull

static struct encl e;
static uint64_t code, target;
static volatile int go, answer = 1, stop, hits;
static char stack[65536] __attribute__((aligned(16)));

static bool load(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};

	if (encl_load(&e, &opts))
		return false;
	code = e.base + e.entry;
	target = code + 4088;
	return true;
}

static void try_mprotect(void)
{
	answer = mprotect((void *)code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) ? errno : 0;
	if (!answer)
		*(volatile uint64_t *)target = EVIL;
}

/* What the enclave itself reads there. */
static void verdict(const char *way)
{
	uint64_t is = encl_op(&e, OP_PEEK, target, 0, 0, 0);

	check(is != EVIL, way, "the RX page has what was written");
}

static int waits(void *unused)
{
	(void)unused;
	while (!go)
		sched_yield();
	try_mprotect();
	go = 2;
	return 0;
}

static int loads(void *unused)
{
	(void)unused;
	_exit(!load());
}

static void *filtered(void *unused)
{
	struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
	struct sock_fprog program = {1, &allow};

	syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
	answer = -1;
	return (void *)(intptr_t)waits(unused);
}

/* For the descriptor that a mapping is made by. */
static void *races(void *fd)
{
	uint64_t evil = EVIL;

	while (!stop)
		for (int i = 0; i < 4; i++)
			hits += pwrite((int)(intptr_t)fd + i, &evil, 8, (off_t)(target - e.base)) == 8;
	return NULL;
}

static int races_beside(void *fd)
{
	races(fd);
	return 0;
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";
	pthread_t thread;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!strcmp(way, "clone_vm")) { /* a process that shares the memory, from before */
		clone(waits, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		if (!load())
			bail("load", e.err);
		for (go = 1; go != 2;)
			sched_yield();
	} else if (!strcmp(way, "vfork")) { /* the parent of the one that loads */
		int status, pid = clone(loads, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, NULL);

		if (waitpid(pid, &status, 0) != pid || status)
			bail("load", e.err);
		try_mprotect();
	} else if (!strcmp(way, "own_filter")) { /* a thread with a filter of its own, which TSYNC minds */
		pthread_create(&thread, NULL, filtered, NULL);
		while (answer == 1)
			sched_yield();
		if (!load())
			bail("load", e.err);
		for (go = 1; go != 2;)
			sched_yield();
	} else if (!strcmp(way, "no_room")) { /* as many filters as go in */
		static struct sock_filter many[4096];

		for (int i = 0; i < 4096; i++)
			many[i] = (struct sock_filter){BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
		for (unsigned short n = 4096; n; n /= 2) {
			struct sock_fprog program = {n, many};

			while (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
				;
		}
		if (load())
			try_mprotect();
		else {
			check(strstr(e.err, "Cannot allocate memory"), way, "%s", e.err);
			return tap_failed;
		}
	} else if (!strcmp(way, "map_files")) {
		char path[300];
		struct dirent *entry;
		uint64_t a, b, evil = EVIL;
		DIR *dir = opendir("/proc/self/map_files");

		if (!load())
			bail("load", e.err);
		while (dir && (entry = readdir(dir))) {
			int fd;

			if (sscanf(entry->d_name, "%lx-%lx", &a, &b) != 2 || a > code || code >= b)
				continue;
			snprintf(path, sizeof(path), "/proc/self/map_files/%s", entry->d_name);
			fd = open(path, O_RDWR);
			check(fd < 0 || pwrite(fd, &evil, 8, (off_t)(target - e.base)) < 0, "map_files_write", "it went through");
		}
	} else if (!strcmp(way, "race_thread") || !strcmp(way, "race_process")) {
		int fd = open("/dev/null", O_RDONLY), pid, failed = 0;

		close(fd); /* the lowest number that is free; the device takes it */
		if (!load())
			bail("load", e.err);
		if (way[5] == 't')
			pthread_create(&thread, NULL, races, (void *)(intptr_t)(fd + 1));
		else /* a process with the same descriptors */
			pid = clone(races_beside, stack + sizeof(stack), CLONE_VM | CLONE_FILES | SIGCHLD,
				    (void *)(intptr_t)(fd + 1));
		for (int i = 0; i < 500; i++)
			failed += mmap((void *)(e.base + e.heap), 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				       e.fd, 0) == MAP_FAILED;
		stop = 1;
		if (way[5] == 't')
			pthread_join(thread, NULL);
		else
			waitpid(pid, NULL, 0);
		check(!failed, "mmap", "%d failed", failed);
		check(!hits, "found", "it wrote %d times", hits);
	} else if (!strcmp(way, "no_thread")) { /* descriptors are shared, and no thread can be made that maps */
		struct sock_filter no_clone[] = {
			{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}, /* the number */
			{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_clone},
			{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EAGAIN},
			{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
		};
		struct sock_fprog program = {4, no_clone};

		if (!load())
			bail("load", e.err);
		pthread_create(&thread, NULL, filtered, NULL);
		while (answer == 1)
			sched_yield();
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
		check(mmap((void *)(e.base + e.heap), 4096, PROT_READ, MAP_SHARED | MAP_FIXED, e.fd, 0) == MAP_FAILED
		      && errno == ENOMEM, "refused", "errno %d", errno);
		for (go = 1; go != 2;)
			sched_yield();
		pthread_join(thread, NULL);
	} else
		bail("usage", way);
	verdict(way);
	return tap_failed;
}
