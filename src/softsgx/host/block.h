/* SPDX-License-Identifier: MIT
 *
 * The words that a compiled function takes and tells. WORDS is defined before: their names.
 */
#ifndef SOFTSGX_BLOCK_H
#define SOFTSGX_BLOCK_H

#include <stdint.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

struct block {
#define F(name) uint64_t name;
	WORDS
#undef F
};

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

#endif
