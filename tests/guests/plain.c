/* SPDX-License-Identifier: MIT
 *
 * usage: plain exit N     exit with that status
 *        plain signal N   die of that signal
 *        plain raise      catch SIGSEGV, SIGILL, SIGTRAP and SIGFPE of one's own making
 *        plain            forks, threads, vfork and exec, a stopped child, a traced child, orphans
 *        plain cat        copy stdin to stdout
 * A program that knows nothing of SGX must not see that it runs under something. Also built static.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include "tap.h"

static void forks(void)
{
	int right = 0, status;

	for (int i = 0; i < 100; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(i);
		if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == i)
			right++;
	}
	CHECK_EQ(right, 100, "forks");
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counter;

static void *count(void *arg)
{
	for (int i = 0; i < 10000; i++) {
		pthread_mutex_lock(&lock);
		counter++;
		pthread_mutex_unlock(&lock);
	}
	return arg;
}

static void threads(void)
{
	pthread_t t[16];

	for (int i = 0; i < 16; i++)
		pthread_create(&t[i], NULL, count, NULL);
	for (int i = 0; i < 16; i++)
		pthread_join(t[i], NULL);
	CHECK_EQ(counter, 160000, "threads");
}

static void vforks(const char *self)
{
	char *const args[] = {"plain", "exit", "7", NULL}, *const env[] = {NULL};
	volatile int right = 0; /* vfork() returns twice in one frame */
	int status;

	for (volatile int i = 0; i < 10; i++) {
		pid_t pid = vfork();

		if (pid == 0) {
			execve(self, args, env);
			_exit(127);
		}
		if (waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7)
			right++;
	}
	CHECK_EQ(right, 10, "vfork_exec");
}

static void child_of_signal(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		abort();
	}
	waitpid(pid, &status, 0);
	check(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "child_aborts", "status %#x", status);
}

/* Job control: stop and continue are reported to the parent as ever. */
static void stopped(void)
{
	int status, got = 0, end[2];
	pid_t pid;
	char c;

	if (pipe(end))
		abort();
	pid = fork();
	if (pid == 0) {
		raise(SIGSTOP);
		/* Not gone before the parent has seen it go on. */
		_exit(read(end[0], &c, 1) == 1 ? 3 : 4);
	}
	waitpid(pid, &status, WUNTRACED);
	got |= WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP ? 1 : 0;
	kill(pid, SIGCONT);
	waitpid(pid, &status, WCONTINUED);
	got |= WIFCONTINUED(status) ? 2 : 0;
	if (write(end[1], "x", 1) != 1)
		abort();
	waitpid(pid, &status, 0);
	got |= WIFEXITED(status) && WEXITSTATUS(status) == 3 ? 4 : 0;
	CHECK_EQ(got, 7, "stop_and_continue");
}

static sigjmp_buf back;
static volatile int caught;

static void catcher(int sig, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	caught = sig;
	siglongjmp(back, 1);
}

static void try(int sig, void (*f)(void), const char *name)
{
	caught = 0;
	if (!sigsetjmp(back, 1))
		f();
	check(caught == sig, name, "signal %d, expected %d", caught, sig);
}

static void f_ill(void) { __asm__ volatile("ud2"); }
static void f_trap(void) { __asm__ volatile("int3"); }
static void f_fpe(void) { __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx"); }
static volatile int *volatile nowhere = (int *)16;
static void f_segv(void) { *nowhere = 1; }

/* ENCLU with no enclave: #UD on a CPU without SGX, #GP or #PF on one with it. */
static void f_enclu(void)
{
	__asm__ volatile(".byte 0x0f, 0x01, 0xd7" :: "a"(2), "b"(0x1000), "c"(0) : "memory", "rdx");
}

static void own_faults(void)
{
	static const int sigs[] = {SIGSEGV, SIGILL, SIGTRAP, SIGFPE, SIGBUS};
	struct sigaction act = {.sa_sigaction = catcher, .sa_flags = SA_SIGINFO};

	for (int i = 0; i < 5; i++)
		sigaction(sigs[i], &act, NULL);
	try(SIGILL, f_ill, "own_ud2");
	try(SIGTRAP, f_trap, "own_int3");
	try(SIGFPE, f_fpe, "own_divide");
	try(SIGSEGV, f_segv, "own_segv");
	caught = 0;
	if (!sigsetjmp(back, 1))
		f_enclu();
	check(caught == SIGILL || caught == SIGSEGV, "own_enclu", "signal %d", caught);
}

static void clocks(void)
{
	struct timespec a, b;
	long backwards = 0;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 1000; i++) {
		clock_gettime(CLOCK_MONOTONIC, &b);
		backwards += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
		a = b;
	}
	CHECK_EQ(backwards, 0, "clock_is_monotonic");
}

/* A grandchild whose parent is gone goes to init or to a subreaper: here to us. */
static void orphan(void)
{
	int status;
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			usleep(20000);
			_exit(9);
		}
		_exit(0);
	}
	waitpid(pid, &status, 0);
	pid = waitpid(-1, &status, 0);
	check(pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 9, "orphan", "pid %d, status %#x", pid,
	      status);
}

/* A thread that is not the first one execs: the process goes on under its first thread's id. */
static void *exec_it(void *self)
{
	execl(self, "plain", "exit", "5", (char *)NULL);
	return NULL;
}

static void thread_exec(char *self)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		pthread_t t;

		pthread_create(&t, NULL, exec_it, self);
		pause();
	}
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 5, "thread_exec", "status %#x", status);
}

/* A handler whose frame finds no room on the stack is no handler. */
static int deeper(volatile char *from)
{
	volatile char room[256];

	room[0] = *from;
	return room[0] ? 0 : deeper(room) + room[0];
}

static void *overflows(void *unused)
{
	char c = 0;

	deeper(&c);
	return unused;
}

static void overflow(const char *name, bool thread)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct rlimit none = {0, 0}, small = {1 << 17, 1 << 17};
		pthread_t t;

		setrlimit(RLIMIT_CORE, &none);
		setrlimit(RLIMIT_STACK, &small);
		signal(SIGSEGV, _exit);
		if (thread)
			pthread_create(&t, NULL, overflows, NULL), pthread_join(t, NULL);
		overflows(NULL);
	}
	waitpid(pid, &status, 0);
	check(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, name, "status %#x", status);
}

int main(int argc, char **argv)
{
	char self[4096], buf[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = 0;
	if (argc == 3 && !strcmp(argv[1], "exit"))
		return atoi(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "signal")) {
		struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		raise(atoi(argv[2]));
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "cat")) {
		while ((n = read(0, buf, sizeof(buf))) > 0)
			if (write(1, buf, (size_t)n) != n)
				return 1;
		return n < 0;
	}
	own_faults();
	if (argc == 2 && !strcmp(argv[1], "raise"))
		return tap_failed;
	forks();
	threads();
	vforks(self);
	child_of_signal();
	stopped();
	clocks();
	orphan();
	thread_exec(self);
	overflow("overflow", false);
	overflow("thread_overflow", true);
	return tap_failed;
}
