/* SPDX-License-Identifier: MIT
 *
 * ENCLS as the driver calls it, answered by a model of EPC and EPCM (encls.c) in place of the
 * instruction. Names and encodings are those that ioctl.c and encl.c use: a fault is the vector
 * with SGX_ENCLS_FAULT_FLAG (asm/sgx.h).
 */
#ifndef JUDGE_ENCLS_H
#define JUDGE_ENCLS_H
#define _X86_ENCLS_H /* keeps the driver's own, which is inline assembler, out */

#include "kernel.h"
#include <asm/sgx.h>

#define ENCLS_TRAPNR(answer) ((answer) & ~SGX_ENCLS_FAULT_FLAG)
#define ENCLS_WARN(answer, name) WARN_ONCE(answer, name)

static inline bool encls_faulted(int answer)
{
	return answer & SGX_ENCLS_FAULT_FLAG;
}

/* A #PF is no failure of the driver's: the EPC may have been lost, by a power cycle say. */
static inline bool encls_failed(int answer)
{
	return encls_faulted(answer) ? ENCLS_TRAPNR(answer) != X86_TRAP_PF : answer != 0;
}

int __ecreate(struct sgx_pageinfo *info, void *secs);
int __eadd(struct sgx_pageinfo *info, void *page);
int __eextend(void *secs, void *chunk);
int __einit(void *sigstruct, void *token, void *secs);
int __eremove(void *page);
int __eaug(struct sgx_pageinfo *info, void *page);
int __emodpr(struct sgx_secinfo *secinfo, void *page);
int __emodt(struct sgx_secinfo *secinfo, void *page);
int __etrack(void *secs);
int __epa(void *page);
int __edbgrd(void *word, unsigned long *data);
int __edbgwr(void *word, unsigned long *data);
int __eldu(struct sgx_pageinfo *info, void *page, void *slot);

/* ENCLU, for whom the driver's rules have to make way. */
int judge_eaccept(u64 linaddr, void *page, u64 secinfo_flags);
int judge_emodpe(u64 linaddr, void *page, u64 secinfo_flags);
int judge_eacceptcopy(u64 linaddr, void *page, void *source, u64 secinfo_flags);

/* An entry of the EPCM (SDM, Table "EPCM Entry"). */
struct judge_epcm {
	u8 valid, pt, rwx, pending, modified, pr;
	u64 linaddr;
	void *secs;
};

#define JUDGE_EPC_PAGES 4096
extern u8 judge_epc[JUDGE_EPC_PAGES][4096];
struct judge_epcm *judge_epcm_of(const void *page);
void judge_epc_reset(u64 pages);

/* What CPUID.12H tells, and what the next EINIT answers: code until `times` have been asked. */
struct judge_cpu {
	u64 attributes, xfrm;
	u32 miscselect, xsave_bytes[8], max_size_log2, max_size_not64_log2;
	int einit_code, einit_times, einit_then;
};
extern struct judge_cpu judge_cpu;
/* In place of MRENCLAVE: of the same records, in order, a hash in the manner of FNV-1a. */
u64 judge_hashed(u64 hash, u64 what, u64 offset, u64 value);
u64 judge_measured(void *secs);

#endif
