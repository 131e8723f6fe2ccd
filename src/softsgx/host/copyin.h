/* SPDX-License-Identifier: MIT
 *
 * What copyin.c takes and tells, for who calls it from C.
 */
#ifndef SOFTSGX_COPYIN_H
#define SOFTSGX_COPYIN_H

#include <stdint.h>

/*
 * Words of 64 bits, by these names (host/copyin.py reads them in the object).
 * tid, from: a thread of the process, and where in its memory. file, size: ours, and how long it is.
 * to, bytes: where in the file, and how much: whole pages. collapse: whether large pages are tried,
 * 0 from the first one on that the kernel has not. large: where the last one begins, NONE if none.
 * copied: bytes so far; try_after: of those, from when on large pages are tried. lost_ns: what they
 * cost more than small ones, negative if they cost less.
 * Told: done: 1 if all is there; else nothing is.
 */
#define COPYIN_WORDS \
	F(tid) F(from) F(file) F(size) F(to) F(bytes) F(collapse) F(large) \
	F(copied) F(try_after) F(lost_ns) F(done)

struct copyin {
#define F(name) uint64_t name;
	COPYIN_WORDS
#undef F
};

void softsgx_copyin(struct copyin *b);

#endif
