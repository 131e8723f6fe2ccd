/* SPDX-License-Identifier: MIT
 *
 * The registers of a stopped tracee, as `ptrace.Registers.store` writes them.
 */
#ifndef PUTREGS_H
#define PUTREGS_H

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>

/* False if it is gone. What no tracer may write, and a program may have by its own instructions,
 * stays (putreg(), set_segment_reg(): a base in the kernel's half, a selector with another RPL). */
static inline bool put_regs(pid_t tid, struct user_regs_struct *regs)
{
	struct iovec all_but = {regs, offsetof(struct user_regs_struct, fs_base)};

	if (ptrace(PTRACE_SETREGS, tid, NULL, regs) >= 0)
		return true;
	if (errno != EIO || ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &all_but) < 0)
		return false;
	for (size_t at = all_but.iov_len; at < sizeof(*regs); at += 8)
		ptrace(PTRACE_POKEUSER, tid, (void *)at, *(void **)((char *)regs + at));
	return true;
}

#endif
