/* SPDX-License-Identifier: MIT
 *
 * What copyin.c takes and tells, for who calls it from C.
 */
#ifndef SOFTSGX_COPYIN_H
#define SOFTSGX_COPYIN_H

#include <stdint.h>

/*
 * Words of 64 bits, by these names (host/copyin.py reads them in the object).
 * tid, from: a thread of the process, and where in its memory; 0: where in ours, which may change meanwhile. file, size: ours, and how long it is;
 * view: where all of it is mapped here. to, bytes: where in the file, and how much: whole pages.
 * collapse: whether large pages are tried, 0 from the first one on that the kernel has not. large: where
 * the last one begins, NONE if none. copied: bytes so far; try_after: of those, from when on large
 * pages are tried. small_ns, small: what it took to write small ones, and how many. lost_ns: what large
 * ones cost more than those, negative if they cost less; pause, skip: after one that cost twice as much,
 * how many are not tried, and how many of those are left. beside: whether somebody reads what has come by
 * the view, on another processor; follow: the address of what tells how far he is, or
 * how we measure (follow.h), or 0.
 * holes: whether something was zero, and not written.
 * Told: done: 1 if all is there; else nothing is.
 */
#define COPYIN_WORDS \
	F(tid) F(from) F(file) F(size) F(view) F(to) F(bytes) F(collapse) F(large) \
	F(copied) F(try_after) F(small_ns) F(small) F(lost_ns) F(pause) F(skip) F(beside) F(follow) \
	F(holes) F(done)

struct copyin {
#define F(name) uint64_t name;
	COPYIN_WORDS
#undef F
};

void softsgx_copyin(struct copyin *b);

#endif
