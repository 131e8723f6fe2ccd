/* SPDX-License-Identifier: MIT
 *
 * Pages that come, and who measures them beside: one tells, the other follows (follow.c).
 */
#ifndef SOFTSGX_FOLLOW_H
#define SOFTSGX_FOLLOW_H

#include <stdint.h>

/*
 * Offsets in the enclave, which are those in its file. ready: all below is there. end: no more comes,
 * once it is told. holes: some of it may be a hole of the file, which reads as zero. at: what is below
 * is measured. news, waits: how often something was told, and whether somebody waits for the next time.
 * Where nobody is beside, whoever copies measures by these: measure: of softsgx_measure(), else 0; hash,
 * context, eadd, eextend: what it takes; context_bytes: of which a copy is a state to go back to.
 */
struct follow {
	uint64_t ready, end, holes, at;
	uint32_t news, waits;
	uint64_t measure, hash, context, context_bytes, eadd, eextend;
};

typedef int follow_measure(uint64_t hash, uint64_t context, const void *pages, uint64_t n_pages,
			   uint64_t offset, uint64_t eadd, uint64_t eextend);

#define FOLLOW_FUTEX 202
#define FOLLOW_WAIT 128 /* FUTEX_WAIT_PRIVATE */
#define FOLLOW_WAKE 129

static inline long follow_call(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long got;

	__asm__ volatile("syscall" : "=a"(got) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return got;
}

static inline void follow_tell(struct follow *f, uint64_t *what, uint64_t value)
{
	__atomic_store_n(what, value, __ATOMIC_RELEASE);
	__atomic_fetch_add(&f->news, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&f->waits, __ATOMIC_SEQ_CST))
		follow_call(FOLLOW_FUTEX, (long)&f->news, FOLLOW_WAKE, 1, 0);
}

#endif
