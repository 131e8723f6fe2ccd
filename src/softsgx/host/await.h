/* SPDX-License-Identifier: MIT
 *
 * What answers stops by itself: its block and its wait. WORDS is defined before, the names of the
 * block's words.
 *
 * The wait is as waits.py has it: one that blocks is answered on another processor, which costs more.
 */
#ifndef SOFTSGX_AWAIT_H
#define SOFTSGX_AWAIT_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/wait.h>
#include "block.h"

/* Of a stop: another than was waited for, which is Python's; answered; or its thread is gone. */
enum taken { OTHER, TAKEN, LOST };

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
