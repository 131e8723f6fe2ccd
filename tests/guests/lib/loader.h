/* SPDX-License-Identifier: MIT
 *
 * The untrusted side: plan an enclave, measure and sign it, load it, enter it.
 * Functions return 0 or a negative errno and leave a sentence in encl.err.
 *
 * The steps are separate because loaders differ in their order:
 *   encl_plan -> encl_sign -> encl_open -> encl_reserve -> encl_create -> encl_add -> encl_init
 *   -> encl_map. encl_load does them all, in the order of the kernel's documentation.
 */
#ifndef GUESTS_LOADER_H
#define GUESTS_LOADER_H

#include <asm/sgx.h>
#include <stdbool.h>
#include <stdio.h>
#include "ops.h"

#define MAX_THREADS 64

struct encl_seg {
	const char *name;
	uint64_t off, len;
	uint64_t flags;      /* SECINFO.FLAGS */
	const uint8_t *src;  /* page-aligned; one page is repeated if `repeat` */
	bool measure, repeat;
};

struct encl_opts {
	int threads;            /* 1 if 0 */
	uint64_t heap;          /* bytes of RW heap, unmeasured */
	uint64_t size;          /* least size of ELRANGE; room after the heap is for EAUG */
	uint64_t xfrm;          /* 3 if 0 */
	uint64_t attributes;    /* beside MODE64BIT */
	uint32_t miscselect;
};

struct encl {
	int fd;
	uint64_t base, size;
	struct encl_seg seg[4 * MAX_THREADS + 4];
	int nseg;
	int threads;
	uint64_t tcs[MAX_THREADS];  /* offsets */
	uint64_t entry, data, heap; /* offsets */
	uint64_t free;              /* offset of the first page after all: for EAUG */
	struct secs secs;
	struct sigstruct sig;
	uint8_t mrenclave[32];
	char err[200];
};

/* The device's name; SGX_DEVICE in the environment overrides it. */
const char *encl_device(void);

int encl_plan(struct encl *e, const struct encl_opts *opts);
int encl_seg(struct encl *e, const char *name, uint64_t off, uint64_t len, uint64_t flags,
	     const void *src, bool measure);
int encl_sign(struct encl *e); /* sign.c: MRENCLAVE and SIGSTRUCT */
int encl_resign(struct sigstruct *sig); /* after a field was changed: the signature, Q1, Q2 */
int encl_open(struct encl *e);
int encl_reserve(struct encl *e);
int encl_create(struct encl *e);
int encl_add(struct encl *e, const struct encl_seg *s, uint64_t chunk); /* chunk: bytes an ioctl, 0 all */
int encl_add_all(struct encl *e, uint64_t chunk);
int encl_init(struct encl *e);
int encl_map(struct encl *e);
int encl_map_seg(struct encl *e, const struct encl_seg *s, int prot);
int encl_build(struct encl *e, uint64_t chunk); /* all after encl_plan */
int encl_load(struct encl *e, const struct encl_opts *opts);
void encl_free(struct encl *e);

static inline int seg_prot(const struct encl_seg *s)
{
	return (s->flags & 0xff00) == SI_TCS ? 3 : (int)(s->flags & 7); /* PROT_* = SI_* */
}

/* vdso.c: how to enter. */
void *vdso_find(const char *name);           /* AT_SYSINFO_EHDR and DT_HASH */
void *vdso_find_by_sections(const char *name); /* AT_SYSINFO_EHDR and .dynsym's header */

/* Enter through the vDSO: its return value; run tells how the enclave was left. */
int encl_call(struct encl *e, int thread, struct call *c, struct sgx_enclave_run *run);
/* The same, and the vDSO's answer checked: true if the operation ran to its EEXIT. */
bool encl_do(struct encl *e, int thread, struct call *c);
/* One operation on the first thread with up to four operands; returns c.ret, ~0 if it failed. */
uint64_t encl_op(struct encl *e, enum op op, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
/* ENCLU[leaf] on a page by OP_ENCLU: its code, -1 if it faulted (then `run` tells). */
int64_t encl_enclu(struct encl *e, int thread, uint64_t leaf, uint64_t page, uint64_t flags,
		   uint64_t src, struct sgx_enclave_run *run);

/* enter.S */
extern void *encl_vdso; /* what encl_vdso_enter calls; set by encl_call at first use */
int encl_vdso_enter(void *call, uint32_t leaf, struct sgx_enclave_run *run);
/* Raw ENCLU with our own AEP: 0 after an EEXIT; -1 if a handler went to encl_raw_failed. */
int encl_raw_enter(void *call, uint64_t tcs, uint32_t leaf);
/* EENTER, its leaf loaded right before ENCLU. */
int encl_raw_ecall(void *call, uint64_t tcs);
int encl_raw_enter_prefixed(void *call, uint64_t tcs, uint32_t leaf);
/* The same, with an AEP that spoils all vector registers before ERESUME. */
int encl_raw_enter_spoil(void *call, uint64_t tcs, uint32_t leaf);
extern char encl_raw_ecall_enclu[], encl_raw_enclu[], encl_raw_aep[], encl_raw_aep_spoil[], encl_raw_failed[];

#endif
