/* SPDX-License-Identifier: MIT
 *
 * SHA-256 by the processor's own instructions: sha256.c.
 */
#ifndef SOFTSGX_SHA256_H
#define SOFTSGX_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* words: A to H, from 0 on. bytes: so far; rest: those of them that are no whole block. */
struct sha256 {
	uint32_t words[8];
	uint64_t bytes;
	unsigned char rest[64];
};

int softsgx_sha256_update(void *context, const void *data, size_t bytes);

/* measure_pages() (measure.h), where whole blocks have come so far. */
void sha256_pages(struct sha256 *c, const unsigned char *at, size_t n_pages, uint64_t offset,
		  size_t step, const unsigned char *eadd, const unsigned char *eextend);

#endif
