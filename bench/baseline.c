/* SPDX-License-Identifier: MIT
 *
 * What the same stops cost a tracer in C that does nothing but let the tracee go on: the bare
 * baseline of bench/entering.py.
 *
 * usage: baseline PAIRS [THREADS]
 * Each thread makes PAIRS times a system call that the filter gives to the tracer, and a ud2:
 * what an empty ECALL through softsgx's vDSO stops for (EENTER is a traced call there, EEXIT an
 * instruction that the processor refuses). The tracer reads the registers, moves RIP or cancels
 * the call, writes them and continues. Prints `ns_per_pair X` of the wall clock, over all threads'
 * pairs.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRACED 1000 /* no system call has this number */

static long pairs = 20000;

static void *worker(void *arg)
{
	for (long i = 0; i < pairs; i++) {
		long nr = TRACED;

		asm volatile("syscall; ud2" : "+a"(nr) : : "rcx", "r11", "memory");
	}
	return arg;
}

static int tracee(int threads)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TRACED, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {4, code};
	struct timespec a, b;
	pthread_t t[64];

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int n = 0; n < threads; n++)
		if (pthread_create(&t[n], NULL, worker, NULL))
			return 1;
	for (int n = 0; n < threads; n++)
		pthread_join(t[n], NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("ns_per_pair %.1f\n", ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec))
	       / (double)pairs / threads);
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 1, status, ready[2];
	pid_t pid, tid;
	char byte;

	if (argc > 1)
		pairs = atol(argv[1]);
	if (pairs < 1 || threads < 1 || threads > 64 || pipe(ready)) {
		fprintf(stderr, "usage: baseline PAIRS [THREADS]\n");
		return 2;
	}
	pid = fork();
	if (pid == 0) {
		if (read(ready[0], &byte, 1) != 1)
			_exit(1);
		_exit(tracee(threads));
	}
	if (ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACECLONE | PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL)
	    || write(ready[1], "x", 1) != 1) {
		perror("baseline");
		return 1;
	}
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		struct user_regs_struct regs;
		int number = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;

		if (!number) {
			if (tid == pid)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
			continue;
		}
		if (number == SIGILL) {
			ptrace(PTRACE_GETREGS, tid, NULL, &regs);
			regs.rip += 2;
			ptrace(PTRACE_SETREGS, tid, NULL, &regs);
			number = 0;
		} else if (status >> 16 == PTRACE_EVENT_SECCOMP) {
			ptrace(PTRACE_GETREGS, tid, NULL, &regs);
			regs.orig_rax = -1;
			ptrace(PTRACE_SETREGS, tid, NULL, &regs);
			number = 0;
		} else if (status >> 16) {
			number = 0;
		}
		ptrace(PTRACE_CONT, tid, NULL, (void *)(long)number);
	}
	return 1;
}
