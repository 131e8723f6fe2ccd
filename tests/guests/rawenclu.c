/* SPDX-License-Identifier: MIT
 *
 * usage: rawenclu
 * A program that knows no vDSO: ENCLU by itself, signal handlers for what happens inside. A fault
 * inside is an AEX and then a signal at the AEP; the handler enters once more (CSSA = 1), the
 * enclave's own handler mends the interrupted state in the SSA, and returning from the signal
 * resumes at the AEP. What the kernel tells: signal, si_code, si_addr, trap number, error code.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static struct {
	volatile int signals, sig, code, nested;
	volatile uint64_t addr, trapno, err, rip, rax;
	struct call handle;
} got;

static void handler(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	got.sig = sig;
	got.code = info->si_code;
	got.addr = (uint64_t)info->si_addr;
	got.trapno = (uint64_t)r[REG_TRAPNO];
	got.err = (uint64_t)r[REG_ERR];
	got.rip = (uint64_t)r[REG_RIP];
	got.rax = (uint64_t)r[REG_RAX];
	if (++got.signals > 1 || got.rip != (uint64_t)encl_raw_aep) {
		/* Not mended, or no enclave's business: out, so that the checks can say what came. */
		if (got.rip == (uint64_t)encl_raw_enclu || got.rip == (uint64_t)encl_raw_aep)
			r[REG_RIP] = (greg_t)encl_raw_failed;
		else
			signal(sig, SIG_DFL);
		return;
	}
	got.nested = encl_raw_enter(&got.handle, e.base + e.tcs[0], EENTER);
}

struct row {
	const char *name;
	enum fault kind;
	uint64_t address; /* for F_READ, F_WRITE, F_JUMP */
	int len;          /* of the instruction, to be skipped; 0: return to the caller instead */
	int sig, code;
	uint64_t addr, trapno, err;
	uint32_t exitinfo;
};

#define AEP (uint64_t)encl_raw_aep
#define HW(vector) (EXITINFO_VALID | 3u << 8 | (vector))

static void try(const struct row *row, bool exinfo)
{
	struct call c = {.op = OP_FAULT, .a = row->kind, .b = row->address};
	const struct call *h = &got.handle;
	bool info = exinfo || (row->trapno != 13 && row->trapno != 14);
	char name[80];
	int ret;

	memset(&got, 0, sizeof(got));
	got.handle = (struct call){.op = OP_HANDLE, .a = (uint64_t)row->len, .b = 0x77, .c = 1,
				   .d = row->len == 0};
	ret = encl_raw_enter(&c, e.base + e.tcs[0], EENTER);
	snprintf(name, sizeof(name), "%s_signal", row->name);
	check(got.signals == 1 && got.sig == row->sig && got.code == row->code && got.addr == row->addr
	      && got.trapno == row->trapno && got.err == row->err, name,
	      "%d signals, first %d code %d addr %#lx trap %lu err %#lx; expected %d code %d addr %#lx"
	      " trap %lu err %#lx", got.signals, got.sig, got.code, got.addr, got.trapno, got.err,
	      row->sig, row->code, row->addr, row->trapno, row->err);
	if (!got.signals)
		return;
	snprintf(name, sizeof(name), "%s_aep", row->name);
	check(got.rip == AEP && got.rax == ERESUME, name, "rip %#lx, AEP %#lx, rax %lu", got.rip, AEP,
	      got.rax);
	snprintf(name, sizeof(name), "%s_exitinfo", row->name);
	check(got.nested == 0 && h->ret == 1 && h->exitinfo == (info ? row->exitinfo : 0), name,
	      "nested %d, CSSA %ld, EXITINFO %#lx, expected %#x", got.nested, (long)h->ret, h->exitinfo,
	      info ? row->exitinfo : 0);
	if (exinfo && row->trapno == 14) {
		snprintf(name, sizeof(name), "%s_exinfo", row->name);
		check(h->maddr / PAGE == row->addr / PAGE && h->errcd == row->err, name,
		      "MADDR %#lx, ERRCD %#lx", h->maddr, h->errcd);
	}
	snprintf(name, sizeof(name), "%s_resumed", row->name);
	check(ret == 0 && c.ret == 0x77, name, "ret %d, result %#lx", ret, c.ret);
}

