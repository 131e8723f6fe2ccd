/* SPDX-License-Identifier: MIT
 *
 * What the kernel's SGX driver needs of a kernel, in user space: enough for driver.c, ioctl.c and
 * encl.c of Debian's linux-source packages to compile and to run as they are. Every header that
 * they include stands for this file (build.py writes them).
 *
 * One thread, one call at a time: locks only count, and a lock that is taken twice, released
 * twice or left taken is a failure (judge_failures). Every allocation can be made to fail.
 */
#ifndef JUDGE_KERNEL_H
#define JUDGE_KERNEL_H

#include <asm-generic/ioctl.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

/* -- types ------------------------------------------------------------------------------- */

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef uint8_t __u8;
typedef uint16_t __u16;
typedef uint32_t __u32;
typedef uint64_t __u64;
typedef unsigned int gfp_t;
typedef unsigned int vm_fault_t;
typedef unsigned long pgoff_t;
typedef long judge_loff_t;
typedef unsigned long cpumask_t;
#define __user
#define __init
#define __packed __attribute__((packed))
#define __aligned(n) __attribute__((aligned(n)))
#define likely(x) (x)
#define unlikely(x) (x)
#define THIS_MODULE NULL
#define GFP_KERNEL 0

/* -- bits and numbers -------------------------------------------------------------------- */

#define BIT(n) (1UL << (n))
#define BIT_ULL(n) (1ULL << (n))
#define GENMASK(high, low) ((~0UL << (low)) & (~0UL >> (63 - (high))))
#define GENMASK_ULL(high, low) GENMASK(high, low)
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), #condition)
#define IS_ALIGNED(x, to) (((x) & ((typeof(x))(to) - 1)) == 0)
#define ALIGN_DOWN(x, to) ((x) & ~((typeof(x))(to) - 1))
#define min(a, b) ((a) < (b) ? (a) : (b))
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))
#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define PFN_DOWN(x) ((unsigned long)(x) >> PAGE_SHIFT)
#define PFN_PHYS(x) ((unsigned long)(x) << PAGE_SHIFT)
#define _calc_vm_trans(x, from, to) (((x) & (from)) ? (to) : 0)

static inline bool is_power_of_2(unsigned long n)
{
	return __builtin_popcountl(n) == 1;
}

/* enum sgx_encl_flags holds masks, and the driver uses them as bit numbers: so does this. */
static inline bool test_bit(unsigned long n, const unsigned long *word)
{
	return word[n / 64] >> n % 64 & 1;
}

static inline void set_bit(unsigned long n, unsigned long *word)
{
	word[n / 64] |= 1UL << n % 64;
}

static inline void clear_bit(unsigned long n, unsigned long *word)
{
	word[n / 64] &= ~(1UL << n % 64);
}

static inline bool test_and_set_bit(unsigned long n, unsigned long *word)
{
	bool was = test_bit(n, word);

	set_bit(n, word);
	return was;
}

#define DECLARE_BITMAP(name, bits) unsigned long name[((bits) + 63) / 64]

static inline unsigned long find_first_zero_bit(const unsigned long *words, unsigned long n)
{
	unsigned long i = 0;

	while (i < n && test_bit(i, words))
		i++;
	return i;
}

static inline void *memchr_inv(const void *start, int byte, size_t n)
{
	const u8 *at = start;

	for (; n; n--, at++)
		if (*at != (u8)byte)
			return (void *)at;
	return NULL;
}

/* -- errors ------------------------------------------------------------------------------ */

#define ERESTARTSYS 512
#define ENOIOCTLCMD 515
#define ERR_PTR(error) ((void *)(long)(error))
#define PTR_ERR(pointer) ((long)(pointer))
#define ERR_CAST(pointer) ((void *)(pointer))
#define IS_ERR(pointer) ((unsigned long)(pointer) >= (unsigned long)-4095L)

/* A count of what must not happen: a warning of the driver's, a lock that is taken twice. */
void judge_failure(const char *what);

