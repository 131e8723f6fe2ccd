/* SPDX-License-Identifier: MIT
 *
 * usage: quote aesm FILE | quote dcap_ql FILE | quote provision FILE
 * A quote as a program on hardware gets it, written to FILE: a REPORT for the quoting enclave, then
 * by AESM's socket (an own connection for each request, as Gramine's) or by libsgx_dcap_ql. By the
 * socket, the quoting enclave's own REPORT is checked inside, too. provision: PROVISION_KEY as a
 * quoting enclave of one's own asks for it, by /dev/sgx_provision.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "loader.h"
#include "tap.h"

#define QE_REPORT_INFO 960
#define AESM_INVALID_REPORT 47
#define SGX_QL_INVALID_REPORT 0xe015

static struct encl e;
static struct call c;
static uint8_t buf[1 << 16];
static uint32_t len;

static bool op(enum op what)
{
	c.op = what;
	c.ret = ~0ull;
	return encl_do(&e, 0, &c) && !c.ret;
}

static void report_for(const uint8_t target[512], struct report *r)
{
	memcpy(c.buf, target, 512);
	memset(c.buf + 512, 'q', 64);
	if (!op(OP_REPORT))
		bail("report", e.err);
	memcpy(r, c.buf, sizeof(*r));
}

/* -- protobuf, as much as is asked ------------------------------------------------------------ */

static uint32_t varint(uint8_t *p, uint64_t v)
{
	uint32_t n = 0;

	for (; v > 127; v >>= 7)
		p[n++] = (uint8_t)(v | 128);
	p[n++] = (uint8_t)v;
	return n;
}

static uint32_t field(uint8_t *p, unsigned number, const void *data, uint32_t size)
{
	uint32_t n = varint(p, number << 3 | 2);

	n += varint(p + n, size);
	memcpy(p + n, data, size);
	return n + size;
}

static uint32_t number(uint8_t *p, unsigned which, uint64_t v)
{
	uint32_t n = varint(p, which << 3);

	return n + varint(p + n, v);
}

static uint64_t value(const uint8_t **p)
{
	uint64_t v = 0;

	for (int shift = 0;; shift += 7) {
		v |= (uint64_t)(**p & 127) << shift;
		if (!(*(*p)++ & 128))
			return v;
	}
}

/* Field `which` of an answer in buf: its bytes, or the value as the pointer's number. */
static const uint8_t *answer(unsigned request, unsigned which, uint64_t *size)
{
	const uint8_t *p = buf, *end;

	if (value(&p) != (request << 3 | 2))
		bail("answer", "to another request");
	end = p + value(&p);
	while (p < end) {
		uint64_t tag = value(&p), v = value(&p);

		if (tag >> 3 == which) {
			*size = v;
			return p;
		}
		p += tag & 7 ? v : 0;
	}
	*size = 0;
	return NULL;
}

static uint64_t ask(unsigned request, const uint8_t *inner, uint32_t size)
{
	struct sockaddr_un addr = {AF_UNIX, "/var/run/aesmd/aesm.socket"};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t code;

	len = field(buf, request, inner, size);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		bail("connect", strerror(errno));
	if (send(fd, &len, 4, 0) != 4 || send(fd, buf, len, 0) != (ssize_t)len)
		bail("send", strerror(errno));
	if (recv(fd, &len, 4, MSG_WAITALL) != 4 || len > sizeof(buf) ||
	    recv(fd, buf, len, MSG_WAITALL) != (ssize_t)len)
		bail("recv", strerror(errno));
	close(fd);
	answer(request, 1, &code);
	return code;
}

/* -- the two ways ------------------------------------------------------------------------------ */

