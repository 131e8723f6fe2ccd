/* SPDX-License-Identifier: MIT
 *
 * For programs that enter by ENCLU themselves: a handler that notes what the kernel told of the
 * exception and leads the thread out of encl_raw_enter, which then returns -1.
 */
#ifndef GUESTS_RAWSIG_H
#define GUESTS_RAWSIG_H

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include "loader.h"

struct raw_fault {
	int sig, code;
	uint64_t addr, trapno, err, rip, rax, rbx, rcx;
};
static __thread volatile struct raw_fault raw_fault;

static void raw_handler(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	raw_fault.sig = sig;
	raw_fault.code = info->si_code;
	raw_fault.addr = (uint64_t)info->si_addr;
	raw_fault.trapno = (uint64_t)regs[REG_TRAPNO];
	raw_fault.err = (uint64_t)regs[REG_ERR];
	raw_fault.rip = (uint64_t)regs[REG_RIP];
	raw_fault.rax = (uint64_t)regs[REG_RAX];
	raw_fault.rbx = (uint64_t)regs[REG_RBX];
	raw_fault.rcx = (uint64_t)regs[REG_RCX];
	if (raw_fault.rip != (uint64_t)encl_raw_enclu && raw_fault.rip != (uint64_t)encl_raw_aep
	    && raw_fault.rip != (uint64_t)encl_raw_ecall_enclu)
		signal(sig, SIG_DFL); /* a bug of the program itself: die of it */
	else
		regs[REG_RIP] = (greg_t)encl_raw_failed;
}

static inline void raw_catch_faults(void)
{
	static const int sigs[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP};
	struct sigaction act = {.sa_sigaction = raw_handler, .sa_flags = SA_SIGINFO};

	for (int i = 0; i < (int)(sizeof(sigs) / sizeof(sigs[0])); i++)
		sigaction(sigs[i], &act, NULL);
}

static inline int raw_enter(struct encl *e, int thread, struct call *c, uint32_t leaf)
{
	memset((void *)&raw_fault, 0, sizeof(raw_fault));
	return encl_raw_enter(c, e->base + e->tcs[thread], leaf);
}

#endif
