/* SPDX-License-Identifier: MIT
 *
 * Address spaces: the driver's part of memory calls, and what was done to the VMAs, which the
 * caller tells.
 */
#include "encls.h"
#include "judge.h"

#include <stdlib.h>

#include "driver.h"
#include "encl.h"

static struct vm_area_struct *pending; /* what the last mmap made, not in any list yet */

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
	judge_enter(mm, 0);
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
	judge_enter(mm, personality);
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
	judge_enter(mm, personality);
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
