/* SPDX-License-Identifier: MIT */
#include "encls.h"
#include "judge.h"

#include <stdlib.h>

#include "driver.h"
#include "encl.h"

static struct task_struct task;
static struct vm_area_struct *pending; /* what the last mmap made, not in any list yet */

enum { READ, WRITE, FETCH };
#define SIGBUS_ 7
#define SIGSEGV_ 11
#define SEGV_MAPERR 1
#define SEGV_ACCERR 2
#define BUS_ADRERR 2
#define PF_P 1
#define PF_W 2
#define PF_U 4
#define PF_I 16
#define PF_SGX 0x8000

static void enter(struct mm_struct *mm, unsigned long personality)
{
	task.mm = mm;
	task.personality = personality;
	current = &task;
}

/* -- the machine ----------------------------------------------------------------------------- */

struct judge_state *judge_the_state(void)
{
	return &judge;
}

struct judge_cpu *judge_the_cpu(void)
{
	return &judge_cpu;
}

/* Boot: CPUID has been filled in. */
int judge_boot(bool sgx2)
{
	judge_sgx2 = sgx2;
	judge.objects = 0;
	judge_epc_init();
	return sgx_drv_init();
}

/* -- files ----------------------------------------------------------------------------------- */

/* Open the device: 0 and the file, or -errno. */
int judge_open(struct file **opened)
{
	struct file *file = calloc(1, sizeof(*file));
	int error;

	file->f_op = judge.fops;
	file->count = 1;
	error = file->f_op->open(NULL, file);
	if (error) {
		free(file);
		file = NULL;
	}
	*opened = file;
	return error;
}

void judge_close(struct file *file)
{
	if (--file->count)
		return;
	file->f_op->release(NULL, file);
	free(file);
}

long judge_ioctl(struct mm_struct *mm, struct file *file, unsigned int cmd, unsigned long arg)
{
	struct sgx_encl *encl = file->private_data;
	long answer;

	enter(mm, 0);
	answer = file->f_op->unlocked_ioctl(file, cmd, arg);
	/* vfs_ioctl() */
	if (answer == -ENOIOCTLCMD)
		answer = -ENOTTY;
	if (encl->lock.held || mm->readers)
		judge_failure("a lock is left taken");
	return answer;
}

/* An ioctl of another thread is under way, or it has ended. */
void judge_busy(struct file *file, bool busy)
{
	struct sgx_encl *encl = file->private_data;

	(busy ? set_bit : clear_bit)(SGX_ENCL_IOCTL, &encl->flags);
}

/* -- address spaces -------------------------------------------------------------------------- */

static void insert(struct mm_struct *mm, struct vm_area_struct *vma)
{
	unsigned int at = mm->n_vmas;

	if (mm->n_vmas == JUDGE_MAX_VMAS) {
		judge_failure("more VMAs than there is room for");
		return;
	}
	for (; at && mm->vmas[at - 1]->vm_start > vma->vm_start; at--)
		mm->vmas[at] = mm->vmas[at - 1];
	mm->vmas[at] = vma;
	mm->n_vmas++;
}

static void take(struct mm_struct *mm, struct vm_area_struct *vma)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i] != vma)
			mm->vmas[kept++] = mm->vmas[i];
	mm->n_vmas = kept;
}

static unsigned long no_hint(struct file *file, unsigned long addr, unsigned long len,
			     unsigned long pgoff, unsigned long flags)
{
	(void)file, (void)len, (void)pgoff, (void)flags;
	return addr;
}

struct mm_struct *judge_mm_new(void)
{
	struct mm_struct *mm = malloc(sizeof(*mm));

	mm->users = 1;
	mm->readers = mm->writers = 0;
	mm->n_vmas = mm->n_ptes = 0;
	mm->notifiers = NULL;
	mm->get_unmapped_area = no_hint;
	return mm;
}

static void forget(struct vm_area_struct *vma)
{
	struct file *file = vma->vm_file;

	free(vma);
	if (file)
		judge_close(file);
}

