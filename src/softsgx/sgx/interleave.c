/* SPDX-License-Identifier: MIT
 *
 * The loops of measuring that Python has no words for. Pages go into the records that
 * MRENCLAVE is the hash of, 256 bytes behind each EEXTEND record of 64: measure.py does the same
 * with preadv(2) and 1,024 pieces a call where this was not built, at twice the cost. And a stream
 * of such records (.sgxs) is read as far as it is regular; where this was not built, record by record.
 */
#include <stddef.h>
#include "measure.h"
#include "sha256.h"

#define RECORD 64
#define CHUNK 256
#define CHUNKS 16
#define PAGE (CHUNK * CHUNKS)
#define LINE 64
#define AHEAD (2 * (RECORD + CHUNKS * (RECORD + CHUNK)))
#define EADD 0x0000000044444145ull /* as bytes: EADD and four zeros */

typedef unsigned long long word __attribute__((aligned(1), may_alias));
typedef long long vector __attribute__((vector_size(16), aligned(1), may_alias));

__attribute__((visibility("default")))
void softsgx_interleave(unsigned char *records, const unsigned char *pages, size_t n_pages)
{
	for (; n_pages; n_pages--) {
		records += RECORD; /* EADD */
		for (int chunk = 0; chunk < CHUNKS; chunk++) {
			vector *to = (vector *)(records + RECORD);
			const vector *from = (const vector *)pages;

			for (size_t i = 0; i < CHUNK / sizeof(vector); i++)
				to[i] = from[i];
			records += RECORD + CHUNK;
			pages += CHUNK;
		}
	}
}

/* With the hash, a page at a time, which stays in a first-level cache. */
int measure_pages(const struct measure *m, const unsigned char *pages, size_t n_pages,
		  uint64_t offset, size_t step)
{
	unsigned char records[RECORD + CHUNKS * (RECORD + CHUNK)] __attribute__((aligned(LINE)));
	unsigned char *to = records;
	struct sha256 *own = m->hash == softsgx_sha256_update ? m->context : NULL;

	if (own && own->bytes % RECORD == 0) {
		sha256_pages(own, pages, n_pages, offset, step, m->eadd, m->eextend);
		return 1;
	}
	for (int i = 0; i < RECORD; i++)
		to[i] = m->eadd[i];
	for (int chunk = 0; chunk < CHUNKS; chunk++)
		for (int i = 0; i < RECORD; i++)
			to[RECORD + chunk * (RECORD + CHUNK) + i] = m->eextend[i];
	for (; n_pages; n_pages--, pages += step, offset += PAGE) {
		((word *)to)[1] = offset;
		for (int chunk = 0; chunk < CHUNKS; chunk++)
			((word *)(to + RECORD + chunk * (RECORD + CHUNK)))[1] = offset + chunk * CHUNK;
		softsgx_interleave(records, pages, 1);
		/* The next page comes while this one is hashed, not into the cache that has this one. */
		for (size_t i = 0; n_pages > 1 && i < PAGE; i += LINE)
			__builtin_prefetch(pages + step + i, 0, 2);
		if (!m->hash(m->context, records, sizeof(records)))
			return 0;
	}
	return 1;
}

/* The same of pages that lie one behind the other. */
__attribute__((visibility("default")))
int softsgx_measure(update *hash, void *context, const unsigned char *pages, size_t n_pages,
		    word offset, const unsigned char *eadd, const unsigned char *eextend)
{
	const struct measure m = {hash, context, eadd, eextend};

	return measure_pages(&m, pages, n_pages, offset, PAGE);
}

/* Where a record differs from one of this tag, offset and flags with nothing behind them. */
static vector differs(const unsigned char *record, word tag, word offset, word flags)
{
	const vector *v = (const vector *)record;
	const vector first = {(long long)tag, (long long)offset}, second = {(long long)flags, 0};

	return (v[0] ^ first) | (v[1] ^ second) | v[2] | v[3];
}

/*
 * How many pages at `p` are written alike: EADD with the flags of the first, at one page after the
 * last, followed by the sixteen chunks in order as records of `tag`; none if `tag` is 0.
 */
__attribute__((visibility("default")))
size_t softsgx_alike(const unsigned char *p, size_t bytes, size_t max_pages, unsigned long long tag)
{
	const size_t size = RECORD + (tag ? CHUNKS * (RECORD + CHUNK) : 0);
	size_t n = 0;
	word offset, flags;

	if (bytes < size)
		return 0;
	offset = ((const word *)p)[1];
	flags = ((const word *)p)[2];
	for (; n < max_pages && bytes >= size; n++, bytes -= size, offset += PAGE) {
		const unsigned char *record = p + RECORD;
		vector wrong = differs(p, EADD, offset, flags);

		for (int chunk = 0; tag && chunk < CHUNKS; chunk++, record += RECORD + CHUNK) {
			/* Records lie 5 lines apart, which no processor foresees. */
			__builtin_prefetch(record + AHEAD);
			wrong |= differs(record, tag, offset + chunk * CHUNK, 0);
		}
		if (wrong[0] | wrong[1])
			break;
		/* What follows may belong to this page: then it is not alike. */
		if (bytes > size && (bytes < size + RECORD || ((const word *)record)[0] != EADD))
			break;
		p = record;
	}
	return n;
}
