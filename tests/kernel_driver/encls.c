/* SPDX-License-Identifier: MIT
 *
 * EPC, EPCM and the leaves of ENCLS that the driver uses, from the SDM ("Operation" of each
 * leaf); no cryptography. Concurrency is left out: one call at a time.
 */
#include "encls.h"

#define GP (SGX_ENCLS_FAULT_FLAG | X86_TRAP_GP)
#define PF (SGX_ENCLS_FAULT_FLAG | X86_TRAP_PF)
#define SGX_PAGE_ATTRIBUTES_MISMATCH 19
#define SGX_PAGE_NOT_DEBUGGABLE 21
#define PENDING BIT(3)
#define MODIFIED BIT(4)
#define PR BIT(5)
#define LINADDR_TOP (1ULL << 47)
#define AEXNOTIFY BIT(10) /* which 6.1 has no name for */
#define TCS_AEXNOTIFY 2

u8 judge_epc[JUDGE_EPC_PAGES][4096] __attribute__((aligned(4096)));
static struct judge_epcm epcm[JUDGE_EPC_PAGES];
static u64 measured[JUDGE_EPC_PAGES]; /* by the index of the SECS */
struct judge_cpu judge_cpu;

static size_t index_of(const void *page)
{
	return (size_t)((const u8 *)page - judge_epc[0]) / 4096;
}

struct judge_epcm *judge_epcm_of(const void *page)
{
	return &epcm[index_of(page)];
}

void judge_epc_reset(u64 pages)
{
	memset(epcm, 0, pages * sizeof(epcm[0]));
}

u64 judge_measured(void *secs)
{
	return measured[index_of(secs)];
}

u64 judge_hashed(u64 hash, u64 what, u64 offset, u64 value)
{
	u64 words[3] = { what, offset, value };

	for (int i = 0; i < 3; i++)
		hash = (hash ^ words[i]) * 0x100000001b3ULL;
	return hash;
}

static void measure(void *secs, u64 what, u64 offset, u64 value)
{
	u64 *hash = &measured[index_of(secs)];

	*hash = judge_hashed(*hash, what, offset, value);
}

static bool bad_secinfo(const struct sgx_secinfo *secinfo)
{
	return memchr_inv(secinfo->reserved, 0, sizeof(secinfo->reserved)) ||
	       secinfo->flags & ~0xff3fUL;
}

int __ecreate(struct sgx_pageinfo *info, void *secs)
{
	const struct sgx_secs *s = (void *)info->contents;
	const struct sgx_secinfo *secinfo = (void *)info->metadata;
	struct judge_epcm *e = judge_epcm_of(secs);
	u64 frame = (u64)s->ssa_frame_size * 4096, need;

	if (info->addr || info->secs || bad_secinfo(secinfo) || secinfo->flags)
		return GP;
	if (e->valid)
		return PF;
	if ((s->xfrm & 3) != 3 || s->xfrm & ~judge_cpu.xfrm ||
	    s->attributes & ~judge_cpu.attributes || s->miscselect & ~judge_cpu.miscselect)
		return GP;
	need = judge_cpu.xsave_bytes[s->xfrm & 7] + SGX_SSA_GPRS_SIZE;
	if (s->miscselect & SGX_MISC_EXINFO)
		need += SGX_SSA_MISC_EXINFO_SIZE;
	if (frame < need)
		return GP;
	if (s->attributes & SGX_ATTR_MODE64BIT) {
		if (s->base >= LINADDR_TOP && s->base < -LINADDR_TOP)
			return GP;
		if (s->size >= 1ULL << judge_cpu.max_size_log2)
			return GP;
	} else if (s->base >> 32 || s->size >= 1ULL << judge_cpu.max_size_not64_log2) {
		return GP;
	}
	if (s->size < 8192 || !is_power_of_2(s->size) || s->base & (s->size - 1))
		return GP;
	if (memchr_inv(s->reserved1, 0, sizeof(s->reserved1)) ||
	    memchr_inv(s->reserved2, 0, sizeof(s->reserved2)) ||
	    memchr_inv(s->reserved3, 0, sizeof(s->reserved3)) ||
	    memchr_inv(s->reserved4, 0, sizeof(s->reserved4)))
		return GP;
	if (!(s->attributes & SGX_ATTR_KSS) &&
	    (memchr_inv(s->config_id, 0, sizeof(s->config_id)) || s->config_svn))
		return GP;
	memcpy(secs, s, 4096);
	*e = (struct judge_epcm){ .valid = 1, .pt = SGX_PAGE_TYPE_SECS };
	measured[index_of(secs)] = judge_hashed(0, ECREATE, s->size, s->ssa_frame_size);
	return 0;
}