/* exit_mmap(): the notifiers first, then the VMAs and what they hold. */
void judge_mm_exit(struct mm_struct *mm)
{
	mm->users = 0;
	while (mm->notifiers) {
		struct mmu_notifier *notifier = mm->notifiers;

		mm->notifiers = notifier->next;
		notifier->ops->release(notifier, mm);
	}
	while (mm->n_vmas)
		forget(mm->vmas[--mm->n_vmas]);
	free(mm);
}

/* Memory that is no enclave's. */
void judge_foreign(struct mm_struct *mm, unsigned long start, unsigned long end,
		   unsigned long flags)
{
	struct vm_area_struct *vma = calloc(1, sizeof(*vma));

	*vma = (struct vm_area_struct){
		.vm_start = start, .vm_end = end, .vm_mm = mm, .vm_flags = flags,
	};
	insert(mm, vma);
}

static struct vm_area_struct *copy_vma(const struct vm_area_struct *old, struct mm_struct *mm)
{
	struct vm_area_struct *vma = malloc(sizeof(*vma));

	*vma = *old;
	vma->vm_mm = mm;
	if (vma->vm_file)
		vma->vm_file->count++;
	return vma;
}

static void opened(struct vm_area_struct *vma)
{
	if (vma->vm_ops && vma->vm_ops->open) {
		vma->vm_mm->writers = 1;
		vma->vm_ops->open(vma);
		vma->vm_mm->writers = 0;
	}
}

/* dup_mmap() */
struct mm_struct *judge_fork(struct mm_struct *mm)
{
	struct mm_struct *child = judge_mm_new();

	for (unsigned int i = 0; i < mm->n_vmas; i++) {
		struct vm_area_struct *vma = copy_vma(mm->vmas[i], child);

		opened(vma);
		insert(child, vma);
	}
	return child;
}

long judge_get_unmapped_area(struct mm_struct *mm, struct file *file, unsigned long addr,
			     unsigned long length, unsigned long flags)
{
	enter(mm, 0);
	return (long)file->f_op->get_unmapped_area(file, addr, length, 0, flags);
}

/*
 * mmap_region()'s call of the driver. Before Linux commit 7b013e723a1f an initialized enclave had
 * no bounds: with `any_place` the driver does not know that it is initialized.
 */
int judge_mmap(struct mm_struct *mm, unsigned long personality, struct file *file,
	       unsigned long start, unsigned long end, unsigned long flags, bool any_place)
{
	struct sgx_encl *encl = file->private_data;
	bool was = test_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	int error;

	free(pending);
	pending = calloc(1, sizeof(*pending));
	*pending = (struct vm_area_struct){
		.vm_start = start, .vm_end = end, .vm_mm = mm, .vm_flags = flags, .vm_file = file,
	};
	enter(mm, personality);
	if (any_place)
		clear_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	mm->writers = 1;
	error = file->f_op->mmap(file, pending);
	mm->writers = 0;
	if (was)
		set_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	if (error) {
		free(pending);
		pending = NULL;
	}
	return error;
}

int judge_mprotect(struct mm_struct *mm, unsigned long personality, unsigned long start,
		   unsigned long end, unsigned long flags, bool any_place)
{
	struct vm_area_struct *vma = vma_lookup(mm, start);
	struct sgx_encl *encl;
	bool was;
	int error;

	if (!vma || !vma->vm_ops || end > vma->vm_end) {
		judge_failure("mprotect of no such VMA");
		return 0;
	}
	encl = vma->vm_private_data;
	enter(mm, personality);
	if (!encl)
		return 0;
	was = test_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	if (any_place)
		clear_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	error = vma->vm_ops->mprotect(vma, start, end, flags);
	if (was)
		set_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	return error;
}

/* __split_vma() */
static void split(struct mm_struct *mm, unsigned long at)
{
	struct vm_area_struct *vma = vma_lookup(mm, at), *above;

	if (!vma || vma->vm_start == at)
		return;
	above = copy_vma(vma, mm);
	above->vm_start = at;
	opened(above);
	vma->vm_end = at;
	insert(mm, above);
}

/* -- what was done to the VMAs, told by the caller ------------------------------------------- */

