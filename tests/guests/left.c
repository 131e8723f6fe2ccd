/* SPDX-License-Identifier: MIT
 *
 * usage: left fork|vfork|clone|clone3|thread first|second exec|exit [DEVICE]
 * One thread makes a child, and another executes a program, or ends the process, each when it has read a
 * byte from standard input: the one before the other. first, second: which of the threads makes the child.
 * Told before that: both threads' numbers, the maker's first; then how the child has ended, or "none": by the
 * new program, or by the parent of the process, which is that of its orphans then.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *how;
static char stack[1 << 16] __attribute__((aligned(64)));
static volatile int makes, maker, ender;
static bool ends;

static void *nothing(void *unused)
{
	return unused;
}

static int child(void *unused)
{
	(void)unused;
	syscall(SYS_exit_group, 7);
	return 0;
}

static void byte(void)
{
	char c;

	if (read(0, &c, 1) != 1)
		_exit(2);
}

static void make(void)
{
	pthread_t thread;
	pid_t pid = 1;

	maker = gettid();
	byte();
	makes = 1;
	if (!strcmp(how, "fork")) {
		pid = fork();
	} else if (!strcmp(how, "vfork")) {
		pid = vfork();
	} else if (!strcmp(how, "clone")) {
		clone(child, stack + sizeof(stack), CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
	} else if (!strcmp(how, "clone3")) {
		struct clone_args args = {.flags = CLONE_FS, .exit_signal = SIGCHLD};

		pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	} else {
		pthread_create(&thread, NULL, nothing, NULL);
	}
	if (!pid)
		_exit(7);
	for (;;)
		pause();
}

static void end(void)
{
	char *argv[] = {"left", NULL};

	ender = gettid();
	while (!makes)
		sched_yield();
	byte();
	if (ends)
		syscall(SYS_exit_group, 0);
	execv("/proc/self/exe", argv);
	_exit(3);
}

static void *second(void *does)
{
	((void (*)(void))(uintptr_t)does)();
	return NULL;
}

static int told(void)
{
	int status;

	if (wait(&status) < 0)
		puts("none");
	else
		printf("%d\n", WEXITSTATUS(status));
	return 0;
}

int main(int argc, char **argv)
{
	bool first = argc > 2 && !strcmp(argv[2], "first");
	pthread_t thread;
	pid_t pid;

	if (argc < 4)
		return told();
	for (int i = 0; i < 8; i++) { /* which compiled code deals with, from then on */
		if (!fork())
			_exit(0);
		wait(NULL);
	}
	how = argv[1];
	if (argc > 4)
		open(argv[4], O_RDWR);
	ends = !strcmp(argv[3], "exit");
	if (ends) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		pid = fork();
		if (pid) {
			waitpid(pid, NULL, 0);
			return told();
		}
	}
	*(first ? &maker : &ender) = gettid();
	pthread_create(&thread, NULL, second, (void *)(uintptr_t)(first ? end : make));
	while (!maker || !ender)
		sched_yield();
	printf("%d %d\n", maker, ender);
	fflush(stdout);
	if (first)
		make();
	end();
}
