/* SPDX-License-Identifier: MIT
 *
 * What bystanders.c is told and tells: the threads that are known, and the log of what happened.
 */
#ifndef SOFTSGX_BYSTANDERS_H
#define SOFTSGX_BYSTANDERS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include "cpuids.h"
#include "execs.h"

/*
 * The block: words of 64 bits, by these names (host/bystanders.py reads them here).
 * rows, n_rows: the threads that are known; most_rows: room for so many. log, n_log, most_log: what
 * happened. early, n_early, most_early: first stops of children of whom no parent has told yet.
 * killed: whether one may have been killed before it could tell. options: of ptrace, as every thread has
 * them. execs: the words of execs.c, 0 if nothing is prepared here. place: as they have it.
 * image_bytes, paths_bytes: of our memory in a process; aep: where in a page of the former an ENCLU
 * stands. main: the process whose end is Python's. beat: a word that counts stops. polls: whether there
 * is more than one processor. answers: of CPUID, as programs have them; 0 where they have none.
 * Told: looked: whether the exec that is Python's was tried here. got, status: an event that is
 * Python's; 0 if there is none.
 */
#define WORDS \
	F(rows) F(n_rows) F(most_rows) F(log) F(n_log) F(most_log) F(early) F(n_early) F(most_early) \
	F(killed) F(options) F(execs) F(place) F(image_bytes) F(paths_bytes) F(aep) F(main) F(beat) F(polls) \
	F(answers) F(looked) F(got) F(status)

#include "block.h"

#define STOPPED(event, number) ((event) << 16 | (number) << 8 | 0x7f)
#define FIRST_STOP STOPPED(PTRACE_EVENT_STOP, SIGTRAP)
#define ACTION_BYTES 32
#define PLACES 4096

/*
 * A thread that is known. first: that of its process, whose row has what all of them have: exits, image,
 * paths, far, action, traps. plain: all that it may do here is done here, if its first thread's is, too.
 * exits: it stops before it ends, since it has made threads. image, paths: what of ours is in its memory,
 * 0 for nothing; far: in the last page of the program's code. waits: whether its vfork child runs: 1 if that is in the log, 2 if Python knows. action:
 * what it does with SIGILL. traps: where CPUIDs are that stop. rip, alike: where signals came last, and
 * how many there, with nothing else between. next: the row behind it of its place, 1 is the first.
 */
struct row {
	uint64_t tid, first, plain, exits, image, paths, far, waits, action, traps[MOST_TRAPS], rip, alike, next;
};

/*
 * BORN: of tid; a: its parent, b: whether that waits for it, c: what they share. EXEC: a: the recipe,
 * b, c: image and paths, then where the mappings begin. END: a: the status. RUNS: tid waits for no
 * vfork child any more. ACTION: a: the signal, then struct sigaction. EXITS: tid has made a thread, and
 * stops before it ends from then on. OVER: it has stopped so, and ends.
 */
enum { BORN, EXEC, END, RUNS, ACTION, EXITS, OVER };

struct entry {
	uint64_t kind, tid, a, b, c, n;
	union {
		uint64_t starts[MOST_MAPS];
		char action[ACTION_BYTES];
	};
};

struct early {
	uint64_t tid, status;
};

/* There may be thousands: where they are, by their numbers. */
static uint64_t places[PLACES];

static inline struct row *find(const struct block *b, uint64_t tid)
{
	struct row *rows = (struct row *)b->rows;

	for (uint64_t i = places[tid % PLACES]; i; i = rows[i - 1].next)
		if (rows[i - 1].tid == tid)
			return rows + i - 1;
	return NULL;
}

static inline void place(const struct block *b, struct row *row)
{
	uint64_t *first = &places[row->tid % PLACES];

	row->next = *first;
	*first = (uint64_t)(row - (struct row *)b->rows) + 1;
}

static inline void displace(const struct block *b, const struct row *row)
{
	struct row *rows = (struct row *)b->rows;
	uint64_t *at = &places[row->tid % PLACES];

	while (rows + *at - 1 != row)
		at = &rows[*at - 1].next;
	*at = row->next;
}

/* The last one's place is taken, too. */
static inline void drop(struct block *b, struct row *row)
{
	struct row *last = (struct row *)b->rows + --b->n_rows;

	displace(b, row);
	if (row == last)
		return;
	displace(b, last);
	*row = *last;
	place(b, row);
}

/* What Python has told, and that it knows what was in the log. */
static inline void begin(struct block *b)
{
	struct row *row = (struct row *)b->rows;

	memset(places, 0, sizeof(places));
	for (uint64_t i = 0; i < b->n_rows; i++, row++) {
		place(b, row);
		row->waits = row->waits ? 2 : 0;
	}
}

static inline struct entry *note(struct block *b, uint64_t kind, uint64_t tid)
{
	struct entry *entry = (struct entry *)b->log + b->n_log++;

	*entry = (struct entry){.kind = kind, .tid = tid};
	return entry;
}

static inline bool has_room(const struct block *b)
{
	return b->n_log + 2 <= b->most_log && b->n_rows < b->most_rows;
}

/* It has stopped: so it does not wait for a vfork child. */
static inline void runs(struct block *b, struct row *row)
{
	struct entry *entry = (struct entry *)b->log;

	for (uint64_t i = 0; row->waits == 1 && i < b->n_log; i++, entry++)
		if (entry->kind == BORN && entry->a == row->tid)
			entry->b = 0;
	if (row->waits == 2)
		note(b, RUNS, row->tid);
	row->waits = 0;
}

/* Nobody needs to know of what began and ended here, unless it has children. */
static inline bool forget(struct block *b, uint64_t tid)
{
	struct entry *log = (struct entry *)b->log;
	uint64_t left = 0;
	bool born = false;

	for (uint64_t i = 0; i < b->n_log; i++) {
		if (log[i].kind == BORN && log[i].a == tid)
			return false;
		born |= log[i].kind == BORN && log[i].tid == tid;
	}
	for (uint64_t i = 0; born && i < b->n_log; i++) {
		struct row *parent;

		if (log[i].tid != tid) {
			log[left++] = log[i];
			continue;
		}
		parent = log[i].kind == BORN && log[i].b ? find(b, log[i].a) : NULL;
		if (parent)
			parent->waits = 0;
	}
	if (born)
		b->n_log = left;
	return born;
}

static inline void keep_early(struct block *b, pid_t tid, int status)
{
	((struct early *)b->early)[b->n_early++] =
		(struct early){(uint64_t)tid, (uint64_t)(uint32_t)status};
}

static inline bool take_early(struct block *b, pid_t tid, int *status)
{
	struct early *early = (struct early *)b->early;

	for (uint64_t i = 0; i < b->n_early; i++) {
		if (early[i].tid != (uint64_t)tid)
			continue;
		*status = (int)early[i].status;
		early[i] = early[--b->n_early];
		return true;
	}
	return false;
}

#endif
