/* SPDX-License-Identifier: MIT
 *
 * Signals that a program's own calls bring: their handler has run when the call is over, however often
 * that is so at one place with all registers alike (POSIX, kill() and pthread_sigmask()).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "tap.h"

#define TIMES 200

static volatile sig_atomic_t handled, more;
static volatile int at, late;
static int pipe_fds[2];

static void handle(int number)
{
	handled++;
	if (more) {
		more--;
		syscall(SYS_tgkill, getpid(), gettid(), number);
	}
}

/* One call, written so that no register tells one from the next. */
static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

#define EACH(name, ...)                                                                        \
	do {                                                                                   \
		handled = late = 0;                                                            \
		for (at = 0; at < TIMES; at++) {                                               \
			__VA_ARGS__;                                                           \
			late += handled != at + 1;                                             \
		}                                                                              \
		CHECK_EQ(late, 0, name);                                                       \
	} while (0)

static void all(const char *suffix)
{
	long pid = getpid(), tid = gettid();
	sigset_t one;
	char name[64];

	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
#define NAMED(text) (snprintf(name, sizeof(name), text "%s", suffix), name)
	EACH(NAMED("tgkill"), call(SYS_tgkill, pid, tid, SIGUSR1, 0));
	EACH(NAMED("broken_pipe"), call(SYS_write, pipe_fds[1], (long)"", 1, 0));
	EACH(NAMED("unblocked"), call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&one, 0, 8);
	     call(SYS_tgkill, pid, tid, SIGUSR1, 0);
	     call(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&one, 0, 8));
}

static void *in_thread(void *unused)
{
	all("_thread");
	return unused;
}

int main(void)
{
	pthread_t thread;
	pid_t child;
	int status;

	if (pipe(pipe_fds))
		bail("pipe", strerror(errno));
	close(pipe_fds[0]);
	signal(SIGUSR1, handle);
	signal(SIGPIPE, handle);
	all("");
	EACH("kill", call(SYS_kill, getpid(), SIGUSR1, 0, 0));
	handled = 0;
	more = TIMES;
	call(SYS_kill, getpid(), SIGUSR1, 0, 0);
	CHECK_EQ(handled, TIMES + 1, "by_its_handler");
	child = fork();
	if (!child) {
		all("_child");
		_exit(tap_failed);
	}
	check(waitpid(child, &status, 0) == child && !status, "child", "%#x", status);
	if (pthread_create(&thread, NULL, in_thread, NULL) || pthread_join(thread, NULL))
		bail("thread", "none");
	return tap_failed;
}
