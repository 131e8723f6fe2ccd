/* SPDX-License-Identifier: MIT
 *
 * usage: cpuid
 * What a loader asks CPUID before it starts, from the program and from a library that comes by
 * dlopen; and the bytes 0f a2 where they are no CPUID and must stay what they are.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <libgen.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

typedef void (*cpuid_fn)(uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

static __attribute__((noinline)) void own_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

/* Three instructions that hold 0f a2 with no boundary before it; the function's bytes are summed. */
uint64_t tricky(void);
extern const uint8_t tricky_start[], tricky_end[];
__asm__(".text\n"
	".globl tricky, tricky_start, tricky_end\n"
	"tricky: tricky_start:\n"
	"	mov $0xa20f, %eax\n"                  /* b8 0f a2 00 00 */
	"	movabs $0x00a20f0000000000, %rdx\n"   /* ... 0f a2 00 */
	"	lea 0xa20f(%rdx), %rcx\n"             /* a displacement */
	"	add %rcx, %rax\n"
	"	ret\n"
	"tricky_end:\n");

static const uint8_t tricky_bytes[] = { /* tricky(), by hand */
	0xb8, 0x0f, 0xa2, 0, 0, 0x48, 0xba, 0, 0, 0, 0, 0, 0x0f, 0xa2, 0, 0x48, 0x8d, 0x8a, 0x0f, 0xa2, 0,
	0, 0x48, 0x01, 0xc8, 0xc3};
static const volatile uint8_t table[] = {0x0f, 0xa2, 0x0f, 0xa2}; /* constants are data too */

static void check_leaves(const char *who, cpuid_fn f)
{
	uint32_t r[4], again[4];
	uint64_t epc = 0;
	char name[80];
	int kinds = 0;

#define NAME(s) (snprintf(name, sizeof(name), "%s_%s", who, s), name)
	f(0, 0, r);
	check(r[0] >= 0x12, NAME("max_leaf"), "%#x", r[0]);
	f(7, 0, r);
	check(r[1] & (1 << 2), NAME("sgx"), "leaf 7: EBX %#x", r[1]);
	check(r[2] & (1 << 30), NAME("launch_control"), "leaf 7: ECX %#x", r[2]);
	f(0x12, 0, r);
	check((r[0] & 3) == 3, NAME("sgx1_sgx2"), "EAX %#x", r[0]);
	check((r[3] >> 8 & 0xff) >= 20, NAME("max_size"), "EDX %#x", r[3]);
	f(0x12, 1, r);
	check((r[0] & 6) == 6 && (r[2] & 3) == 3, NAME("attributes"), "EAX %#x, ECX %#x", r[0], r[2]);
	for (uint32_t i = 2; i < 10; i++) {
		f(0x12, i, r);
		if ((r[0] & 15) != 1)
			break;
		epc += (r[2] & 0xfffff000) | (uint64_t)(r[3] & 0xfffff) << 32;
		kinds++;
	}
	check(kinds > 0 && epc >= 1 << 20, NAME("epc"), "%d sections, %lu bytes", kinds, epc);
	/* A leaf that has nothing to do with SGX is the CPU's own, the same each time. */
	f(0x80000002, 0, r);
	f(0x80000002, 0, again);
	check(!memcmp(r, again, sizeof(r)) && r[0], NAME("brand"), "EAX %#x", r[0]);
#undef NAME
}

/* The EPC's numbers must agree between the two. */
static void same(cpuid_fn a, cpuid_fn b)
{
	static const uint32_t leaves[][2] = {{0, 0}, {7, 0}, {0x12, 0}, {0x12, 1}, {0x12, 2}};
	uint32_t x[4], y[4];
	bool ok = true;

	for (int i = 0; i < 5; i++) {
		a(leaves[i][0], leaves[i][1], x);
		b(leaves[i][0], leaves[i][1], y);
		ok &= !memcmp(x, y, sizeof(x));
	}
	check(ok, "same_answers", "program and library differ");
}

/* Code that the program writes itself: CPUID in a page that is made executable later. */
static void jit(void)
{
	static const uint8_t code[] = {0x53, 0x89, 0xf8, 0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xd8, 0x5b, 0xc3};
	uint8_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t ebx;

	memcpy(p, code, sizeof(code)); /* push rbx; mov edi,eax; xor ecx,ecx; cpuid; mov ebx,eax; pop; ret */
	mprotect(p, PAGE, PROT_READ | PROT_EXEC);
	ebx = ((uint32_t (*)(uint32_t))p)(7);
	check(ebx & (1 << 2), "jit_sgx", "leaf 7: EBX %#x", ebx);
	munmap(p, PAGE);
}

int main(void)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);
	uint32_t (*immediate)(void);
	unsigned sum = 0;
	cpuid_fn lib;
	void *so;

	path[n > 0 ? n : 0] = 0;
	so = dlopen(strcat(dirname(path), "/cpuid_lib.so"), RTLD_NOW);
	if (!so)
		bail("dlopen", dlerror());
	*(void **)&lib = dlsym(so, "lib_cpuid");
	*(void **)&immediate = dlsym(so, "lib_immediate");
	check_leaves("program", own_cpuid);
	check_leaves("library", lib);
	same(own_cpuid, lib);
	CHECK_EQ(tricky(), 0xa20f + 0x00a20f0000000000ull + 0xa20f, "tricky_result");
	/* The program's own bytes, as the assembler wrote them. */
	check(tricky_end - tricky_start == sizeof(tricky_bytes)
	      && !memcmp(tricky_start, tricky_bytes, sizeof(tricky_bytes)), "tricky_bytes", "changed");
	for (const volatile uint8_t *p = table; p < table + sizeof(table); p++)
		sum = sum * 31 + *p;
	CHECK_EQ(sum, ((0x0f * 31u + 0xa2) * 31 + 0x0f) * 31 + 0xa2, "table_bytes");
	CHECK_EQ(immediate(), 0x12a20f34, "library_immediate");
	jit();
	return tap_failed;
}
