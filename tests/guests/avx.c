/* SPDX-License-Identifier: MIT
 *
 * usage: avx
 * x87, SSE and AVX registers hold a pattern inside while timer signals interrupt; handlers and an
 * AEP that spoils everything must not change them, and outside nothing of them may be seen: an AEX
 * leaves synthetic state (SDM, "Synthetic state").
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#include "again.h"
#include "loader.h"
#include "tap.h"

static struct encl e;
static volatile uint64_t stop;
static volatile int interrupts, leaks;
static char leak[120];
static bool avx;
static struct vectors pattern;

static void leaked(const char *what, uint64_t value)
{
	if (!leaks++)
		snprintf(leak, sizeof(leak), "%s = %#lx", what, value);
}

/* The FPU image that the kernel saved for the interrupted thread: FXSAVE, then XSTATE_BV, YMM. */
static void look(const uint8_t *image)
{
	uint32_t magic, mxcsr;
	uint64_t bv = 3, words[32];
	uint16_t fcw;

	memcpy(&magic, image + 464, 4);
	if (magic == 0x46505853) /* FP_XSTATE_MAGIC1: the extended part is there */
		memcpy(&bv, image + 512, 8);
	memcpy(&fcw, image, 2);
	memcpy(&mxcsr, image + 24, 4);
	if ((bv & 1) && fcw != 0x37f)
		leaked("FCW", fcw);
	if ((bv & 1) && image[4]) /* the abridged tag word: which x87 registers are in use */
		leaked("FTW", image[4]);
	if ((mxcsr & ~0x3fu) != 0x1f80) /* the flags may be set or not: both are documented */
		leaked("MXCSR", mxcsr);
	memcpy(words, image + 160, 256);
	for (int i = 0; (bv & 2) && i < 32; i++)
		if (words[i])
			leaked("XMM", words[i]);
	if (magic != 0x46505853 || !(bv & 4))
		return;
	memcpy(words, image + 576, 256);
	for (int i = 0; i < 32; i++)
		if (words[i])
			leaked("YMM", words[i]);
}

static void spoil(void)
{
	__asm__ volatile("fninit; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi; fldpi" ::: "memory");
	__asm__ volatile("fninit");
	if (avx)
		__asm__ volatile("vpcmpeqd %%xmm0, %%xmm0, %%xmm0; vinsertf128 $1, %%xmm0, %%ymm0, %%ymm0;"
				 "vmovaps %%ymm0, %%ymm1; vmovaps %%ymm0, %%ymm7; vmovaps %%ymm0, %%ymm15"
				 ::: "xmm0", "xmm1", "xmm7", "xmm15");
	else
		__asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm7, %%xmm7; pcmpeqd %%xmm15, %%xmm15"
				 ::: "xmm0", "xmm7", "xmm15");
}

static void handler(int sig, siginfo_t *info, void *context)
{
	mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;

	(void)sig, (void)info;
	again();
	/* At the AEP itself: not outside, and not amid the instructions of the spoiling AEP. */
	if (m->gregs[REG_RAX] != ERESUME || m->gregs[REG_RBX] != (greg_t)(e.base + e.tcs[0])
	    || m->gregs[REG_RIP] != m->gregs[REG_RCX])
		return;
	look((const uint8_t *)m->fpregs);
	spoil();
	if (++interrupts >= 20)
		stop = 1;
}

static void run(const char *name, int way)
{
	static struct call c __attribute__((aligned(64)));
	struct vectors out;
	uint64_t tcs = e.base + e.tcs[0];
	char full[80];
	bool left;

	memset(&c, 0, sizeof(c));
	c.op = OP_VECTORS;
	c.a = avx;
	c.b = (uint64_t)&stop;
	memcpy(c.buf, &pattern, sizeof(pattern));
	stop = 0;
	interrupts = leaks = 0;
	again_begin(1000);
	left = way == 0 ? encl_do(&e, 0, &c)
	     : way == 1 ? encl_raw_enter(&c, tcs, EENTER) == 0 : encl_raw_enter_spoil(&c, tcs, EENTER) == 0;
	again_end();
	memcpy(&out, c.buf, sizeof(out));
	snprintf(full, sizeof(full), "%s_entered", name);
	check(left && interrupts >= 20, full, "%d interrupts; %s", interrupts, e.err);
	snprintf(full, sizeof(full), "%s_ymm_kept", name);
	check(!memcmp(out.ymm, pattern.ymm, sizeof(out.ymm)), full, "ymm0 is %016lx",
	      *(uint64_t *)out.ymm);
	snprintf(full, sizeof(full), "%s_x87_kept", name);
	check(!memcmp(out.st, pattern.st, sizeof(out.st)) && out.fcw == pattern.fcw, full,
	      "st %g %g %g %g, FCW %#x", out.st[0], out.st[1], out.st[2], out.st[3], out.fcw);
	snprintf(full, sizeof(full), "%s_mxcsr_kept", name);
	check((out.mxcsr & ~0x3fu) == (pattern.mxcsr & ~0x3fu), full, "MXCSR %#x, was %#x", out.mxcsr,
	      pattern.mxcsr);
	snprintf(full, sizeof(full), "%s_synthetic", name);
	check(!leaks, full, "%d leaks, first %s", leaks, leak);
}

int main(void)
{
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	uint32_t a = 0, b = 0, c = 0, d = 0;

	avx = __get_cpuid_count(0x12, 1, &a, &b, &c, &d) && (c & 4) && __builtin_cpu_supports("avx");
	if (encl_load(&e, &(struct encl_opts){.xfrm = avx ? 7 : 3}))
		bail("load", e.err);
	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 32; k++) /* without AVX only the low half of each is used */
			pattern.ymm[i][k] = (uint8_t)(i * 16 + k + 1);
	pattern.st[0] = 1.5;
	pattern.st[1] = -2.25;
	pattern.st[2] = 1e300;
	pattern.st[3] = 4.75;
	static uint8_t fxsave[512] __attribute__((aligned(16)));
	uint32_t mxcsr_mask;
	__asm__ volatile("fxsave %0" : "=m"(fxsave));
	memcpy(&mxcsr_mask, fxsave + 28, 4);
	pattern.mxcsr = 0x7f80 | (mxcsr_mask & 0x20000); /* round to zero; AMD's MM */
	pattern.fcw = 0xe7f; /* x87: round to zero, 53 bits */
	sigaction(SIGALRM, &act, NULL);
	if (!avx)
		skip("avx", "CPUID.12H.1:ECX[2] is 0: SSE and x87 only");
	run("vdso", 0);
	run("raw", 1);
	run("raw_spoiled", 2);
	return tap_failed;
}
