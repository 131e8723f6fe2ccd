/* SPDX-License-Identifier: MIT
 *
 * More of reports.c, named in the same way: an enclave that goes while threads are inside, faults that
 * are met again, pages without rights, workers with enclaves of their own.
 *   edgeless: edgelesssys/edgelessrt and ego   lkl: lsds/sgx-lkl   mystikos: deislabs/mystikos
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define R PROT_READ
#define W PROT_WRITE
#define X PROT_EXEC
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)
#define POOL 8 /* pages for EAUG */
#define FETCH 0x14 /* #PF of user code: an instruction, of a page that is not present */
#define SGX 0x8000

static struct encl e;
static uint64_t pool;
static struct call c, h;
static struct sgx_enclave_run run;

static uint64_t load(struct encl *of, const struct encl_opts *opts)
{
	struct encl_seg seg = {.name = "pool", .len = POOL * PAGE};

	if (encl_load(of, opts))
		bail("load", of->err);
	seg.off = of->free;
	encl_map_seg(of, &seg, R | W);
	return of->base + of->free;
}

static bool sums(struct encl *of, int thread)
{
	struct call sum = {.op = OP_SUM, .a = 3, .b = 40};

	return encl_do(of, thread, &sum) && sum.ret == mix(3, 40);
}

static void told(const char *name, int ret, const struct sgx_enclave_run *run, uint32_t function, unsigned vector,
		 unsigned code, uint64_t addr)
{
	check(ret == 0 && run->function == function && run->exception_vector == vector
	      && run->exception_error_code == code && (vector != 14 || run->exception_addr == addr), name,
	      "ret %d, function %u, vector %u, code %#x, address %#lx", ret, run->function, run->exception_vector,
	      run->exception_error_code, (unsigned long)run->exception_addr);
}

/* -- an enclave that goes ------------------------------------------------------------------- */

struct inside {
	struct encl *e;
	int thread, ret;
	volatile uint64_t flag, stop;
	struct sgx_enclave_run run;
	struct call c;
};

static void *spins(void *arg)
{
	struct inside *in = arg;

	in->c = (struct call){.op = OP_SPIN, .a = (uint64_t)&in->flag, .b = (uint64_t)&in->stop};
	in->ret = encl_call(in->e, in->thread, &in->c, &in->run);
	return NULL;
}

static pthread_t begin(struct inside *in, struct encl *e, int thread)
{
	pthread_t t;

	*in = (struct inside){.e = e, .thread = thread};
	pthread_create(&t, NULL, spins, in);
	while (!in->flag)
		;
	return t;
}

/* Who destroys an enclave does not wait for the threads inside: each faults where it is. */
static void goes(void)
{
	struct encl other;
	struct inside in[2];
	pthread_t t[2];
	uint64_t code, base;

	load(&e, &(struct encl_opts){.threads = 2, .size = 1 << 20});
	code = e.base + e.entry;
	base = e.base;
	for (int i = 0; i < 2; i++)
		t[i] = begin(&in[i], &e, i);
	close(e.fd);
	munmap((void *)e.base, e.size);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], NULL);
		told(i ? "intel_182" : "oe_2775", in[i].ret, &in[i].run, ERESUME, 14, FETCH,
		     in[i].run.exception_addr);
		check(in[i].run.exception_addr >= base && in[i].run.exception_addr < base + e.size
		      && !(in[i].run.exception_addr % PAGE), i ? "intel_182_page" : "oe_2775_page", "%#lx, code %#lx",
		      (unsigned long)in[i].run.exception_addr, code);
	}
	/* And what asks for it again finds no TCS. */
	in[0].run = (struct sgx_enclave_run){.tcs = base + e.tcs[0]};
	in[0].ret = encl_vdso_enter(&in[0].c, ERESUME, &in[0].run);
	check(in[0].ret == 0 && in[0].run.function == ERESUME && in[0].run.exception_vector == 14
	      && in[0].run.exception_addr == base + e.tcs[0], "oe_2733", "function %u, vector %u",
	      in[0].run.function, in[0].run.exception_vector);
	/* Another one takes its place, at the same addresses. */
	encl_plan(&other, &(struct encl_opts){.threads = 2, .size = 1 << 20});
	encl_sign(&other);
	encl_open(&other);
	other.base = (uint64_t)mmap((void *)base, other.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	other.secs.base = other.base;
	check(!encl_create(&other) && !encl_add_all(&other, 0) && !encl_init(&other) && !encl_map(&other)
	      && sums(&other, 0), "intel_846", "%s", other.err);
	encl_free(&other);
}

