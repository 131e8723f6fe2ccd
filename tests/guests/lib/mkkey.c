/* SPDX-License-Identifier: MIT
 *
 * Makes the signing key, once a build: RSA-3072 with e = 3, the only kind that EINIT takes.
 */
#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_RSA, NULL);
	EVP_PKEY *key = NULL;
	BIGNUM *e = BN_new();
	FILE *out = argc == 2 ? fopen(argv[1], "w") : NULL;

	if (!out || !BN_set_word(e, 3) || EVP_PKEY_keygen_init(ctx) <= 0
	    || EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, 3072) <= 0
	    || EVP_PKEY_CTX_set1_rsa_keygen_pubexp(ctx, e) <= 0 || EVP_PKEY_generate(ctx, &key) <= 0
	    || !PEM_write_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL) || fclose(out)) {
		fprintf(stderr, "usage: mkkey FILE (or key generation failed)\n");
		return 1;
	}
	return 0;
}
