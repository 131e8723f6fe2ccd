/* SPDX-License-Identifier: MIT
 *
 * usage: firstgone [THREADS]
 * A process whose first thread has ended, after it has made so many others: /proc shows no memory and no
 * descriptors of it, and it stops no more. Exceptions of the thread that goes on come to its handlers, and it
 * loads an enclave, adds to it and enters it; so does a child.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define PAGES 16

static volatile sig_atomic_t handled;

static void skip_ud2(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
	handled++;
}

static void *nothing(void *arg)
{
	return arg;
}

static void *wait_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* The first thread is a zombie. */
static bool is_gone(void)
{
	char path[64], text[512];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", getpid());
	fd = open(path, O_RDONLY);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return strstr(text, ") Z ");
}

static int enclave(void)
{
	struct encl e = {0};
	int bad = 0;

	if (encl_load(&e, &(struct encl_opts){.size = 4 * PAGES * PAGE}))
		bail("load", e.err);
	bad += mmap((void *)(e.base + e.free), PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e.fd,
		    0) == MAP_FAILED;
	for (int i = 0; i < 64; i++)
		bad += encl_op(&e, OP_PEEK, (uint64_t)&e, 0, 0, 0) != *(uint64_t *)&e;
	for (uint64_t i = 0; i < PAGES; i++)
		bad += encl_enclu(&e, 0, EACCEPT, e.base + e.free + i * PAGE, SI_REG | SI_R | SI_W | SI_PENDING, 0,
				  NULL) != 0;
	return bad;
}

static void *goes_on(void *arg)
{
	struct sigaction action = {.sa_sigaction = skip_ud2, .sa_flags = SA_SIGINFO};
	int status = -1;
	pid_t child;

	(void)arg;
	while (!is_gone())
		sched_yield();
	sigaction(SIGILL, &action, NULL);
	for (int i = 0; i < 3; i++)
		asm volatile("ud2");
	CHECK_EQ(handled, 3, "own_ud2");
	CHECK_EQ(enclave(), 0, "enclave");
	asm volatile("ud2");
	CHECK_EQ(handled, 4, "own_ud2_with_an_enclave");
	child = fork();
	if (!child)
		_exit(enclave());
	check(waitpid(child, &status, 0) == child && !status, "child", "%#x", (unsigned)status);
	exit(tap_failed);
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;
	pthread_t thread;

	for (int i = 0; i < n; i++) {
		pthread_create(&thread, NULL, nothing, NULL);
		pthread_join(thread, NULL);
	}
	pthread_create(&thread, NULL, wait_for_ever, NULL);
	pthread_create(&thread, NULL, goes_on, NULL);
	syscall(SYS_exit, 0);
	return 1;
}
