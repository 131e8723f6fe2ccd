/* SPDX-License-Identifier: MIT
 *
 * usage: sequences [ROUNDS]
 * A process that shares an enclave waits in a restartable sequence (rseq(2)) while the other changes pages
 * of it. Whoever was stopped in one begins again: none that began before such a change ends after it.
 */
#define _GNU_SOURCE
#include <linux/rseq.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
/* now: even, and odd while pages are changed. begun, left: an even and an odd one that the other has seen. */
static struct shared {
	volatile uint64_t now, go, begun, left, whole, again, end;
} *shared;
static struct rseq_cs sequence;

extern char sequence_start[], sequence_end[], sequence_abort[];

/* From before `now` is another until go is: false if it is to begin again. */
static bool waits(struct rseq *rseq, uint64_t now)
{
	uint64_t aborted = 0;

	__asm__ volatile("mov %[at], 8(%[rseq])\n"
			 ".globl sequence_start\nsequence_start:\n\t"
			 "mov %[now], (%[begun])\n\tcmp %[now], (%[is])\n\tjne sequence_abort\n"
			 "1:\n\tcmp %[now], (%[go])\n\tja 2f\n\tcmpq $0, (%[end])\n\tje 1b\n"
			 "2:\n\tnop\n"
			 ".globl sequence_end\nsequence_end:\n\tjmp 3f\n\t"
			 ".byte 0x0f, 0xb9, 0x3d\n\t.long 0x53053053\n"
			 ".globl sequence_abort\nsequence_abort:\n\tmov $1, %[aborted]\n"
			 "3:"
			 : [aborted] "+r"(aborted)
			 : [rseq] "r"(rseq), [at] "r"(&sequence), [now] "r"(now), [begun] "r"(&shared->begun),
			   [is] "r"(&shared->now), [go] "r"(&shared->go), [end] "r"(&shared->end)
			 : "memory", "cc");
	return !aborted;
}

static void other(struct rseq *rseq)
{
	sequence.start_ip = (uint64_t)sequence_start;
	sequence.post_commit_offset = (uint64_t)(sequence_end - sequence_start);
	sequence.abort_ip = (uint64_t)sequence_abort;
	while (!shared->end) {
		uint64_t now = shared->now;

		if (now % 2)
			shared->left = now;
		else if (!waits(rseq, now))
			shared->again++;
		else if (!shared->end)
			shared->whole++;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct encl_opts opts = {.heap = PAGE, .size = 1 << 20};
	int rounds = argc > 1 ? atoi(argv[1]) : 200, failed = 0;
	struct rseq *rseq = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	pid_t pid;

	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared->begun = ~0ull;
	if (encl_load(&e, &opts))
		bail("load", e.err);
	if (!__rseq_size) {
		skip("sequences", "no rseq");
		return 0;
	}
	pid = fork();
	if (!pid)
		other(rseq);
	for (int i = 0; i < rounds; i++) {
		struct sgx_enclave_restrict_permissions to = {.offset = e.heap, .length = PAGE, .permissions = SI_R};

		while (shared->begun != shared->now)
			sched_yield();
		shared->now++;
		failed += ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &to) != 0;
		shared->go = shared->now; /* who waits still has begun before */
		while (shared->left != shared->now)
			sched_yield();
		failed += encl_enclu(&e, 0, EACCEPT, e.base + e.heap, SI_REG | SI_R | SI_PR, 0, NULL) != 0;
		encl_enclu(&e, 0, EMODPE, e.base + e.heap, SI_REG | SI_R | SI_W, 0, NULL);
		shared->now++;
	}
	shared->end = 1;
	waitpid(pid, NULL, 0);
	check(!failed, "pages", "%d calls failed", failed);
	check(!shared->whole, "begin_again", "%lu of %d were whole, %lu began again", shared->whole, rounds,
	      shared->again);
	return tap_failed;
}