void judge_did_unmap(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct vm_area_struct *vma;

	split(mm, start);
	split(mm, end);
	judge_zap(mm, start, end);
	while ((vma = find_vma(mm, start)) && vma->vm_start < end) {
		take(mm, vma);
		forget(vma);
	}
}

void judge_did_map(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	if (!pending || pending->vm_start != start || pending->vm_end != end) {
		judge_failure("a mapping that the driver was not asked about");
		return;
	}
	pending->vm_file->count++;
	insert(mm, pending);
	pending = NULL;
}

void judge_did_protect(struct mm_struct *mm, unsigned long start, unsigned long end,
		       unsigned long prot)
{
	struct vm_area_struct *vma = vma_lookup(mm, start);

	if (!vma || (vma->vm_flags & VM_ACCESS_FLAGS) == prot)
		return;
	split(mm, start);
	split(mm, end);
	while ((vma = find_vma(mm, start)) && vma->vm_start < end) {
		vma->vm_flags = (vma->vm_flags & ~VM_ACCESS_FLAGS) | prot;
		start = vma->vm_end;
	}
}

void judge_did_split(struct mm_struct *mm, unsigned long at)
{
	split(mm, at);
}

/*
 * mremap() to another place: copy_vma(), then the old range is unmapped. The PTEs, which move
 * along in Linux, are dropped: docs/limits.md.
 */
void judge_did_move(struct mm_struct *mm, unsigned long start, unsigned long end,
		    unsigned long to, unsigned long to_end)
{
	struct vm_area_struct *old = vma_lookup(mm, start), *vma;

	if (!old)
		return;
	vma = copy_vma(old, mm);
	vma->vm_start = to;
	vma->vm_end = to_end;
	opened(vma);
	judge_did_unmap(mm, start, end);
	insert(mm, vma);
}

/* Whether the VMAs with an enclave are these triples of start, end and permissions. */
int judge_same_vmas(struct mm_struct *mm, const u64 *triples, unsigned int n)
{
	unsigned int found = 0;

	for (unsigned int i = 0; i < mm->n_vmas; i++) {
		struct vm_area_struct *vma = mm->vmas[i];

		if (!vma->vm_ops)
			continue;
		if (found == n || triples[0] != vma->vm_start || triples[1] != vma->vm_end ||
		    triples[2] != (vma->vm_flags & VM_ACCESS_FLAGS))
			return 0;
		found++;
		triples += 3;
	}
	return found == n;
}

/* -- page faults ----------------------------------------------------------------------------- */

static u64 told(int signal, int si_code, unsigned int error_code)
{
	return (u64)signal | (u64)si_code << 8 | (u64)error_code << 16;
}

static struct judge_pte *pte_at(struct mm_struct *mm, unsigned long addr)
{
	for (unsigned int i = 0; i < mm->n_ptes; i++)
		if (mm->ptes[i].addr == (addr & PAGE_MASK))
			return &mm->ptes[i];
	return NULL;
}

/* What the entries of a VMA's page tables allow: PROT_EXEC alone is execute-only (PKU). */
static bool tables_allow(const struct vm_area_struct *vma, int kind)
{
	if (kind == WRITE)
		return vma->vm_flags & VM_WRITE;
	if (kind == FETCH)
		return vma->vm_flags & VM_EXEC;
	return vma->vm_flags & (VM_READ | VM_WRITE);
}

/*
 * access_error() of arch/x86/mm/fault.c where no entry is there: of a fetch it is not asked
 * whether the VMA is executable, so the driver brings the page and the CPU faults again.
 */
static bool access_error(const struct vm_area_struct *vma, int kind)
{
	if (kind == FETCH)
		return !(vma->vm_flags & VM_ACCESS_FLAGS);
	return !tables_allow(vma, kind);
}

/*
 * An access from inside an enclave, until it succeeds or is a signal: signal, si_code << 8,
 * error code << 16.
 */
