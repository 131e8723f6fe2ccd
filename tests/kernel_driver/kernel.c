/* SPDX-License-Identifier: MIT
 *
 * The functions of kernel.h, and the page allocator of main.c as a plain array.
 */
#include "encls.h"
#include "judge.h"

#include <stdlib.h>

#include "driver.h"
#include "encl.h"

struct sgx_epc_section sgx_epc_sections[SGX_MAX_EPC_SECTIONS];
const struct file_operations sgx_provision_fops;
struct task_struct *current;
struct judge_state judge;
bool judge_sgx2;

static struct sgx_epc_page epc_pages[JUDGE_EPC_PAGES];
static struct file backing; /* of every enclave */

void judge_failure(const char *what)
{
	judge.failures++;
	judge.failure = what;
}

/* -- memory -------------------------------------------------------------------------------- */

/* Whether this allocation is the one that fails. */
static bool runs_out(void)
{
	judge.allocations++;
	return judge.fail_at && !--judge.fail_at;
}

void *kzalloc(size_t n, gfp_t gfp)
{
	(void)gfp;
	if (runs_out())
		return NULL;
	judge.objects++;
	return calloc(1, n);
}

void *kmalloc(size_t n, gfp_t gfp)
{
	void *found = kzalloc(n, gfp);

	if (found)
		memset(found, 0x5a, n);
	return found;
}

void kfree(const void *pointer)
{
	if (pointer)
		judge.objects--;
	free((void *)pointer);
}

int init_srcu_struct(struct srcu_struct *srcu)
{
	srcu->readers = 0;
	return runs_out() ? -ENOMEM : 0;
}

struct crypto_shash *judge_alloc_shash(void)
{
	void *found = kzalloc(sizeof(struct crypto_shash), GFP_KERNEL);

	return found ? found : ERR_PTR(-ENOMEM);
}

/* -- xarray -------------------------------------------------------------------------------- */

