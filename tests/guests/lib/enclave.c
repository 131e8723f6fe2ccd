/* SPDX-License-Identifier: MIT
 *
 * The trusted side of all guests: does one operation an entry (ops.h).
 * Freestanding and built with -mgeneral-regs-only, so that no vector register is touched but by
 * OP_VECTORS.
 */
#include "crypto.h"
#include "ops.h"

uint64_t enclu(uint64_t leaf, const void *rbx, void *rcx, const void *rdx);
uint64_t fault(uint64_t kind, uint64_t address);
void second_phase(uint64_t *frame, const void *xsave, void (*then)(void), uint8_t *aexnotify);
void vectors(struct vectors *v, int avx, volatile uint64_t *stop);
__attribute__((visibility("hidden"))) void enclave_leave(void); /* no GOT: it would hold an offset */
__attribute__((visibility("hidden"))) void enclave_leave_cleared(void *frame);

/* gcc may call these two by itself. */
void *memcpy(void *to, const void *from, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
	return ret;
}

void *memset(void *to, int byte, size_t n)
{
	void *ret = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return ret;
}

static uint64_t meet(uint64_t *counter, uint64_t threads, uint64_t spins)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < threads) {
		if (!spins--)
			return 1;
		__builtin_ia32_pause();
	}
	return 0;
}

/* The exception handler's half of "nested": runs at CSSA = n and edits SSA[n-1]. */
static void handle(struct call *c, uint64_t cssa, uint8_t *tcs)
{
	uint8_t *frame_end = tcs + PAGE + cssa * PAGE; /* of SSA[cssa - 1] */
	struct gprsgx *regs = (struct gprsgx *)(frame_end - sizeof(struct gprsgx));

	c->rip = regs->rip;
	c->rax = regs->rax;
	c->rsp = regs->rsp;
	c->exitinfo = regs->exitinfo;
	c->maddr = *(uint64_t *)((uint8_t *)regs - 16); /* EXINFO, with MISCSELECT[0] only */
	c->errcd = *(uint32_t *)((uint8_t *)regs - 8);
	if (c->d) {
		regs->rip = *(uint64_t *)regs->rsp;
		regs->rsp += 8;
	} else {
		regs->rip += c->a;
	}
	if (c->c)
		regs->rax = c->b;
}

/* The interrupted entry ends: its RIP and RSP become those behind its call of enclave_main. */
static void give_up(uint64_t cssa, uint8_t *tcs)
{
	struct gprsgx *regs = (struct gprsgx *)(tcs + PAGE + cssa * PAGE) - 1;

	regs->rip = (uint64_t)enclave_leave;
	regs->rsp = (uint64_t)tcs - (cssa - 1) * STACK_STEP - ENTRY_FRAME;
}

static struct notes *notes;

static struct gprsgx *frame(uint8_t *tcs, uint64_t n) { return (struct gprsgx *)(tcs + PAGE * (n + 2)) - 1; }

/* Runs where the interrupted code ran, with its frame free again. */
static void handled(void) { __atomic_add_fetch(&notes->phase2, 1, __ATOMIC_SEQ_CST); }

/* The enclave is told of an exit, at CSSA = n: what SSA[n-1] holds is this thread's to go on with.
 * The state goes on the interrupted stack, below its red zone, since the frame is about to be free:
 * the next exit is saved there. */
static void notified(uint64_t cssa, uint64_t rcx, uint8_t *tcs)
{
	struct gprsgx *regs = frame(tcs, cssa - 1);
	uint64_t *to, *from = &regs->rax;

	notes->phase1++;
	notes->cssa = cssa;
	notes->rcx = rcx;
	notes->exitinfo = regs->exitinfo;
	notes->rip = regs->rip;
	if (regs->exitinfo & EXITINFO_VALID)
		regs->rip += notes->skip;
	if (notes->how == N_RESUME) {
		regs->aexnotify = 0;
		return;
	}
	if (notes->how == N_FAULT && cssa == 1) {
		frame(tcs, 1)->aexnotify = 1;
		fault(F_UD2, 0);
		frame(tcs, 1)->aexnotify = 0;
	}
	to = (uint64_t *)(regs->rsp - RED_ZONE) - FRAME_WORDS;
	for (int i = 0, n = 0; i < 16; i++)
		if (from + i != &regs->rsp)
			to[n++] = from[i];
	to[15] = regs->rflags;
	to[16] = regs->rip;
	regs->aexnotify = 0;
	second_phase(to, tcs + PAGE * cssa, handled, &regs->aexnotify);
}

static uint64_t get_key(const struct keyrequest *request, uint8_t key[16])
{
	uint8_t out[16] __attribute__((aligned(16)));
	uint64_t code = enclu(EGETKEY, request, out, NULL);

	memcpy(key, out, 16);
	return code;
}

static uint64_t op_getkey(struct call *c)
{
	struct keyrequest request;

	memcpy(&request, c->buf, sizeof(request));
	return get_key(&request, c->buf);
}

static uint64_t op_report(struct call *c)
{
	struct targetinfo target;
	uint8_t data[64] __attribute__((aligned(128)));
	uint8_t out[512] __attribute__((aligned(512)));

	memcpy(&target, c->buf, sizeof(target));
	memcpy(data, c->buf + 512, sizeof(data));
	enclu(EREPORT, &target, data, out);
	memcpy(c->buf, out, sizeof(struct report));
	return 0;
}

