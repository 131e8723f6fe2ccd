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
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "filters.h"
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
	code = (e.base + e.entry) & -4096l;
	target = code + 4088;
	return true;
}

static void try_mprotect(void)
{
	answer = mprotect((void *)code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) ? errno : 0;
	if (!answer)
		*(volatile uint64_t *)target = EVIL;
	check(answer == EACCES, "refused", "%s", strerror(answer));
}

/* What the enclave itself reads there. */
static void verdict(const char *way)
{
	uint64_t is = encl_op(&e, OP_PEEK, target, 0, 0, 0);

	check(is != EVIL, way, "the RX page has what was written");
}

static long plainly(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

/* In a child that has this process's memory, thread pointer included: nothing of libc's. */
static void beside(void)
{
	while (!go)
		plainly(SYS_sched_yield, 0, 0, 0);
	answer = (int)plainly(SYS_mprotect, (long)code, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
	if (!answer)
		*(volatile uint64_t *)target = EVIL;
	go = 2;
	plainly(SYS_exit, 0, 0, 0);
}

/* i386's clone: its stack has to be low, and what it returns to lies on it. */
static long clone_i386(long flags)
{
	void **top = (void **)((char *)mmap(NULL, 65536, PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0) + 65536 - 256);
	long ret;

	*top = beside;
	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\ttest %%eax, %%eax\n\tjnz 1f\n\t"
			 "mov %%ecx, %%esp\n\tcall *(%%rsp)\n1:\tpop %%rbx"
			 : "=a"(ret) : "0"(120l), "r"(flags), "c"(top), "d"(0l), "S"(0l), "D"(0l)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static long call_i386(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\tpop %%rbx"
			 : "=a"(ret) : "0"(nr), "r"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static void no_i386(int number)
{
	(void)number;
	skip("i386", "no int 0x80 here");
	_exit(0);
}

/* The descriptors of who traces us: enclaves' memory is among them. By two numberings, and by /proc. */
static void takes(const char *when)
{
	char line[200], path[100];
	FILE *status = fopen("/proc/self/status", "r");
	int tracer = 0, found = 0, pidfd;

	while (fgets(line, sizeof(line), status))
		sscanf(line, "TracerPid: %d", &tracer);
	fclose(status);
	pidfd = (int)syscall(SYS_pidfd_open, tracer, 0);
	for (int i = 3; i < 40; i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", tracer, i);
		found += syscall(SYS_pidfd_getfd, pidfd, i, 0) >= 0;
		found += call_i386(438, pidfd, i, 0) >= 0;
		found += open(path, O_RDONLY | O_NONBLOCK) >= 0;
	}
	check(pidfd >= 0 && !found, when, "%d of %d's came", found, tracer);
}

static long clone_by_3(uint64_t flags)
{
	struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD, .stack = (uint64_t)stack,
				  .stack_size = sizeof(stack)};
	long ret;

	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tcall *%3\n1:"
			 : "=a"(ret) : "0"((long)SYS_clone3), "D"(&args), "r"(beside), "S"(sizeof(args))
			 : "rcx", "r11", "memory");
	return ret;
}

static int runs_beside(void *unused)
{
	(void)unused;
	beside();
	return 0;
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

/* A child that nobody traces has the enclave, too: what a page loses it can no longer do either. */
static void untraced_late(void)
{
	volatile int *over = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct clone_args args = {.flags = CLONE_UNTRACED, .exit_signal = SIGCHLD};
	struct sgx_enclave_restrict_permissions less = {.offset = e.heap, .length = 4096, .permissions = SI_R};
	volatile uint64_t *page = (uint64_t *)(e.base + e.heap);
	pid_t child;

	encl_op(&e, OP_POKE, (uint64_t)page, 7, 0, 0);
	child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (child < 0) { /* as C libraries do */
		check_errno(child, ENOSYS, "clone3");
		child = fork();
	}
	if (!child) {
		while (!*over)
			sched_yield();
		*page = EVIL;
		_exit(0);
	}
	if (ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &less))
		bail("restrict", strerror(errno));
	*over = 1;
	waitpid(child, NULL, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, (uint64_t)page, 0, 0, 0), 7, "restricted");
}

/* For the descriptor that a mapping is made by. */
static void races_once(int fd)
{
	uint64_t evil = EVIL;

	for (int i = 0; i < 4; i++)
		hits += pwrite(fd + i, &evil, 8, (off_t)(target - e.base)) == 8;
}

static void *races(void *fd)
{
	while (!stop)
		races_once((int)(intptr_t)fd);
	return NULL;
}

/* Another process, that has no enclave, takes descriptors of this one's, and is late. */
static void races_by_pidfd(int fd, pid_t of, bool i386)
{
	int pidfd = (int)syscall(SYS_pidfd_open, of, 0);
	struct sched_param none = {0};
	uint64_t evil = EVIL;

	munmap((void *)e.base, e.size);
	sched_setscheduler(0, SCHED_IDLE, &none);
	while (!hits && getppid() == of)
		for (int i = 0; i < 2; i++) {
			long got = i386 ? call_i386(438, pidfd, fd + i, 0) : syscall(SYS_pidfd_getfd, pidfd, fd + i, 0);

			if (got < 0)
				continue;
			hits += pwrite((int)got, &evil, 8, (off_t)(target - e.base)) == 8;
			close((int)got);
		}
	_exit(1);
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
	if (!strncmp(way, "i386", 4) || !strcmp(way, "takes"))
		signal(SIGSEGV, no_i386);
	if (!strcmp(way, "clone_vm")) { /* a process that shares the memory, from before */
		clone(waits, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		if (!load())
			bail("load", e.err);
		for (go = 1; go != 2;)
			sched_yield();
	} else if (!strcmp(way, "untraced_late")) {
		if (!load())
			bail("load", e.err);
		untraced_late();
	} else if (!strncmp(way, "untraced", 8) || !strncmp(way, "i386", 4)) { /* not to be heard of */
		int vm = CLONE_VM | CLONE_UNTRACED, thread_too = vm | CLONE_SIGHAND | CLONE_THREAD;
		long made = -1;

		if (!strcmp(way, "untraced"))
			made = clone(runs_beside, stack + sizeof(stack), vm | SIGCHLD, NULL);
		else if (!strcmp(way, "untraced_thread"))
			made = clone(runs_beside, stack + sizeof(stack), thread_too, NULL);
		else if (!strcmp(way, "untraced_clone3"))
			made = clone_by_3((uint64_t)vm);
		else if (!strcmp(way, "i386"))
			made = clone_i386(CLONE_VM | SIGCHLD);
		else if (!strcmp(way, "i386_untraced"))
			made = clone_i386(vm | SIGCHLD);
		else if (!strcmp(way, "i386_thread"))
			made = clone_i386(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD);
		if (made < 0) {
			skip(way, "no such clone here");
			return 0;
		}
		if (!load()) { /* what cannot be watched is not mapped */
			check(strstr(e.err, "Cannot allocate memory"), way, "%s", e.err);
			kill((pid_t)made, SIGKILL);
			return tap_failed;
		}
		for (go = 1; go != 2;)
			sched_yield();
		check(answer == -EACCES, "refused", "%d", answer);
	} else if (!strcmp(way, "false_answers")) { /* a filter says that mprotect was made */
		struct sock_filter none[] = {
			{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}, /* the number */
			{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_mprotect},
			{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO},
			{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
		};
		struct sock_fprog program = {4, none};
		void *heap;
		int ret;

		if (!load())
			bail("load", e.err);
		heap = (void *)(e.base + e.heap);
		encl_op(&e, OP_POKE, (uint64_t)heap, 1, 0, 0);
		syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
		ret = (int)syscall(SYS_pkey_mprotect, heap, 4096, PROT_READ, -1);
		encl_op(&e, OP_POKE, (uint64_t)heap, 2, 0, 0);
		check(ret || encl_op(&e, OP_PEEK, (uint64_t)heap, 0, 0, 0) == 1, "read_only", "it was written");
	} else if (!strcmp(way, "takes")) {
		takes("before");
		if (!load())
			bail("load", e.err);
		takes("after");
		if (!fork()) { /* which an enclave's filters do not stop */
			munmap((void *)e.base, e.size);
			takes("child");
			_exit(tap_failed);
		}
		waitpid(-1, NULL, 0);
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
		fill_filters();
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
	} else if (!strncmp(way, "race_", 5)) {
		int fd = open("/dev/null", O_RDONLY), pid = 0, failed = 0, ended = 0;

		close(fd); /* the lowest number that is free; the device takes it */
		if (!load())
			bail("load", e.err);
		if (way[5] == 't')
			pthread_create(&thread, NULL, races, (void *)(intptr_t)(fd + 1));
		else if (way[5] == 'p') /* a process with the same descriptors */
			pid = clone(races_beside, stack + sizeof(stack), CLONE_VM | CLONE_FILES | SIGCHLD,
				    (void *)(intptr_t)(fd + 1));
		else if (way[5] == 'g') {
			pid_t parent = getpid();
			cpu_set_t one;

			CPU_ZERO(&one); /* where the other one has to wait for its turn */
			CPU_SET(sched_getcpu(), &one);
			sched_setaffinity(0, sizeof(one), &one);
			pid = fork();
			if (!pid)
				races_by_pidfd(fd + 1, parent, !strcmp(way, "race_getfd_i386"));
		} else { /* one that nobody traces, with a memory of its own */
			struct clone_args args = {.flags = CLONE_FILES | CLONE_UNTRACED, .exit_signal = SIGCHLD};

			pid = (int)syscall(SYS_clone3, &args, sizeof(args));
			if (!pid) {
				while (getppid() != 1 && !hits)
					races_once(fd + 1);
				_exit(1);
			}
		}
		for (int i = 0; i < 500; i++)
			failed += mmap((void *)(e.base + e.heap), 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				       e.fd, 0) == MAP_FAILED;
		stop = 1;
		if (way[5] == 't')
			pthread_join(thread, NULL);
		else {
			if (way[5] != 'p' && !waitpid(pid, NULL, WNOHANG))
				kill(pid, SIGKILL);
			waitpid(pid, &ended, 0);
		}
		hits += WIFEXITED(ended) && WEXITSTATUS(ended);
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
