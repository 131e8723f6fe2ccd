/* SPDX-License-Identifier: MIT
 *
 * usage: reaper [enclave]
 * The first process of a pid namespace: signals from inside it do not end it (pid_namespaces(7)), the exceptions
 * that it raises itself do, with an enclave or without.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static volatile int *volatile nowhere = (int *)16;

static void f_segv(void) { *nowhere = 1; }
static void f_ud2(void) { __asm__ volatile("ud2"); }
static void f_int3(void) { __asm__ volatile("int3"); }
static void f_div(void) { __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx"); }
static void f_abort(void) { abort(); } /* SIGABRT does nothing; then libc executes HLT */

static void f_ignored(void)
{
	signal(SIGSEGV, SIG_IGN);
	f_segv();
}

static void f_blocked(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	f_segv();
}

static void *faults(void *unused)
{
	f_segv();
	return unused;
}

static void f_thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, faults, NULL);
	pthread_join(t, NULL);
}

static void f_trapped(void) /* SECCOMP_RET_TRAP, with no handler */
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
	getppid();
}

static void leaves(int sig) { _exit(40 + sig); }

static void f_handler(void)
{
	signal(SIGSEGV, leaves);
	f_segv();
}

static void f_signals(void)
{
	raise(SIGTERM), raise(SIGSTOP), raise(SIGTSTP), raise(SIGSEGV), raise(SIGKILL);
	_exit(7);
}

/* A signal that nothing comes of does not end a wait. */
static void f_waits(void)
{
	struct itimerval soon = {.it_value = {0, 20000}};
	struct epoll_event event;

	setitimer(ITIMER_REAL, &soon, NULL);
	_exit(epoll_wait(epoll_create1(0), &event, 1, 100) ? 9 : 8);
}

static void f_reaps(void)
{
	int n = 0;

	if (!fork()) {
		if (!fork())
			_exit(3);
		_exit(4);
	}
	while (wait(NULL) > 0)
		n++;
	_exit(n);
}

static void inside(enum fault kind)
{
	struct encl e;
	struct call c = {.op = OP_FAULT, .a = kind, .b = 16};

	if (encl_load(&e, &(struct encl_opts){.heap = PAGE}))
		_exit(99);
	encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
}

static void i_ud2(void) { inside(F_UD2); }
static void i_read(void) { inside(F_READ); }
static void i_div(void) { inside(F_DIV); }

static void i_ignored(void)
{
	signal(SIGILL, SIG_IGN);
	inside(F_UD2);
}

#define ENDS(number) (number)
#define LEAVES(code) ((code) << 8)

static const struct row {
	const char *name;
	void (*f)(void);
	int status;
} outside[] = {{"segv", f_segv, ENDS(SIGSEGV)}, {"ud2", f_ud2, ENDS(SIGILL)}, {"int3", f_int3, ENDS(SIGTRAP)},
	       {"divide", f_div, ENDS(SIGFPE)}, {"abort", f_abort, ENDS(SIGSEGV)},
	       {"ignored", f_ignored, ENDS(SIGSEGV)}, {"blocked", f_blocked, ENDS(SIGSEGV)},
	       {"thread", f_thread, ENDS(SIGSEGV)}, {"trapped", f_trapped, ENDS(SIGSYS)},
	       {"handler", f_handler, LEAVES(40 + SIGSEGV)}, {"signals", f_signals, LEAVES(7)},
	       {"waits", f_waits, LEAVES(8)}, {"reaps", f_reaps, LEAVES(2)}},
  within[] = {{"enclave_ud2", i_ud2, ENDS(SIGILL)}, {"enclave_read", i_read, ENDS(SIGSEGV)},
	      {"enclave_divide", i_div, ENDS(SIGFPE)}, {"enclave_ignored", i_ignored, ENDS(SIGILL)}};

static void each(const struct row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int status = -1;
		pid_t pid;

		fflush(NULL);
		pid = fork();
		if (!pid) {
			int inner;

			if (unshare(CLONE_NEWPID) && unshare(CLONE_NEWUSER | CLONE_NEWPID))
				_exit(77);
			pid = fork();
			if (!pid) {
				rows[i].f();
				_exit(98);
			}
			waitpid(pid, &inner, 0);
			check(inner == rows[i].status, rows[i].name, "status %#x, expected %#x", inner, rows[i].status);
			_exit(tap_failed);
		}
		waitpid(pid, &status, 0);
		if (status == 77 << 8)
			skip(rows[i].name, "no pid namespace here");
		else
			tap_failed |= status != 0;
	}
}

int main(int argc, char **argv)
{
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	if (argc > 1 && !strcmp(argv[1], "enclave"))
		each(within, sizeof(within) / sizeof(within[0]));
	else
		each(outside, sizeof(outside) / sizeof(outside[0]));
	return tap_failed;
}
