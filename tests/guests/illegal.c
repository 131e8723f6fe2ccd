/* SPDX-License-Identifier: MIT
 *
 * usage: illegal
 * Each instruction of the SDM's table "Illegal Instructions Inside an Enclave", bare and with
 * prefixes, executed inside: #UD, with RIP on it; INT1 and INT3, which are #UD following opt-out
 * entry; then the trap flag, which neither comes in nor can be set inside, and whose #DB comes
 * right behind EEXIT; and XGETBV, which tells XFRM.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define HW_UD (EXITINFO_VALID | 3u << 8 | 6)
#define TF 0x100

static struct encl e;
static uint64_t page; /* where code is put inside, RWX */
static uint64_t skipped; /* how long an instruction is that is skipped; 0: the call ends there */

/* Run code inside by OP_CALL, RDI pointing to 1 KiB behind it: how many exceptions there were. */
static int run(const char *code, size_t len, uint64_t *ret, uint32_t *vector, struct call *handled)
{
	struct sgx_enclave_run out = {.tcs = e.base + e.tcs[0]}, in = out;
	struct call c = {.op = OP_CALL, .a = page, .b = page + 0x400, .ret = 0};
	struct call copy = {.op = OP_COPY, .a = page, .c = len + 1};
	uint8_t bytes[64] = {0};
	int n = 0;

	memcpy(bytes, code, len);
	bytes[len] = 0xc3;
	copy.b = (uint64_t)bytes;
	if (!encl_do(&e, 0, &copy))
		return -1;
	for (uint32_t leaf = EENTER; n < 3; leaf = ERESUME) {
		if (encl_vdso_enter(&c, leaf, &out))
			return -2;
		if (out.function == EEXIT)
			break;
		*vector = out.exception_vector;
		n++;
		*handled = (struct call){.op = OP_HANDLE, .a = skipped, .b = 0x77, .c = 1, .d = !skipped};
		if (encl_vdso_enter(handled, EENTER, &in) || in.function != EEXIT)
			return -3;
	}
	*ret = c.ret;
	return n;
}

static void undefined(const char *name, const char *prefix, size_t prefixes, const char *code,
		      size_t len, size_t setup)
{
	char all[40], full[80];
	uint64_t ret = 0;
	uint32_t vector = 0;
	struct call h;
	int n;

	memcpy(all, code, setup);
	memcpy(all + setup, prefix, prefixes);
	memcpy(all + setup + prefixes, code + setup, len - setup);
	n = run(all, len + prefixes, &ret, &vector, &h);
	snprintf(full, sizeof(full), "%s", name);
	for (size_t i = 0; i < prefixes; i++)
		snprintf(full + strlen(full), sizeof(full) - strlen(full), "_%02x", prefix[i] & 0xff);
	check(n == 1 && vector == 6 && h.rip == page + setup && h.exitinfo == HW_UD && ret == 0x77, full,
	      "%d exceptions, last %u, at +%ld, EXITINFO %#lx, result %#lx", n, vector,
	      n ? (long)(h.rip - page) : 0, n ? h.exitinfo : 0, ret);
}

/* setup: the length of what only prepares. */
/* mov $0x1204, %eax; mov $0x1204, %r8d: no selector; the same as any part of a far pointer. */
#define BAD_SELECTOR "\xb8\x04\x12\x00\x00\x41\xb8\x04\x12\x00\x00"
/* the pointer at RDI; its address in RDX, and in R10, which a REX prefix makes of it */
#define BAD_POINTER "\xc7\x07\x04\x12\x04\x12\x66\xc7\x47\x04\x04\x12\x48\x89\xfa\x49\x89\xfa"
#define ROW(name, code, setup) {name, code, sizeof(code) - 1, setup}
static const struct {
	const char *name, *code;
	size_t len, setup;
} rows[] = {
	ROW("getsec", "\x0f\x37", 0),
	ROW("rdpmc", "\x0f\x33", 0),
	ROW("vmcall", "\x0f\x01\xc1", 0),
	ROW("vmfunc", "\x0f\x01\xd4", 0),
	ROW("in_imm", "\xe4\x80", 0),
	ROW("in_dx", "\xed", 0),
	ROW("out_imm", "\xe7\x80", 0),
	ROW("out_dx", "\xee", 0),
	ROW("insb", "\x6c", 0),
	ROW("outsd", "\x6f", 0),
	ROW("far_call", "\xff\x1f", 0),
	ROW("far_jmp", "\xff\x2f", 0),
	ROW("far_ret", "\xcb", 0),
	ROW("far_ret_imm", "\xca\x08\x00", 0),
	ROW("int_81", "\xcd\x81", 0),
	ROW("int_1", "\xcd\x01", 0),
	ROW("iret", "\xcf", 0),
	ROW("lss", BAD_POINTER "\x0f\xb2\x02", 18),
	ROW("lfs", BAD_POINTER "\x0f\xb4\x02", 18),
	ROW("lgs", BAD_POINTER "\x0f\xb5\x02", 18),
	ROW("mov_ds", BAD_SELECTOR "\x8e\xd8", 11),
	ROW("mov_ss", BAD_SELECTOR "\x8e\xd0", 11),
};