static void by_socket(FILE *out)
{
	static uint8_t m[4096], quote[1 << 15];
	uint8_t id[256], info[QE_REPORT_INFO] = {0}, hash[32];
	/* As the enclave's own report says it: with INIT, which EINIT sets. */
	struct targetinfo own = {.attributes = e.secs.attributes | 1, .xfrm = e.secs.xfrm};
	struct report r;
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	const uint8_t *p;
	uint64_t size;
	uint32_t n;

	CHECK_EQ(ask(21, m, 0), 0, "key_ids_num");
	answer(21, 2, &size);
	CHECK_EQ(size, 1, "one_key");
	CHECK_EQ(ask(22, m, number(m, 1, 256)), 0, "key_ids");
	p = answer(22, 2, &size);
	if (!check(size == 256, "key_id_size", "%lu", size))
		return;
	memcpy(id, p, 256);
	n = field(m, 1, id, 256);
	n += number(m + n, 3, 1);
	n += number(m + n, 4, 32);
	CHECK_EQ(ask(15, m, n), 0, "init_quote");
	p = answer(15, 2, &size);
	if (!check(size == 512, "target_info", "%lu bytes", size))
		return;
	report_for(p, &r);
	CHECK_EQ(ask(16, m, field(m, 1, id, 256)), 0, "quote_size");
	answer(16, 2, &size);
	memset(info, 'n', 16);
	memcpy(own.measurement, e.mrenclave, 32);
	memcpy(info + 16, &own, 512);
	n = field(m, 1, &r, sizeof(r));
	n += field(m + n, 2, id, 256);
	n += field(m + n, 3, info, sizeof(info));
	n += number(m + n, 4, size);
	CHECK_EQ(ask(17, m, n), 0, "get_quote");
	p = answer(17, 3, &size);
	if (check(size == sizeof(info), "qe_report_info", "%lu bytes", size))
		memcpy(info, p, sizeof(info));
	p = answer(17, 2, &size);
	if (!check(size && size <= sizeof(quote), "quote", "%lu bytes", size))
		return;
	memcpy(quote, p, size);
	check(fwrite(quote, size, 1, out) == 1, "written", "%s", strerror(errno));
	/* The quoting enclave's REPORT is for us, and over this quote. */
	memcpy(c.buf, info + 528, 432);
	check(op(OP_VERIFY), "qe_report", "ret %ld; %s", (long)c.ret, e.err);
	EVP_DigestInit(md, EVP_sha256());
	EVP_DigestUpdate(md, info, 16);
	EVP_DigestUpdate(md, quote, size);
	EVP_DigestFinal(md, hash, NULL);
	EVP_MD_CTX_free(md);
	check(!memcmp(info + 528 + offsetof(struct report, reportdata), hash, 32), "qe_report_data",
	      "not the hash of nonce and quote");
	r.reportdata[0] ^= 1;
	n = field(m, 1, &r, sizeof(r));
	n += field(m + n, 2, id, 256);
	n += number(m + n, 4, size);
	CHECK_EQ(ask(17, m, n), AESM_INVALID_REPORT, "changed_report");
}

static void by_library(FILE *out)
{
	void *lib = dlopen("libsgx_dcap_ql.so.1", RTLD_NOW);
	uint32_t (*policy)(int), (*target)(void *), (*size)(uint32_t *);
	uint32_t (*quote)(const void *, uint32_t, uint8_t *), n = 0;
	uint8_t info[512];
	struct report r;

	if (!lib)
		bail("dlopen", dlerror());
	*(void **)&policy = dlsym(lib, "sgx_qe_set_enclave_load_policy");
	*(void **)&target = dlsym(lib, "sgx_qe_get_target_info");
	*(void **)&size = dlsym(lib, "sgx_qe_get_quote_size");
	*(void **)&quote = dlsym(lib, "sgx_qe_get_quote");
	if (!policy || !target || !size || !quote)
		bail("dlsym", dlerror());
	CHECK_EQ(policy(0), 0, "policy");
	CHECK_EQ(target(info), 0, "target_info");
	report_for(info, &r);
	CHECK_EQ(size(&n), 0, "quote_size");
	if (!check(n && n < sizeof(buf), "size", "%u", n))
		return;
	CHECK_EQ(quote(&r, n, buf), 0, "get_quote");
	check(fwrite(buf, n, 1, out) == 1, "written", "%s", strerror(errno));
	CHECK_EQ(quote(&r, n - 1, buf), 0xe002, "short_buffer");
	CHECK_EQ(target(NULL), 0xe002, "no_buffer");
	r.mac[0] ^= 1;
	CHECK_EQ(quote(&r, n, buf), SGX_QL_INVALID_REPORT, "changed_report");
}

static int build(bool allowed)
{
	struct sgx_enclave_provision arg = {.fd = (uint64_t)open("/dev/sgx_provision", O_RDONLY)};

	if (encl_plan(&e, &(struct encl_opts){.attributes = ATTR_PROVISIONKEY}) || encl_sign(&e) ||
	    encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("provisioning", e.err);
	if (allowed && ioctl(e.fd, SGX_IOC_ENCLAVE_PROVISION, &arg))
		bail("ioctl", strerror(errno));
	close((int)arg.fd);
	if (encl_add_all(&e, 0))
		bail("provisioning", e.err);
	return encl_init(&e);
}

static void provision(FILE *out)
{
	struct keyrequest request = {.keyname = KEY_PROVISION};

	CHECK_EQ(build(false), -EACCES, "not_allowed");
	encl_free(&e);
	CHECK_EQ(build(true), 0, "allowed");
	if (encl_map(&e))
		bail("map", e.err);
	memcpy(c.buf, &request, sizeof(request));
	check(op(OP_GETKEY), "provision_key", "ret %ld; %s", (long)c.ret, e.err);
	check(fwrite(c.buf, 16, 1, out) == 1, "written", "%s", strerror(errno));
}

int main(int argc, char **argv)
{
	FILE *out = argc == 3 ? fopen(argv[2], "w") : NULL;

	if (!out)
		bail("usage", "quote aesm FILE | quote dcap_ql FILE | quote provision FILE");
	if (!strcmp(argv[1], "provision")) {
		provision(out);
		return fclose(out) || tap_failed;
	}
	if (encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	if (!strcmp(argv[1], "aesm"))
		by_socket(out);
	else
		by_library(out);
	return fclose(out) || tap_failed;
}
