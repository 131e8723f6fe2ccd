/* SPDX-License-Identifier: MIT
 *
 * usage: movedvdso
 * A program that unmaps its vDSO, or moves it, as what restores checkpoints does: before it opens the
 * device, and when its enclave runs. What it moved works where it is now; without one it enters by
 * ENCLU itself.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

enum { UNMAP, MOVE };

static struct encl e;

/* The mapping that AT_SYSINFO_EHDR is in. */
static bool mapping(uint64_t *start, uint64_t *end)
{
	uint64_t at = getauxval(AT_SYSINFO_EHDR);
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", start, end) == 2 && *start <= at && at < *end) {
			fclose(maps);
			return true;
		}
	fclose(maps);
	return false;
}

static void gone(int how)
{
	uint64_t start, end;
	void *to;

	if (!mapping(&start, &end))
		bail("mapping", "none");
	if (how == UNMAP) {
		if (munmap((void *)start, end - start))
			bail("munmap", strerror(errno));
		encl_vdso = NULL;
		return;
	}
	to = mmap(NULL, end - start, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mremap((void *)start, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		bail("mremap", strerror(errno));
	encl_vdso = (char *)encl_vdso + ((uint64_t)to - start);
}

static bool cpuid(void)
{
	unsigned int a, b, c, d;

	__cpuid_count(7, 0, a, b, c, d);
	return b >> 2 & 1;
}

static void sign(void)
{
	if (encl_plan(&e, &(struct encl_opts){.threads = 1}) || encl_sign(&e))
		bail("sign", e.err);
}

static void load(void)
{
	if (encl_open(&e) || encl_reserve(&e) || encl_create(&e) || encl_add_all(&e, 0) ||
	    encl_init(&e) || encl_map(&e))
		bail("load", e.err);
}

static bool calls(int how)
{
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[0]};
	struct call c = {.op = OP_SUM, .a = 3, .b = 5}, fault = {.op = OP_FAULT, .a = F_UD2};
	bool ok = true;

	for (int i = 0; i < 40; i++) {
		c.ret = 0;
		if (how == UNMAP)
			ok &= encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0;
		else
			ok &= encl_vdso_enter(&c, EENTER, &run) == 0 && run.function == EEXIT;
		ok &= c.ret == mix(3, 5);
	}
	if (how == MOVE)
		ok &= encl_vdso_enter(&fault, EENTER, &run) == 0 && run.function == ERESUME &&
		      run.exception_vector == 6;
	return ok;
}

static void in_child(int how, bool early, const char *name)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
		sign(); /* a library asks what time it is */
		if (early)
			gone(how);
		load();
		if (!early) {
			if (!calls(MOVE))
				bail("before", "wrong");
			encl_free(&e);
			sign();
			load();
			for (int i = 0; i < 5; i++)
				encl_op(&e, OP_SUM, 3, 5, 0, 0);
			gone(how);
		}
		_exit(!(cpuid() && calls(how)));
	}
	waitpid(pid, &status, 0);
	CHECK_EQ(status, 0, name);
}

int main(void)
{
	in_child(UNMAP, true, "unmapped_early");
	in_child(MOVE, true, "moved_early");
	in_child(UNMAP, false, "unmapped_late");
	in_child(MOVE, false, "moved_late");
	sign();
	gone(UNMAP);
	check(cpuid(), "cpuid", "no SGX");
	load();
	check(calls(UNMAP), "works", "wrong");
	return tap_failed;
}
