/* SPDX-License-Identifier: MIT
 *
 * A ring of io_uring, by which calls are made that no filter sees.
 */
#ifndef RING_H
#define RING_H

#include <errno.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
	int fd;
	struct io_uring_params params;
	char *submitted, *completed;
	struct io_uring_sqe *entries;
} ring;

/* A ring that somebody made, in this process. */
static void map_ring(int fd)
{
	const struct io_uring_params *p = &ring.params;
	int rw = PROT_READ | PROT_WRITE;

	ring.fd = fd;
	ring.submitted = mmap(NULL, p->sq_off.array + 4 * p->sq_entries, rw, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	ring.completed = mmap(NULL, p->cq_off.cqes + sizeof(struct io_uring_cqe) * p->cq_entries, rw, MAP_SHARED,
			      fd, IORING_OFF_CQ_RING);
	ring.entries = mmap(NULL, p->sq_entries * sizeof(*ring.entries), rw, MAP_SHARED, fd, IORING_OFF_SQES);
}

/* Its descriptor, or -1. */
static int begin_ring(void)
{
	int fd = (int)syscall(SYS_io_uring_setup, 8, &ring.params);

	if (fd >= 0)
		map_ring(fd);
	return fd;
}

static int through_ring(struct io_uring_sqe entry)
{
	const struct io_uring_params *p = &ring.params;
	unsigned *tail = (unsigned *)(ring.submitted + p->sq_off.tail);
	unsigned *array = (unsigned *)(ring.submitted + p->sq_off.array);
	unsigned *head = (unsigned *)(ring.completed + p->cq_off.head), at = *tail & (p->sq_entries - 1);
	struct io_uring_cqe *all = (struct io_uring_cqe *)(ring.completed + p->cq_off.cqes);
	int answer;

	ring.entries[at] = entry;
	array[at] = at;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -errno;
	answer = all[*head & (p->cq_entries - 1)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return answer;
}

#endif
