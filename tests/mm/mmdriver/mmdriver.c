/*
 * Does memory system calls as told, for tests of the mm model.
 *
 * argv: files; their fds are named 0, 1, 2, ... in the orders. A leading '+' opens a
 * file for reading and writing, '-' for writing only, '=' for reading only.
 * A line of stdin is one order, its answer a line on stdout: the raw result of the
 * system call (-errno on failure), for `touch` 1 or 0.
 *
 *   arena LENGTH            an empty range with guard pages around it: its address
 *   mmap ADDR LEN PROT FLAGS FD OFFSET
 *   mprotect ADDR LEN PROT
 *   munmap ADDR LEN
 *   mremap ADDR OLD NEW FLAGS NEW_ADDR
 *   mseal ADDR LEN FLAGS
 *   madvise ADDR LEN ADVICE
 *   remap_file_pages ADDR SIZE PROT PGOFF FLAGS
 *   msync ADDR LEN FLAGS
 *   mlock ADDR LEN, munlock ADDR LEN
 *   touch ADDR              write a byte
 *   fork                    the child goes on, its pid is the answer
 *
 * System calls are made directly: glibc checks and rounds arguments itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#ifndef SYS_mseal
#define SYS_mseal 462 /* since Linux 6.10 */
#endif

static sigjmp_buf fault;
static int fds[16];

static void on_fault(int signal)
{
	siglongjmp(fault, signal);
}

static long call(long number, const unsigned long *a)
{
	long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	return result == -1 ? -errno : result;
}

static long touch(unsigned long addr)
{
	if (sigsetjmp(fault, 1))
		return 0;
	*(volatile char *)addr = 1;
	return 1;
}

static long arena(unsigned long length)
{
	char *base = mmap(NULL, length + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED || munmap(base + PAGE, length))
		return -errno;
	return (long)(base + PAGE);
}

static long fork_and_go_on(void)
{
	pid_t child = fork();
	int status;

	if (child <= 0)
		return child ? -errno : getpid();
	waitpid(child, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

/* Unbuffered, so that a child of fork reads on where its parent stopped. */
static int read_line(char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size && read(0, line + n, 1) == 1) {
		if (line[n] == '\n') {
			line[n] = 0;
			return 1;
		}
		n++;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
	char line[256], name[32];

	for (int i = 1; i < argc && i <= 16; i++) {
		int mode = argv[i][0] == '+' ? O_RDWR : argv[i][0] == '-' ? O_WRONLY : O_RDONLY;

		fds[i - 1] = open(argv[i] + 1, mode);
		if (fds[i - 1] < 0) {
			perror(argv[i]);
			return 1;
		}
	}
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	while (read_line(line, sizeof line)) {
		unsigned long a[6] = { 0 };
		char answer[32];
		char *rest;
		long result;

		if (sscanf(line, "%31s", name) != 1)
			return 2;
		rest = strstr(line, name) + strlen(name);
		for (int i = 0; i < 6; i++)
			a[i] = strtoul(rest, &rest, 0);
		if (!strcmp(name, "mmap")) {
			if ((long)a[4] >= 0 && a[4] < 16)
				a[4] = fds[a[4]];
			result = call(SYS_mmap, a);
		} else if (!strcmp(name, "mprotect")) {
			result = call(SYS_mprotect, a);
		} else if (!strcmp(name, "munmap")) {
			result = call(SYS_munmap, a);
		} else if (!strcmp(name, "mremap")) {
			result = call(SYS_mremap, a);
		} else if (!strcmp(name, "mseal")) {
			result = call(SYS_mseal, a);
		} else if (!strcmp(name, "madvise")) {
			result = call(SYS_madvise, a);
		} else if (!strcmp(name, "remap_file_pages")) {
			result = call(SYS_remap_file_pages, a);
		} else if (!strcmp(name, "msync")) {
			result = call(SYS_msync, a);
		} else if (!strcmp(name, "mlock")) {
			result = call(SYS_mlock, a);
		} else if (!strcmp(name, "munlock")) {
			result = call(SYS_munlock, a);
		} else if (!strcmp(name, "touch")) {
			result = touch(a[0]);
		} else if (!strcmp(name, "arena")) {
			result = arena(a[0]);
		} else if (!strcmp(name, "fork")) {
			result = fork_and_go_on();
		} else {
			return 2;
		}
		snprintf(answer, sizeof answer, "%ld\n", result);
		if (write(1, answer, strlen(answer)) < 0)
			return 1;
	}
	return 0;
}
