/* SPDX-License-Identifier: MIT
 *
 * usage: fortanix_like
 * A loader in the order of the Rust one: ELRANGE reserved with anonymous SHARED memory, one page an
 * ioctl from an anonymous buffer that is used again for each, all parts mapped before INIT, entered
 * through the vDSO's symbol as the dynamic linker knows it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static void add_page_by_page(const struct encl_seg *s)
{
	static uint8_t buffer[PAGE] __attribute__((aligned(4096)));

	for (uint64_t at = 0; at < s->len; at += PAGE) {
		struct secinfo info = {.flags = s->flags};
		struct sgx_enclave_add_pages arg = {.src = (uint64_t)buffer, .offset = s->off + at,
						    .length = PAGE, .secinfo = (uint64_t)&info,
						    .flags = s->measure};

		if (s->repeat)
			memset(buffer, 0, PAGE);
		else
			memcpy(buffer, s->src + at, PAGE);
		/* This loader does not loop on count: no signal may cut a page short. */
		if (ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) || arg.count != PAGE)
			bail("add", strerror(errno));
	}
}

int main(void)
{
	void *p, *vdso, *symbol = NULL;

	if (encl_plan(&e, &(struct encl_opts){.threads = 2, .heap = 8 * PAGE}) || encl_sign(&e)
	    || encl_open(&e))
		bail("plan", e.err);
	p = mmap(NULL, 2 * e.size, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!check(p != MAP_FAILED, "reserve_shared", "%s", strerror(errno)))
		return 1;
	e.base = ((uint64_t)p + e.size - 1) & ~(e.size - 1);
	if (encl_create(&e))
		bail("create", e.err);
	for (int i = 0; i < e.nseg; i++)
		add_page_by_page(&e.seg[i]);
	check(encl_map(&e) == 0, "map_before_init", "%s", e.err);
	/* Before INIT there is nothing to enter: EENTER refuses with #GP. */
	{
		struct sgx_enclave_run run = {0};
		struct call c = {.op = OP_NOP};

		encl_call(&e, 0, &c, &run);
		/* #GP, but #PF under v20, whose faults give no page before INIT. */
		CHECK_EQ(run.exception_vector, atoi(getenv("BEFORE_INIT") ?: "13"), "enter_before_init");
	}
	check(encl_init(&e) == 0, "init", "%s", e.err);
	vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	if (vdso)
		symbol = dlvsym(vdso, "__vdso_sgx_enter_enclave", "LINUX_2.6");
	check(symbol && symbol == vdso_find("__vdso_sgx_enter_enclave"), "vdso_by_linker",
	      "handle %p, symbol %p", vdso, symbol);
	check(encl_op(&e, OP_SUM, 4, 100, 0, 0) == mix(4, 100), "ecall", "%s", e.err);
	return tap_failed;
}
