/* SPDX-License-Identifier: MIT
 *
 * usage: threads
 * Eight threads inside at once, each on a TCS of its own; a TCS that is busy; a TCS made after INIT.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "rawsig.h"
#include "tap.h"

#define THREADS 8
#define ROUNDS 300000

static struct encl e;
static __thread int own = -1;

static void *worker(void *arg)
{
	int n = (int)(intptr_t)arg;
	uint64_t expected = mix((uint64_t)n, ROUNDS);
	struct call meet = {.op = OP_MEET, .a = e.base + e.heap, .b = THREADS, .c = 400000000};
	struct call sum = {.op = OP_SUM, .a = (uint64_t)n, .b = ROUNDS}, who = {.op = OP_WHO};

	own = n;
	if (!encl_do(&e, n, &meet) || meet.ret)
		return "did not meet the others inside";
	if (!encl_do(&e, n, &sum) || sum.ret != expected)
		return "wrong sum";
	if (!encl_do(&e, n, &who) || who.b != e.base + e.tcs[n] || who.c != (uint64_t)n
	    || who.d != e.tcs[n] + PAGE + NSSA * PAGE)
		return "TCS, GS or FS is another thread's";
	if (own != n)
		return "FS was not given back";
	return NULL;
}

static void all_inside(void)
{
	pthread_t t[THREADS];
	void *why, *first = NULL;

	for (intptr_t n = 0; n < THREADS; n++)
		pthread_create(&t[n], NULL, worker, (void *)n);
	for (int n = 0; n < THREADS; n++) {
		pthread_join(t[n], &why);
		first = first ? first : why;
	}
	check(!first, "eight_at_once", "%s; %s", (char *)first, e.err);
}

/* Threads that come and go on one TCS. */
static void *one_call(void *arg)
{
	struct call c = {.op = OP_SUM, .a = (uint64_t)arg, .b = 3};

	return encl_do(&e, 0, &c) && c.ret == mix((uint64_t)arg, 3) ? NULL : e.err;
}

static void churn(void)
{
	void *first = NULL;
	pthread_t t;

	for (intptr_t i = 0; i < 100 && !first; i++) {
		pthread_create(&t, NULL, one_call, (void *)i);
		pthread_join(t, &first);
	}
	check(!first, "come_and_go", "%s", (char *)first);
}

static volatile uint64_t inside, stop;

static void *spinner(void *arg)
{
	struct call c = {.op = OP_SPIN, .a = (uint64_t)&inside, .b = (uint64_t)&stop};

	(void)arg;
	return encl_do(&e, 0, &c) ? NULL : e.err;
}

static void busy(void)
{
	struct sgx_enclave_run run = {0};
	struct call c = {.op = OP_NOP};
	pthread_t t;
	void *why;
	int ret;

	pthread_create(&t, NULL, spinner, NULL);
	while (!inside)
		usleep(100);
	ret = encl_call(&e, 0, &c, &run);
	/* SDM, EENTER: #GP(0) if the TCS is in use; the leaf that faulted is reported. */
	check(ret == 0 && run.function == EENTER && run.exception_vector == 13
	      && run.exception_error_code == 0 && run.exception_addr == 0, "busy_vdso",
	      "ret %d, function %u, vector %u, code %u, addr %#llx", ret, run.function,
	      run.exception_vector, run.exception_error_code, run.exception_addr);
	ret = raw_enter(&e, 0, &c, EENTER);
	check(ret == -1 && raw_fault.sig == SIGSEGV && raw_fault.code == SI_KERNEL && raw_fault.addr == 0
	      && raw_fault.trapno == 13 && raw_fault.rip == (uint64_t)encl_raw_enclu
	      && raw_fault.rax == EENTER, "busy_raw", "ret %d, signal %d, code %d, trap %lu, rax %lu",
	      ret, raw_fault.sig, raw_fault.code, raw_fault.trapno, raw_fault.rax);
	stop = 1;
	pthread_join(t, &why);
	check(!why, "spinner_left", "%s", (char *)why);
	check(encl_do(&e, 0, &c), "free_again", "%s", e.err);
}

/* Stack, TCS, SSA, thread-local page, all by EAUG; then a TCS by MODIFY_TYPES. */
static void dynamic(void)
{
	uint64_t pages = STACK_PAGES + 1 + NSSA + 1, tcs_off = e.free + STACK_PAGES * PAGE;
	uint64_t tcs = e.base + tcs_off;
	struct tcs init = {.ossa = tcs_off + PAGE, .nssa = NSSA, .oentry = e.entry,
			   .ofsbase = tcs_off + PAGE + NSSA * PAGE, .ogsbase = tcs_off + PAGE + NSSA * PAGE,
			   .fslimit = 0xffffffff, .gslimit = 0xffffffff};
	struct sgx_enclave_modify_types mod = {.offset = tcs_off, .length = PAGE, .page_type = 1};
	struct encl_seg seg = {.name = "dynamic", .off = e.free, .len = pages * PAGE};
	struct call sum = {.op = OP_SUM, .a = 99, .b = ROUNDS};
	int64_t bad = 0;

	if (encl_map_seg(&e, &seg, PROT_READ | PROT_WRITE))
		return (void)check(false, "dynamic_map", "%s", e.err);
	for (uint64_t i = 0; i < pages; i++)
		bad |= encl_enclu(&e, 0, EACCEPT, e.base + e.free + i * PAGE,
				  SI_REG | SI_R | SI_W | SI_PENDING, 0, NULL);
	CHECK_EQ(bad, 0, "dynamic_eaccept");
	encl_op(&e, OP_COPY, tcs, (uint64_t)&init, sizeof(init), 0);
	/* It is still an ordinary page. */
	{
		struct sgx_enclave_run run = {0};
		struct call c = {.op = OP_NOP};
		int ret;

		e.tcs[1] = tcs_off;
		ret = encl_call(&e, 1, &c, &run);
		check(ret == 0 && run.function == EENTER && run.exception_vector != 0, "not_yet_a_tcs",
		      "ret %d, function %u", ret, run.function);
	}
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &mod), 0, "modify_types");
	CHECK_EQ(mod.count, PAGE, "modify_types_count");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, tcs, SI_TCS | SI_MODIFIED, 0, NULL), 0, "accept_tcs");
	check(encl_do(&e, 1, &sum) && sum.ret == mix(99, ROUNDS), "dynamic_enters", "%s", e.err);
}

int main(void)
{
	if (encl_load(&e, &(struct encl_opts){.threads = THREADS, .heap = PAGE, .size = 1 << 20}))
		bail("load", e.err);
	raw_catch_faults();
	all_inside();
	churn();
	busy();
	dynamic();
	return tap_failed;
}
