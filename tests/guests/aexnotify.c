/* SPDX-License-Identifier: MIT
 *
 * usage: aexnotify
 * An enclave that is told of its asynchronous exits (AEX-Notify): ERESUME enters its handler, as
 * EENTER would, and the interrupted code goes on by EDECCSSA, in the way of Intel's SDK
 * (sgx_set_ssa_aexnotify(), a second phase in the interrupted frame), or by another ERESUME.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include "loader.h"
#include "tap.h"

#define SIGNALS 50
#define HW(vector) (EXITINFO_VALID | 3u << 8 | (vector))

static struct encl e;
static struct notes notes;
static volatile uint64_t started, stop;
static volatile sig_atomic_t caught;

static uint64_t turn(bool on, enum notified how, uint64_t skip)
{
	notes = (struct notes){.how = how, .skip = skip};
	return encl_op(&e, OP_NOTIFY, on, (uint64_t)&notes, 0, 0);
}

static void on_signal(int sig)
{
	(void)sig;
	caught++;
}

/* Signals for a thread inside, each sent once the enclave has dealt with the one before. */
static void *send_signals(void *thread)
{
	while (!started)
		sched_yield();
	for (uint64_t n = 0; n < SIGNALS; n++) {
		pthread_kill(*(pthread_t *)thread, SIGUSR1);
		while (__atomic_load_n(&notes.phase2, __ATOMIC_SEQ_CST) == n)
			sched_yield();
	}
	stop = 1;
	return NULL;
}

static void signals(const char *name, bool raw)
{
	struct call spin = {.op = OP_SPIN, .a = (uint64_t)&started, .b = (uint64_t)&stop};
	struct sgx_enclave_run run = {0};
	pthread_t me = pthread_self(), other;
	char what[80];
	int ret;

	started = stop = 0;
	caught = 0;
	turn(true, N_DECCSSA, 0);
	pthread_create(&other, NULL, send_signals, &me);
	ret = raw ? encl_raw_enter(&spin, e.base + e.tcs[0], EENTER) : encl_call(&e, 0, &spin, &run);
	pthread_join(other, NULL);
	check(ret == 0 && (raw || run.function == EEXIT), name, "ret %d, function %u", ret, run.function);
	snprintf(what, sizeof(what), "%s_each_is_notified", name);
	check(caught == SIGNALS && notes.phase1 == notes.phase2 && notes.phase2 >= SIGNALS, what,
	      "%d signals, %lu notifications, %lu second phases", caught, notes.phase1, notes.phase2);
	snprintf(what, sizeof(what), "%s_state", name);
	check(notes.cssa == 1 && notes.exitinfo == 0 && notes.rip - e.base < e.data, what,
	      "CSSA %lu, EXITINFO %#lx, RIP %#lx", notes.cssa, notes.exitinfo, notes.rip);
	CHECK_EQ(turn(false, 0, 0), 1, raw ? "raw_still_on" : "vdso_still_on");
}

/* The vDSO's user handler: a fault goes back in by ERESUME, and so does what the handler inside
 * has left for it by EEXIT. */
static int left, faults;
static struct sgx_enclave_run first;

static int resume(long rdi, long rsi, long rdx, long rsp, long r8, long r9, struct sgx_enclave_run *run)
{
	(void)rdi, (void)rsi, (void)rdx, (void)rsp, (void)r8, (void)r9;
	if (run->function == EEXIT)
		return left-- > 0 ? ERESUME : 0;
	if (!faults++)
		first = *run;
	return faults < 10 ? ERESUME : 0;
}

/* A fault that nobody outside mends: the enclave skips the instruction itself. */
static void mended(const char *name, enum fault kind, uint64_t address, uint64_t skip, enum notified how,
		   unsigned vector, int deep)
{
	struct call c = {.op = OP_FAULT, .a = kind, .b = address};
	struct sgx_enclave_run run = {.user_handler = (uint64_t)resume};
	char what[80];
	int ret;

	left = how == N_RESUME;
	faults = 0;
	turn(true, how, skip);
	ret = encl_call(&e, 0, &c, &run);
	check(ret == 0 && run.function == EEXIT && c.ret == 0x1234 && faults == 1 + deep
	      && first.exception_vector == vector, name, "ret %d, function %u, result %#lx, %d faults, vector %u",
	      ret, run.function, c.ret, faults, first.exception_vector);
	snprintf(what, sizeof(what), "%s_notified", name);
	check(notes.phase1 == 1u + deep && notes.phase2 == (how == N_RESUME ? 0 : 1u + deep)
	      && notes.cssa == 1u + deep && notes.exitinfo == HW(vector), what,
	      "%lu and %lu phases, CSSA %lu, EXITINFO %#lx", notes.phase1, notes.phase2, notes.cssa,
	      notes.exitinfo);
	snprintf(what, sizeof(what), "%s_then", name);
	CHECK_EQ(turn(false, 0, 0), how != N_RESUME, what);
}