/* What runs natively where there is neither SGX nor CPUID faulting nor, for some, UMIP. */
static const struct {
	const char *name, *code;
	size_t len, setup;
} quiet[] = {
	/* RBX is the caller's: mov %rbx, %r10; cpuid; mov %r10, %rbx */
	ROW("cpuid", "\x49\x89\xda\x0f\xa2\x4c\x89\xd3", 3),
	ROW("sgdt", "\x0f\x01\x07", 0),
	ROW("sidt", "\x0f\x01\x0f", 0),
	ROW("sldt", "\x0f\x00\xc0", 0),
	ROW("str", "\x0f\x00\xc8", 0),
	ROW("smsw", "\x0f\x01\xe0", 0),
	/* Selectors that the processor takes: a null one, and that of the stack. */
	ROW("mov_ds_null", "\x31\xc0\x8e\xd8", 2),
	ROW("mov_ss_user", "\xb8\x2b\x00\x00\x00\x8e\xd0", 5),
	/* push $0x33; lea 1f(%rip), %rax; push %rax; lretq; 1: */
	ROW("far_ret_user", "\x6a\x33\x48\x8d\x05\x03\x00\x00\x00\x50\x48\xcb", 10),
};

/* Bare ones alone: most have ended when a kernel hears of them, and nobody knows how they began. */
static const struct {
	const char *name, *code;
	size_t len, setup;
} bare[] = {
	ROW("syscall", "\xb8\x27\x00\x00\x00\x0f\x05", 5), /* getpid */
	ROW("int_80", "\xb8\x14\x00\x00\x00\xcd\x80", 5), /* getpid */
	ROW("int3", "\xcc", 0),
	ROW("int_3", "\xcd\x03", 0),
	ROW("int_4", "\xcd\x04", 0),
	ROW("int1", "\xf1", 0),
	ROW("mov_es_unmapped", "\xb8\x10\x00\x00\x00\x8e\x00", 5), /* #UD comes before #PF */
};

static const struct {
	const char *bytes;
	size_t len;
} prefixes[] = {{"", 0}, {"\x66", 1}, {"\xf2", 1}, {"\xf3", 1}, {"\x48", 1}, {"\x2e", 1}, {"\x64", 1},
		{"\x67\x66", 2}, {"\xf3\x41", 2}};

static void legal(void)
{
	/* pushfq; or $0x100, (%rsp); popfq; nop; pushfq; pop %rax; ret */
	static const char popf[] = "\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x9c\x58";
	/* the same with nothing between POPF and PUSHF */
	static const char pushf[] = "\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d\x9c\x58";
	/* xor %ecx, %ecx; xgetbv; shl $32, %rdx; or %rdx, %rax */
	static const char xgetbv[] = "\x31\xc9\x0f\x01\xd0\x48\xc1\xe2\x20\x48\x09\xd0";
	uint32_t lo, hi, vector = 0;
	uint64_t ret = 0;
	struct call h;
	int n;

	n = run(popf, sizeof(popf) - 1, &ret, &vector, &h);
	check(n == 0 && !(ret & TF), "popf_sets_no_tf", "%d exceptions, last %u, RFLAGS %#lx", n, vector, ret);
	n = run(pushf, sizeof(pushf) - 1, &ret, &vector, &h);
	check(n == 0 && !(ret & TF), "pushf_sees_no_tf", "%d exceptions, last %u, RFLAGS %#lx", n, vector,
	      ret);
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if (lo == 3 && !hi) {
		skip("xgetbv_is_xfrm", "XCR0 is 3 anyway");
		return;
	}
	n = run(xgetbv, sizeof(xgetbv) - 1, &ret, &vector, &h);
	check(n == 0 && ret == 3, "xgetbv_is_xfrm", "%d exceptions, %#lx", n, ret);
}

/* -- ENCLU with prefixes ------------------------------------------------------------------- */

/* push %rbx; mov %rdi, %rbx; lea 0x200(%rdi), %rcx; lea 0x400(%rdi), %rdx; xor %eax, %eax */
#define REPORT "\x53\x48\x89\xfb\x48\x8d\x8f\x00\x02\x00\x00\x48\x8d\x97\x00\x04\x00\x00\x31\xc0"
#define UNALIGNED "\x48\xff\xc3" /* inc %rbx */

