/* SPDX-License-Identifier: MIT
 *
 * A stretch of a process's memory into an enclave's file, without the GIL and in as few passes as
 * the kernel allows. What costs most is that the file is new: a page at a time the kernel finds,
 * clears and notes 4 KiB. MADV_COLLAPSE (Linux 6.1) has it take 2 MiB at once, into which the
 * source is then read by way of our mapping of the file; where it says no, by way of a buffer.
 * It is no gain everywhere: a virtual machine that gives free memory back to its host takes large
 * pages from there, at a high price. So it is tried once much has come, and as long as it has not
 * cost much more than small ones did. What is zero is not written: the file has holes there, which
 * read as zero.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "../sgx/follow.h"
#include "copyin.h"

#define EXPORT __attribute__((visibility("default")))

#define F(name) #name " "
EXPORT const char softsgx_copyin_words[] = COPYIN_WORDS;
#undef F

#define PAGE 4096ul
#define PIECE (64 * PAGE)
#define READ (4 * PIECE) /* at once: stays in a cache, and what the kernel does once costs less */
#define LARGE (512 * PAGE)
#define WORTH (LARGE / 4)
#define LEAD (8 * LARGE) /* some 11 ms for who measures */
#define SMALL_NS 800 /* what a small page takes, until some were written */
#define MOST_LOST_NS 5000000
#define MOST_CONTEXT 128 /* struct sha256 */
#define AROUND (16 * PAGE) /* what one fault maps, fault_around_bytes */
#define COLLAPSE 25 /* MADV_COLLAPSE, which older headers do not have */

static uint64_t buffer[READ / 8];

static unsigned char *seen_at(const struct copyin *b, uint64_t at)
{
	return (unsigned char *)b->view + at;
}

static bool fetch(const struct copyin *b, void *to, uint64_t from, size_t size)
{
	struct iovec ours = {to, size}, theirs = {(void *)from, size};

	if (!b->tid) {
		memcpy(to, (const void *)from, size);
		return true;
	}
	return process_vm_readv((pid_t)b->tid, &ours, 1, &theirs, 1, 0) == (ssize_t)size;
}

static bool is_zero(const uint64_t *data, size_t size)
{
	uint64_t any = 0;

	for (size_t i = 0; i < size / 8 && !any; i += 8)
		for (size_t k = 0; k < 8; k++)
			any |= data[i + k];
	return !any;
}

/* Of our CPU time: a wait costs nothing that whoever measures could not use. */
static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct follow *follow(const struct copyin *b)
{
	return (struct follow *)b->follow;
}

/* What nobody measures beside us is measured here, where it is in a cache. */
static bool measured(const struct copyin *b, const void *data, uint64_t at, size_t size)
{
	struct follow *f = follow(b);

	return !f || !f->measure
	       || ((follow_measure *)f->measure)(f->hash, f->context, data, size / PAGE, at, f->eadd,
						 f->eextend);
}

/* Whether somebody measures beside us, and is so far behind that he does not wait for us. */
static bool leads(const struct copyin *b, uint64_t at, uint64_t by)
{
	const struct follow *f = follow(b);

	return b->beside && (!f || at >= __atomic_load_n(&f->at, __ATOMIC_RELAXED) + by);
}

/*
 * What is there into our page table: to fault it in would take whoever measures as long, and he is who is
 * waited for. Not by MADV_POPULATE_READ, which notes each page as used: twice the time.
 */
static void touch(const struct copyin *b, uint64_t at, size_t size)
{
	for (uint64_t end = at + size; at < end; at = (at & ~(AROUND - 1)) + AROUND)
		*(const volatile unsigned char *)seen_at(b, at);
}

/* What the buffer has into the file. written: whether it has something there, so zeros are written, too. */
static bool put(struct copyin *b, uint64_t to, size_t size, bool written)
{
	const uint64_t *data = buffer;
	int64_t begun = now_ns();

	for (size_t piece; size; size -= piece, to += piece, data += piece / 8) {
		piece = size < PIECE ? size : PIECE;
		if (!written && is_zero(data, piece)) {
			b->holes = 1;
			continue;
		}
		written = false;
		if (pwrite((int)b->file, data, piece, (off_t)to) != (ssize_t)piece)
			return false;
		b->small += piece / PAGE;
		if (leads(b, to, LARGE / 2))
			touch(b, to, piece);
	}
	b->small_ns += (uint64_t)(now_ns() - begun);
	return true;
}

/*
 * Whether the time has come for large pages: one may take milliseconds. Whoever measures is not to wait
 * for us meanwhile.
 */
static bool may_try(const struct copyin *b, uint64_t start)
{
	if (!b->collapse || start + LARGE > b->size || b->copied < b->try_after)
		return false;
	return !b->beside || leads(b, start, LEAD);
}

/* Make the large page at `start`, of which one page has to be there. */
static bool enlarge(struct copyin *b, uint64_t start)
{
	int64_t small = (int64_t)(LARGE / PAGE * (b->small ? b->small_ns / b->small : SMALL_NS));
	int64_t begun = now_ns(), lost;
	bool made = !madvise(seen_at(b, start), LARGE, COLLAPSE);

	/* EAGAIN: whoever measures reads one of its pages, so not this one. */
	if (!made && errno != EAGAIN)
		b->collapse = 0;
	lost = now_ns() - begun - (made ? small : 0);
	b->pause = lost > small ? b->pause * 2 + 2 : 0;
	b->skip = b->pause;
	b->lost_ns += (uint64_t)lost;
	if ((int64_t)b->lost_ns > MOST_LOST_NS)
		b->collapse = 0;
	if (made)
		b->large = start;
	return made;
}

/* What lies in the 2 MiB at `start`. The first page tells whether it is worth a large one. */
static bool copy(struct copyin *b, uint64_t start, uint64_t from, uint64_t to, uint64_t end)
{
	bool tried = !may_try(b, start);
	bool seen = b->large == start, written = false;

	while (to < end) {
		size_t size = end - to < READ ? end - to : READ;

		if (!seen && !tried && end - to >= WORTH) {
			if (!fetch(b, buffer, from, PAGE))
				return false;
			if (b->skip) {
				b->skip--;
				tried = true;
			} else if (!is_zero(buffer, PAGE)) {
				tried = true;
				/* What is read again may be another: nothing of this is to stay. */
				written = put(b, to, PAGE, false);
				seen = written && enlarge(b, start);
			} else {
				size = PIECE;
			}
		}
		if (seen && (!fetch(b, seen_at(b, to), from, size)
			     || !measured(b, seen_at(b, to), to, size)))
			return false;
		if (!seen && (!fetch(b, buffer, from, size) || !measured(b, buffer, to, size)
			      || !put(b, to, size, written)))
			return false;
		written = false;
		from += size;
		to += size;
	}
	return true;
}

EXPORT void softsgx_copyin(struct copyin *b)
{
	uint64_t to = b->to, from = b->from, end = to + b->bytes;
	struct follow *f = follow(b);
	unsigned char before[MOST_CONTEXT], *context = NULL;

	if (f && f->measure && f->context_bytes <= MOST_CONTEXT)
		memcpy(before, context = (unsigned char *)f->context, f->context_bytes);
	b->done = 0;
	if (b->view % LARGE)
		b->collapse = 0;
	while (to < end) {
		uint64_t start = to & ~(LARGE - 1);
		uint64_t stop = start + LARGE < end ? start + LARGE : end;

		if (!copy(b, start, from, to, stop)) {
			if (context)
				memcpy(context, before, f->context_bytes);
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
