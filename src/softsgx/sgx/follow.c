/* SPDX-License-Identifier: MIT
 *
 * Measures an enclave's pages as they come, in one call for all of them: no word of Python's
 * between, for which each of a loader's calls would have to wait.
 */
#include "follow.h"
#include "measure.h"

#define EXPORT __attribute__((visibility("default")))
#define PAGE 4096ul
#define STEP (64 * PAGE) /* then it is looked whether all is to end */
#define LSEEK 8
#define SEEK_DATA 3
#define SEEK_HOLE 4

static const unsigned char zeros[PAGE];

/* One stretch, of which all is there. A hole is not looked at, which would fill it. */
static int measure(const struct measure *m, const unsigned char *view, int fd, uint64_t at,
		   uint64_t stop, int holes)
{
	while (at < stop) {
		uint64_t end = stop;
		long hole = holes ? follow_call(LSEEK, fd, (long)at, SEEK_HOLE, 0) : -1;

		if (hole >= 0 && (uint64_t)hole <= at) {
			long data = follow_call(LSEEK, fd, (long)at, SEEK_DATA, 0);

			if (data > 0 && (uint64_t)data < stop) /* else ENXIO: none */
				end = (uint64_t)data;
			if (!measure_pages(m, zeros, (end - at) / PAGE, at, 0))
				return 0;
		} else {
			if (hole > 0 && (uint64_t)hole < stop)
				end = (uint64_t)hole;
			if (!measure_pages(m, view + at, (end - at) / PAGE, at, PAGE))
				return 0;
		}
		at = end;
	}
	return 1;
}

/* Until the end is told. Returns 0 if the hash fails. view: of the file `fd`. */
EXPORT int softsgx_follow(update *hash, void *context, const unsigned char *view, int fd,
			  struct follow *f, const unsigned char *eadd, const unsigned char *eextend)
{
	const struct measure m = {hash, context, eadd, eextend};

	for (;;) {
		uint32_t news = __atomic_load_n(&f->news, __ATOMIC_SEQ_CST);
		uint64_t ready = __atomic_load_n(&f->ready, __ATOMIC_ACQUIRE);
		uint64_t at = f->at;

		if (at >= __atomic_load_n(&f->end, __ATOMIC_ACQUIRE))
			return 1;
		if (at < ready) {
			uint64_t stop = ready - at < STEP ? ready : at + STEP;

			if (!measure(&m, view, fd, at, stop,
				     !!__atomic_load_n(&f->holes, __ATOMIC_RELAXED)))
				return 0;
			__atomic_store_n(&f->at, stop, __ATOMIC_RELEASE);
			continue;
		}
		__atomic_store_n(&f->waits, 1, __ATOMIC_SEQ_CST);
		follow_call(FOLLOW_FUTEX, (long)&f->news, FOLLOW_WAIT, (long)news, 0);
		__atomic_store_n(&f->waits, 0, __ATOMIC_SEQ_CST);
	}
}

/* All is there up to there. */
EXPORT void softsgx_follow_ready(struct follow *f, uint64_t ready)
{
	follow_tell(f, &f->ready, ready);
}

/* No more comes than up to there; 0: what was not measured yet is not wanted, either. */
EXPORT void softsgx_follow_end(struct follow *f, uint64_t end)
{
	follow_tell(f, &f->end, end);
}