static bool outside(const void *secs, u64 addr)
{
	const struct sgx_secs *s = secs;

	return addr < s->base || addr - s->base >= s->size;
}

static void fill(struct judge_epcm *e, u8 pt, u8 rwx, u64 linaddr, u64 secs)
{
	*e = (struct judge_epcm){
		.valid = 1, .pt = pt, .rwx = rwx, .linaddr = linaddr, .secs = (void *)secs,
	};
}

int __eadd(struct sgx_pageinfo *info, void *page)
{
	const struct sgx_secinfo *secinfo = (void *)info->metadata;
	struct judge_epcm *e = judge_epcm_of(page);
	u64 flags = secinfo->flags, pt = flags >> 8 & 0xff;
	const struct sgx_secs *s = (void *)info->secs;
	struct sgx_tcs *tcs = page;

	if (bad_secinfo(secinfo) || (pt != SGX_PAGE_TYPE_REG && pt != SGX_PAGE_TYPE_TCS))
		return GP;
	if (e->valid)
		return PF;
	if (pt == SGX_PAGE_TYPE_REG && (flags & 3) == 2)
		return GP;
	if (outside(s, info->addr) || s->attributes & SGX_ATTR_INIT)
		return GP;
	memcpy(page, (void *)info->contents, 4096);
	if (pt == SGX_PAGE_TYPE_TCS) {
		u64 known = SGX_TCS_DBGOPTIN |
			    (judge_cpu.attributes & AEXNOTIFY ? TCS_AEXNOTIFY : 0);

		if (tcs->flags & ~known || memchr_inv(tcs->reserved, 0, sizeof(tcs->reserved)))
			return GP;
		flags &= ~7UL;
		tcs->flags &= ~(u64)SGX_TCS_DBGOPTIN;
		tcs->state = tcs->ssa_index = tcs->exit_addr = 0;
	}
	fill(e, pt, flags & 7, info->addr, info->secs);
	measure((void *)info->secs, EADD, info->addr - s->base, flags);
	return 0;
}

int __eextend(void *secs, void *chunk)
{
	struct judge_epcm *e = judge_epcm_of(chunk);
	const struct sgx_secs *s = secs;
	u64 first;

	if (!e->valid || e->secs != secs)
		return PF;
	memcpy(&first, chunk, sizeof(first));
	measure(secs, EEXTEND, e->linaddr - s->base + ((u64)chunk & 4095), first);
	return 0;
}

int __einit(void *sigstruct, void *token, void *secs)
{
	(void)sigstruct;
	(void)token;
	if (judge_cpu.einit_times) {
		judge_cpu.einit_times--;
		return judge_cpu.einit_code;
	}
	if (!judge_cpu.einit_then)
		((struct sgx_secs *)secs)->attributes |= SGX_ATTR_INIT;
	return judge_cpu.einit_then;
}

int __eremove(void *page)
{
	struct judge_epcm *e = judge_epcm_of(page);

	if (e->valid && e->pt == SGX_PAGE_TYPE_SECS)
		for (size_t i = 0; i < JUDGE_EPC_PAGES; i++)
			if (epcm[i].valid && epcm[i].secs == page)
				return SGX_CHILD_PRESENT;
	e->valid = 0;
	return 0;
}

int __eaug(struct sgx_pageinfo *info, void *page)
{
	struct judge_epcm *e = judge_epcm_of(page);
	const struct sgx_secs *s = (void *)info->secs;

	if (info->contents || (info->metadata && info->metadata % 64))
		return GP;
	if (e->valid)
		return PF;
	if (!(s->attributes & SGX_ATTR_INIT) || outside(s, info->addr))
		return GP;
	memset(page, 0, 4096);
	fill(e, SGX_PAGE_TYPE_REG, 3, info->addr, info->secs);
	e->pending = 1;
	return 0;
}

int __emodpr(struct sgx_secinfo *secinfo, void *page)
{
	struct judge_epcm *e = judge_epcm_of(page);

	if (bad_secinfo(secinfo) || (secinfo->flags & 3) == 2)
		return GP;
	if (!e->valid)
		return PF;
	if (e->pending || e->modified)
		return SGX_PAGE_NOT_MODIFIABLE;
	if (e->pt != SGX_PAGE_TYPE_REG)
		return PF;
	e->pr = 1;
	e->rwx &= secinfo->flags & 7;
	return 0;
}

