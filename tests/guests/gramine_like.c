/* SPDX-License-Identifier: MIT
 *
 * usage: gramine_like
 * A loader in the order of a library OS: ELRANGE is reserved by mapping the device itself, RWX, at a
 * fixed address before CREATE; each part is mapped right after it was added, from a private file
 * mapping or anonymous memory; entered by raw ENCLU with signal handlers; REMOVE with length 0 as the
 * probe for SGX2.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "rawsig.h"
#include "tap.h"

int main(void)
{
	static struct encl e;
	struct sgx_enclave_remove_pages probe = {0};
	struct call c = {.op = OP_SUM, .a = 4, .b = 100}, bad = {.op = OP_PEEK, .a = 0x10};
	uint32_t r[4] = {0};
	uint64_t hint, base;
	void *p;

	check(__get_cpuid_count(0x12, 0, &r[0], &r[1], &r[2], &r[3]) && (r[0] & 1), "cpuid", "no SGX1");
	if (encl_plan(&e, &(struct encl_opts){.heap = 16 * PAGE}) || encl_sign(&e))
		bail("plan", e.err);
	e.fd = open(encl_device(), O_RDWR | O_CLOEXEC);
	if (e.fd < 0)
		bail("open", strerror(errno));

	/* Somewhere free: such loaders have a constant, we ask for a place and give it back. */
	hint = (uint64_t)mmap(NULL, 2 * e.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap((void *)hint, 2 * e.size);
	base = (hint + e.size - 1) & ~(e.size - 1);
	p = mmap((void *)base, e.size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE,
		 e.fd, 0);
	if (!check(p == (void *)base, "reserve_by_device", "%s", strerror(errno)))
		return 1;
	e.base = base;
	if (encl_create(&e))
		bail("create", e.err);
	for (int i = 0; i < e.nseg; i++) {
		struct encl_seg s = e.seg[i];
		int exe = -1;

		if (!strcmp(s.name, "code")) {
			/* From a file: a private mapping of bytes that are also in this page cache. */
			FILE *f = tmpfile();

			if (!f || fwrite(s.src, s.len, 1, f) != 1 || fflush(f))
				bail("file", strerror(errno));
			exe = fileno(f);
			s.src = mmap(NULL, s.len, PROT_READ | PROT_WRITE, MAP_PRIVATE, exe, 0);
		}
		if (encl_add(&e, &s, 0))
			bail("add", e.err);
		/* Each part gets its own protection at once, over the RWX reservation. */
		if (encl_map_seg(&e, &s, seg_prot(&s)))
			bail("map", e.err);
	}
	check(encl_init(&e) == 0, "init", "%s", e.err);
	/* ENOTTY: a kernel before 6.0. EINVAL: it knows the ioctl, and a length of 0 is wrong. */
	check(ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &probe) == -1
	      && (errno == EINVAL || errno == ENOTTY), "remove_length_0", "%s", strerror(errno));
	raw_catch_faults();
	check(raw_enter(&e, 0, &c, EENTER) == 0 && c.ret == mix(4, 100), "ecall", "signal %d, result %#lx",
	      raw_fault.sig, c.ret);
	check(raw_enter(&e, 0, &bad, EENTER) == -1 && raw_fault.sig == SIGSEGV && raw_fault.addr == 0
	      && raw_fault.rip == (uint64_t)encl_raw_aep, "fault", "signal %d, address %#lx", raw_fault.sig,
	      raw_fault.addr);
	check(raw_enter(&e, 0, &c, EENTER) == 0, "ecall_after_fault", "signal %d", raw_fault.sig);
	return tap_failed;
}
