/* SPDX-License-Identifier: MIT
 *
 * The SGX architecture, by the SDM's names: what the CPU defines and no operating system changes.
 * Shared by the loader (outside) and the enclave (inside), so it includes nothing but <stdint.h>.
 */
#ifndef GUESTS_ARCH_H
#define GUESTS_ARCH_H

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ull

/* ENCLU leaves (SDM, ENCLU leaf functions). */
enum { EREPORT = 0, EGETKEY = 1, EENTER = 2, ERESUME = 3, EEXIT = 4,
       EACCEPT = 5, EMODPE = 6, EACCEPTCOPY = 7, EDECCSSA = 9 };

/* SECINFO.FLAGS. A page type lies in bits 15:8. */
#define SI_R 1ull
#define SI_W 2ull
#define SI_X 4ull
#define SI_PENDING  (1ull << 3)
#define SI_MODIFIED (1ull << 4)
#define SI_PR       (1ull << 5)
#define SI_SECS (0ull << 8)
#define SI_TCS  (1ull << 8)
#define SI_REG  (2ull << 8)
#define SI_TRIM (4ull << 8)

#define ATTR_DEBUG        (1ull << 1)
#define ATTR_MODE64BIT    (1ull << 2)
#define ATTR_PROVISIONKEY (1ull << 4)
#define ATTR_AEXNOTIFY    (1ull << 10)
#define TCS_AEXNOTIFY     (1ull << 1)

#define MISC_EXINFO 1u /* the SSA also gets the address and code of #PF and #GP */

struct secinfo {
	uint64_t flags;
	uint8_t reserved[56];
} __attribute__((aligned(64)));

struct secs {
	uint64_t size, base;
	uint32_t ssa_frame_size; /* in pages */
	uint32_t miscselect;
	uint8_t reserved1[24];
	uint64_t attributes, xfrm;
	uint8_t mrenclave[32], reserved2[32], mrsigner[32], reserved3[32], config_id[64];
	uint16_t isv_prod_id, isv_svn, config_svn;
	uint8_t reserved4[3834];
} __attribute__((aligned(4096)));

struct tcs {
	uint64_t state, flags, ossa;
	uint32_t cssa, nssa;
	uint64_t oentry, aep, ofsbase, ogsbase;
	uint32_t fslimit, gslimit;
	uint8_t reserved[4024];
};

/* The last 184 bytes of an SSA frame. */
struct gprsgx {
	uint64_t rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rflags, rip, ursp, urbp;
	uint32_t exitinfo;
	uint8_t reserved[3], aexnotify;
	uint64_t fsbase, gsbase;
};
#define EXITINFO_VALID (1u << 31)

struct sigstruct {
	uint8_t header[16];
	uint32_t vendor, date;
	uint8_t header2[16];
	uint32_t swdefined;
	uint8_t reserved1[84];
	uint8_t modulus[384];
	uint32_t exponent;
	uint8_t signature[384];
	uint32_t miscselect, miscmask;
	uint8_t reserved2[4], isvfamilyid[16];
	uint64_t attributes, xfrm, attributemask, xfrmmask;
	uint8_t enclavehash[32], reserved3[16], isvextprodid[16];
	uint16_t isvprodid, isvsvn;
	uint8_t reserved4[12];
	uint8_t q1[384], q2[384];
} __attribute__((packed));

struct report {
	uint8_t cpusvn[16];
	uint32_t miscselect;
	uint8_t reserved1[12], isvextprodid[16];
	uint64_t attributes, xfrm;
	uint8_t mrenclave[32], reserved2[32], mrsigner[32], reserved3[32], configid[64];
	uint16_t isvprodid, isvsvn, configsvn;
	uint8_t reserved4[42], isvfamilyid[16], reportdata[64];
	uint8_t keyid[32], mac[16]; /* the MAC covers all that stands before keyid */
} __attribute__((packed));

struct targetinfo {
	uint8_t measurement[32];
	uint64_t attributes, xfrm;
	uint8_t cet_attributes, reserved1;
	uint16_t configsvn;
	uint32_t miscselect;
	uint8_t reserved2[8], configid[64], reserved3[384];
} __attribute__((aligned(512)));

enum { KEY_PROVISION = 1, KEY_REPORT = 3, KEY_SEAL = 4 };
#define POLICY_MRENCLAVE 1
#define POLICY_MRSIGNER 2

struct keyrequest {
	uint16_t keyname, keypolicy, isvsvn, reserved1;
	uint8_t cpusvn[16];
	uint64_t attributemask, xfrmmask;
	uint8_t keyid[32];
	uint32_t miscmask;
	uint16_t configsvn;
	uint8_t reserved2[434];
} __attribute__((aligned(512)));

_Static_assert(sizeof(struct secs) == 4096, "SECS is a page");
_Static_assert(sizeof(struct tcs) == 4096, "TCS is a page");
_Static_assert(sizeof(struct gprsgx) == 184, "GPRSGX");
_Static_assert(sizeof(struct sigstruct) == 1808, "SIGSTRUCT");
_Static_assert(sizeof(struct report) == 432, "REPORT");
_Static_assert(sizeof(struct targetinfo) == 512, "TARGETINFO");
_Static_assert(sizeof(struct keyrequest) == 512, "KEYREQUEST");

#endif
