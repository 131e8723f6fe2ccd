/* SPDX-License-Identifier: MIT
 *
 * Pages as records, into a hash: interleave.c has it.
 */
#ifndef SOFTSGX_MEASURE_H
#define SOFTSGX_MEASURE_H

#include <stddef.h>
#include <stdint.h>

/* What hashes: softsgx_sha256_update(), or EVP_DigestUpdate() of libcrypto. */
typedef int update(void *context, const void *data, size_t bytes);

/* eadd, eextend: the records, with offset 0. */
struct measure {
	update *hash;
	void *context;
	const unsigned char *eadd, *eextend;
};

/*
 * Pages from `offset` in the enclave on, as an EADD and 16 EEXTEND records each; `step` bytes apart
 * where they lie. Returns 0 if the hash fails.
 */
int measure_pages(const struct measure *m, const unsigned char *pages, size_t n_pages,
		  uint64_t offset, size_t step);

#endif
