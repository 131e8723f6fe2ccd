/* SPDX-License-Identifier: MIT
 *
 * What the test enclave can be asked to do: one operation an entry, RDI pointing to a struct call
 * in untrusted memory. The enclave trusts it completely, which no real enclave may do.
 *
 * A thread's pages lie in this order, so that entry code finds all from RBX alone:
 *   stack (STACK_PAGES), TCS, SSA frames (nssa), a thread-local page for FS and GS
 * The entry with CSSA = n takes its stack STACK_STEP * n below the TCS.
 */
#ifndef GUESTS_OPS_H
#define GUESTS_OPS_H

#define NSSA 3
#define STACK_STEP 0x2000
#define ENTRY_FRAME 32 /* bytes that the entry pushes before it calls enclave_main */
#define RED_ZONE 128
#define FRAME_WORDS 17 /* 15 registers, flags, RIP: what second_phase takes */
#define STACK_PAGES (NSSA * STACK_STEP / PAGE)

#ifndef __ASSEMBLER__
#include "arch.h"

enum op {
	OP_NOP,
	OP_PEEK,       /* ret = *(u64 *)a */
	OP_POKE,       /* *(u64 *)a = b */
	OP_ADD,        /* ret = __atomic_add_fetch((u64 *)a, b): shared memory, from many processes */
	OP_SUM,        /* ret = mix(a, b rounds); c: leave by enclave_leave_cleared */
	OP_MEET,       /* wait inside until b threads are at the counter at a; ret = 0, or 1 after c spins */
	OP_SPIN,       /* write 1 to *(u64 *)a, then spin until *(u64 *)b is not 0 */
	OP_WHO,        /* ret = CSSA, b = TCS, c = %gs:0 (thread number), d = %fs:8 (its page's offset) */
	OP_COPY,       /* copy c bytes from b to a */
	OP_CALL,       /* ret = ((u64 (*)(u64))a)(b): run code that was put into a page */
	OP_ENCLU,      /* leaf a on page b with SECINFO flags c and source d: EACCEPT, EMODPE, EACCEPTCOPY */
	OP_DECCSSA,    /* handler part: EDECCSSA, ret = CSSA at entry */
	OP_GIVE_UP,    /* handler part: what SSA[CSSA-1] holds goes on by leaving the enclave */
	OP_NOTIFY,     /* a: AEX notifications on or off, as struct notes at b says; ret = SSA[0].AEXNOTIFY
	                  as it was */
	OP_FAULT,      /* execute the faulty instruction of enum fault in a, address b; ret = result */
	OP_HANDLE,     /* handler part: report SSA[CSSA-1]; then RIP += a, saved RAX = b if c; if d,
	                  RIP = the return address on the interrupted stack instead */
	OP_VECTORS,    /* fill x87, SSE (AVX if a) from buf, spin until *(u64 *)b, store them to buf */
	OP_GETKEY,     /* buf = KEYREQUEST -> buf = key; ret = EGETKEY's code */
	OP_REPORT,     /* buf = TARGETINFO + 64 bytes of REPORTDATA at 512 -> buf = REPORT */
	OP_VERIFY,     /* buf = REPORT for this enclave; ret = 0 if its MAC is right */
	OP_SEAL,       /* buf[32..32+a) is encrypted; buf[0..16) tag, buf[16..32) nonce (given) */
	OP_UNSEAL,     /* the inverse; ret = 1 if the tag does not fit */
	OP_LAST
};

enum fault { F_UD2, F_DIV, F_READ, F_WRITE, F_JUMP, F_INT3, F_HLT, F_CPUID, F_SYSCALL, F_IN, F_X87, F_SSE,
	     F_LAST };

/* What an enclave that is notified does, and what it has seen: in memory outside. */
struct notes {
	uint64_t how;    /* enum notified */
	uint64_t skip;   /* bytes of an instruction that has faulted */
	uint64_t phase1; /* entries by notification: at CSSA > 0 */
	uint64_t phase2; /* after EDECCSSA: at CSSA - 1, on the interrupted stack */
	uint64_t cssa, rcx, exitinfo, rip; /* of the last one */
};

enum notified {
	N_DECCSSA, /* as Intel's SDK: a second phase in the interrupted frame, then the code goes on */
	N_RESUME,  /* leave the enclave, with notifications off: ERESUME is to go on */
	N_FAULT,   /* as N_DECCSSA, with an exception in the handler that it is notified of, too */
};

struct call {
	uint64_t op, a, b, c, d, ret;
	/* OP_HANDLE's answer: what the SSA frame of the interrupted code holds. */
	uint64_t rip, rax, rsp, exitinfo, maddr, errcd;
	uint8_t buf[2048] __attribute__((aligned(64)));
};

/* The layout that OP_VECTORS reads and stores in buf (see entry.S). */
struct vectors {
	uint8_t ymm[16][32];
	double st[4];
	uint32_t mxcsr;
	uint16_t fcw, pad;
};

/* The sum of OP_SUM; the loader computes it again outside. */
static inline uint64_t mix(uint64_t x, uint64_t rounds)
{
	for (; rounds; rounds--) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		x ^= x >> 29;
	}
	return x;
}

#endif /* __ASSEMBLER__ */
#endif