static unsigned int position(const struct xarray *xa, unsigned long index)
{
	unsigned int low = 0, high = xa->n;

	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (xa->slots[middle].index < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void *judge_xas_next(struct xa_state *xas, unsigned long max)
{
	unsigned int at = position(xas->xa, xas->index);

	if (xas->done || at == xas->xa->n || xas->xa->slots[at].index > max)
		return NULL;
	xas->index = xas->xa->slots[at].index + 1;
	xas->done = !xas->index;
	return xas->xa->slots[at].entry;
}

void *xa_load(struct xarray *xa, unsigned long index)
{
	unsigned int at = position(xa, index);

	return at < xa->n && xa->slots[at].index == index ? xa->slots[at].entry : NULL;
}

int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp)
{
	unsigned int at = position(xa, index);

	(void)gfp;
	if (at < xa->n && xa->slots[at].index == index)
		return -EBUSY;
	if (runs_out())
		return -ENOMEM;
	if (xa->n == xa->room) {
		xa->room = xa->room ? 2 * xa->room : 8;
		xa->slots = realloc(xa->slots, xa->room * sizeof(*xa->slots));
	}
	memmove(&xa->slots[at + 1], &xa->slots[at], (xa->n - at) * sizeof(*xa->slots));
	xa->slots[at] = (struct judge_slot){ index, entry };
	xa->n++;
	return 0;
}

void *xa_erase(struct xarray *xa, unsigned long index)
{
	unsigned int at = position(xa, index);
	void *was = xa_load(xa, index);

	if (was) {
		xa->n--;
		memmove(&xa->slots[at], &xa->slots[at + 1], (xa->n - at) * sizeof(*xa->slots));
	}
	return was;
}

void xa_destroy(struct xarray *xa)
{
	free(xa->slots);
	xa_init(xa);
}

/* -- files --------------------------------------------------------------------------------- */

int misc_register(struct miscdevice *device)
{
	judge.fops = device->fops;
	return 0;
}

/* The rules of __shmem_file_setup() about sizes. */
struct file *shmem_file_setup(const char *name, judge_loff_t size, unsigned long flags)
{
	(void)name, (void)flags;
	if (size < 0)
		return ERR_PTR(-EINVAL);
	if (runs_out())
		return ERR_PTR(-ENOMEM);
	backing.count++;
	judge.objects++;
	return &backing;
}

void fput(struct file *file)
{
	file->count--;
	judge.objects--;
}

/* -- pages --------------------------------------------------------------------------------- */

void *kmap_local_page(struct page *page)
{
	return page;
}

struct page *shmem_read_mapping_page_gfp(struct address_space *mapping, pgoff_t index, gfp_t gfp)
{
	(void)mapping, (void)index, (void)gfp;
	judge_failure("the backing file is read, but nothing was evicted");
	return ERR_PTR(-EIO);
}

void shmem_truncate_range(struct inode *inode, judge_loff_t start, judge_loff_t end)
{
	(void)inode, (void)start, (void)end;
	judge_failure("the backing file is cut, but nothing was evicted");
}

/* A page of user memory that can be reached with one of `flags`, or NULL. */
static u8 *user_page(unsigned long addr, unsigned long flags)
{
	struct vm_area_struct *vma = current->mm ? vma_lookup(current->mm, addr) : NULL;
	unsigned long at = addr - judge.user_base;

	if (!vma || vma->vm_flags & (VM_IO | VM_PFNMAP) || !(vma->vm_flags & flags))
		return NULL;
	if (at >= judge.user_bytes || judge.beyond_eof >> at / PAGE_SIZE & 1)
		return NULL;
	return judge.user + (at & PAGE_MASK);
}

static unsigned long copy(unsigned long user, void *kernel, unsigned long n, bool write)
{
	while (n) {
		unsigned long offset = user & ~PAGE_MASK, part = min(n, PAGE_SIZE - offset);
		u8 *page = user_page(user, write ? VM_WRITE : VM_READ);

		if (!page)
			return n;
		if (write)
			memcpy(page + offset, kernel, part);
		else
			memcpy(kernel, page + offset, part);
		user += part;
		kernel = (u8 *)kernel + part;
		n -= part;
	}
	return 0;
}

unsigned long copy_from_user(void *to, const void *from, unsigned long n)
{
	return copy((unsigned long)from, to, n, false);
}

unsigned long copy_to_user(void *to, const void *from, unsigned long n)
{
	return copy((unsigned long)to, (void *)from, n, true);
}

long judge_get_user_page(unsigned long addr, struct page **page)
{
	u8 *found = user_page(addr, VM_READ);

	*page = (struct page *)found;
	return found ? 1 : -EFAULT;
}

int signal_pending(struct task_struct *task)
{
	(void)task;
	return judge.signal_at && judge.signal_at <= ++judge.signal_asked;
}

/* -- address spaces ------------------------------------------------------------------------ */

struct vm_area_struct *find_vma(struct mm_struct *mm, unsigned long addr)
{
	for (unsigned int i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->vm_end > addr)
			return mm->vmas[i];
	return NULL;
}

struct vm_area_struct *vma_lookup(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma = find_vma(mm, addr);

	return vma && vma->vm_start <= addr ? vma : NULL;
}

unsigned long mm_get_unmapped_area(struct mm_struct *mm, struct file *file, unsigned long addr,
				   unsigned long len, unsigned long pgoff, unsigned long flags)
{
	return mm->get_unmapped_area(file, addr, len, pgoff, flags);
}

vm_fault_t vmf_insert_pfn(struct vm_area_struct *vma, unsigned long addr, unsigned long pfn)
{
	struct mm_struct *mm = vma->vm_mm;

	if (addr < vma->vm_start || addr >= vma->vm_end)
		return VM_FAULT_SIGBUS;
	if (runs_out())
		return VM_FAULT_OOM;
	if (mm->n_ptes == JUDGE_MAX_PTES) {
		judge_failure("more PTEs than there is room for");
		return VM_FAULT_OOM;
	}
	mm->ptes[mm->n_ptes++] = (struct judge_pte){ addr & PAGE_MASK, pfn };
	return VM_FAULT_NOPAGE;
}

void judge_zap(struct mm_struct *mm, unsigned long start, unsigned long end)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < mm->n_ptes; i++)
		if (mm->ptes[i].addr < start || mm->ptes[i].addr >= end)
			mm->ptes[kept++] = mm->ptes[i];
	mm->n_ptes = kept;
}

