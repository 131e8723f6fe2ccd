/* SPDX-License-Identifier: MIT
 *
 * Whether to poll before a wait blocks, as waits.py has it: while it is worth its time.
 */
#ifndef SOFTSGX_POLLS_H
#define SOFTSGX_POLLS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include "block.h"

#define POLL_NS 80000
#define MOST_SKIPPED 1024
#define GOOD 16

struct polls {
	unsigned int skip, pause, good;
};

static inline bool worth(struct polls *p, bool others)
{
	if (!p->skip)
		return others;
	p->skip--;
	return false;
}

static inline void polled(struct polls *p, bool in_vain)
{
	if (in_vain) {
		p->skip = p->pause = p->pause < MOST_SKIPPED / 2 ? p->pause * 2 : MOST_SKIPPED;
		p->good = 0;
	} else if (++p->good == GOOD) {
		p->good = 0;
		p->pause = p->pause > 1 ? p->pause / 2 : 1;
	}
}

/* others: whether somebody could come while we poll. */
static inline pid_t wait_for(struct polls *p, bool others, pid_t tid, int *status)
{
	uint64_t end;
	pid_t got;

	if (!worth(p, others))
		return waitpid(tid, status, __WALL);
	end = now_ns() + POLL_NS;
	do {
		got = waitpid(tid, status, __WALL | WNOHANG);
		if (now_ns() > end) {
			polled(p, true);
			return got ? got : waitpid(tid, status, __WALL);
		}
	} while (!got);
	polled(p, false);
	return got;
}

/* The same, 0 where nobody comes soon. */
static inline pid_t poll_for(bool others, pid_t tid, int *status)
{
	uint64_t end = now_ns() + POLL_NS;
	pid_t got;

	do
		got = waitpid(tid, status, __WALL | WNOHANG);
	while (!got && others && now_ns() < end);
	return got;
}

#endif
