/* SPDX-License-Identifier: MIT
 *
 * What several processes have added to one enclave, in memory that all share: each can sign it.
 */
#ifndef GUESTS_ADDED_H
#define GUESTS_ADDED_H

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define ADDED_FD 99 /* the same in every process, whatever it executes */

/* What INIT signs: all that any worker added, in its order. */
struct measured {
	uint64_t off, len, flags;
	bool measure;
	uint64_t content; /* offset in `content` of the pages that were added */
};
static struct {
	int n;
	bool planned; /* it is signed: what is added from now on is known */
	uint64_t used, attributes; /* of SECS, where they are not the plan's */
	struct measured seg[64];
	uint8_t content[4 << 20] __attribute__((aligned(4096)));
} *added;

static void share_added(bool first)
{
	if (first) {
		int fd = memfd_create("added", 0);

		if (fd < 0 || dup2(fd, ADDED_FD) < 0 || ftruncate(ADDED_FD, sizeof(*added)))
			bail("added", strerror(errno));
		close(fd);
	}
	added = mmap(NULL, sizeof(*added), PROT_READ | PROT_WRITE, MAP_SHARED, ADDED_FD, 0);
	if (added == MAP_FAILED)
		bail("added", strerror(errno));
}

static void remember(const struct encl_seg *s)
{
	struct measured *m = &added->seg[added->n];

	if (added->planned)
		return;
	if (added->n == sizeof(added->seg) / sizeof(added->seg[0])
	    || added->used + s->len > sizeof(added->content))
		bail("added", "too much to sign");
	*m = (struct measured){s->off, s->len, s->flags, s->measure, added->used};
	memcpy(added->content + m->content, s->src, s->len);
	added->used += s->len;
	added->n++;
}

/* The enclave that was added, with a SIGSTRUCT of its measurement. */
static void sign_added(struct encl *e)
{
	struct encl whole = *e;

	_Static_assert(sizeof(added->seg) / sizeof(added->seg[0]) <= sizeof(e->seg) / sizeof(e->seg[0]),
		       "what was added can be signed");
	whole.nseg = 0;
	if (added->attributes)
		whole.secs.attributes = added->attributes;
	for (int i = 0; i < added->n; i++) {
		const struct measured *m = &added->seg[i];

		whole.seg[whole.nseg++] = (struct encl_seg){
			"added", m->off, m->len, m->flags, added->content + m->content, m->measure, false};
	}
	encl_sign(&whole);
	e->sig = whole.sig;
}

#endif
