/* SPDX-License-Identifier: MIT
 *
 * usage: intel_like
 * A loader in the order of Intel's run-time: probes several device names, reserves twice the size,
 * adds page by page straight from a private file mapping, maps all after INIT and then narrows it by
 * mprotect, finds the vDSO by section headers, opens /dev/sgx_provision, probes RESTRICT.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static int open_device(void)
{
	static const char *names[] = {"/dev/sgx/enclave", "/dev/sgx_enclave", "/dev/isgx", "/dev/sgx"};
	int fd = -1;

	for (int i = 0; i < 4 && fd < 0; i++)
		fd = open(names[i], O_RDWR);
	return fd;
}

/* All staged pages, as they would lie in the signed enclave's file. */
static const uint8_t *as_file(void)
{
	FILE *f = tmpfile();
	uint8_t *m;
	static const uint8_t zero[PAGE];

	for (int i = 0; f && i < e.nseg; i++)
		for (uint64_t at = 0; at < e.seg[i].len; at += PAGE)
			if (fwrite(e.seg[i].repeat ? zero : e.seg[i].src + at, PAGE, 1, f) != 1)
				bail("file", strerror(errno));
	if (!f || fflush(f))
		bail("file", strerror(errno));
	m = mmap(NULL, e.free, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);
	if (m == MAP_FAILED)
		bail("file_mmap", strerror(errno));
	return m;
}

/* The SDK asks the quoting service whether it is there; that it is not must look ordinary. */
static void no_aesm(void)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = "/var/run/aesmd/aesm.socket"};
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	if (connect(s, (struct sockaddr *)&to, sizeof(to)) == 0)
		skip("no_aesm", "an aesmd runs here");
	else
		check(errno == ENOENT || errno == ECONNREFUSED, "no_aesm", "%s", strerror(errno));
	close(s);
}

int main(void)
{
	struct sgx_enclave_restrict_permissions probe = {0};
	uint64_t at = 0;
	const uint8_t *file;
	int provision;

	if (encl_plan(&e, &(struct encl_opts){.threads = 2}) || encl_sign(&e))
		bail("plan", e.err);
	no_aesm();
	e.fd = open_device();
	if (e.fd < 0)
		bail("open", strerror(errno));
	if (encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	file = as_file();
	for (int i = 0; i < e.nseg; i++) {
		struct encl_seg s = e.seg[i];

		s.src = file + at;
		s.repeat = false;
		at += s.len;
		if (encl_add(&e, &s, PAGE))
			bail("add", e.err);
	}
	provision = open("/dev/sgx_provision", O_RDONLY);
	if (provision >= 0) {
		struct sgx_enclave_provision arg = {.fd = (uint64_t)provision};

		check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_PROVISION, &arg), 0, "provision");
	} else {
		skip("provision", "no /dev/sgx_provision");
	}
	check(encl_init(&e) == 0, "init", "%s", e.err);
	/* One mapping of each kind, then mprotect to what each segment has. */
	for (int i = 0; i < e.nseg; i++)
		if (encl_map_seg(&e, &e.seg[i], PROT_NONE)
		    || mprotect((void *)(e.base + e.seg[i].off), e.seg[i].len, seg_prot(&e.seg[i])))
			bail("map", e.err[0] ? e.err : strerror(errno));
	/* ENOTTY: a kernel before 6.0. EINVAL: it knows the ioctl, and a length of 0 is wrong. */
	check(ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &probe) == -1
	      && (errno == EINVAL || errno == ENOTTY), "sgx2_probe", "%s", strerror(errno));
	encl_vdso = vdso_find_by_sections("__vdso_sgx_enter_enclave");
	check(encl_vdso != NULL, "vdso_by_sections", "not found");
	check(encl_vdso == vdso_find("__vdso_sgx_enter_enclave"), "vdso_same", "another address");
	check(encl_op(&e, OP_SUM, 4, 100, 0, 0) == mix(4, 100), "ecall", "%s", e.err);
	return tap_failed;
}
