/* SPDX-License-Identifier: MIT
 *
 * Threads that meet: memory calls on one place while another thread maps an enclave there, and
 * calls that wait while other threads are stopped, or a signal comes that nobody wants. What they
 * answer is Linux's; that the mappings are what they should be `softsgx run --verify` says.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include "rawsig.h"
#include "tap.h"

#define ROUNDS 400

static struct encl e;
static void *place;
static atomic_int over, odd, interrupted, waits;

/* -- the same place ---------------------------------------------------------------------------- */

static void *protects(void *unused)
{
	while (!over)
		/* RWX: foreign memory's, and no enclave page's here. */
		if (mprotect(place, PAGE, 7) && errno != ENOMEM && errno != EACCES)
			odd = errno;
	return unused;
}

static void *unmaps(void *unused)
{
	while (!over)
		if (munmap(place, PAGE))
			odd = errno;
	return unused;
}

static void *replaces(void *unused)
{
	while (!over)
		if (mmap(place, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != place)
			odd = errno;
	return unused;
}

static void together(const char *name, void *(*other)(void *))
{
	pthread_t thread;
	int bad = 0;

	over = odd = 0;
	pthread_create(&thread, NULL, other, NULL);
	for (int i = 0; i < ROUNDS; i++)
		bad |= mmap(place, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, e.fd, 0) != place;
	over = 1;
	pthread_join(thread, NULL);
	check(!bad && !odd, name, "%s", odd ? strerror(odd) : "mmap failed");
}

/* A new enclave each time, whose range nobody has watched before. */
static void *unmaps_all(void *arg)
{
	struct encl *new = arg;

	while (!over)
		munmap((void *)(new->base + PAGE), PAGE);
	return NULL;
}

static void fresh(void)
{
	static struct encl new;
	const char *bad = NULL;

	for (int i = 0; i < 10 && !bad; i++) {
		pthread_t thread;

		if (encl_plan(&new, &(struct encl_opts){0}) || encl_open(&new) || encl_reserve(&new) || encl_create(&new))
			bad = new.err;
		over = 0;
		pthread_create(&thread, NULL, unmaps_all, &new);
		if (mmap((void *)new.base, 4 * PAGE, 0, MAP_SHARED | MAP_FIXED, new.fd, 0) == MAP_FAILED)
			bad = strerror(errno);
		over = 1;
		pthread_join(thread, NULL);
		encl_free(&new);
	}
	check(!bad, "fresh", "%s", bad);
}

/* -- calls that wait --------------------------------------------------------------------------- */

static int epoll, pair[2];

static void *polls(void *unused)
{
	struct epoll_event event;

	for (; !over; waits++)
		if (epoll_wait(epoll, &event, 1, 5) < 0)
			interrupted++;
	return unused;
}

static void *receives(void *unused)
{
	char byte;

	for (; !over; waits++)
		if (recv(pair[0], &byte, 1, 0) < 0 && errno != EAGAIN)
			interrupted++;
	return unused;
}

static void waiting(const char *name, void *(*wait)(void *))
{
	struct call c = {.op = OP_NOP};
	static struct encl new;
	pthread_t thread;
	const char *bad = NULL;

	over = interrupted = waits = 0;
	pthread_create(&thread, NULL, wait, NULL);
	for (int i = 0; i < 20 && !bad; i++) {
		pid_t pid = fork(); /* SIGCHLD, which nobody handles */

		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
		kill(getpid(), SIGWINCH);
	}
	for (int i = 0; i < 5 && !bad; i++) {
		if (encl_load(&new, &(struct encl_opts){0}))
			bad = new.err;
		for (int n = 0; n < 100 && !bad; n++)
			if (!encl_do(&new, 0, &c) || raw_enter(&new, 0, &c, EENTER))
				bad = new.err;
		encl_free(&new);
	}
	over = 1;
	pthread_join(thread, NULL);
	check(!bad && !interrupted && waits, name, "%s; EINTR %d times of %d", bad ? bad : "", interrupted,
	      waits);
}

int main(void)
{
	struct timeval soon = {.tv_usec = 5000};

	raw_catch_faults();
	if (encl_load(&e, &(struct encl_opts){0}))
		bail("load", e.err);
	place = (void *)e.base;
	together("protects", protects);
	together("unmaps", unmaps);
	together("replaces", replaces);
	fresh();
	epoll = epoll_create1(0);
	if (epoll < 0 || socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)
	    || setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)))
		bail("sockets", strerror(errno));
	waiting("epoll_wait", polls);
	waiting("recv_with_timeout", receives);
	return tap_failed;
}