#define WARN_ONCE(condition, ...) \
	({ bool bad_ = !!(condition); if (bad_) judge_failure("WARN " #condition); bad_; })
#define WARN_ON_ONCE(condition) WARN_ONCE(condition)
#define pr_info(...) do { } while (0)
#define pr_debug(...) do { } while (0)
#define pr_warn(...) judge_failure("pr_warn")
#define pr_err_once(format, ...) ((void)0)

/* -- memory ------------------------------------------------------------------------------ */

/* Zeroed or not is the caller's: kmalloc() fills with what no caller may rely on. */
void *kzalloc(size_t n, gfp_t gfp);
void *kmalloc(size_t n, gfp_t gfp);
void kfree(const void *pointer);

/* -- lists ------------------------------------------------------------------------------- */

struct list_head {
	struct list_head *next, *prev;
};

static inline void INIT_LIST_HEAD(struct list_head *list)
{
	list->next = list->prev = list;
}

static inline void list_add(struct list_head *entry, struct list_head *head)
{
	entry->next = head->next;
	entry->prev = head;
	head->next->prev = entry;
	head->next = entry;
}

static inline void list_del(struct list_head *entry)
{
	entry->prev->next = entry->next;
	entry->next->prev = entry->prev;
}

static inline void list_move(struct list_head *entry, struct list_head *head)
{
	list_del(entry);
	list_add(entry, head);
}

static inline bool list_empty(const struct list_head *head)
{
	return head->next == head;
}

#define list_add_rcu list_add
#define list_del_rcu list_del
#define list_first_entry(head, type, member) container_of((head)->next, type, member)
#define list_for_each_entry(at, head, member)					\
	for (at = container_of((head)->next, typeof(*at), member);		\
	     &at->member != (head);						\
	     at = container_of(at->member.next, typeof(*at), member))
#define list_for_each_entry_rcu list_for_each_entry

/* -- locks, references, RCU -------------------------------------------------------------- */

typedef struct {
	int held;
} spinlock_t;

struct mutex {
	int held;
};

struct srcu_struct {
	int readers;
};

struct kref {
	int count;
};

static inline void judge_lock(int *held)
{
	if ((*held)++)
		judge_failure("a lock is taken twice");
}

static inline void judge_unlock(int *held)
{
	if (--*held)
		judge_failure("a lock is released that nobody holds");
}

#define spin_lock_init(lock) ((lock)->held = 0)
#define spin_lock(lock) judge_lock(&(lock)->held)
#define spin_unlock(lock) judge_unlock(&(lock)->held)
#define mutex_init(lock) ((lock)->held = 0)
#define mutex_lock(lock) judge_lock(&(lock)->held)
#define mutex_unlock(lock) judge_unlock(&(lock)->held)
#define smp_wmb() do { } while (0)
#define smp_rmb() do { } while (0)
#define preempt_disable() do { } while (0)
#define preempt_enable() do { } while (0)
#define need_resched() 0
#define cond_resched() do { } while (0)

int init_srcu_struct(struct srcu_struct *srcu);

static inline void cleanup_srcu_struct(struct srcu_struct *srcu)
{
	if (srcu->readers)
		judge_failure("SRCU is read when it goes");
}

static inline int srcu_read_lock(struct srcu_struct *srcu)
{
	return srcu->readers++;
}

static inline void srcu_read_unlock(struct srcu_struct *srcu, int index)
{
	(void)index;
	srcu->readers--;
}

static inline void synchronize_srcu(struct srcu_struct *srcu)
{
	if (srcu->readers)
		judge_failure("synchronize_srcu() under srcu_read_lock()");
}

static inline void kref_init(struct kref *ref)
{
	ref->count = 1;
}

static inline void kref_get(struct kref *ref)
{
	ref->count++;
}

static inline void kref_put(struct kref *ref, void (*release)(struct kref *ref))
{
	if (!--ref->count)
		release(ref);
}

/* -- xarray: a sorted array -------------------------------------------------------------- */

struct judge_slot {
	unsigned long index;
	void *entry;
};

struct xarray {
	unsigned int n, room;
	struct judge_slot *slots;
	int lock;
};

struct xa_state {
	struct xarray *xa;
	unsigned long index;
	bool done;
};

#define XA_CHECK_SCHED 4096
#define XA_STATE(name, array, start) struct xa_state name = { array, start, false }
#define xa_init(xa) memset(xa, 0, sizeof(struct xarray))
#define xas_lock(xas) judge_lock(&(xas)->xa->lock)
#define xas_unlock(xas) judge_unlock(&(xas)->xa->lock)
#define xas_pause(xas) do { } while (0)
#define xas_for_each(xas, at, max) \
	for (at = judge_xas_next(xas, max); at; at = judge_xas_next(xas, max))

void *judge_xas_next(struct xa_state *xas, unsigned long max);
void *xa_load(struct xarray *xa, unsigned long index);
int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp);
void *xa_erase(struct xarray *xa, unsigned long index);
void xa_destroy(struct xarray *xa);

/* -- files ------------------------------------------------------------------------------- */

struct file;
struct inode;
struct vm_area_struct;
struct mm_struct;

struct file_operations {
	void *owner;
	int (*open)(struct inode *inode, struct file *file);
	int (*release)(struct inode *inode, struct file *file);
	long (*unlocked_ioctl)(struct file *file, unsigned int cmd, unsigned long arg);
	long (*compat_ioctl)(struct file *file, unsigned int cmd, unsigned long arg);
	int (*mmap)(struct file *file, struct vm_area_struct *vma);
	unsigned long (*get_unmapped_area)(struct file *file, unsigned long addr,
					   unsigned long len, unsigned long pgoff,
					   unsigned long flags);
};

struct address_space {
	int unused;
};

struct file {
	const struct file_operations *f_op;
	void *private_data;
	struct address_space *f_mapping;
	int count;
};

struct miscdevice {
	int minor;
	const char *name;
	const char *nodename;
	const struct file_operations *fops;
};

#define MISC_DYNAMIC_MINOR 255
#define VM_NORESERVE 0x00200000UL

int misc_register(struct miscdevice *device);
void fput(struct file *file);
struct file *shmem_file_setup(const char *name, judge_loff_t size, unsigned long flags);

static inline struct inode *file_inode(struct file *file)
{
	return (struct inode *)file;
}

/* -- pages: of user space, and of the backing file, which nobody reaches: nothing is evicted -- */

struct page;

void *kmap_local_page(struct page *page);
#define kmap_atomic kmap_local_page
#define kunmap_local(address) ((void)(address))
#define kunmap_atomic(address) ((void)(address))
#define get_page(page) ((void)(page))
#define put_page(page) ((void)(page))
#define set_page_dirty(page) ((void)(page))
struct page *shmem_read_mapping_page_gfp(struct address_space *mapping, pgoff_t index, gfp_t gfp);
void shmem_truncate_range(struct inode *inode, judge_loff_t start, judge_loff_t end);
#define mapping_gfp_mask(mapping) ((void)(mapping), 0)

struct mem_cgroup;
#define get_mem_cgroup_from_mm(mm) ((void)(mm), (struct mem_cgroup *)NULL)

static inline struct mem_cgroup *set_active_memcg(struct mem_cgroup *group)
{
	return group;
}

#define mem_cgroup_put(group) ((void)(group))

/* -- address spaces ---------------------------------------------------------------------- */

#define VM_READ 1UL
#define VM_WRITE 2UL
#define VM_EXEC 4UL
#define VM_ACCESS_FLAGS (VM_READ | VM_WRITE | VM_EXEC)
#define VM_MAYEXEC 0x40UL
#define VM_PFNMAP 0x400UL
#define VM_IO 0x4000UL
#define VM_DONTEXPAND 0x40000UL
#define VM_DONTDUMP 0x4000000UL
#define VM_FAULT_OOM 0x0001
#define VM_FAULT_SIGBUS 0x0002
#define VM_FAULT_NOPAGE 0x0100
#define READ_IMPLIES_EXEC 0x0400000
#define calc_vm_prot_bits(prot, pkey) \
	((unsigned long)((prot) & (PROT_READ | PROT_WRITE | PROT_EXEC)) | (pkey))

struct vm_fault {
	struct vm_area_struct *vma;
	unsigned long address;
};

struct vm_operations_struct {
	void (*open)(struct vm_area_struct *vma);
	int (*mprotect)(struct vm_area_struct *vma, unsigned long start, unsigned long end,
			unsigned long flags);
	vm_fault_t (*fault)(struct vm_fault *fault);
	int (*access)(struct vm_area_struct *vma, unsigned long addr, void *buffer, int len,
		      int write);
};

struct vm_area_struct {
	unsigned long vm_start, vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	const struct vm_operations_struct *vm_ops;
	void *vm_private_data;
	struct file *vm_file;
};

struct mmu_notifier;

struct mmu_notifier_ops {
	void (*release)(struct mmu_notifier *notifier, struct mm_struct *mm);
	void (*free_notifier)(struct mmu_notifier *notifier);
};

struct mmu_notifier {
	const struct mmu_notifier_ops *ops;
	struct mmu_notifier *next;
};

/* A PTE that the driver made: the address and the frame. */
struct judge_pte {
	unsigned long addr, pfn;
};

#define JUDGE_MAX_VMAS 256
#define JUDGE_MAX_PTES 256

struct mm_struct {
	int users, readers, writers;
	unsigned int n_vmas, n_ptes;
	struct vm_area_struct *vmas[JUDGE_MAX_VMAS];
	struct judge_pte ptes[JUDGE_MAX_PTES];
	struct mmu_notifier *notifiers;
	unsigned long (*get_unmapped_area)(struct file *file, unsigned long addr,
					   unsigned long len, unsigned long pgoff,
					   unsigned long flags);
};

typedef struct {
	u64 pte;
} pte_t;

#define pte_young(pte_) ((pte_).pte & 0x20)
#define pte_mkold(pte_) ((pte_t){ (pte_).pte & ~0x20UL })
#define set_pte_at(mm, addr, at, pte_) ((void)(mm), (void)(addr), *(at) = (pte_))

static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}

static inline void mmap_read_lock(struct mm_struct *mm)
{
	if (mm->writers)
		judge_failure("mmap_lock is read under a writer");
	mm->readers++;
}

static inline void mmap_read_unlock(struct mm_struct *mm)
{
	if (mm->readers-- <= 0)
		judge_failure("mmap_lock is released that nobody holds");
}

static inline void mmap_assert_write_locked(struct mm_struct *mm)
{
	if (!mm->writers)
		judge_failure("mmap_lock is not held for write");
}

static inline bool mmget_not_zero(struct mm_struct *mm)
{
	if (!mm->users)
		return false;
	mm->users++;
	return true;
}

#define mmput_async(mm) ((mm)->users--)
#define mm_cpumask(mm) ((cpumask_t *)&(mm)->readers)
#define cpumask_clear(mask) (*(mask) = 0)
#define cpumask_or(to, a, b) ((void)(b), *(to) = *(a))
#define on_each_cpu_mask(mask, function, info, wait) ((void)(mask), (void)(function))

struct vm_area_struct *find_vma(struct mm_struct *mm, unsigned long addr);
struct vm_area_struct *vma_lookup(struct mm_struct *mm, unsigned long addr);
unsigned long mm_get_unmapped_area(struct mm_struct *mm, struct file *file, unsigned long addr,
				   unsigned long len, unsigned long pgoff, unsigned long flags);
vm_fault_t vmf_insert_pfn(struct vm_area_struct *vma, unsigned long addr, unsigned long pfn);
void zap_vma_ptes(struct vm_area_struct *vma, unsigned long addr, unsigned long size);
int apply_to_page_range(struct mm_struct *mm, unsigned long addr, unsigned long size,
			int (*function)(pte_t *pte, unsigned long addr, void *data), void *data);
int __mmu_notifier_register(struct mmu_notifier *notifier, struct mm_struct *mm);
void mmu_notifier_unregister(struct mmu_notifier *notifier, struct mm_struct *mm);
void mmu_notifier_put(struct mmu_notifier *notifier);

/* Before Linux 6.5 get_user_pages() had one argument more, for the VMAs. */
long judge_get_user_page(unsigned long addr, struct page **page);
#define get_user_pages(start, n, flags, pages, ...) judge_get_user_page(start, pages)

/* -- the task ---------------------------------------------------------------------------- */

struct task_struct {
	struct mm_struct *mm;
	unsigned long personality;
};

extern struct task_struct *current;

int signal_pending(struct task_struct *task);
#define msleep_interruptible(ms) ((void)(ms))
unsigned long copy_from_user(void *to, const void *from, unsigned long n);
unsigned long copy_to_user(void *to, const void *from, unsigned long n);

/* -- the processor ----------------------------------------------------------------------- */

#define X86_FEATURE_SGX_LC 1
#define X86_FEATURE_SGX2 2
#define X86_FEATURE_OSXSAVE 3
#define X86_TRAP_GP 13
#define X86_TRAP_PF 14

extern bool judge_sgx2;
#define cpu_feature_enabled(feature) ((feature) != X86_FEATURE_SGX2 || judge_sgx2)
void cpuid_count(unsigned int leaf, unsigned int subleaf, unsigned int *eax, unsigned int *ebx,
		 unsigned int *ecx, unsigned int *edx);

/* -- SHA-256, of which only the failure is asked -------------------------------------------- */

struct crypto_shash {
	int unused;
};

struct judge_shash_desc {
	struct crypto_shash *tfm;
};

#define CRYPTO_ALG_ASYNC 0x80
#define SHASH_DESC_ON_STACK(name, tfm) struct judge_shash_desc name##_desc, *name = &name##_desc
#define crypto_alloc_shash(name, type, mask) judge_alloc_shash()
#define crypto_shash_digest(desc, data, n, out) ((void)(desc), memset(out, 0, 32), 0)
#define crypto_free_shash(tfm) kfree(tfm)
struct crypto_shash *judge_alloc_shash(void);

#endif
