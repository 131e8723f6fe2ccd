/* SPDX-License-Identifier: MIT
 *
 * usage: xfrm
 * For each XFRM that CPUID.12H.1 lets an enclave have: the vector registers and masks that the caller
 * has set are the enclave's when it is entered. Timer signals interrupt it; the handler sees initial
 * state of the features in XFRM alone and spoils all of them; after ERESUME and EEXIT everything is
 * as it was. No enclave code is needed for it, so AVX-512 is tested by one that has none.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#include "again.h"
#include "loader.h"
#include "tap.h"

#define AVX 4ull
#define AVX512 0xe0ull
#define ALL(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)
#define HIGH(F) F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23) F(24) F(25) F(26) F(27) F(28) F(29) F(30) F(31)
#define MASKS(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7)

struct registers {
	uint8_t v[32][64];
	uint64_t k[8];
};

static struct registers set, got;
static struct encl e;
static volatile uint64_t words[2];
static volatile int interrupts, bad;
static uint64_t machine; /* what this CPU has */

/* clang-format off */
#define LOAD_Z(n) "vmovdqu64 " #n "*64(%0), %%zmm" #n "\n"
#define STORE_Z(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%0)\n"
#define LOAD_Y(n) "vmovdqu " #n "*64(%0), %%ymm" #n "\n"
#define STORE_Y(n) "vmovdqu %%ymm" #n ", " #n "*64(%0)\n"
#define LOAD_X(n) "movdqu " #n "*64(%0), %%xmm" #n "\n"
#define STORE_X(n) "movdqu %%xmm" #n ", " #n "*64(%0)\n"
#define LOAD_K(n) "kmovq 2048+" #n "*8(%0), %%k" #n "\n"
#define STORE_K(n) "kmovq %%k" #n ", 2048+" #n "*8(%0)\n"
/* clang-format on */

static inline __attribute__((always_inline)) void load(const struct registers *r)
{
	if (machine & AVX512)
		__asm__ volatile(ALL(LOAD_Z) HIGH(LOAD_Z) MASKS(LOAD_K)::"r"(r) : "memory");
	else if (machine & AVX)
		__asm__ volatile(ALL(LOAD_Y)::"r"(r) : "memory");
	else
		__asm__ volatile(ALL(LOAD_X)::"r"(r) : "memory");
}

static inline __attribute__((always_inline)) void store(struct registers *r)
{
	if (machine & AVX512)
		__asm__ volatile(ALL(STORE_Z) HIGH(STORE_Z) MASKS(STORE_K)::"r"(r) : "memory");
	else if (machine & AVX)
		__asm__ volatile(ALL(STORE_Y)::"r"(r) : "memory");
	else
		__asm__ volatile(ALL(STORE_X)::"r"(r) : "memory");
}

/* Where CPUID says that a component lies in the image of a signal frame. */
static uint32_t offset_of[8];

/* A byte of a vector register in an XSAVE image: zero where the component is in its initial state. */
static uint8_t byte_of(const uint8_t *image, int n, int i, uint64_t *feature)
{
	uint64_t used;
	uint32_t at;

	memcpy(&used, image + 512, 8);
	*feature = n >= 16 ? 0x80 : i >= 32 ? 0x40 : i >= 16 ? 4 : 2;
	if (!(used & *feature))
		return 0;
	at = n >= 16 ? offset_of[7] + (uint32_t)((n - 16) * 64 + i)
	   : i >= 32 ? offset_of[6] + (uint32_t)(n * 32 + i - 32)
	   : i >= 16 ? offset_of[2] + (uint32_t)(n * 16 + i - 16) : 160 + (uint32_t)(n * 16 + i);
	return image[at];
}

