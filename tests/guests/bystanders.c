/* SPDX-License-Identifier: MIT
 *
 * usage: bystanders OPERATIONS
 * What programs do that have nothing to do with enclaves, a letter each; pairs of brackets hold what
 * another process does, or a thread:
 *   ( ) it is forked, and waited for      [ ] vfork, and exec of this program     { } the same by clone3
 *   < > it is forked, and lives until all is done: what it does it does at once
 *   / \ a thread does it, and is joined   l   a thread, which lives as long as its process
 *   o   a signal to such a thread          z   the process is stopped, and goes on
 *   m   a thread does the rest, while this one ends: it is its process's first
 *   e   exec of this program, for the rest     s d i  SIGSEGV handled, default, ignored
 *   b   a handler of SIGBUS, once              u      one of SIGUSR1, which is sent
 *   t   a thread, which is joined              x q    end with 3, killed
 *   c   CPUID, at places where it stops        h g f  SIGILL handled, ignored, default
 *   k   SIGILL is blocked, or not: where it    .      an open that softsgx looks at
 *       is handled, since nothing tells elsewhere
 * Prints how often a handler ran, and how processes ended.
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int handled;
static const char *self;
static int live[64], n_live;
static pthread_t alive; /* a thread, and of which process */
static pid_t alive_in;

static void handler(int number)
{
	handled += number == SIGUSR1;
}

static void *thread(void *unused)
{
	return unused;
}

static void *lives(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void act(int number, void (*how)(int), int flags)
{
	struct sigaction action = {.sa_handler = how, .sa_flags = flags};

	sigaction(number, &action, NULL);
}

/* Where the bracket ends that begins here. */
static const char *end_of(const char *from)
{
	int depth = 0;

	do {
		depth += strchr("([{</", *from) != NULL;
		depth -= strchr(")]}>\\", *from) != NULL;
	} while (depth && *++from);
	return from;
}

static const char *inner(const char *from, const char *end)
{
	static char text[4096];

	snprintf(text, sizeof(text), "%.*s", (int)(end - from - 1), from + 1);
	return text;
}

static void block(bool blocks)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGILL);
	sigprocmask(blocks ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static void toggle(void)
{
	struct sigaction action;
	sigset_t set;

	sigaction(SIGILL, NULL, &action);
	sigprocmask(SIG_BLOCK, NULL, &set);
	if (action.sa_handler == handler)
		block(!sigismember(&set, SIGILL));
}

static void become(const char *operations)
{
	block(false);
	execl(self, self, operations, (char *)NULL);
	_exit(99);
}

static void wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		status = -1;
	printf("%x ", (unsigned int)status);
	fflush(stdout);
}

/* In whoever's frame it is that the child goes on in. */
static inline __attribute__((always_inline)) pid_t by_clone3(void)
{
	struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD};
	long pid = SYS_clone3;

	asm volatile("syscall"
		     : "+a"(pid)
		     : "D"(&args), "S"(sizeof(args))
		     : "rcx", "r11", "memory");
	return (pid_t)pid;
}

static __attribute__((noinline)) void spawn(const char *operations, bool clone3)
{
	pid_t pid = clone3 ? by_clone3() : vfork();

	if (!pid)
		become(operations);
	wait_for(pid);
}

/* What CPUID answers that is no affair of SGX, and what becomes of SIGILL. */
static __attribute__((noinline)) void ask(void)
{
	unsigned int most = 0, vendor, family = 1, b, c = 0, d;
	struct sigaction action;
	sigset_t blocked;

	asm volatile("cpuid" : "+a"(most), "=b"(vendor), "+c"(c), "=d"(d));
	asm volatile("cpuid" : "+a"(family), "=b"(b), "=c"(c), "=d"(d));
	sigaction(SIGILL, NULL, &action);
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	printf("c%x,%x,%d,%d ", vendor, family,
	       action.sa_handler == handler ? 2 : action.sa_handler == SIG_IGN,
	       sigismember(&blocked, SIGILL));
	fflush(stdout);
}

static void run(const char *at);

/* Those that live on end now. */
static void finish(void)
{
	for (; n_live; n_live--) {
		int status = -1;

		close(live[n_live - 1]);
		if (wait(&status) < 0 || status)
			printf("lost %x ", (unsigned int)status);
	}
	fflush(stdout);
}

