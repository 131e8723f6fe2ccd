/* SPDX-License-Identifier: MIT
 *
 * A stretch of a process's memory into an enclave's file, without the GIL and in as few passes as
 * the kernel allows. What costs most is that the file is new: a page at a time the kernel finds,
 * clears and notes 4 KiB. MADV_COLLAPSE (Linux 6.1) has it take 2 MiB at once, into which the
 * source is then read by way of a mapping of ours; where it says no, by way of a buffer.
 * It is no gain everywhere: a virtual machine that gives free memory back to its host takes large
 * pages from there, at fifty times the cost. So it is tried once much has come, and as long as it
 * has not lost much time. What is zero is not written: the file has holes there, which read as zero.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "copyin.h"

#define EXPORT __attribute__((visibility("default")))

#define F(name) #name " "
EXPORT const char softsgx_copyin_words[] = COPYIN_WORDS;
#undef F

#define PAGE 4096ul
#define PIECE (64 * PAGE) /* stays in a second-level cache */
#define LARGE (512 * PAGE)
#define WORTH (LARGE / 4)
#define NONE UINT64_MAX
#define SMALL_NS 400000 /* what 512 small pages cost, less the copying */
#define MOST_LOST_NS 10000000
#define COLLAPSE 25 /* MADV_COLLAPSE, which older headers do not have */

static uint64_t buffer[PIECE / 8];

/* Where large pages of any file are seen, one at a time; NULL if there is no room. */
static unsigned char *window(void)
{
	static unsigned char *at;
	unsigned char *room;

	if (at)
		return at;
	room = mmap(NULL, 2 * LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return NULL;
	at = (unsigned char *)(((uintptr_t)room + LARGE - 1) & ~(LARGE - 1));
	return at;
}

static bool look(unsigned char *at, const struct copyin *b, uint64_t start)
{
	return mmap(at, LARGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, (int)b->file,
		    (off_t)start) == at;
}

/* Nothing of ours keeps a file: who closes it last frees it. */
static void look_away(unsigned char *at)
{
	mmap(at, LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static bool fetch(const struct copyin *b, void *to, uint64_t from, size_t size)
{
	struct iovec ours = {to, size}, theirs = {(void *)from, size};

	return process_vm_readv((pid_t)b->tid, &ours, 1, &theirs, 1, 0) == (ssize_t)size;
}

static bool is_zero(size_t size)
{
	uint64_t any = 0;

	for (size_t i = 0; i < size / 8 && !any; i += 8)
		for (size_t k = 0; k < 8; k++)
			any |= buffer[i + k];
	return !any;
}

static bool put(const struct copyin *b, uint64_t to, size_t size)
{
	return pwrite((int)b->file, buffer, size, (off_t)to) == (ssize_t)size;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Make the large page at `start`, of which one page has to be there, and see it. */
static bool enlarge(struct copyin *b, unsigned char *at, uint64_t start)
{
	int64_t begun = now_ns(), lost;
	bool made = look(at, b, start) && !madvise(at, LARGE, COLLAPSE);

	/* EAGAIN: whoever measures reads one of its pages, so not this one. */
	if (!made && errno != EAGAIN)
		b->collapse = 0;
	lost = (int64_t)b->lost_ns + now_ns() - begun - (made ? SMALL_NS : 0);
	b->lost_ns = (uint64_t)lost;
	if (lost > MOST_LOST_NS)
		b->collapse = 0;
	if (made)
		b->large = start;
	else
		look_away(at);
	return made;
}

/* What lies in the 2 MiB at `start`. The first page of each piece tells whether it is worth more. */
static bool copy(struct copyin *b, uint64_t start, uint64_t from, uint64_t to, uint64_t end)
{
	unsigned char *at = b->collapse || b->large == start ? window() : NULL;
	bool seen = at && b->large == start && look(at, b, start), good = true;
	bool tried = !b->collapse || !at || start + LARGE > b->size || b->copied < b->try_after;

	while (good && to < end) {
		size_t size = end - to < PIECE ? end - to : PIECE;

		good = fetch(b, buffer, from, PAGE);
		if (!good)
			break;
		if (!is_zero(PAGE)) {
			if (!seen && !tried && end - to >= WORTH) {
				tried = true;
				seen = put(b, to, PAGE) && enlarge(b, at, start);
			}
			if (seen) {
				good = fetch(b, at + (to - start), from, size);
				goto next;
			}
		}
		good = fetch(b, buffer, from, size) && (is_zero(size) || put(b, to, size));
next:
		from += size;
		to += size;
	}
	if (seen)
		look_away(at);
	return good;
}

EXPORT void softsgx_copyin(struct copyin *b)
{
	uint64_t to = b->to, from = b->from, end = to + b->bytes;

	b->done = 0;
	while (to < end) {
		uint64_t start = to & ~(LARGE - 1);
		uint64_t stop = start + LARGE < end ? start + LARGE : end;

		if (!copy(b, start, from, to, stop)) {
			fallocate((int)b->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  (off_t)b->to, (off_t)b->bytes);
			return;
		}
		from += stop - to;
		to = stop;
	}
	b->copied += b->bytes;
	b->done = 1;
}