/* A thread that has aborted leaves the enclave to the others. */
static void aborts(void)
{
	struct inside in;
	struct call ud2 = {.op = OP_FAULT, .a = F_UD2};
	pthread_t t;
	int ret;

	load(&e, &(struct encl_opts){.threads = 2});
	t = begin(&in, &e, 0);
	run = (struct sgx_enclave_run){0};
	ret = encl_call(&e, 1, &ud2, &run);
	told("intel_247", ret, &run, ERESUME, 6, 0, 0);
	in.stop = 1;
	pthread_join(t, NULL);
	check(in.ret == 0 && in.run.function == EEXIT && sums(&e, 0), "intel_247_others", "%u", in.run.function);
	encl_free(&e);
}

/* -- faults ------------------------------------------------------------------------------------- */

/* One ECALL to its EEXIT, from one frame, to which it returns; `met` of each exception, false to give it up. */
static int ecall(int thread, bool (*met)(int n, int ret))
{
	int ret;

	run = (struct sgx_enclave_run){.tcs = e.base + e.tcs[thread]};
	h = (struct call){.op = OP_HANDLE};
	for (int n = 0, leaf = EENTER;; n++, leaf = (int)run.function) {
		ret = encl_vdso_enter(&c, (uint32_t)leaf, &run);
		if (ret || run.function == EEXIT || !met(n, ret))
			return ret;
	}
}

/* A page that was added at a touch and is not accepted faults each time; then a handler inside accepts it. */
static bool pending(int n, int ret)
{
	told(n ? "driver_145_again" : "driver_145", ret, &run, ERESUME, 14, SGX | 5, pool);
	if (n < 3)
		return true;
	check(encl_do(&e, 0, &h) && h.exitinfo == (1ull << 31 | 3 << 8 | 14) && h.maddr == pool + 8
	      && h.errcd == (SGX | 5), "oe_3923", "EXITINFO %#lx, MADDR %#lx, ERRCD %#lx", h.exitinfo, h.maddr, h.errcd);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, pool, NEW, 0, NULL), 0, "gramine_1513_accept");
	return n < 4;
}

/* In a handler, EACCEPT of a page that is not there yet: Linux adds it, and tells nobody. */
static bool nested(int n, int ret)
{
	(void)n;
	told("gramine_1513_outer", ret, &run, ERESUME, 14, 4, pool + POOL * PAGE);
	CHECK_EQ(encl_enclu(&e, 1, EACCEPT, pool + PAGE, NEW, 0, NULL), 0, "gramine_1513_nested");
	return false;
}

/* A null pointer: outside of ELRANGE, too, MADDR is whole. */
static bool null(int n, int ret)
{
	(void)n;
	told("edgeless_273", ret, &run, ERESUME, 14, 4, 0);
	check(encl_do(&e, 2, &h) && h.maddr == 8 && h.errcd == 4, "oe_4569", "MADDR %#lx, ERRCD %#lx", h.maddr, h.errcd);
	return false;
}

static bool no_rights(int n, int ret)
{
	told("graphene_172", ret, &run, ERESUME, 14, 4, pool + PAGE);
	mprotect((void *)(pool + PAGE), PAGE, R | W);
	return n < 1;
}

/* Without EXINFO a page fault is none of the enclave's business. */
static bool untold(int n, int ret)
{
	(void)n;
	check(ret == 0 && encl_do(&e, 0, &h) && h.exitinfo == 0, "lkl_680", "EXITINFO %#lx", h.exitinfo);
	return false;
}

static void unreadable(uint64_t leaf, int thread, uint64_t flags, const char *name)
{
	struct sgx_enclave_run left;
	int64_t ret = encl_enclu(&e, thread, leaf, pool + PAGE, flags, 0, &left);

	check(ret == -1 && left.exception_vector == 14 && left.exception_addr == pool + PAGE
	      && !(left.exception_error_code & (SGX | 1)), name, "%ld, vector %u, code %#x", (long)ret,
	      left.exception_vector, left.exception_error_code);
}

