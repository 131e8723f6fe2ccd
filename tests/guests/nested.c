/* SPDX-License-Identifier: MIT
 *
 * usage: nested
 * Exceptions handled inside, through the vDSO: its user_handler enters the same TCS again, the
 * enclave's handler sees SSA[0] and mends it, ERESUME goes on. The depth is limited by NSSA, and
 * EDECCSSA gives a frame back without an ERESUME.
 */
#include <cpuid.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static struct call inner;
static struct sgx_enclave_run inner_run, outer_run;
static int handled;

/* Called by the vDSO at every way out: EEXIT (nothing to do) or a fault. */
static int mend(long rdi, long rsi, long rdx, long rsp, long r8, long r9, struct sgx_enclave_run *run)
{
	(void)rdi, (void)rsi, (void)rdx, (void)rsp, (void)r8, (void)r9;
	if (run->function == EEXIT)
		return 0;
	outer_run = *run;
	if (handled++)
		return -1;
	memset(&inner_run, 0, sizeof(inner_run));
	inner_run.tcs = run->tcs;
	if (encl_vdso_enter(&inner, EENTER, &inner_run) || inner_run.function != EEXIT)
		return -2;
	return ERESUME;
}

static void mended(const char *name, enum fault kind, uint64_t address, uint64_t len, unsigned vector,
		   unsigned code)
{
	struct call c = {.op = OP_FAULT, .a = kind, .b = address};
	struct sgx_enclave_run run = {.user_handler = (uint64_t)mend};
	int ret;

	handled = 0;
	inner = (struct call){.op = OP_HANDLE, .a = len, .b = 0x55, .c = 1, .d = len == 0};
	memset(&outer_run, 0, sizeof(outer_run));
	ret = encl_call(&e, 0, &c, &run);
	check(ret == 0 && handled == 1 && c.ret == 0x55 && inner.ret == 1
	      && outer_run.function == ERESUME && outer_run.exception_vector == vector
	      && outer_run.exception_error_code == code
	      && outer_run.exception_addr == (vector == 14 ? address & ~(PAGE - 1) : 0), name,
	      "ret %d, handled %d, result %#lx, CSSA %ld, function %u vector %u code %#x addr %#llx", ret,
	      handled, c.ret, (long)inner.ret, outer_run.function, outer_run.exception_vector,
	      outer_run.exception_error_code, outer_run.exception_addr);
}

/* NSSA faults in a row with nobody who mends: the next EENTER has no frame left. */
static void exhausted(void)
{
	struct call c = {.op = OP_FAULT, .a = F_UD2}, who = {.op = OP_WHO};
	struct sgx_enclave_run run;
	bool ok = true;
	int ret;

	for (int depth = 0; depth < NSSA; depth++) {
		memset(&run, 0, sizeof(run));
		ret = encl_call(&e, 1, &c, &run);
		ok &= ret == 0 && run.exception_vector == 6;
	}
	check(ok, "nssa_faults", "last: ret %d, vector %u", ret, run.exception_vector);
	memset(&run, 0, sizeof(run));
	ret = encl_call(&e, 1, &who, &run);
	check(ret == 0 && run.function == EENTER && run.exception_vector == 13, "cssa_is_nssa",
	      "ret %d, function %u, vector %u", ret, run.function, run.exception_vector);
}

static void edeccssa(void)
{
	struct call c = {.op = OP_FAULT, .a = F_UD2}, who = {.op = OP_WHO}, dec = {.op = OP_DECCSSA};
	struct sgx_enclave_run run = {0};
	uint32_t a = 0, b, cc, d;

	if (!__get_cpuid_count(0x12, 0, &a, &b, &cc, &d) || !(a & (1 << 11)))
		return skip("edeccssa", "CPUID.12H.0:EAX[11] is 0");
	encl_call(&e, 2, &c, &run); /* leaves CSSA = 1 */
	check(encl_do(&e, 2, &who) && who.ret == 1, "edeccssa_before", "CSSA %ld; %s", (long)who.ret, e.err);
	check(encl_do(&e, 2, &dec) && dec.ret == 1, "edeccssa", "%s", e.err);
	check(encl_do(&e, 2, &who) && who.ret == 0, "edeccssa_after", "CSSA %ld; %s", (long)who.ret, e.err);
	memset(&run, 0, sizeof(run));
	encl_call(&e, 2, &dec, &run); /* at CSSA = 0: #GP */
	CHECK_EQ(run.exception_vector, 13, "edeccssa_at_0");
}

/* ERESUME with nothing to resume (CSSA = 0) is #GP; a wrong function number is the vDSO's -EINVAL. */
static void bad_leaves(void)
{
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[3]};
	struct call c = {.op = OP_NOP};
	int ret = encl_vdso_enter(&c, ERESUME, &run);

	check(ret == 0 && run.function == ERESUME && run.exception_vector == 13, "eresume_at_0",
	      "ret %d, function %u, vector %u", ret, run.function, run.exception_vector);
	CHECK_EQ(encl_vdso_enter(&c, EEXIT, &run), -22, "vdso_leaf_4");
	CHECK_EQ(encl_vdso_enter(&c, EGETKEY, &run), -22, "vdso_leaf_1");
	memset(&run, 0, sizeof(run));
	run.tcs = e.base + e.tcs[3];
	run.reserved[215] = 1;
	CHECK_EQ(encl_vdso_enter(&c, EENTER, &run), -22, "vdso_reserved");
	memset(&run, 0, sizeof(run));
	run.tcs = e.base + e.tcs[3] + 8; /* not a page's address: #GP */
	encl_vdso_enter(&c, EENTER, &run);
	CHECK_EQ(run.exception_vector, 13, "tcs_misaligned");
	memset(&run, 0, sizeof(run));
	run.tcs = 1ull << 63; /* not canonical, whatever the width of addresses: #GP */
	encl_vdso_enter(&c, EENTER, &run);
	CHECK_EQ(run.exception_vector, 13, "tcs_not_canonical");
	memset(&run, 0, sizeof(run));
	run.tcs = e.base; /* a regular page: #PF with the SGX bit */
	encl_vdso_enter(&c, EENTER, &run);
	check(run.exception_vector == 14 && run.exception_addr == e.base, "tcs_is_code",
	      "vector %u, code %#x, addr %#llx", run.exception_vector, run.exception_error_code,
	      run.exception_addr);
}

int main(void)
{
	if (encl_load(&e, &(struct encl_opts){.threads = 4, .heap = PAGE}))
		bail("load", e.err);
	encl_op(&e, OP_NOP, 0, 0, 0, 0);
	mended("ud2", F_UD2, 0, 2, 6, 0);
	mended("divide", F_DIV, 0, 2, 0, 0);
	mended("x87", F_X87, 0, 1, 16, 0);
	mended("sse", F_SSE, 0, 4, 19, 0);
	mended("hlt", F_HLT, 0, 1, 13, 0);
	mended("read_null", F_READ, 0x10, 3, 14, 4);
	mended("write_code", F_WRITE, e.base + 8, 3, 14, 7);
	mended("execute_heap", F_JUMP, e.base + e.heap, 0, 14, 0x15);
	exhausted();
	edeccssa();
	bad_leaves();
	return tap_failed;
}
