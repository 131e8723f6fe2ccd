/* SPDX-License-Identifier: MIT
 *
 * usage: native [SIGSTRUCT-FILE]
 * What can be tested of the guests themselves with no SGX at all: our CMAC and signature against
 * OpenSSL's. Prints MRENCLAVE and MRSIGNER of the one-thread enclave; writes its SIGSTRUCT.
 */
#include "loader.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <string.h>
#include "crypto.h"
#include "tap.h"

static bool cmac_agrees(size_t len)
{
	uint8_t key[16], data[64], ours[16], theirs[16];
	char cipher[] = "AES-128-CBC";
	OSSL_PARAM params[] = {OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0), OSSL_PARAM_END};
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "CMAC", NULL);
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
	size_t out = 0;
	bool ok;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + len);
	for (int i = 0; i < 16; i++)
		key[i] = (uint8_t)(i * 11 + 3);
	aes_cmac(key, data, len, ours);
	ok = EVP_MAC_init(ctx, key, 16, params) && EVP_MAC_update(ctx, data, len)
		&& EVP_MAC_final(ctx, theirs, &out, 16) && out == 16 && !memcmp(ours, theirs, 16);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
	return ok;
}

/* Verify with nothing but what SIGSTRUCT holds, as EINIT does. */
static bool signature_holds(const struct sigstruct *sig)
{
	BIGNUM *n = BN_lebin2bn(sig->modulus, 384, NULL), *e = BN_new();
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	EVP_PKEY *key = NULL;
	uint8_t big[384];
	bool ok;

	BN_set_word(e, sig->exponent);
	for (int i = 0; i < 384; i++)
		big[i] = sig->signature[383 - i];
	ok = OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n)
		&& OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e)
		&& EVP_PKEY_fromdata_init(ctx) > 0
		&& EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, OSSL_PARAM_BLD_to_param(build)) > 0
		&& EVP_DigestVerifyInit(md, NULL, EVP_sha256(), NULL, key) > 0
		&& EVP_DigestVerifyUpdate(md, sig, 128) > 0
		&& EVP_DigestVerifyUpdate(md, (const uint8_t *)sig + 900, 128) > 0
		&& EVP_DigestVerifyFinal(md, big, 384) == 1;
	return ok;
}

static void hex(const char *name, const uint8_t *at)
{
	printf("%s ", name);
	for (int i = 0; i < 32; i++)
		printf("%02x", at[i]);
	printf("\n");
}

int main(int argc, char **argv)
{
	static struct encl e, again;
	uint8_t mrsigner[32];
	bool ok = true;

	for (size_t len = 0; len <= 64; len++)
		ok &= cmac_agrees(len);
	check(ok, "cmac", "differs from OpenSSL's");
	if (encl_plan(&e, &(struct encl_opts){0}) || encl_sign(&e))
		bail("plan", e.err);
	encl_plan(&again, &(struct encl_opts){0});
	encl_sign(&again);
	check(!memcmp(&e.sig, &again.sig, sizeof(e.sig)), "repeatable", "two SIGSTRUCTs differ");
	check(signature_holds(&e.sig), "signature", "OpenSSL refuses it");
	CHECK_EQ(e.threads, 1, "threads");
	EVP_Digest(e.sig.modulus, 384, mrsigner, NULL, EVP_sha256(), NULL);
	fflush(stdout);
	hex("mrenclave", e.mrenclave);
	hex("mrsigner", mrsigner);
	if (argc > 1) {
		FILE *f = fopen(argv[1], "w");

		check(f && fwrite(&e.sig, sizeof(e.sig), 1, f) == 1 && !fclose(f), "written", "%s", argv[1]);
	}
	return tap_failed;
}
