/* SPDX-License-Identifier: MIT
 *
 * A process becomes another: it executes a program and keeps its descriptors, it changes its context;
 * and one that debugs it writes its memory.
 */
#ifndef GUESTS_CHANGES_H
#define GUESTS_CHANGES_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES 128

/* Execute a program as worker `me`, with descriptors by their names as words F=NUMBER. Returns if it failed. */
static void execute(const char *program, int me, const int fds[NAMES])
{
	static char words[NAMES][16];
	char *args[NAMES + 2] = {(char *)program};
	int n = 1;

	for (int name = 0; name < NAMES; name++) {
		if (name && (!fds[name] || fcntl(fds[name], F_SETFD, 0)))
			continue;
		args[n++] = words[name];
		if (name)
			snprintf(words[name], sizeof(words[name]), "%c=%d", name, fds[name]);
		else
			snprintf(words[name], sizeof(words[name]), "%d", me);
	}
	execv(args[0], args);
}

/* The other side: whether there was such an execve. */
static bool executed(int argc, char **argv, int fds[NAMES])
{
	for (int i = 2; i < argc; i++)
		fds[argv[i][0] & (NAMES - 1)] = atoi(argv[i] + 2);
	return argc > 2;
}

/* As libselinux has it, the label with its end, or libapparmor, a command and the label: 0 or -1. */
static int change_context(const char *how, const char *label)
{
	char text[300];
	bool selinux = !strcmp(how, "setcon");
	size_t n = (size_t)snprintf(text, sizeof(text), "%s%s%s", selinux ? "" : how, selinux ? "" : " ", label)
		   + selinux;
	int fd = open("/proc/thread-self/attr/current", O_RDWR | O_CLOEXEC), error;
	ssize_t done;

	if (fd < 0)
		return -1;
	done = write(fd, text, n);
	error = errno;
	close(fd);
	errno = error;
	return done == (ssize_t)n ? 0 : -1;
}

/* A process that debugs this one writes its memory at an address: 0 or -1. */
static int debugged_write(uint64_t at, const void *data, size_t n)
{
	int status = 0;
	pid_t debugger;

	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
	debugger = fork();
	if (debugger == 0) {
		char path[40];
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/mem", getppid());
		fd = open(path, O_RDWR);
		errno = 0;
		_exit(fd < 0 || pwrite(fd, data, n, (off_t)at) != (ssize_t)n ? errno ? errno : EIO : 0);
	}
	if (debugger < 0 || waitpid(debugger, &status, 0) != debugger)
		return -1;
	errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
	return errno ? -1 : 0;
}

#endif
