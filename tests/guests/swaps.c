/* SPDX-License-Identifier: MIT
 *
 * usage: swaps N
 * A thread that has entered an enclave changes its mask again and again: N times swapcontext(3), and by an
 * instruction of its own, whose answers are the kernel's. What it blocks of the signals of exceptions is
 * blocked all the same, by whichever way it was changed, and an exception inside is the vDSO's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define STACK (64 << 10)
#define ALL ((uint64_t *)-1)

static struct encl e;
static ucontext_t here, there, third;
static volatile int delivered, once;

static void handler(int number)
{
	delivered += number;
}

static void other(void)
{
	for (;;)
		swapcontext(&there, &here);
}

/* rt_sigprocmask, its number loaded right before. */
__attribute__((noinline)) static long masked(long how, const void *set, void *old, long size)
{
	register long r10 __asm__("r10") = size;
	long answer;

	__asm__ volatile("movl $14, %%eax\n\tsyscall"
			 : "=a"(answer)
			 : "D"(how), "S"(set), "d"(old), "r"(r10)
			 : "rcx", "r11", "memory");
	return answer;
}

static uint64_t now(void)
{
	uint64_t set = 0;

	masked(SIG_BLOCK, NULL, &set, 8);
	return set;
}

/* A division by zero inside, which the vDSO tells of, and its thread gone on with. */
static bool faults(void)
{
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[0]};
	struct call c = {.op = OP_FAULT, .a = F_DIV}, h = {.op = OP_HANDLE, .a = 2};
	bool ok = encl_vdso_enter(&c, EENTER, &run) == 0 && run.function == ERESUME && run.exception_vector == 0;

	ok &= encl_vdso_enter(&h, EENTER, &run) == 0;
	return ok & (encl_vdso_enter(&c, ERESUME, &run) == 0) & (run.function == EEXIT);
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 100, set, old = 0;
	const uint64_t fpe = 1 << (SIGFPE - 1), usr = 1 << (SIGUSR1 - 1);
	struct timespec a, b;
	sigset_t blocked, before;
	bool ok = true;

	if (encl_load(&e, &(struct encl_opts){.threads = 1}))
		bail("load", e.err);
	encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
	signal(SIGFPE, handler);
	for (int i = 0; i < 40; i++) /* until no entry stops */
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	getcontext(&there);
	there.uc_stack.ss_sp = malloc(STACK);
	there.uc_stack.ss_size = STACK;
	makecontext(&there, other, 0);
	for (int i = 0; i < 20; i++)
		swapcontext(&here, &there);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (uint64_t i = 0; i < n; i++)
		swapcontext(&here, &there);
	clock_gettime(CLOCK_MONOTONIC, &b);
	if (n)
		fprintf(stderr, "swap_ns %lld\n",
			((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec) / (long long)n);

	for (uint64_t i = 0; i < 40; i++) { /* what the instruction says */
		set = i % 2 ? usr : 0;
		ok &= masked(SIG_SETMASK, &set, &old, 8) == 0 && old == (i % 2 ? 0 : i ? usr : old);
	}
	CHECK_EQ(ok, true, "answers");
	CHECK_EQ(masked(SIG_SETMASK, (void *)8, NULL, 8), -EFAULT, "bad_set");
	CHECK_EQ(masked(SIG_SETMASK, ALL, NULL, 8), -EFAULT, "far_set");
	CHECK_EQ(masked(SIG_BLOCK, &usr, (void *)8, 8), -EFAULT, "bad_old");
	CHECK_EQ(masked(SIG_BLOCK, &usr, NULL, 4), -EINVAL, "size");
	CHECK_EQ(masked(7, &usr, NULL, 8), -EINVAL, "how");
	CHECK_EQ(masked(SIG_UNBLOCK, &usr, NULL, 8), 0, "unblock");
	CHECK_EQ(now(), 0, "none");
	CHECK_EQ(masked(SIG_BLOCK, &usr, &old, 8), 0, "block");
	CHECK_EQ(now(), usr, "one");

	/* What is an exception's, by the same instructions. */
	set = fpe | usr;
	CHECK_EQ(masked(SIG_SETMASK, &set, NULL, 8), 0, "forced");
	ok = true;
	for (int i = 0; i < 4; i++)
		ok &= faults();
	CHECK_EQ(ok, true, "faults_blocked");
	CHECK_EQ(now(), set, "still_blocked");
	raise(SIGFPE);
	CHECK_EQ(delivered, 0, "pending");
	sigemptyset(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	CHECK_EQ(delivered, SIGFPE, "delivered");
	CHECK_EQ(sigismember(&before, SIGFPE), 1, "was_blocked");
	CHECK_EQ(now(), 0, "none_again");
	for (int i = 0; i < 40; i++)
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	/* And by a context's. */
	getcontext(&third);
	if (!once) {
		once = 1;
		sigaddset(&third.uc_sigmask, SIGFPE);
		setcontext(&third);
	}
	CHECK_EQ(now(), fpe, "by_context");
	CHECK_EQ(faults(), true, "faults_again");
	CHECK_EQ(now(), fpe, "still_by_context");
	CHECK_EQ(delivered, SIGFPE, "no_more");
	return tap_failed;
}
