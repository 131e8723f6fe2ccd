/* SPDX-License-Identifier: MIT
 *
 * What execs.c is told and tells.
 */
#ifndef SOFTSGX_EXECS_H
#define SOFTSGX_EXECS_H

#include <stdint.h>

/*
 * The block: words of 64 bits, by these names (host/execs.py reads them here).
 * tid: the thread. regs: where its registers go. recipes, n_recipes: addresses of them. real_head,
 * head_size: what the kernel's vDSO begins with. whole: how much memory is ours; place: of the code
 * for paths, modulo align, or -1; room: its size; lowest: where it may begin. batch: how far behind the code that makes calls that ends is which one of them may stop.
 * poll_ns: how long to poll before the wait blocks. found, starts: room for so many mappings; traps: for
 * where CPUIDs are that stop, 0 for none.
 * Told: stage: below. recipe: which one. mem: our descriptor of /proc/TID/mem, -1 for none. base,
 * paths: where our memory is. n_found: executable mappings of files. made, answer: calls that were
 * answered as they were to be, and the last answer. mask: the signals that the thread blocks.
 * got, status: of the wait: the thread, 0 where a signal came, -1 where it is no more.
 */
#define EXECS_WORDS \
	F(tid) F(regs) F(recipes) F(n_recipes) F(real_head) F(head_size) F(whole) F(place) \
	F(align) F(room) F(lowest) F(batch) F(poll_ns) F(found) F(starts) F(traps) F(stage) F(recipe) F(mem) \
	F(real) F(base) F(paths) F(n_found) F(made) F(answer) F(mask) F(status) F(got)

struct execs {
#define F(name) uint64_t name;
	EXECS_WORDS
#undef F
};

/*
 * UNKNOWN: nothing was touched. WAITING: it makes its calls, and something else than their end was
 * told. PARTLY: not all were answered as they were to be; by its status it stands at the entry of the
 * call that ends them, or has got a fault. DONE: it runs. GONE: it is gone.
 */
enum stage { UNKNOWN, WAITING, PARTLY, DONE, GONE };

#define MOST_MAPS 16

void softsgx_execs(void *words);

#endif
