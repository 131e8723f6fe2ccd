/* SPDX-License-Identifier: MIT
 *
 * What the three parts of the example share: the enclave, the tool that signs it, the loader.
 */
#ifndef HELLO_H
#define HELLO_H

#include <stdint.h>

#define PAGE 4096

/*
 * The enclave's pages, in the order in which they are added (the order is part of MRENCLAVE).
 * enclave.lds puts enclave.bin together in the same order.
 */
#define TCS_OFF   (0 * PAGE) /* thread control structure: one thread may be inside */
#define SSA_OFF   (1 * PAGE) /* where the CPU saves registers when an interrupt comes */
#define STACK_OFF (2 * PAGE)
#define CODE_OFF  (4 * PAGE) /* to the end of enclave.bin */
#define ENCLAVE_SIZE (8 * PAGE) /* ELRANGE: a power of two */

#define SECINFO_R 1
#define SECINFO_W 2
#define SECINFO_X 4
#define SECINFO_TCS 0x100
#define SECINFO_REG 0x200

struct segment {
	uint64_t start, end;
	uint64_t flags; /* SECINFO.FLAGS: page type and permissions */
};

static inline void hello_segments(struct segment seg[4], uint64_t image_bytes)
{
	seg[0] = (struct segment){TCS_OFF, SSA_OFF, SECINFO_TCS};
	seg[1] = (struct segment){SSA_OFF, STACK_OFF, SECINFO_REG | SECINFO_R | SECINFO_W};
	seg[2] = (struct segment){STACK_OFF, CODE_OFF, SECINFO_REG | SECINFO_R | SECINFO_W};
	seg[3] = (struct segment){CODE_OFF, image_bytes, SECINFO_REG | SECINFO_R | SECINFO_X};
}

/* What the loader passes to the enclave; it lies outside. */
struct hello {
	char name[32]; /* in */
	char said[64]; /* out */
};

/* The fields of SECS and SIGSTRUCT that the example uses (SDM, Vol. 3D, "Enclave data structures"). */
#define ATTRIBUTES_MODE64BIT 4
#define XFRM_X87_SSE 3

struct secs {
	uint64_t size, base;
	uint32_t ssa_frame_pages, miscselect;
	uint8_t reserved1[24];
	uint64_t attributes, xfrm;
	uint8_t rest[PAGE - 64];
};

struct sigstruct {
	uint8_t header[16];
	uint32_t vendor, date;
	uint8_t header2[16], reserved1[88];
	uint8_t modulus[384];
	uint32_t exponent;
	uint8_t signature[384];
	uint32_t miscselect, miscmask;
	uint8_t reserved2[20];
	uint64_t attributes, xfrm, attributemask, xfrmmask;
	uint8_t enclavehash[32], reserved3[32];
	uint16_t isvprodid, isvsvn;
	uint8_t reserved4[12], q1[384], q2[384];
} __attribute__((packed));

_Static_assert(sizeof(struct secs) == PAGE && sizeof(struct sigstruct) == 1808, "SDM");

#endif