/* One's own AEP and signal handler: the handler just returns. */
static void raw_fault(void)
{
	struct call c = {.op = OP_FAULT, .a = F_UD2};
	int ret;

	caught = 0;
	turn(true, N_DECCSSA, 2);
	ret = encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
	check(ret == 0 && c.ret == 0x1234 && caught == 1 && notes.phase1 == 1 && notes.phase2 == 1
	      && notes.exitinfo == HW(6), "raw_ud2", "ret %d, result %#lx, %d signals, %lu and %lu phases",
	      ret, c.ret, caught, notes.phase1, notes.phase2);
	/* Where the handler would leave to: behind the ERESUME that brought it in. */
	CHECK_EQ(notes.rcx, (uint64_t)encl_raw_aep + 3, "raw_rcx");
	turn(false, 0, 0);
}

/* Vector registers of the interrupted code: the second phase takes them from the SSA. */
static void *interrupt(void *thread)
{
	while (!__atomic_load_n(&notes.phase2, __ATOMIC_SEQ_CST)) {
		sig_atomic_t before = caught;

		/* One that comes before the thread is inside is for nobody: then another. */
		pthread_kill(*(pthread_t *)thread, SIGUSR1);
		while (caught == before)
			sched_yield();
		for (int i = 0; i < 1000 && !__atomic_load_n(&notes.phase2, __ATOMIC_SEQ_CST); i++)
			sched_yield();
	}
	stop = 1;
	return NULL;
}

static void registers(void)
{
	static struct call c;
	struct vectors before, *v = (struct vectors *)c.buf;
	struct sgx_enclave_run run = {0};
	pthread_t me = pthread_self(), other;
	int ret;

	memset(&c, 0, sizeof(c));
	c.op = OP_VECTORS;
	c.b = (uint64_t)&stop;
	for (size_t i = 0; i < sizeof(v->ymm); i++)
		v->ymm[i / 32][i % 32] = i % 32 < 16 ? (uint8_t)(i * 7 + 1) : 0;
	for (int i = 0; i < 4; i++)
		v->st[i] = i + 0.25;
	v->mxcsr = 0x9fc0;
	v->fcw = 0x27f;
	before = *v;
	stop = 0;
	turn(true, N_DECCSSA, 0);
	pthread_create(&other, NULL, interrupt, &me);
	ret = encl_call(&e, 0, &c, &run);
	pthread_join(other, NULL);
	check(ret == 0 && run.function == EEXIT && !memcmp(&before, v, sizeof(before)), "vector_registers",
	      "ret %d, function %u, MXCSR %#x, FCW %#x", ret, run.function, v->mxcsr, v->fcw);
	turn(false, 0, 0);
}

/* Without the bit in the frame nothing is told: ERESUME goes on as ever. */
static void not_asked(void)
{
	struct call c = {.op = OP_FAULT, .a = F_UD2};
	struct sgx_enclave_run run = {0};

	turn(false, N_DECCSSA, 2);
	encl_call(&e, 1, &c, &run);
	check(run.function == ERESUME && run.exception_vector == 6 && !notes.phase1, "not_asked",
	      "function %u, vector %u, %lu phases", run.function, run.exception_vector, notes.phase1);
}

int main(void)
{
	struct encl_opts opts = {.threads = 2, .heap = PAGE, .attributes = ATTR_AEXNOTIFY,
				 .miscselect = MISC_EXINFO}; /* else EXITINFO says nothing of #GP and #PF */
	struct sigaction act = {.sa_handler = on_signal};
	uint32_t a0 = 0, a1 = 0, b, c, d;
	bool notify, edeccssa;

	__get_cpuid_count(0x12, 0, &a0, &b, &c, &d);
	__get_cpuid_count(0x12, 1, &a1, &b, &c, &d);
	notify = a1 & ATTR_AEXNOTIFY;
	edeccssa = a0 & (1 << 11);
	check(notify == edeccssa, "cpuid_has_both_or_neither", "AEXNOTIFY %d, EDECCSSA %d", notify, edeccssa);
	if (!notify) {
		check(encl_load(&e, &opts) == -EIO, "ecreate_refuses", "%s", e.err);
		skip("aexnotify", "CPUID.12H.1:EAX[10] is 0");
		return tap_failed;
	}
	if (encl_load(&e, &opts))
		bail("load", e.err);
	sigaction(SIGUSR1, &act, NULL);
	signals("vdso", false);
	signals("raw", true);
	mended("ud2", F_UD2, 0, 2, N_DECCSSA, 6, 0);
	mended("hlt", F_HLT, 0, 1, N_DECCSSA, 13, 0);
	mended("write_code", F_WRITE, e.base + 8, 3, N_DECCSSA, 14, 0);
	mended("left_and_resumed", F_UD2, 0, 2, N_RESUME, 6, 0);
	mended("fault_in_the_handler", F_UD2, 0, 2, N_FAULT, 6, 1);
	sigaction(SIGILL, &act, NULL);
	raw_fault();
	registers();
	not_asked();
	return tap_failed;
}
