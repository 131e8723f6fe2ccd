/* SPDX-License-Identifier: MIT
 *
 * usage: sign ENCLAVE.BIN KEY.PEM ENCLAVE.SIG
 * The enclave's author computes what the CPU will measure (MRENCLAVE) and signs it (SIGSTRUCT).
 * The key, RSA-3072 with exponent 3, is made if KEY.PEM does not exist.
 */
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hello.h"

static void must(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "sign: %s failed\n", what);
		exit(1);
	}
}

/*
 * MRENCLAVE is a SHA-256 over records of 64 bytes: one for ECREATE, one for each page (EADD), and
 * for each 256 bytes of a page one (EEXTEND) with those bytes behind it.
 */
static void measure(const uint8_t *image, uint64_t bytes, uint8_t mrenclave[32])
{
	struct { char name[8]; uint32_t ssa_frame_pages; uint64_t size; uint8_t zero[44]; }
		__attribute__((packed)) ecreate = {"ECREATE", 1, ENCLAVE_SIZE, {0}};
	struct { char name[8]; uint64_t offset, flags; uint8_t zero[40]; } record;
	struct segment seg[4];
	EVP_MD_CTX *md = EVP_MD_CTX_new();

	hello_segments(seg, bytes);
	EVP_DigestInit_ex(md, EVP_sha256(), NULL);
	EVP_DigestUpdate(md, &ecreate, sizeof(ecreate));
	for (int i = 0; i < 4; i++) {
		for (uint64_t page = seg[i].start; page < seg[i].end; page += PAGE) {
			memset(&record, 0, sizeof(record));
			memcpy(record.name, "EADD", 4);
			record.offset = page;
			record.flags = seg[i].flags;
			EVP_DigestUpdate(md, &record, sizeof(record));
			for (uint64_t at = page; at < page + PAGE; at += 256) {
				memset(&record, 0, sizeof(record));
				memcpy(record.name, "EEXTEND", 7);
				record.offset = at;
				EVP_DigestUpdate(md, &record, sizeof(record));
				EVP_DigestUpdate(md, image + at, 256);
			}
		}
	}
	EVP_DigestFinal_ex(md, mrenclave, NULL);
	EVP_MD_CTX_free(md);
}

static EVP_PKEY *load_or_make_key(const char *path)
{
	EVP_PKEY *key = NULL;
	EVP_PKEY_CTX *ctx;
	BIGNUM *e = BN_new();
	FILE *f = fopen(path, "r");

	if (f) {
		key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
		must(key != NULL, "reading the key");
	} else {
		ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA, NULL);
		must(BN_set_word(e, 3) && EVP_PKEY_keygen_init(ctx) > 0
		     && EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, 3072) > 0
		     && EVP_PKEY_CTX_set1_rsa_keygen_pubexp(ctx, e) > 0
		     && EVP_PKEY_generate(ctx, &key) > 0, "making a key");
		f = fopen(path, "w");
		must(f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), "writing the key");
		EVP_PKEY_CTX_free(ctx);
	}
	BN_free(e);
	fclose(f);
	return key;
}

/* The signature covers the 128 bytes before the modulus and the 128 bytes from miscselect on. */
static void sign(struct sigstruct *sig, EVP_PKEY *key)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	BN_CTX *ctx = BN_CTX_new();
	BIGNUM *n = NULL, *s = BN_new(), *q = BN_new(), *r = BN_new(), *t = BN_new();
	uint8_t big_endian[384];
	size_t len = 384;

	must(EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key)
	     && EVP_DigestSignUpdate(md, sig, 128)
	     && EVP_DigestSignUpdate(md, &sig->miscselect, 128)
	     && EVP_DigestSignFinal(md, big_endian, &len), "signing");
	must(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n) && BN_bin2bn(big_endian, 384, s),
	     "reading the modulus");
	BN_bn2lebinpad(n, sig->modulus, 384);
	BN_bn2lebinpad(s, sig->signature, 384);
	/* Quotients that save the CPU its divisions: Q1 = S*S/N, Q2 = S*(S*S mod N)/N. */
	must(BN_sqr(t, s, ctx) && BN_div(q, r, t, n, ctx) && BN_bn2lebinpad(q, sig->q1, 384) == 384
	     && BN_mul(t, s, r, ctx) && BN_div(q, r, t, n, ctx)
	     && BN_bn2lebinpad(q, sig->q2, 384) == 384, "computing Q1 and Q2");
	BN_free(n);
	BN_free(s);
	BN_free(q);
	BN_free(r);
	BN_free(t);
	BN_CTX_free(ctx);
	EVP_MD_CTX_free(md);
}

int main(int argc, char **argv)
{
	static const uint8_t header[16] = {6, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 1};
	static const uint8_t header2[16] = {1, 1, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 1};
	static uint8_t image[ENCLAVE_SIZE];
	struct sigstruct sig = {.date = 0x20240229 /* BCD */, .exponent = 3, .isvprodid = 1};
	FILE *f = argc == 4 ? fopen(argv[1], "r") : NULL;
	uint64_t bytes;
	EVP_PKEY *key;

	must(f != NULL, "usage: sign ENCLAVE.BIN KEY.PEM ENCLAVE.SIG: opening");
	bytes = fread(image, 1, sizeof(image), f);
	fclose(f);
	must(bytes % PAGE == 0, "whole pages");
	memcpy(sig.header, header, 16);
	memcpy(sig.header2, header2, 16);
	sig.attributes = ATTRIBUTES_MODE64BIT;
	sig.attributemask = ~2ull; /* all must be as signed, but the loader may choose DEBUG */
	sig.xfrm = XFRM_X87_SSE;
	sig.xfrmmask = ~0ull;
	measure(image, bytes, sig.enclavehash);
	key = load_or_make_key(argv[2]);
	sign(&sig, key);
	EVP_PKEY_free(key);
	f = fopen(argv[3], "w");
	must(f && fwrite(&sig, sizeof(sig), 1, f) == 1 && fclose(f) == 0, "writing the signature");
	return 0;
}
