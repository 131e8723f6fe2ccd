/* SPDX-License-Identifier: MIT
 *
 * The sockets of the processes that take orders, under the same numbers in each of them.
 */
#ifndef GUESTS_WORKERS_H
#define GUESTS_WORKERS_H

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define WORKERS 8
#define FIRST_SOCKET 100 /* orders, then inboxes */

static int orders(int worker, int end) { return FIRST_SOCKET + 4 * worker + end; }
static int inbox(int worker, int end) { return FIRST_SOCKET + 4 * worker + 2 + end; }

/* Make them: 0 or -1. */
static int connect_workers(void)
{
	struct timeval patience = {.tv_sec = 20};

	for (int i = 0; i < 2 * WORKERS; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, i % 2 ? SOCK_DGRAM : SOCK_SEQPACKET, 0, pair)
		    || dup2(pair[0], FIRST_SOCKET + 2 * i) < 0 || dup2(pair[1], FIRST_SOCKET + 2 * i + 1) < 0)
			return -1;
		close(pair[0]);
		close(pair[1]);
		/* A worker that died answers no more. */
		setsockopt(FIRST_SOCKET + 2 * i, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	}
	return 0;
}

#endif
