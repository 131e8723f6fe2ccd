/* SPDX-License-Identifier: MIT
 *
 * usage: v20
 * The interface of the patch series' version 20 (May 2019), from before it was merged:
 * /dev/sgx/enclave, one page an ioctl at an absolute address, an mmap that aligns ELRANGE itself and
 * checks no page, and INIT that answers with the CPU's own codes. Entered by raw ENCLU: the vDSO's
 * function of that time took other arguments.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "rawsig.h"
#include "tap.h"

struct v20_add_page {
	uint64_t addr, src, secinfo;
	uint16_t mrmask; /* bit i: measure the i-th 256 bytes */
} __attribute__((packed));
#define V20_ADD_PAGE _IOW(SGX_MAGIC, 1, struct v20_add_page)

static struct encl e;

static long add(uint64_t off, const void *src, uint64_t flags, uint16_t mrmask)
{
	struct secinfo info = {.flags = flags};
	struct v20_add_page arg = {e.base + off, (uint64_t)src, (uint64_t)&info, mrmask};

	return ioctl(e.fd, V20_ADD_PAGE, &arg);
}

static void add_all(void)
{
	static const uint8_t zero[PAGE] __attribute__((aligned(4096)));
	long bad = 0;

	for (int i = 0; i < e.nseg && !bad; i++)
		for (uint64_t at = 0; at < e.seg[i].len && !bad; at += PAGE)
			bad = add(e.seg[i].off + at, e.seg[i].repeat ? zero : e.seg[i].src + at,
				  e.seg[i].flags, e.seg[i].measure ? 0xffff : 0);
	check_errno(bad, 0, "add_pages");
}

static long try_map(uint64_t len)
{
	void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, e.fd, 0);

	if (p == MAP_FAILED)
		return -1;
	munmap(p, len);
	return 0;
}

int main(void)
{
	struct sgx_enclave_init init = {.sigstruct = (uint64_t)&e.sig};
	struct call c = {.op = OP_SUM, .a = 8, .b = 80};
	static struct sigstruct good;
	uint8_t page[1] = {0};
	void *p;

	if (encl_plan(&e, &(struct encl_opts){.heap = 4 * PAGE}) || encl_sign(&e))
		bail("plan", e.err);
	e.fd = open("/dev/sgx/enclave", O_RDWR);
	if (e.fd < 0)
		bail("open", strerror(errno));
	check_errno(add(0, page, SI_REG | SI_R, 0), EFAULT, "add_before_create");
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_INIT, &init), EFAULT, "init_before_create");
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, NULL), ENOTTY, "no_sgx2");
	check_errno(try_map(3 * PAGE), EINVAL, "mmap_not_power_of_2");
	p = mmap(NULL, e.size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, e.fd, 0);
	if (!check(p != MAP_FAILED && !((uint64_t)p & (e.size - 1)), "mmap_aligns", "%p", p))
		return 1;
	e.base = (uint64_t)p;
	if (encl_create(&e))
		bail("create", e.err);
	add_all();
	check_errno(add(0, e.seg[0].src, e.seg[0].flags, 0xffff), EEXIST, "add_duplicate");
	/* A code of EINIT is the ioctl's own answer, and positive. */
	good = e.sig;
	e.sig.signature[3] ^= 1;
	CHECK_EQ(ioctl(e.fd, SGX_IOC_ENCLAVE_INIT, &init), 8, "init_signature"); /* SGX_INVALID_SIGNATURE */
	e.sig = good;
	e.sig.enclavehash[3] ^= 1;
	encl_resign(&e.sig);
	CHECK_EQ(ioctl(e.fd, SGX_IOC_ENCLAVE_INIT, &init), 4, "init_measurement"); /* ..._MEASUREMENT */
	e.sig = good;
	CHECK_EQ(ioctl(e.fd, SGX_IOC_ENCLAVE_INIT, &init), 0, "init");
	check_errno(add(e.free, e.seg[0].src, SI_REG | SI_R, 0), EFAULT, "add_after_init");
	/* No page's permissions limit a mapping; the EPCM still does. */
	check_errno(mprotect(p, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0, "mprotect_rwx");
	raw_catch_faults();
	check(raw_enter(&e, 0, &c, EENTER) == 0 && c.ret == mix(8, 80), "ecall", "signal %d at %#lx",
	      raw_fault.sig, raw_fault.addr);
	c = (struct call){.op = OP_POKE, .a = e.base, .b = 0};
	check(raw_enter(&e, 0, &c, EENTER) == -1 && raw_fault.sig == SIGSEGV && raw_fault.addr == e.base
	      && raw_fault.err == 0x8007, "epcm_still", "signal %d at %#lx, code %#lx", raw_fault.sig,
	      raw_fault.addr, raw_fault.err);
	return tap_failed;
}
