/* SPDX-License-Identifier: MIT
 *
 * What tests call: the driver's entry points, and as much of mm around them as its callers in
 * fs/, mm/ and arch/x86/mm/fault.c do. Which VMAs there are is told by the caller.
 */
#ifndef JUDGE_H
#define JUDGE_H

#include "kernel.h"

/* Read and written by tests, too (library.py): keep the order. */
struct judge_state {
	u64 failures;		  /* what must not happen, and what it was */
	const char *failure;
	u64 allocations, fail_at; /* made so far; which one fails from now on, 1 the next, 0 none */
	u64 objects;		  /* allocated and not freed: memory, EPC pages, backing files */
	u8 *user;		  /* the bytes behind user addresses [user_base, + user_bytes) */
	u64 user_base, user_bytes;
	u64 beyond_eof;		  /* pages of it that are mapped and have nothing behind them */
	u64 signal_at, signal_asked; /* the how-manieth question finds a signal, 0 none does */
	u64 provision_fd;	  /* the fd that is an open /dev/sgx_provision */
	u64 epc_pages;		  /* that the machine has, of JUDGE_EPC_PAGES; for the next boot */
	u64 shifts[7];		  /* of present, pt, perm, pending, modified, pr, max in a word */
	const struct file_operations *fops;
};
extern struct judge_state judge;

void judge_epc_init(void);
void judge_enter(struct mm_struct *mm, unsigned long personality);
void judge_close(struct file *file);
void judge_zap(struct mm_struct *mm, unsigned long start, unsigned long end);

#endif
