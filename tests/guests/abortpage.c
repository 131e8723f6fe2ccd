/* SPDX-License-Identifier: MIT
 *
 * usage: abortpage
 * With no thread inside, no page of an enclave can be read or written by code outside: loads give all
 * ones, stores are dropped, in every page that the VMA lets be touched. (softsgx run --abort-page)
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

int main(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	struct encl e = {0};
	struct sgx_enclave_run run = {0};
	struct call fault = {.op = OP_FAULT};
	volatile uint64_t *data, *code;
	uint64_t straddling[2];

	if (encl_load(&e, &opts))
		bail("load", e.err);
	data = (uint64_t *)(e.base + e.heap);
	code = (uint64_t *)(e.base + e.entry);
	check(*data == ~0ull, "before", "%lx", *data);
	*data = 1;
	check(encl_op(&e, OP_PEEK, (uint64_t)data, 0, 0, 0) == 0, "store_dropped", "it was stored");
	encl_op(&e, OP_POKE, (uint64_t)data, 0x1234, 0, 0);
	check(*data == ~0ull, "data", "%lx", *data);
	check(*code == ~0ull, "code", "%lx", *code);
	/* One instruction over two pages. */
	memcpy(straddling, (char *)data + 4096 - 8, 16);
	check(straddling[0] == ~0ull && straddling[1] == ~0ull, "two_pages", "%lx %lx", straddling[0], straddling[1]);
	__atomic_fetch_add((uint64_t *)data, 5, __ATOMIC_SEQ_CST);
	check(encl_op(&e, OP_PEEK, (uint64_t)data, 0, 0, 0) == 0x1234, "inside", "not what was stored inside");
	/* Left by an exception: the same. */
	encl_call(&e, 0, &fault, &run);
	check(run.function == 3 && *data == ~0ull, "after_aex", "%lx, left by %u", *data, run.function);
	return tap_failed;
}
