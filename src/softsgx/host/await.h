/* SPDX-License-Identifier: MIT
 *
 * The wait of what answers stops by itself, as waits.py has it: a wait that blocks is answered on
 * another processor, which costs more.
 */
#ifndef SOFTSGX_AWAIT_H
#define SOFTSGX_AWAIT_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* poll_ns: how long to poll before a wait blocks, 0 after a poll in vain. */
static inline pid_t wait_any(uint64_t *poll_ns, int *status)
{
	uint64_t end = *poll_ns ? now_ns() + *poll_ns : 0;

	while (end) {
		pid_t tid = waitpid(-1, status, __WALL | WNOHANG);

		if (now_ns() > end)
			*poll_ns = end = 0;
		if (tid)
			return tid;
	}
	return waitpid(-1, status, __WALL);
}

#endif