static void prefixed_enclu(void)
{
	static const struct { const char *bytes; size_t len; bool legal; } prefix[] = {
		{"\x2e", 1, true}, {"\x65", 1, true}, {"\x67", 1, true}, {"\x40", 1, true}, {"\x4f", 1, true},
		{"\x36\x64\x67\x48", 4, true},
		{"\x66", 1, false}, {"\xf0", 1, false}, {"\xf2", 1, false}, {"\xf3\x48", 2, false},
	};
	struct call c = {.op = OP_SUM, .a = 3, .b = 1000};

	for (size_t i = 0; i < sizeof(prefix) / sizeof(*prefix); i++)
		for (int fault = 0; fault < 2; fault++) {
			char code[60], name[40];
			size_t len = sizeof(REPORT) - 1, at;
			uint64_t ret = 0;
			uint32_t vector = 0, want = !prefix[i].legal ? 6 : fault ? 13 : 0;
			struct call h = {0};
			int n;

			memcpy(code, REPORT, len);
			if (fault)
				memcpy(code + len, UNALIGNED, 3), len += 3;
			at = len;
			memcpy(code + len, prefix[i].bytes, prefix[i].len), len += prefix[i].len;
			memcpy(code + len, "\x0f\x01\xd7\x5b\xb8\x77\x00\x00\x00", 9), len += 9;
			skipped = prefix[i].len + 3;
			n = run(code, len, &ret, &vector, &h);
			snprintf(name, sizeof(name), "enclu_%02x_%s", prefix[i].bytes[0] & 0xff,
				 fault ? "general" : "report");
			check(n == (want != 0) && ret == 0x77 && (!n || (vector == want && h.rip == page + at)), name,
			      "%d exceptions, last %u at +%ld, result %#lx", n, vector,
			      n ? (long)(h.rip - page) : 0, ret);
		}
	skipped = 0;
	check(encl_raw_enter_prefixed(&c, e.base + e.tcs[0], EENTER) == 0 && c.ret == mix(3, 1000), "enclu_outside",
	      "result %#lx", c.ret);
}

/* -- the trap flag at the entry ------------------------------------------------------------- */

static volatile int steps, step_code;
static volatile uint64_t step_rip, step_addr, step_trap;

static void on_step(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	if (!steps++) {
		step_code = info->si_code;
		step_rip = (uint64_t)r[REG_RIP];
		step_addr = (uint64_t)info->si_addr;
		step_trap = (uint64_t)r[REG_TRAPNO];
	}
	r[REG_EFL] &= ~TF;
}

/* EENTER with TF; RBX, RBP and R12 to R15 are kept by hand. */
extern char stepped_out[];
int enter_with_tf(void *call, uint64_t tcs);
__asm__(".text\n"
	"enter_with_tf:\n"
	"	push %rbp\n	push %rbx\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rsi, %rbx\n"
	"	lea 1f(%rip), %rcx\n"
	"	mov $2, %eax\n"
	"	pushfq\n	orq $0x100, (%rsp)\n	popfq\n"
	"	.byte 0x0f, 0x01, 0xd7\n"
	"	.globl stepped_out\n"
	"stepped_out:\n"
	"	xor %eax, %eax\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbx\n	pop %rbp\n"
	"	ret\n"
	"1:	.byte 0x0f, 0x01, 0xd7\n"
	"	ud2\n");

static void trap_flag(void)
{
	struct sigaction act = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
	struct call c = {.op = OP_SUM, .a = 3, .b = 1000};

	sigaction(SIGTRAP, &act, NULL);
	enter_with_tf(&c, e.base + e.tcs[0]);
	check(c.ret == mix(3, 1000), "stepped_over", "result %#lx", c.ret);
	check(steps == 1 && step_code == TRAP_TRACE && step_rip == (uint64_t)stepped_out
	      && step_addr == step_rip && step_trap == 1, "one_step_behind_eexit",
	      "%d steps, first code %d at %#lx, si_addr %#lx, trap %lu; expected %p", steps, step_code,
	      step_rip, step_addr, step_trap, stepped_out);
}

int main(void)
{
	uint32_t a, b, c, d;
	bool intel;

	if (encl_plan(&e, &(struct encl_opts){.size = 1 << 20}))
		bail("plan", e.err);
	encl_seg(&e, "run", e.free, PAGE, SI_REG | SI_R | SI_W | SI_X, NULL, false);
	if (encl_build(&e, 0))
		bail("load", e.err);
	page = e.base + e.free;
	__cpuid(0, a, b, c, d);
	intel = b == signature_INTEL_ebx;
	(void)encl_op(&e, OP_NOP, 0, 0, 0, 0); /* finds the vDSO's function */
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		for (size_t k = 0; k < sizeof(prefixes) / sizeof(*prefixes); k++)
			undefined(rows[i].name, prefixes[k].bytes, prefixes[k].len, rows[i].code,
				  rows[i].len, rows[i].setup);
	for (size_t i = 0; i < sizeof(bare) / sizeof(*bare); i++)
		undefined(bare[i].name, "", 0, bare[i].code, bare[i].len, bare[i].setup);
	if (intel)
		skip("sysenter", "leaves no RIP and no RSP to resume from");
	else
		undefined("sysenter", "", 0, "\x0f\x34", 2, 0);
	for (size_t i = 0; i < sizeof(quiet) / sizeof(*quiet); i++)
		undefined(quiet[i].name, "", 0, quiet[i].code, quiet[i].len, quiet[i].setup);
	legal();
	prefixed_enclu();
	trap_flag();
	return tap_failed;
}
