/* SPDX-License-Identifier: MIT
 *
 * A call of a second thread that is held at a mark of its rule (docs/how-to-write-a-rule.md), under
 * `softsgx replay` alone: elsewhere nobody knows these ioctls.
 */
#ifndef GUESTS_HELD_H
#define GUESTS_HELD_H

#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>

enum { MARK_HOLD = 0xa4f0, MARK_AWAIT, MARK_GO };

/* Where the answer goes of a thread whose order is held; NULL in others. */
static _Thread_local char *reply_to;

static struct {
	pthread_t thread;
	void (*obey)(char *line);
	char line[400], reply[200];
	unsigned long nth;
	int fd;
} held;

static void *held_thread(void *none)
{
	(void)none;
	reply_to = held.reply;
	if (ioctl(held.fd, MARK_HOLD, held.nth))
		snprintf(held.reply, sizeof(held.reply), "no marks here");
	else
		held.obey(held.line);
	return NULL;
}

/* Another thread obeys an order, whose call is held at its nth mark: "held", or the order's answer.
 * fd: of the device. */
static const char *hold_next(int fd, unsigned long nth, const char *line, void (*obey)(char *line))
{
	held.fd = fd;
	held.nth = nth;
	held.obey = obey;
	snprintf(held.line, sizeof(held.line), "%s", line);
	if (pthread_create(&held.thread, NULL, held_thread, NULL))
		return "no thread";
	if (!ioctl(fd, MARK_AWAIT, 0))
		return "held";
	pthread_join(held.thread, NULL);
	return held.reply;
}

/* It goes on: the order's answer. */
static const char *go_on(int fd)
{
	if (ioctl(fd, MARK_GO, 0))
		return "nothing is held";
	pthread_join(held.thread, NULL);
	return held.reply;
}

#endif