/* Whether what lies at an AEP is what XFRM leaves there. */
static bool synthetic(const uint8_t *image, uint64_t xfrm)
{
	uint64_t used, mask;

	for (int n = 0; n < 32; n++)
		for (int i = 0; i < 64; i += 5) {
			uint64_t feature;
			uint8_t is = byte_of(image, n, i, &feature);

			if ((machine & feature) && is != (xfrm & feature ? 0 : set.v[n][i]))
				return false;
		}
	memcpy(&used, image + 512, 8);
	for (int n = 1; n < 8 && (machine & 0x20); n++) {
		memcpy(&mask, image + offset_of[5] + 8 * n, 8);
		if ((used & 0x20 ? mask : 0) != (xfrm & 0x20 ? 0 : set.k[n]))
			return false;
	}
	return true;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	struct registers spoilt;

	(void)sig, (void)info;
	again();
	mcontext_t *m = &((ucontext_t *)context)->uc_mcontext;
	if (m->gregs[REG_RAX] != ERESUME || m->gregs[REG_RBX] != (greg_t)(e.base + e.tcs[0]))
		return;
	bad |= !synthetic((const uint8_t *)m->fpregs, e.secs.xfrm);
	memset(&spoilt, 0xa5, sizeof(spoilt));
	load(&spoilt);
	if (++interrupts == 5)
		words[1] = 1;
}

int main(void)
{
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	uint32_t a = 0, b = 0, c = 0, d = 0;
	uint64_t offered, xfrm;
	char name[80];

	if (!__get_cpuid_count(0x12, 1, &a, &b, &c, &d) || !(c & 3))
		bail("cpuid", "no SGX");
	offered = (uint64_t)d << 32 | c;
	for (int i = 2; i < 8; i++)
		if (__get_cpuid_count(0xd, (unsigned)i, &a, &b, &c, &d))
			offset_of[i] = b;
	machine = offered & (3 | AVX | AVX512);
	for (int n = 0; n < 32; n++)
		for (int i = 0; i < 64; i++)
			set.v[n][i] = (uint8_t)(i * 7 + n + 1);
	for (int i = 1; i < 8; i++)
		set.k[i] = 0x0123456789abcdefull * (uint64_t)i;
	sigaction(SIGALRM, &act, NULL);
	static const uint64_t extras[] = {0, AVX, AVX | AVX512, 0x200, AVX | 0x200, AVX | AVX512 | 0x200};
	for (size_t i = 0; i < sizeof(extras) / sizeof(*extras); i++) {
		static struct call call __attribute__((aligned(64)));

		xfrm = 3 | extras[i];
		snprintf(name, sizeof(name), "xfrm_%lx", xfrm);
		if (xfrm & ~offered) {
			skip(name, "this CPU does not have it");
			continue;
		}
		memset(&e, 0, sizeof(e));
		if (encl_load(&e, &(struct encl_opts){.xfrm = xfrm}))
			bail(name, e.err);
		call = (struct call){.op = OP_SPIN, .a = (uint64_t)&words[0], .b = (uint64_t)&words[1]};
		words[0] = words[1] = 0;
		interrupts = bad = 0;
		again_begin(1000);
		load(&set);
		int ret = encl_raw_enter(&call, e.base + e.tcs[0], EENTER);
		store(&got);
		again_end();
		check(ret == 0 && interrupts >= 5, name, "left %d, %d interrupts", ret, interrupts);
		snprintf(name, sizeof(name), "xfrm_%lx_synthetic", xfrm);
		check(!bad, name, "a handler saw the enclave's registers, or not its own");
		snprintf(name, sizeof(name), "xfrm_%lx_kept", xfrm);
		bool same = true;
		for (int n = 0; n < 32 && same; n++)
			same = !memcmp(got.v[n], set.v[n], n >= 16 && !(machine & 0x80) ? 0 : machine & 0x40 ? 64 : machine & 4 ? 32 : 16);
		for (int n = 1; n < 8 && (machine & 0x20); n++)
			same &= got.k[n] == set.k[n];
		check(same, name, "registers differ after the call");
		encl_free(&e);
	}
	return tap_failed;
}
