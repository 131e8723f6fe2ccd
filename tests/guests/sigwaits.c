/* SPDX-License-Identifier: MIT
 *
 * rt_sigtimedwait(2) of signals that the caller has not blocked: what Linux drops, or what ends the
 * process, never comes of it; all else does. The set, the timeout and the registers are as before.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "tap.h"

#define LAST SIGUSR2 /* blocked: ends each wait */
#define NO_TIMEOUT 0
#define LONG_MS 60000
#define SHORT_MS 100
#define CHANGED 200 /* exit statuses */
#define FAILED 100

static volatile sig_atomic_t handled;

static void handle(int number)
{
	(void)number;
	handled++;
}

/* The call, and whether it leaves its arguments as they were. */
static long timedwait(const sigset_t *set, const struct timespec *timeout, bool *kept)
{
	register const void *info __asm__("rsi") = NULL;
	register const struct timespec *rdx __asm__("rdx") = timeout;
	register long bytes __asm__("r10") = 8;
	register const sigset_t *rdi __asm__("rdi") = set;
	long ret = SYS_rt_sigtimedwait;

	__asm__ volatile("syscall" : "+a"(ret), "+r"(rdi), "+r"(rdx), "+r"(info), "+r"(bytes)
			 : : "rcx", "r11", "memory");
	*kept = rdi == set && rdx == timeout && !info && bytes == 8;
	return ret;
}

static int waits(int number, int ms)
{
	struct timespec timeout = {ms / 1000, ms % 1000 * 1000000l}, was = timeout;
	sigset_t set, before;
	bool kept;
	long ret;

	sigemptyset(&set);
	sigaddset(&set, number);
	sigaddset(&set, LAST);
	before = set;
	ret = timedwait(&set, ms ? &timeout : NULL, &kept);
	if (!kept || memcmp(&set, &before, 8) || memcmp(&timeout, &was, sizeof(was)))
		return CHANGED;
	if (handled)
		return CHANGED + 1;
	return ret < 0 ? FAILED + (int)-ret : (int)ret;
}

/* Up to where a process is in the call. */
static void until_it_waits(pid_t pid)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (;;) {
		FILE *file = fopen(path, "r");
		bool there = file && fgets(text, sizeof(text), file);

		if (file)
			fclose(file);
		if (!there || !strncmp(text, "128 ", 4))
			return;
		sched_yield();
	}
}

/* What a child's wait for a signal and for LAST comes to: its exit status, or minus what it died of. */
static int outcome(int number, void (*action)(int), bool blocked, int ms, bool last)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		sigset_t mask;

		signal(number, action);
		sigemptyset(&mask);
		sigaddset(&mask, LAST);
		if (blocked)
			sigaddset(&mask, number);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		_exit(waits(number, ms));
	}
	until_it_waits(pid);
	kill(pid, number);
	if (last) {
		until_it_waits(pid);
		kill(pid, LAST);
	}
	if (waitpid(pid, &status, 0) != pid)
		return CHANGED + 2;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void one(const char *name, int number, void (*action)(int), bool blocked, int want)
{
	static const int timeouts[] = {NO_TIMEOUT, LONG_MS};

	for (int i = 0; i < 2; i++) {
		int got = outcome(number, action, blocked, timeouts[i], want == LAST);
		char full[64];

		snprintf(full, sizeof(full), "%s%s", name, i ? "_timeout" : "");
		check(got == want, full, "%d, expected %d", got, want);
	}
}

int main(void)
{
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	one("ignored", SIGUSR1, SIG_IGN, false, LAST);
	one("ignored_realtime", SIGRTMIN, SIG_IGN, false, LAST);
	one("ignored_by_default", SIGURG, SIG_DFL, false, LAST);
	one("of_children_by_default", SIGCHLD, SIG_DFL, false, LAST);
	one("ignored_and_blocked", SIGUSR1, SIG_IGN, true, SIGUSR1);
	one("fatal", SIGTERM, SIG_DFL, false, -SIGTERM);
	one("fatal_realtime", SIGRTMIN, SIG_DFL, false, -SIGRTMIN);
	one("fatal_and_blocked", SIGTERM, SIG_DFL, true, SIGTERM);
	one("dumps_core", SIGQUIT, SIG_DFL, false, SIGQUIT);
	one("stops", SIGTSTP, SIG_DFL, false, SIGTSTP);
	one("handled", SIGUSR1, handle, false, SIGUSR1);
	CHECK_EQ(outcome(SIGUSR1, SIG_IGN, false, SHORT_MS, false), FAILED + EAGAIN, "ends_in_time");
	CHECK_EQ(syscall(SYS_rt_sigtimedwait, NULL, NULL, NULL, 8l) == -1 ? errno : 0, EFAULT, "no_set");
	return tap_failed;
}