static uint64_t op_verify(struct call *c)
{
	struct keyrequest request;
	struct report report;
	uint8_t key[16], mac[16], diff = 0;

	memcpy(&report, c->buf, sizeof(report));
	memset(&request, 0, sizeof(request));
	request.keyname = KEY_REPORT;
	memcpy(request.keyid, report.keyid, sizeof(request.keyid));
	if (get_key(&request, key))
		return 2;
	aes_cmac(key, (uint8_t *)&report, offsetof(struct report, keyid), mac);
	for (int i = 0; i < 16; i++)
		diff |= mac[i] ^ report.mac[i];
	return diff != 0;
}

/* A seal of a toy's strength in its mode of use (CMAC as a key stream, then a CMAC as the tag),
 * but with the real key: sealed under MRENCLAVE, bound to this enclave on this CPU. */
static uint64_t op_seal(struct call *c, int open)
{
	struct keyrequest request;
	uint8_t key[16], block[32], stream[16], tag[16], *text = c->buf + 32;

	if (c->a > sizeof(c->buf) - 32)
		return 3;
	memset(&request, 0, sizeof(request));
	request.keyname = KEY_SEAL;
	request.keypolicy = POLICY_MRENCLAVE;
	request.attributemask = ATTR_DEBUG;
	if (get_key(&request, key))
		return 2;
	aes_cmac(key, c->buf + 16, 16 + c->a, tag);
	for (int i = 0; open && i < 16; i++)
		if (tag[i] != c->buf[i])
			return 1;
	memset(block, 0, sizeof(block));
	memcpy(block, c->buf + 16, 16);
	for (uint64_t i = 0; i < c->a; i++) {
		if (i % 16 == 0) {
			block[16] = (uint8_t)(i / 16);
			aes_cmac(key, block, sizeof(block), stream);
		}
		text[i] ^= stream[i % 16];
	}
	if (!open)
		aes_cmac(key, c->buf + 16, 16 + c->a, c->buf);
	return 0;
}

void enclave_main(struct call *c, uint64_t cssa, uint8_t *tcs, uint64_t rcx)
{
	struct secinfo info;

	if (cssa && frame(tcs, cssa - 1)->aexnotify & 1) {
		notified(cssa, rcx, tcs);
		return;
	}
	switch (c->op) {
	case OP_NOP:
		return; /* not even a write: for timing */
	case OP_PEEK:
		c->ret = *(volatile uint64_t *)c->a;
		break;
	case OP_POKE:
		*(volatile uint64_t *)c->a = c->b;
		break;
	case OP_ADD:
		c->ret = __atomic_add_fetch((uint64_t *)c->a, c->b, __ATOMIC_SEQ_CST);
		break;
	case OP_SUM:
		c->ret = mix(c->a, c->b);
		if (c->c)
			enclave_leave_cleared(tcs - cssa * STACK_STEP - ENTRY_FRAME);
		break;
	case OP_MEET:
		c->ret = meet((uint64_t *)c->a, c->b, c->c);
		break;
	case OP_SPIN:
		*(volatile uint64_t *)c->a = 1;
		while (!*(volatile uint64_t *)c->b)
			__builtin_ia32_pause();
		break;
	case OP_WHO:
		c->ret = cssa;
		c->b = (uint64_t)tcs;
		__asm__("mov %%gs:0, %0" : "=r"(c->c));
		__asm__("mov %%fs:8, %0" : "=r"(c->d));
		break;
	case OP_COPY:
		memcpy((void *)c->a, (void *)c->b, c->c);
		break;
	case OP_CALL:
		c->ret = ((uint64_t (*)(uint64_t))c->a)(c->b);
		break;
	case OP_ENCLU:
		memset(&info, 0, sizeof(info));
		info.flags = c->c;
		c->ret = enclu(c->a, &info, (void *)c->b, (void *)c->d);
		break;
	case OP_DECCSSA:
		enclu(EDECCSSA, NULL, NULL, NULL);
		c->ret = cssa;
		break;
	case OP_NOTIFY:
		c->ret = frame(tcs, 0)->aexnotify;
		notes = (struct notes *)c->b;
		frame(tcs, 0)->aexnotify = c->a != 0;
		break;
	case OP_GIVE_UP:
		give_up(cssa, tcs);
		break;
	case OP_FAULT:
		c->ret = fault(c->a, c->b);
		break;
	case OP_HANDLE:
		handle(c, cssa, tcs);
		c->ret = cssa;
		break;
	case OP_VECTORS:
		vectors((struct vectors *)c->buf, (int)c->a, (volatile uint64_t *)c->b);
		break;
	case OP_GETKEY:
		c->ret = op_getkey(c);
		break;
	case OP_REPORT:
		c->ret = op_report(c);
		break;
	case OP_VERIFY:
		c->ret = op_verify(c);
		break;
	case OP_SEAL:
		c->ret = op_seal(c, 0);
		break;
	case OP_UNSEAL:
		c->ret = op_seal(c, 1);
		break;
	default:
		c->ret = ~0ull;
	}
}
