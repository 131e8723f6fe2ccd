/* SPDX-License-Identifier: MIT
 *
 * usage: seal seal FILE TEXT | seal unseal FILE | seal
 * Keys and reports. `seal` writes TEXT sealed under MRENCLAVE; `unseal`, in another run of the same
 * build, prints it again. With no argument: reports between two enclaves, key policies, and the
 * codes of requests that EGETKEY refuses.
 */
#include <openssl/evp.h>
#include <stddef.h>
#include "loader.h"
#include "tap.h"

static struct encl a, b; /* two enclaves of one signer that differ in MRENCLAVE */
static struct call c;

static bool op(struct encl *e, enum op what, uint64_t arg)
{
	c.op = what;
	c.a = arg;
	c.ret = ~0ull;
	return encl_do(e, 0, &c);
}

static int seal_file(const char *path, const char *text)
{
	uint64_t len = strlen(text);
	FILE *f = fopen(path, "w"), *nonce = fopen("/dev/urandom", "r");

	if (!f || !nonce || len > 1000 || fread(c.buf + 16, 16, 1, nonce) != 1)
		bail("seal", "cannot write FILE, or TEXT is too long");
	memcpy(c.buf + 32, text, len);
	check(op(&a, OP_SEAL, len) && c.ret == 0, "seal", "ret %ld; %s", (long)c.ret, a.err);
	check(memcmp(c.buf + 32, text, len) != 0, "sealed_differs", "the text is still plain");
	check(fwrite(c.buf, 32 + len, 1, f) == 1 && !fclose(f), "seal_written", "%s", strerror(errno));
	fclose(nonce);
	return tap_failed;
}

static int unseal_file(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(c.buf, 1, sizeof(c.buf), f) : 0;

	if (n < 32)
		bail("unseal", "cannot read FILE");
	c.buf[33] ^= 1;
	check(op(&a, OP_UNSEAL, n - 32) && c.ret == 1, "tampered_refused", "ret %ld", (long)c.ret);
	c.buf[33] ^= 1;
	check(op(&b, OP_UNSEAL, n - 32) && c.ret == 1, "other_enclave_refused", "ret %ld", (long)c.ret);
	if (check(op(&a, OP_UNSEAL, n - 32) && c.ret == 0, "unseal", "ret %ld; %s", (long)c.ret, a.err))
		printf("%.*s\n", (int)(n - 32), (char *)c.buf + 32);
	return tap_failed;
}

static void reports(void)
{
	/* As b's own report would say it: with INIT (bit 0), which EINIT sets. */
	struct targetinfo target = {.attributes = b.secs.attributes | 1, .xfrm = b.secs.xfrm};
	struct report r, bad;
	uint8_t mrsigner[32];

	EVP_Digest(a.sig.modulus, 384, mrsigner, NULL, EVP_sha256(), NULL);
	memcpy(target.measurement, b.mrenclave, 32);
	memcpy(c.buf, &target, sizeof(target));
	memset(c.buf + 512, 0xa5, 64);
	check(op(&a, OP_REPORT, 0) && c.ret == 0, "ereport", "%s", a.err);
	memcpy(&r, c.buf, sizeof(r));
	check(!memcmp(r.mrenclave, a.mrenclave, 32), "report_mrenclave", "not what we measured");
	check(!memcmp(r.mrsigner, mrsigner, 32), "report_mrsigner", "not the hash of our modulus");
	CHECK_EQ(r.attributes, a.secs.attributes | 1, "report_attributes");
	CHECK_EQ(r.xfrm, a.secs.xfrm, "report_xfrm");
	check(r.isvprodid == 1 && r.isvsvn == 1, "report_isv", "%u, %u", r.isvprodid, r.isvsvn);
	check(r.reportdata[0] == 0xa5 && r.reportdata[63] == 0xa5, "report_data", "not ours");
	check(op(&b, OP_VERIFY, 0) && c.ret == 0, "target_verifies", "ret %ld; %s", (long)c.ret, b.err);
	check(op(&a, OP_VERIFY, 0) && c.ret == 1, "others_cannot", "ret %ld", (long)c.ret);
	bad = r;
	bad.reportdata[5] ^= 1;
	memcpy(c.buf, &bad, sizeof(bad));
	check(op(&b, OP_VERIFY, 0) && c.ret == 1, "forged_refused", "ret %ld", (long)c.ret);
}

static uint64_t key(struct encl *e, const struct keyrequest *request, uint8_t out[16])
{
	memcpy(c.buf, request, sizeof(*request));
	if (!op(e, OP_GETKEY, 0))
		return ~0ull;
	memcpy(out, c.buf, 16);
	return c.ret;
}

static void keys(void)
{
	struct keyrequest signer = {.keyname = KEY_SEAL, .keypolicy = POLICY_MRSIGNER},
			  enclave = {.keyname = KEY_SEAL, .keypolicy = POLICY_MRENCLAVE}, bad;
	struct sgx_enclave_run run = {0};
	uint8_t x[16] = {0}, y[16] = {0}, z[16] = {0};

	CHECK_EQ(key(&a, &signer, x) | key(&b, &signer, y), 0, "key_mrsigner");
	check(!memcmp(x, y, 16), "key_mrsigner_same", "one signer's enclaves got different keys");
	CHECK_EQ(key(&a, &enclave, x) | key(&b, &enclave, z), 0, "key_mrenclave");
	check(memcmp(x, z, 16) && memcmp(x, y, 16), "key_mrenclave_differs", "keys are the same");
	key(&a, &enclave, z);
	check(!memcmp(x, z, 16), "key_repeats", "a second request gave another key");
	bad = enclave;
	bad.keyid[7] = 1;
	key(&a, &bad, z);
	check(memcmp(x, z, 16), "key_keyid", "KEYID does not matter");
	/* The codes of the SDM's table "Error or information codes for ENCLU". */
	bad = enclave;
	bad.keyname = 99;
	CHECK_EQ(key(&a, &bad, z), 256, "invalid_keyname");
	bad = enclave;
	bad.isvsvn = 2;
	CHECK_EQ(key(&a, &bad, z), 64, "invalid_isvsvn");
	bad = enclave;
	bad.keyname = KEY_PROVISION;
	CHECK_EQ(key(&a, &bad, z), 2, "invalid_attribute");
	bad = enclave;
	bad.reserved2[400] = 1;
	memcpy(c.buf, &bad, sizeof(bad));
	c.op = OP_GETKEY;
	encl_call(&b, 0, &c, &run); /* b: its TCS stays at CSSA 1 */
	CHECK_EQ(run.exception_vector, 13, "reserved_gp");
}

int main(int argc, char **argv)
{
	if (encl_load(&a, &(struct encl_opts){.threads = 1}))
		bail("load", a.err);
	if (encl_load(&b, &(struct encl_opts){.threads = 2}))
		bail("load", b.err);
	if (argc == 4 && !strcmp(argv[1], "seal"))
		return seal_file(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "unseal"))
		return unseal_file(argv[2]);
	reports();
	keys();
	return tap_failed;
}
