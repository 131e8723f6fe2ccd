/* SPDX-License-Identifier: MIT
 *
 * MRENCLAVE (SDM, "Enclave measurement") and SIGSTRUCT (SDM, SIGSTRUCT), with OpenSSL.
 */
#include "loader.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>

extern const char sign_key[], sign_key_end[]; /* image.S: the PEM that mkkey made */

static void put(uint8_t *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> (8 * i));
}

/* A record of 64 bytes: an 8-letter name, then numbers. */
static void record(EVP_MD_CTX *md, const char *name, uint64_t first, uint64_t second)
{
	uint8_t r[64] = {0};

	strncpy((char *)r, name, 8);
	put(r + 8, first, 8);
	put(r + 16, second, 8);
	EVP_DigestUpdate(md, r, sizeof(r));
}

static int measure(struct encl *e)
{
	static const uint8_t zero[PAGE];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t r[64] = "ECREATE";

	EVP_DigestInit_ex(md, EVP_sha256(), NULL);
	put(r + 8, e->secs.ssa_frame_size, 4); /* 4 bytes, so SIZE is not aligned */
	put(r + 12, e->size, 8);
	EVP_DigestUpdate(md, r, sizeof(r));
	for (int i = 0; i < e->nseg; i++) {
		const struct encl_seg *s = &e->seg[i];

		for (uint64_t at = 0; at < s->len; at += PAGE) {
			const uint8_t *page = s->repeat ? zero : s->src + at;

			record(md, "EADD", s->off + at, s->flags);
			for (uint64_t k = 0; s->measure && k < PAGE; k += 256) {
				record(md, "EEXTEND", s->off + at + k, 0);
				EVP_DigestUpdate(md, page + k, 256);
			}
		}
	}
	EVP_DigestFinal_ex(md, e->mrenclave, NULL);
	EVP_MD_CTX_free(md);
	return 0;
}

/* Q1 = S^2 / N and Q2 = (S^3 - Q1 S N) / N spare the CPU a division. */
static int quotients(struct sigstruct *sig)
{
	BN_CTX *ctx = BN_CTX_new();
	BIGNUM *s = BN_lebin2bn(sig->signature, 384, NULL), *n = BN_lebin2bn(sig->modulus, 384, NULL);
	BIGNUM *q = BN_new(), *r = BN_new(), *t = BN_new();
	int ok = ctx && s && n && q && r && t
		&& BN_sqr(t, s, ctx) && BN_div(q, r, t, n, ctx) && BN_bn2lebinpad(q, sig->q1, 384) == 384
		&& BN_mul(t, s, r, ctx) && BN_div(q, r, t, n, ctx) && BN_bn2lebinpad(q, sig->q2, 384) == 384;

	BN_free(s);
	BN_free(n);
	BN_free(q);
	BN_free(r);
	BN_free(t);
	BN_CTX_free(ctx);
	return ok;
}

static int sign(struct sigstruct *sig, EVP_PKEY *key)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t big[384];
	size_t len = sizeof(big);
	BIGNUM *n = NULL;
	int ok;

	/* Signed: the header (128 bytes) and the body (from miscselect to isvsvn). */
	ok = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n)
		&& BN_bn2lebinpad(n, sig->modulus, 384) == 384
		&& EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key)
		&& EVP_DigestSignUpdate(md, sig, offsetof(struct sigstruct, modulus))
		&& EVP_DigestSignUpdate(md, &sig->miscselect, offsetof(struct sigstruct, reserved4)
							      - offsetof(struct sigstruct, miscselect))
		&& EVP_DigestSignFinal(md, big, &len) && len == 384;
	for (int i = 0; i < 384; i++) /* SGX has its numbers little-endian */
		sig->signature[i] = big[383 - i];
	BN_free(n);
	EVP_MD_CTX_free(md);
	return ok && quotients(sig);
}

int encl_resign(struct sigstruct *sig)
{
	BIO *pem = BIO_new_mem_buf(sign_key, (int)(sign_key_end - sign_key));
	EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, NULL, NULL);
	int ok = key && sign(sig, key);

	EVP_PKEY_free(key);
	BIO_free(pem);
	return ok ? 0 : -1;
}

int encl_sign(struct encl *e)
{
	static const uint8_t header[16] = {6, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1};
	static const uint8_t header2[16] = {1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1};
	struct sigstruct *sig = &e->sig;

	measure(e);
	memset(sig, 0, sizeof(*sig));
	memcpy(sig->header, header, 16);
	memcpy(sig->header2, header2, 16);
	sig->date = 0x20240229; /* BCD; fixed, so that the same build signs the same bytes */
	sig->exponent = 3;
	sig->miscselect = e->secs.miscselect;
	sig->miscmask = ~0u;
	sig->attributes = e->secs.attributes;
	sig->attributemask = ~ATTR_DEBUG; /* the loader may choose DEBUG, nothing else */
	sig->xfrm = e->secs.xfrm;
	sig->xfrmmask = ~0ull;
	memcpy(sig->enclavehash, e->mrenclave, 32);
	sig->isvprodid = 1;
	sig->isvsvn = 1;
	if (encl_resign(sig)) {
		snprintf(e->err, sizeof(e->err), "signing failed");
		return -EPROTO;
	}
	return 0;
}
