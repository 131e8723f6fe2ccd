/* SPDX-License-Identifier: MIT
 *
 * usage: debugged calls | closed | signal | spin | fault | raw | fork | exec
 * A DEBUG enclave (closed: one that is not) for a debugger: what it does is told by its exit status.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
volatile uint64_t started, stop;
volatile int caught;

static void handler(int sig)
{
	caught = sig;
}

__attribute__((noinline)) uint64_t calls(void)
{
	encl_op(&e, OP_POKE, e.base + e.heap, 5, 0, 0);
	return encl_op(&e, OP_SUM, 7, 3, 0, 0);
}

/* Says by SIGUSR2 that both threads are where they stay. */
static void *outside(void *arg)
{
	bool told = false;

	while (!stop) {
		if (started && !told) {
			told = true;
			raise(SIGUSR2);
		}
	}
	return arg;
}

__attribute__((noinline)) int spin(void)
{
	pthread_t t;

	pthread_create(&t, NULL, outside, NULL);
	encl_op(&e, OP_SPIN, (uint64_t)&started, (uint64_t)&stop, 0, 0);
	pthread_join(t, NULL);
	return caught;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "calls";
	struct encl_opts opts = {.heap = PAGE, .attributes = strcmp(mode, "closed") ? 2 : 0};
	struct call c = {.op = OP_FAULT, .a = F_UD2};
	struct sgx_enclave_run run = {0};
	int status = 0;

	if (encl_load(&e, &opts))
		bail("load", e.err);
	signal(SIGUSR1, handler);
	signal(SIGUSR2, SIG_IGN);
	if (strcmp(mode, "signal") == 0) {
		raise(SIGUSR1);
		return caught == SIGUSR1 ? 0 : 1;
	}
	if (strcmp(mode, "spin") == 0)
		return spin();
	if (strcmp(mode, "fault") == 0)
		return encl_call(&e, 0, &c, &run) ? 9 : (int)run.exception_vector;
	if (strcmp(mode, "raw") == 0)
		return encl_raw_enter(&c, e.base + e.tcs[0], 2);
	if (strcmp(mode, "fork") == 0) {
		if (fork() == 0)
			return calls() == mix(7, 3) ? 4 : 5;
		wait(&status);
		return WEXITSTATUS(status);
	}
	if (strcmp(mode, "exec") == 0)
		execl("/bin/echo", "echo", "executed", NULL);
	return calls() == mix(7, 3) ? 3 : 1;
}