void zap_vma_ptes(struct vm_area_struct *vma, unsigned long addr, unsigned long size)
{
	if (addr < vma->vm_start || addr + size > vma->vm_end || !(vma->vm_flags & VM_PFNMAP))
		return;
	judge_zap(vma->vm_mm, addr, addr + size);
}

/* The accessed bit is nobody's business here: what is not evicted is never young or old. */
int apply_to_page_range(struct mm_struct *mm, unsigned long addr, unsigned long size,
			int (*function)(pte_t *pte, unsigned long addr, void *data), void *data)
{
	pte_t pte = { 0x20 };

	(void)mm, (void)size;
	return function(&pte, addr, data);
}

/*
 * This never fails: where it does, sgx_encl_mm_add() keeps the reference that it took, and the
 * enclave is never freed. No program can tell.
 */
int __mmu_notifier_register(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	notifier->next = mm->notifiers;
	mm->notifiers = notifier;
	return 0;
}

static bool drop(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct mmu_notifier **at = &mm->notifiers;

	while (*at && *at != notifier)
		at = &(*at)->next;
	if (!*at)
		return false;
	*at = notifier->next;
	return true;
}

void mmu_notifier_unregister(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	if (drop(notifier, mm))
		notifier->ops->release(notifier, mm);
}

void mmu_notifier_put(struct mmu_notifier *notifier)
{
	notifier->ops->free_notifier(notifier);
}

/* -- the processor, and main.c ------------------------------------------------------------- */

void cpuid_count(unsigned int leaf, unsigned int subleaf, unsigned int *eax, unsigned int *ebx,
		 unsigned int *ecx, unsigned int *edx)
{
	(void)leaf;
	if (!subleaf) {
		*eax = 1 | judge_sgx2 << 1;
		*ebx = judge_cpu.miscselect;
		*ecx = *edx = 0;
		return;
	}
	*eax = (u32)judge_cpu.attributes;
	*ebx = judge_cpu.attributes >> 32;
	*ecx = (u32)judge_cpu.xfrm;
	*edx = judge_cpu.xfrm >> 32;
}

void judge_epc_init(void)
{
	memset(epc_pages, 0, judge.epc_pages * sizeof(epc_pages[0]));
	judge_epc_reset(judge.epc_pages);
	sgx_epc_sections[0] = (struct sgx_epc_section){
		.phys_addr = 1UL << 40, .virt_addr = judge_epc, .pages = epc_pages,
	};
	for (u64 i = 0; i < judge.epc_pages; i++)
		epc_pages[i].flags = SGX_EPC_PAGE_IS_FREE;
}

struct sgx_epc_page *sgx_alloc_epc_page(void *owner, bool reclaim)
{
	(void)reclaim;
	if (runs_out())
		return ERR_PTR(-ENOMEM);
	for (u64 i = 0; i < judge.epc_pages; i++)
		if (epc_pages[i].flags & SGX_EPC_PAGE_IS_FREE) {
			epc_pages[i].flags = 0;
			epc_pages[i].owner = owner;
			judge.objects++;
			return &epc_pages[i];
		}
	judge_failure("the EPC is full");
	return ERR_PTR(-ENOMEM);
}

void sgx_free_epc_page(struct sgx_epc_page *page)
{
	judge.objects--;
	page->flags = SGX_EPC_PAGE_IS_FREE;
}

void sgx_mark_page_reclaimable(struct sgx_epc_page *page)
{
	page->flags |= SGX_EPC_PAGE_RECLAIMER_TRACKED;
}

int sgx_unmark_page_reclaimable(struct sgx_epc_page *page)
{
	page->flags &= ~SGX_EPC_PAGE_RECLAIMER_TRACKED;
	return 0;
}

void sgx_reclaim_direct(void)
{
}

void sgx_ipi_cb(void *info)
{
	(void)info;
}

void sgx_update_lepubkeyhash(u64 *hash)
{
	(void)hash;
}

bool current_is_ksgxd(void)
{
	return false;
}

/* main.c: which fd is open, and of what, the caller has said (judge.provision_fd). */
int sgx_set_attribute(unsigned long *allowed, unsigned int fd)
{
	if (fd != judge.provision_fd)
		return -EINVAL;
	*allowed |= SGX_ATTR_PROVISIONKEY;
	return 0;
}