u64 judge_access(struct mm_struct *mm, unsigned long addr, int kind)
{
	unsigned int code = PF_U | (kind == WRITE ? PF_W : kind == FETCH ? PF_I : 0);
	struct vm_area_struct *vma = vma_lookup(mm, addr);
	struct vm_fault fault = { vma, addr & PAGE_MASK };
	struct judge_pte *pte;
	struct judge_epcm *e;
	vm_fault_t answer;

	enter(mm, 0);
	if (!vma)
		return told(SIGSEGV_, SEGV_MAPERR, code);
	pte = vma->vm_flags & VM_ACCESS_FLAGS ? pte_at(mm, addr) : NULL;
	if (!pte) {
		if (access_error(vma, kind))
			return told(SIGSEGV_, SEGV_ACCERR, code);
		mm->readers++;
		answer = vma->vm_ops->fault(&fault);
		mm->readers--;
		if (answer & VM_FAULT_OOM)
			return told(0, 1, code); /* the access is tried again */
		if (answer & VM_FAULT_SIGBUS)
			return told(SIGBUS_, BUS_ADRERR, code);
		pte = pte_at(mm, addr);
		if (!pte) {
			judge_failure("VM_FAULT_NOPAGE, and no PTE");
			return told(SIGBUS_, 0, code);
		}
	}
	if (!tables_allow(vma, kind))
		return told(SIGSEGV_, SEGV_ACCERR, code | PF_P);
	e = judge_epcm_of(judge_epc[pte->pfn - (1UL << 40 >> PAGE_SHIFT)]);
	if (!e->valid || e->linaddr != (addr & PAGE_MASK) || e->pt != SGX_PAGE_TYPE_REG ||
	    e->pending || e->modified || !(e->rwx >> kind & 1))
		return told(SIGSEGV_, SEGV_ACCERR, code | PF_P | PF_SGX);
	return 0;
}

/* __access_remote_vm() for ptrace: bytes done or -errno. */
int judge_debug(struct mm_struct *mm, unsigned long addr, void *data, int length, int write)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);

	enter(mm, 0);
	if (!vma || !vma->vm_ops)
		return -EFAULT;
	return vma->vm_ops->access(vma, addr, data, length, write);
}

/* -- ENCLU ----------------------------------------------------------------------------------- */

static void *epc_of(struct sgx_encl *encl, unsigned long addr)
{
	struct sgx_encl_page *entry = xa_load(&encl->page_array, PFN_DOWN(addr));

	return entry ? sgx_get_epc_virt_addr(entry->epc_page) : NULL;
}

/* EACCEPT (5), EMODPE (6) or EACCEPTCOPY (7) of an operand that is there. */
int judge_enclu(struct file *file, int leaf, unsigned long addr, unsigned long source, u64 flags)
{
	struct sgx_encl *encl = file->private_data;
	void *page = epc_of(encl, addr);

	if (leaf == 5)
		return judge_eaccept(addr, page, flags);
	if (leaf == 6)
		return judge_emodpe(addr, page, flags);
	return judge_eacceptcopy(addr, page, epc_of(encl, source), flags);
}

/* -- state ----------------------------------------------------------------------------------- */

struct judge_enclave {
	u64 base, size, flags, attributes_mask, measured, pages;
};

void judge_enclave(struct file *file, struct judge_enclave *told_)
{
	struct sgx_encl *encl = file->private_data;

	*told_ = (struct judge_enclave){
		.base = encl->base, .size = encl->size, .pages = encl->page_array.n,
		.flags = (u64)test_bit(SGX_ENCL_CREATED, &encl->flags) |
			 (u64)test_bit(SGX_ENCL_INITIALIZED, &encl->flags) << 1,
		.attributes_mask = encl->attributes_mask,
	};
	if (encl->secs.epc_page)
		told_->measured = judge_measured(sgx_get_epc_virt_addr(encl->secs.epc_page));
}

static u64 word_of(const struct sgx_encl *encl, const struct sgx_encl_page *entry,
		   unsigned long addr)
{
	const struct judge_epcm *e = judge_epcm_of(sgx_get_epc_virt_addr(entry->epc_page));
	const u64 *shift = judge.shifts;

	if (!e->valid || e->linaddr != addr || e->pt != entry->type ||
	    e->secs != sgx_get_epc_virt_addr(encl->secs.epc_page))
		judge_failure("the driver and the EPCM do not agree about a page");
	return 1UL << shift[0] | (u64)e->pt << shift[1] | (u64)e->rwx << shift[2] |
	       (u64)e->pending << shift[3] | (u64)e->modified << shift[4] |
	       (u64)e->pr << shift[5] | (u64)entry->vm_max_prot_bits << shift[6];
}