int __emodt(struct sgx_secinfo *secinfo, void *page)
{
	struct judge_epcm *e = judge_epcm_of(page);
	u64 pt = secinfo->flags >> 8 & 0xff;

	if (bad_secinfo(secinfo) || (pt != SGX_PAGE_TYPE_TCS && pt != SGX_PAGE_TYPE_TRIM))
		return GP;
	if (!e->valid || (e->pt != SGX_PAGE_TYPE_REG && !(e->pt == SGX_PAGE_TYPE_TCS &&
							   pt == SGX_PAGE_TYPE_TRIM)))
		return PF;
	if (e->pending || e->modified)
		return SGX_PAGE_NOT_MODIFIABLE;
	e->modified = 1;
	e->pr = 0;
	e->rwx = 0;
	e->pt = pt;
	return 0;
}

/* EBLOCK's and EWB's affair alone, and nothing is evicted here. */
int __etrack(void *secs)
{
	return judge_epcm_of(secs)->valid ? 0 : PF;
}

int __epa(void *page)
{
	struct judge_epcm *e = judge_epcm_of(page);

	if (e->valid)
		return PF;
	fill(e, SGX_PAGE_TYPE_VA, 0, 0, 0);
	return 0;
}

static int debuggable(const struct judge_epcm *e)
{
	if (!e->valid || (e->pt != SGX_PAGE_TYPE_REG && e->pt != SGX_PAGE_TYPE_TCS &&
			  e->pt != SGX_PAGE_TYPE_TRIM))
		return PF;
	return e->pending || e->modified ? SGX_PAGE_NOT_DEBUGGABLE : 0;
}

int __edbgrd(void *word, unsigned long *data)
{
	struct judge_epcm *e = judge_epcm_of(word);
	int answer = debuggable(e);

	if (answer)
		return answer;
	if (!(((struct sgx_secs *)e->secs)->attributes & SGX_ATTR_DEBUG))
		return GP;
	memcpy(data, word, 8);
	return 0;
}

int __edbgwr(void *word, unsigned long *data)
{
	struct judge_epcm *e = judge_epcm_of(word);
	int answer = debuggable(e);
	u64 was;

	if (answer)
		return answer;
	if (!(((struct sgx_secs *)e->secs)->attributes & SGX_ATTR_DEBUG))
		return GP;
	memcpy(&was, word, 8);
	if (e->pt == SGX_PAGE_TYPE_TCS &&
	    (((u64)word & 4095) != offsetof(struct sgx_tcs, flags) ||
	     (was ^ *data) & ~(u64)SGX_TCS_DBGOPTIN))
		return GP;
	memcpy(word, data, 8);
	return 0;
}

int __eldu(struct sgx_pageinfo *info, void *page, void *slot)
{
	(void)info, (void)page, (void)slot;
	judge_failure("ELDU, but nothing was evicted");
	return GP;
}

int judge_eaccept(u64 linaddr, void *page, u64 flags)
{
	struct judge_epcm *e = judge_epcm_of(page);
	u64 pt = flags >> 8 & 0xff;
	bool new = pt == SGX_PAGE_TYPE_REG && flags & (PENDING | PR) && !(flags & MODIFIED);
	bool changed = (pt == SGX_PAGE_TYPE_TCS || pt == SGX_PAGE_TYPE_TRIM) &&
		       flags & MODIFIED && !(flags & (PENDING | PR));

	if (!new && !changed)
		return GP;
	if (!e->valid || e->linaddr != linaddr ||
	    (e->pt != SGX_PAGE_TYPE_REG && e->pt != SGX_PAGE_TYPE_TCS &&
	     e->pt != SGX_PAGE_TYPE_TRIM))
		return PF;
	if (e->pt != pt || e->rwx != (flags & 7) || e->pending != !!(flags & PENDING) ||
	    e->modified != !!(flags & MODIFIED))
		return SGX_PAGE_ATTRIBUTES_MISMATCH;
	e->pending = e->modified = e->pr = 0;
	return 0;
}

int judge_emodpe(u64 linaddr, void *page, u64 flags)
{
	struct judge_epcm *e = judge_epcm_of(page);

	if (!e->valid || e->linaddr != linaddr || e->pending || e->modified ||
	    e->pt != SGX_PAGE_TYPE_REG)
		return PF;
	if (!(e->rwx & 1) && !(flags & 1) && flags & 2)
		return GP;
	e->rwx |= flags & 7;
	return 0;
}

int judge_eacceptcopy(u64 linaddr, void *page, void *source, u64 flags)
{
	struct judge_epcm *e = judge_epcm_of(page);

	if ((flags & 3) == 2 || (flags >> 8 & 0xff) != SGX_PAGE_TYPE_REG)
		return GP;
	if (!e->valid || e->linaddr != linaddr)
		return PF;
	if (!e->pending || e->modified || e->pt != SGX_PAGE_TYPE_REG || e->rwx != 3)
		return SGX_PAGE_ATTRIBUTES_MISMATCH;
	memcpy(page, source, 4096);
	e->pending = 0;
	e->rwx = flags & 7;
	return 0;
}
