/* SPDX-License-Identifier: MIT
 *
 * usage: unwanted [wanted]
 * Timers whose signals the program ignores come each microsecond: Linux drops those, so the program
 * does all that it does without them. What it blocks is what it has blocked, in it, its children, its
 * threads and what it execs; a handler that it sets after all gets them. wanted: they have a handler
 * from the first on, and come so often that a tracer has no time for more than them.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

#define BLOCKED SIGUSR2 /* so that a mask of nothing is not taken for the right one */
#define MANY 20
#define WANTED_US 10

static volatile sig_atomic_t handled;

static void handle(int number)
{
	(void)number;
	handled++;
}

static void begin(int number)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = number};
	struct itimerspec each = {{0, 1000}, {0, 1000}};
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &each, NULL))
		bail("timer", strerror(errno));
}

/* Whether the mask is what it should be, by the call and by /proc. */
static bool mask_is_own(void)
{
	sigset_t mask;
	char line[256];
	FILE *status = fopen("/proc/thread-self/status", "r");
	unsigned long shown = 0;

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "SigBlk: %lx", &shown) == 1)
			break;
	if (status)
		fclose(status);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	for (int number = 1; number < 32; number++)
		if (sigismember(&mask, number) != (number == BLOCKED))
			return false;
	return shown == 1ul << (BLOCKED - 1);
}

static void *in_thread(void *right)
{
	*(bool *)right = mask_is_own();
	return NULL;
}

static int in_child(void *unused)
{
	(void)unused;
	_exit(!mask_is_own());
}

static bool ended_well(pid_t pid)
{
	int status = -1;

	while (pid > 0 && waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	return pid > 0 && status == 0;
}

static long elapsed_ms(const struct timespec *since)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000;
}

static void inside(struct encl *e)
{
	static const uint64_t rounds[] = {1, 1000, 3000000};

	for (size_t i = 0; i < sizeof(rounds) / sizeof(*rounds); i++) {
		struct call c = {.op = OP_SUM, .a = i, .b = rounds[i]}, raw = c;
		char name[32];

		snprintf(name, sizeof(name), "inside_%lu", rounds[i]);
		check(encl_do(e, 0, &c) && c.ret == mix(i, rounds[i]), name, "%s", e->err);
		snprintf(name, sizeof(name), "inside_raw_%lu", rounds[i]);
		check(!encl_raw_ecall(&raw, e->base + e->tcs[0]) && raw.ret == c.ret, name, "%#lx", raw.ret);
	}
}

/* The program gets on, and so do the handlers. */
static int wanted(void)
{
	struct itimerval each = {{0, WANTED_US}, {0, WANTED_US}}, none = {{0, 0}, {0, 0}};
	volatile uint64_t sum = 0;
	struct encl e;
	long before;

	if (encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	for (int i = 0; i < 2; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	signal(SIGALRM, handle);
	setitimer(ITIMER_REAL, &each, NULL);
	for (int i = 0; i < 1000000; i++)
		sum += (uint64_t)i;
	CHECK_EQ(sum, 499999500000, "computes");
	check(handled > 0, "handled", "no signal");
	for (int i = 0; i < MANY; i++)
		if (!mask_is_own()) {
			check(false, "mask", "it is another");
			break;
		}
	inside(&e);
	before = handled;
	while (handled < before + MANY)
		;
	check(mask_is_own(), "mask_after", "it is another");
	setitimer(ITIMER_REAL, &none, NULL);
	before = handled;
	sigsuspend(&(sigset_t){0}); /* SIGUSR2, which has waited all the time */
	check(handled > before, "what_was_blocked", "was not pending");
	return tap_failed;
}

int main(int argc, char **argv)
{
	static char stack[1 << 16];
	struct timespec since;
	volatile uint64_t sum = 0;
	struct encl e;
	sigset_t mask;
	bool right;
	int good;

	if (argc > 1 && !strcmp(argv[1], "mask"))
		return !mask_is_own();
	sigemptyset(&mask);
	sigaddset(&mask, BLOCKED);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (argc > 1) {
		signal(BLOCKED, handle);
		raise(BLOCKED);
		return wanted();
	}
	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &(struct itimerval){{0, 1}, {0, 1}}, NULL);
	signal(SIGUSR1, SIG_IGN);
	begin(SIGUSR1);
	begin(SIGWINCH);

	for (int i = 0; i < 1000000; i++)
		sum += (uint64_t)i;
	CHECK_EQ(sum, 499999500000, "computes");
	check(mask_is_own(), "mask", "it is another");
	for (good = 0; good < MANY; good++)
		if (syscall(SYS_getppid) != getppid() || !mask_is_own())
			break;
	CHECK_EQ(good, MANY, "calls");
	for (good = 0; good < MANY; good++) {
		pid_t pid = fork();

		if (!pid)
			in_child(NULL);
		if (!ended_well(pid) || !mask_is_own())
			break;
	}
	CHECK_EQ(good, MANY, "forks");
	for (good = 0; good < MANY; good++)
		if (!ended_well(clone(in_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK, NULL)))
			break;
	CHECK_EQ(good, MANY, "clones_that_share_memory");
	for (good = 0; good < MANY; good++) {
		pthread_t thread;

		right = false;
		if (pthread_create(&thread, NULL, in_thread, &right) || pthread_join(thread, NULL) || !right)
			break;
	}
	CHECK_EQ(good, MANY, "threads");
	for (good = 0; good < 3; good++) {
		pid_t pid = vfork();

		if (!pid) {
			execl("/proc/self/exe", argv[0], "mask", NULL);
			_exit(2);
		}
		if (!ended_well(pid))
			break;
	}
	CHECK_EQ(good, 3, "execs");
	clock_gettime(CLOCK_MONOTONIC, &since);
	check(!clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 20000000}, NULL) &&
	      elapsed_ms(&since) >= 20, "sleeps", "%ld ms", elapsed_ms(&since));
	check(poll(NULL, 0, 20) == 0 && elapsed_ms(&since) >= 40, "polls", "%ld ms", elapsed_ms(&since));

	if (encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	inside(&e);
	check(mask_is_own(), "mask_after", "it is another");
	setitimer(ITIMER_REAL, &(struct itimerval){{0, 1000}, {0, 1000}}, NULL);
	signal(SIGALRM, handle);
	while (!handled)
		;
	check(true, "handled", " ");
	return tap_failed;
}