static void faults(void)
{
	pool = load(&e, &(struct encl_opts){.threads = 8, .size = 1 << 20, .miscselect = 1});
	encl_op(&e, OP_NOP, 0, 0, 0, 0);
	c = (struct call){.op = OP_PEEK, .a = pool + 8, .ret = 1};
	check(ecall(0, pending) == 0 && run.function == EEXIT && c.ret == 0, "gramine_1513", "function %u", run.function);
	c.a = pool + POOL * PAGE; /* behind what is mapped */
	ecall(1, nested);
	c.a = 8;
	ecall(2, null);
	/* Page tables without any right: what is accepted or extended has to be readable there. */
	mprotect((void *)(pool + PAGE), PAGE, PROT_NONE);
	unreadable(EMODPE, 3, SI_REG | SI_R | SI_W, "emm_1_emodpe");
	unreadable(EACCEPT, 4, NEW, "emm_1_eaccept");
	c = (struct call){.op = OP_PEEK, .a = pool + PAGE, .ret = 1};
	check(ecall(5, no_rights) == 0 && run.function == EEXIT && c.ret == 0, "graphene_172_resumed", "function %u",
	      run.function);
	encl_free(&e);
	pool = load(&e, &(struct encl_opts){.size = 1 << 20});
	c.a = pool + 8;
	ecall(0, untold);
	encl_free(&e);
}

/* -- loaders --------------------------------------------------------------------------------------- */

static void loaders(void)
{
	struct encl own;
	struct secinfo info = {.flags = SI_REG | SI_R | SI_W};
	struct sgx_enclave_add_pages add = {.secinfo = (uint64_t)&info, .length = 4 * PAGE};
	bool all = true;
	int status;

	/* Pages that are there: EBUSY, and how many came before. */
	add.src = (uint64_t)mmap(NULL, 4 * PAGE, R | W, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	encl_plan(&e, &(struct encl_opts){.size = 1 << 20});
	encl_sign(&e);
	encl_open(&e);
	encl_reserve(&e);
	encl_create(&e);
	encl_add_all(&e, 0);
	add.offset = e.free;
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add), 0, "graphene_2049_new");
	add.offset = e.free + 4 * PAGE;
	add.length = PAGE;
	add.count = 0;
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add), 0, "graphene_2049_one");
	munmap((void *)(add.src + 2 * PAGE), PAGE);
	add.offset = e.free + 5 * PAGE;
	add.length = 4 * PAGE;
	add.count = 0;
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add), EFAULT, "edp_365");
	CHECK_EQ(add.count, 2 * PAGE, "edp_365_count");
	add.offset = e.free + 3 * PAGE;
	add.length = 2 * PAGE;
	add.count = 7;
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add), EBUSY, "graphene_2055");
	CHECK_EQ(add.count, 0, "graphene_2055_count");
	encl_free(&e);
	/* Workers of a server, each with an enclave of its own, while the master has one. */
	load(&e, &(struct encl_opts){0});
	for (int i = 0; i < 5; i++)
		if (!fork()) {
			bool ok = !encl_load(&own, &(struct encl_opts){0}) && sums(&own, 0) && sums(&own, 0);

			encl_free(&own);
			munmap((void *)e.base, e.size);
			_exit(ok ? 0 : 1);
		}
	while (wait(&status) > 0)
		all &= status == 0;
	check(all && sums(&e, 0), "intel_662", "%d", all);
	encl_free(&e);
}

/* -- signals ------------------------------------------------------------------------------------------ */

static struct encl stormed;
static volatile int depth, deepest, refused;

static void nests(int sig)
{
	struct call c = {.op = OP_WHO};
	struct sgx_enclave_run run = {0};
	int here = ++depth;

	if (here > deepest)
		deepest = here;
	if (here < NSSA + 2)
		raise(sig);
	if (encl_call(&stormed, 0, &c, &run) == 0 && run.function == EENTER && run.exception_vector == 13)
		refused++;
	depth--;
}

/* Handlers that nest: an entry beyond the last SSA frame is #GP, and all else goes on. */
static void storm(void)
{
	struct sigaction act = {.sa_handler = nests, .sa_flags = SA_NODEFER};
	struct inside in;
	pthread_t t;

	load(&stormed, &(struct encl_opts){0});
	sigaction(SIGUSR1, &act, NULL);
	t = begin(&in, &stormed, 0);
	pthread_kill(t, SIGUSR1);
	while (!deepest || depth)
		;
	in.stop = 1;
	pthread_join(t, NULL);
	check(in.ret == 0 && in.run.function == EEXIT && deepest == NSSA + 2 && refused == 0 && sums(&stormed, 0),
	      "gramine_108", "function %u, depth %d, %d refused", in.run.function, deepest, refused);
	encl_free(&stormed);
}

int main(void)
{
	goes();
	aborts();
	faults();
	loaders();
	storm();
	return tap_failed;
}
