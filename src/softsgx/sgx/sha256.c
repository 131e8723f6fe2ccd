/* SPDX-License-Identifier: MIT
 *
 * SHA-256 (FIPS 180-4) by the processor's own instructions for it (SDM, SHA256RNDS2, SHA256MSG1,
 * SHA256MSG2), for pages as they lie: a library's takes bytes that lie one behind the other, so each page
 * would have to be copied between the records first, which costs 4 % more than the hash. Each of 64 rounds
 * waits for the one before, so nothing is won by more than one block at a time.
 */
#include <cpuid.h>
#include <immintrin.h>
#include "sha256.h"

#define EXPORT __attribute__((visibility("default")))
#define BY_PROCESSOR __attribute__((target("sha,sse4.1")))
#define INLINE BY_PROCESSOR __attribute__((always_inline)) static inline
#define PAGE 4096
#define CHUNK 256
#define BLOCK 64
#define WORDS 4 /* of 32 bits, in a vector */

static const uint32_t constants[64] __attribute__((aligned(16))) = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* Of the eight words A to H, as SHA256RNDS2 wants them: A, B, E, F and C, D, G, H, the first on top. */
struct state {
	__m128i abef, cdgh;
};

/* The words of a block are big-endian. */
INLINE __m128i turned(__m128i words)
{
	return _mm_shuffle_epi8(words, _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

INLINE __m128i loaded(const unsigned char *at)
{
	return turned(_mm_loadu_si128((const __m128i *)at));
}

INLINE void block(struct state *s, __m128i w0, __m128i w1, __m128i w2, __m128i w3)
{
	__m128i w[4] = {w0, w1, w2, w3}, abef = s->abef, cdgh = s->cdgh;

#pragma GCC unroll 16
	for (int i = 0; i < 16; i++) {
		__m128i sum = _mm_add_epi32(w[i % 4], _mm_load_si128((const __m128i *)(constants + WORDS * i)));

		cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
		abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
		if (i < 12) { /* the words of four rounds that are four times as far */
			__m128i next = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);

			next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4));
			w[i % 4] = _mm_sha256msg2_epu32(next, w[(i + 3) % 4]);
		}
	}
	s->abef = _mm_add_epi32(s->abef, abef);
	s->cdgh = _mm_add_epi32(s->cdgh, cdgh);
}

INLINE void block_at(struct state *s, const unsigned char *at)
{
	block(s, loaded(at), loaded(at + 16), loaded(at + 32), loaded(at + 48));
}

/* A block of a record of 64 bytes, with another second word. */
INLINE void record(struct state *s, const unsigned char *at, uint64_t offset)
{
	__m128i first = _mm_loadu_si128((const __m128i *)at);

	block(s, turned(_mm_insert_epi64(first, (long long)offset, 1)), loaded(at + 16),
	      loaded(at + 32), loaded(at + 48));
}

INLINE struct state begin(const struct sha256 *c)
{
	__m128i dcba = _mm_loadu_si128((const __m128i *)c->words);
	__m128i hgfe = _mm_loadu_si128((const __m128i *)(c->words + 4));
	__m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);

	return (struct state){_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
}

INLINE void end(struct sha256 *c, const struct state *s)
{
	__m128i feba = _mm_shuffle_epi32(s->abef, 0x1b), dchg = _mm_shuffle_epi32(s->cdgh, 0xb1);

	_mm_storeu_si128((__m128i *)c->words, _mm_blend_epi16(feba, dchg, 0xf0));
	_mm_storeu_si128((__m128i *)(c->words + 4), _mm_alignr_epi8(dchg, feba, 8));
}

BY_PROCESSOR static void blocks(struct sha256 *c, const unsigned char *at, size_t n)
{
	struct state s = begin(c);

	for (; n; n--, at += BLOCK)
		block_at(&s, at);
	end(c, &s);
}

/* Whether the processor has them. */
EXPORT int softsgx_sha256_is(void)
{
	unsigned int a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
		return 0;
	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_SHA;
}

EXPORT void softsgx_sha256_init(struct sha256 *c)
{
	static const uint32_t words[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	for (int i = 0; i < 8; i++)
		c->words[i] = words[i];
	c->bytes = 0;
}

EXPORT int softsgx_sha256_update(void *context, const void *data, size_t bytes)
{
	struct sha256 *c = context;
	const unsigned char *at = data;
	size_t rest = c->bytes % BLOCK;

	c->bytes += bytes;
	for (; rest && bytes; bytes--) {
		c->rest[rest++] = *at++;
		if (rest == BLOCK) {
			blocks(c, c->rest, 1);
			rest = 0;
		}
	}
	blocks(c, at, bytes / BLOCK);
	at += bytes - bytes % BLOCK;
	for (bytes %= BLOCK; bytes; bytes--)
		c->rest[rest++] = *at++;
	return 1;
}

/* The hash of all so far; more may follow. */
EXPORT void softsgx_sha256_digest(const struct sha256 *so_far, unsigned char *digest)
{
	struct sha256 c = *so_far;
	unsigned char end[2 * BLOCK] = {0x80};
	size_t room = BLOCK - c.bytes % BLOCK, n = room < 9 ? room + BLOCK : room;

	for (size_t i = 0; i < 8; i++)
		end[n - 1 - i] = (unsigned char)(c.bytes * 8 >> 8 * i);
	softsgx_sha256_update(&c, end, n);
	for (int i = 0; i < 32; i++)
		digest[i] = (unsigned char)(c.words[i / 4] >> (24 - i % 4 * 8));
}

/* Where whole blocks have come so far. */
BY_PROCESSOR void sha256_pages(struct sha256 *c, const unsigned char *at, size_t n_pages,
			       uint64_t offset, size_t step, const unsigned char *eadd,
			       const unsigned char *eextend)
{
	struct state s = begin(c);

	c->bytes += n_pages * (BLOCK + PAGE / CHUNK * (BLOCK + CHUNK));
	for (; n_pages; n_pages--, at += step, offset += PAGE) {
		record(&s, eadd, offset);
		for (size_t i = 0; i < PAGE; i += CHUNK) {
			record(&s, eextend, offset + i);
			for (size_t k = 0; k < CHUNK; k += BLOCK)
				block_at(&s, at + i + k);
		}
	}
	end(c, &s);
}