/* The states of the pages as words of the caller's; with `content` what is in them, too. */
void judge_pages(struct file *file, u64 *words, unsigned int n, u8 *content)
{
	struct sgx_encl *encl = file->private_data;

	for (unsigned int i = 0; i < n; i++) {
		unsigned long addr = encl->base + i * PAGE_SIZE;
		struct sgx_encl_page *entry = xa_load(&encl->page_array, PFN_DOWN(addr));

		words[i] = entry ? word_of(encl, entry, addr) : 0;
		if (content && entry)
			memcpy(content + i * PAGE_SIZE, sgx_get_epc_virt_addr(entry->epc_page),
			       PAGE_SIZE);
	}
}

/* The first page whose word or content is another, or -1; one behind for a page too many. */
int judge_differs(struct file *file, const u64 *words, unsigned int n, const u8 *content)
{
	struct sgx_encl *encl = file->private_data;
	unsigned int found = 0;

	for (unsigned int i = 0; i < n; i++) {
		unsigned long addr = encl->base + i * PAGE_SIZE;
		struct sgx_encl_page *entry = xa_load(&encl->page_array, PFN_DOWN(addr));

		found += !!entry;
		if (words[i] != (entry ? word_of(encl, entry, addr) : 0))
			return (int)i;
		if (entry && memcmp(content + i * PAGE_SIZE,
				    sgx_get_epc_virt_addr(entry->epc_page), PAGE_SIZE))
			return (int)i;
	}
	return found == encl->page_array.n ? -1 : (int)n;
}

/* MRENCLAVE's stand-in after pages of EADD, with EEXTEND of all of them if `measured`. */
u64 judge_measure(u64 hash, u64 offset, u64 secinfo_flags, const u8 *data, u64 n, bool measured)
{
	for (u64 at = offset; at < offset + n; at += PAGE_SIZE) {
		hash = judge_hashed(hash, EADD, at, secinfo_flags);
		for (u64 chunk = 0; measured && chunk < PAGE_SIZE; chunk += SGX_EEXTEND_BLOCK_SIZE) {
			u64 first;

			memcpy(&first, data + (at - offset) + chunk, sizeof(first));
			hash = judge_hashed(hash, EEXTEND, at + chunk, first);
		}
	}
	return hash;
}

bool judge_has_pte(struct mm_struct *mm, unsigned long addr)
{
	return pte_at(mm, addr);
}

/* -- single functions, for what can be tried exhaustively ------------------------------------ */

int judge_may_map(struct file *file, unsigned long personality, unsigned long start,
		  unsigned long end, unsigned long flags)
{
	enter(NULL, personality);
	return sgx_encl_may_map(file->private_data, start, end, flags);
}

/* An enclave that never was created: ELRANGE, flags, and the maximum of each page or -1. */
struct file *judge_made(unsigned long base, unsigned long size, bool initialized,
			const signed char *max, unsigned int n)
{
	struct sgx_encl *encl;
	struct file *file;

	if (judge_open(&file))
		return NULL;
	encl = file->private_data;
	encl->base = base;
	encl->size = size;
	set_bit(SGX_ENCL_CREATED, &encl->flags);
	if (initialized)
		set_bit(SGX_ENCL_INITIALIZED, &encl->flags);
	for (unsigned int i = 0; i < n; i++) {
		struct sgx_encl_page *entry;

		if (max[i] < 0)
			continue;
		entry = sgx_encl_page_alloc(encl, i * PAGE_SIZE, 0);
		entry->vm_max_prot_bits = (unsigned long)max[i];
		xa_insert(&encl->page_array, PFN_DOWN(base + i * PAGE_SIZE), entry, GFP_KERNEL);
	}
	return file;
}