static void live_on(const char *operations)
{
	int ready[2], goes_on[2];
	char c;

	if (pipe(ready) || pipe(goes_on))
		exit(98);
	if (!fork()) {
		close(goes_on[1]);
		for (; n_live; n_live--)
			close(live[n_live - 1]);
		run(operations);
		finish();
		if (write(ready[1], "", 1) == 1 && read(goes_on[0], &c, 1) == 0)
			_exit(0);
		_exit(97);
	}
	live[n_live++] = goes_on[1];
	close(goes_on[0]);
	if (read(ready[0], &c, 1) != 1)
		exit(96);
	close(ready[0]);
	close(ready[1]);
}

struct task {
	void *(*what)(void *);
	const char *operations;
	pid_t tid;
};

static void *by_thread(void *given)
{
	struct task *task = given;

	task->tid = gettid();
	return task->what(task);
}

/* Up to when who traces it has heard of its end. */
static void is_no_more(pid_t thread)
{
	while (!syscall(SYS_tgkill, getpid(), thread, 0))
		sched_yield();
}

static void in_thread(struct task task)
{
	pthread_t made;

	pthread_create(&made, NULL, by_thread, &task);
	pthread_join(made, NULL);
	is_no_more(task.tid);
}

static void *operates(void *given)
{
	run(((struct task *)given)->operations);
	return NULL;
}

static volatile int leaving;

/* Behind the end of who made it: the kernel clears the word, which who traces it has let it do. */
static void *goes_on(void *given)
{
	struct task *before = given;

	while (leaving)
		sched_yield();
	if (before->tid != getpid())
		is_no_more(before->tid);
	run(before->operations);
	finish();
	_exit(0);
}

static void send(void)
{
	int before = handled;

	if (alive_in != getpid())
		return;
	act(SIGUSR1, handler, 0);
	pthread_kill(alive, SIGUSR1);
	while (handled == before)
		sched_yield();
}

static void be_stopped(void)
{
	pid_t self = getpid(), pid = fork();

	if (pid) {
		wait_for(pid);
		return;
	}
	kill(self, SIGSTOP);
	kill(self, SIGCONT);
	_exit(0);
}

static void go_on(const char *operations)
{
	static struct task before;
	pthread_t made;

	before = (struct task){NULL, operations, gettid()};
	leaving = 1;
	syscall(SYS_set_tid_address, &leaving);
	pthread_create(&made, NULL, goes_on, &before);
	syscall(SYS_exit, 0);
}

static void run(const char *at)
{
	pid_t pid;

	for (; *at; at++) {
		const char *end = end_of(at), *what = inner(at, end);

		switch (*at) {
		case '(':
			pid = fork();
			if (!pid) {
				for (; n_live; n_live--)
					close(live[n_live - 1]);
				run(strdup(what));
				finish();
				_exit(0);
			}
			wait_for(pid);
			break;
		case '[':
		case '{':
			spawn(what, *at == '{');
			break;
		case '<':
			live_on(strdup(what));
			break;
		case 'e':
			become(at + 1);
			break;
		case 's':
			act(SIGSEGV, handler, 0);
			break;
		case 'd':
			act(SIGSEGV, SIG_DFL, 0);
			break;
		case 'i':
			act(SIGSEGV, SIG_IGN, 0);
			break;
		case 'c':
			ask();
			break;
		case 'h':
			act(SIGILL, handler, 0);
			break;
		case 'g':
			block(false);
			act(SIGILL, SIG_IGN, 0);
			break;
		case 'f':
			block(false);
			act(SIGILL, SIG_DFL, 0);
			break;
		case 'k':
			toggle();
			break;
		case 'b':
			act(SIGBUS, handler, SA_RESETHAND | SA_NODEFER);
			break;
		case 'u':
			act(SIGUSR1, handler, 0);
			raise(SIGUSR1);
			printf("u%d ", handled);
			fflush(stdout);
			break;
		case 't':
			in_thread((struct task){thread, NULL, 0});
			break;
		case '/':
			in_thread((struct task){operates, strdup(what), 0});
			break;
		case 'l':
			pthread_create(&alive, NULL, lives, NULL);
			alive_in = getpid();
			break;
		case 'o':
			send();
			break;
		case 'z':
			be_stopped();
			break;
		case 'm':
			go_on(strdup(at + 1));
			break;
		case 'x':
			_exit(3);
		case 'q':
			raise(SIGKILL);
			break;
		case '.':
			close(open("/proc/self/task/.", O_RDONLY | O_DIRECTORY));
			break;
		}
		at = end;
	}
}

int main(int argc, char **argv)
{
	self = argv[0];
	run(argc > 1 ? argv[1] : "");
	finish();
	return 0;
}