/* An EPCM restriction that the page tables do not know of: bit 15 of the error code. */
static void restrict_page(uint64_t offset)
{
	struct sgx_enclave_restrict_permissions arg = {.offset = offset, .length = PAGE, .permissions = 1};
	struct call c = {.op = OP_ENCLU, .a = EACCEPT, .b = e.base + offset, .c = SI_REG | SI_R | SI_PR};

	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &arg), 0, "restrict");
	check(encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0 && c.ret == 0, "restrict_accepted",
	      "code %ld", (long)c.ret);
}

int main(void)
{
	static const int sigs[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};
	static char stack[1 << 16];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
	uint32_t a = 0, b = 0, c = 0, d = 0;
	bool exinfo = __get_cpuid_count(0x12, 0, &a, &b, &c, &d) && (b & MISC_EXINFO);
	uint64_t hole;

	if (encl_load(&e, &(struct encl_opts){.heap = 4 * PAGE, .miscselect = exinfo ? MISC_EXINFO : 0}))
		bail("load", e.err);
	sigaltstack(&alt, NULL);
	for (int i = 0; i < 5; i++)
		sigaction(sigs[i], &act, NULL);
	hole = (uint64_t)mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap((void *)hole, PAGE);
	restrict_page(e.heap + PAGE);
	const struct row rows[] = {
		{"ud2", F_UD2, 0, 2, SIGILL, ILL_ILLOPN, AEP, 6, 0, HW(6)},
		{"divide", F_DIV, 0, 2, SIGFPE, FPE_INTDIV, AEP, 0, 0, HW(0)},
		/* What the AEX leaves is an invalid operation, whatever it was (SDM; fpu__exception_code()). */
		{"x87", F_X87, 0, 1, SIGFPE, FPE_FLTINV, AEP, 16, 0, HW(16)},
		{"sse", F_SSE, 0, 4, SIGFPE, FPE_FLTINV, AEP, 19, 0, HW(19)},
		/* The low 12 bits of the address are hidden (SDM, "Page fault reporting"). */
		{"unmapped", F_READ, hole + 0x123, 3, SIGSEGV, SEGV_MAPERR, hole, 14, 4, HW(14)},
		{"write_code", F_WRITE, e.base + 8, 3, SIGSEGV, SEGV_ACCERR, e.base, 14, 7, HW(14)},
		{"epcm_write", F_WRITE, e.base + e.heap + PAGE + 8, 3, SIGSEGV, SEGV_ACCERR,
		 e.base + e.heap + PAGE, 14, 0x8007, HW(14)},
		{"execute_heap", F_JUMP, e.base + e.heap + 16, 0, SIGSEGV, SEGV_ACCERR, e.base + e.heap, 14,
		 0x15, HW(14)},
		{"hlt", F_HLT, 0, 1, SIGSEGV, SI_KERNEL, 0, 13, 0, HW(13)},
		/* SDM, "Behavior of INT3 Inside an Enclave": #UD following opt-out entry. */
		{"int3", F_INT3, 0, 1, SIGILL, ILL_ILLOPN, AEP, 6, 0, HW(6)},
		/* SDM, "Illegal instructions inside an enclave". */
		{"cpuid", F_CPUID, 0, 2, SIGILL, ILL_ILLOPN, AEP, 6, 0, HW(6)},
		{"syscall", F_SYSCALL, 0, 2, SIGILL, ILL_ILLOPN, AEP, 6, 0, HW(6)},
		{"in", F_IN, 0, 2, SIGILL, ILL_ILLOPN, AEP, 6, 0, HW(6)},
	};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		try(&rows[i], exinfo);
	return tap_failed;
}
