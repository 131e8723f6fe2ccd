/* SPDX-License-Identifier: MIT
 *
 * A CPUID that stops, answered with what was answered before: the table that programs look into
 * themselves (vdso.S), made by programs/answers.py.
 */
#ifndef SOFTSGX_CPUIDS_H
#define SOFTSGX_CPUIDS_H

#include <cpuid.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>
#include "putregs.h"

#define MOST_TRAPS 4
#define LEAVES 16
#define NO_LEAF 0xffffffffu

/* What a thread does with SIGILL: nothing of its own; it has a handler; or Python has to look. */
enum action { NONE, HANDLED, ODD };

struct answer {
	uint32_t leaf, subleaf, word[4];
};

/* Whether a handler is still there: one is dropped where its signal is forced while it is blocked. */
static inline bool catches(pid_t tid, int number)
{
	char text[4096], name[40], *at;
	ssize_t n;
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/status", (int)tid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	at = strstr(text, "\nSigCgt:\t");
	return at && strtoull(at + 9, NULL, 16) >> (number - 1) & 1;
}

/* What a processor answers that the thread may run on: it could be there. */
static inline bool from_here(pid_t tid, uint32_t leaf, uint32_t subleaf, uint32_t *word)
{
	static cpu_set_t allowed[16]; /* 16,384 processors */
	int cpu = sched_getcpu();

	if (cpu < 0 || sched_getaffinity(tid, sizeof(allowed), allowed) < 0
	    || !CPU_ISSET_S((size_t)cpu, sizeof(allowed), allowed))
		return false;
	__cpuid_count(leaf, subleaf, word[0], word[1], word[2], word[3]);
	return sched_getcpu() == cpu;
}

static inline bool found(const uint32_t *table, pid_t tid, uint32_t leaf, uint32_t subleaf,
			 uint32_t *word)
{
	const struct answer *answer = (const struct answer *)(table + LEAVES);

	for (; answer->leaf != NO_LEAF; answer++) /* whatever the sub-leaf */
		if (answer->leaf == leaf)
			goto known;
	for (answer++; answer->leaf != NO_LEAF || answer->subleaf != NO_LEAF; answer++)
		if (answer->leaf == leaf && answer->subleaf == subleaf)
			goto known;
	for (; *table; table++)
		if (*table == leaf)
			return from_here(tid, leaf, subleaf, word);
	return false;
known:
	memcpy(word, answer->word, sizeof(answer->word));
	return true;
}

/*
 * At a SIGILL: whether it was of a CPUID, and the thread goes on behind it. traps: where there are
 * some that have stopped before. table: the answers, or none. action: of SIGILL.
 */
static inline bool asked(pid_t tid, const uint64_t *traps, const uint32_t *table, uint64_t action)
{
	struct user_regs_struct regs;
	unsigned char insn[2];
	struct iovec ours = {insn, sizeof(insn)}, theirs = {NULL, sizeof(insn)};
	siginfo_t info;
	uint32_t word[4];
	bool is_one = false;

	if (!table || action == ODD || ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return false;
	for (int i = 0; i < MOST_TRAPS; i++)
		is_one |= traps[i] && traps[i] == regs.rip;
	theirs.iov_base = (void *)regs.rip;
	if (!is_one || ptrace(PTRACE_GETSIGINFO, tid, NULL, &info) < 0 || info.si_code <= 0
	    || process_vm_readv(tid, &ours, 1, &theirs, 1, 0) != sizeof(insn) || insn[0] != 0x0f
	    || insn[1] != 0x0b || (action == HANDLED && !catches(tid, SIGILL))
	    || !found(table, tid, (uint32_t)regs.rax, (uint32_t)regs.rcx, word))
		return false;
	regs.rax = word[0];
	regs.rbx = word[1];
	regs.rcx = word[2];
	regs.rdx = word[3];
	regs.rip += sizeof(insn);
	return put_regs(tid, &regs)
	       && ptrace(PTRACE_CONT, tid, NULL, NULL) >= 0;
}

#endif
