/* SPDX-License-Identifier: MIT */
#include "encls.h"
#include "judge.h"

#include <stdlib.h>

#include "driver.h"
#include "encl.h"

static struct task_struct task;

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

void judge_enter(struct mm_struct *mm, unsigned long personality)
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

	judge_enter(mm, 0);
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

	judge_enter(mm, 0);
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

	judge_enter(mm, 0);
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
	judge_enter(NULL, personality);
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
