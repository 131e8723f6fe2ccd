/* SPDX-License-Identifier: MIT
 *
 * usage: mm
 * mmap, mprotect, mremap, munmap and madvise on an enclave's ranges, as Linux 6.1 answers: the
 * driver's sgx_mmap() and sgx_encl_may_map() (arch/x86/kernel/cpu/sgx), and what mm/ does to a VMA
 * that is VM_PFNMAP | VM_DONTEXPAND | VM_IO.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include "loader.h"
#include "tap.h"

#define R PROT_READ
#define W PROT_WRITE
#define X PROT_EXEC

static struct encl e;
static uint64_t code, data, heap, room; /* room: in ELRANGE, no page, no mapping of the device */

static long map(uint64_t at, uint64_t len, int prot, int flags)
{
	void *p = mmap((void *)at, len, prot, flags, e.fd, 0);

	return p == MAP_FAILED ? -1 : 0;
}

static long protect(uint64_t at, uint64_t len, int prot)
{
	return mprotect((void *)at, len, prot);
}

static long remap(uint64_t at, uint64_t len, uint64_t new_len, int flags, uint64_t to)
{
	return mremap((void *)at, len, new_len, flags, (void *)to) == MAP_FAILED ? -1 : 0;
}

static uint64_t peek(uint64_t at)
{
	return encl_op(&e, OP_PEEK, at, 0, 0, 0);
}

/* Enter on a thread that is given up for it: how the vDSO said that it went. */
static void enter_fails(int thread, enum op op, uint64_t a, unsigned function, uint64_t addr,
			const char *name)
{
	struct sgx_enclave_run run = {0};
	struct call c = {.op = op, .a = a};
	int ret = encl_call(&e, thread, &c, &run);

	check(ret == 0 && run.function == function && run.exception_vector == 14
	      && run.exception_addr == addr, name, "ret %d, function %u, vector %u, code %#x, addr %#llx",
	      ret, run.function, run.exception_vector, run.exception_error_code, run.exception_addr);
}

/* No more than SECINFO allowed: sgx_encl_may_map(). */
static void maximum(void)
{
	uint64_t tcs = e.base + e.tcs[0];
	uint64_t outside = (uint64_t)mmap(NULL, PAGE, R, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check_errno(map(code, PAGE, R | W, MAP_SHARED | MAP_FIXED), EACCES, "mmap_code_w");
	check_errno(map(data, PAGE, R | X, MAP_SHARED | MAP_FIXED), EACCES, "mmap_data_x");
	check_errno(map(tcs, PAGE, R | X, MAP_SHARED | MAP_FIXED), EACCES, "mmap_tcs_x");
	check_errno(map(code, data + PAGE - code, R | X, MAP_SHARED | MAP_FIXED), EACCES, "mmap_both_x");
	/* The driver is asked after mmap_region() has unmapped what was there: a refusal leaves a hole. */
	check_errno(protect(tcs, PAGE, R), ENOMEM, "mmap_refused_leaves_hole");
	check_errno(map(code, data - code, R | X, MAP_SHARED | MAP_FIXED), 0, "mmap_code_again");
	check_errno(map(data, PAGE, R | W, MAP_SHARED | MAP_FIXED), 0, "mmap_data_again");
	check_errno(map(tcs, PAGE, R | W, MAP_SHARED | MAP_FIXED), 0, "mmap_tcs_again");
	for (int i = 0; i < e.nseg; i++) /* mmap_both_x went over all of data */
		if (!strcmp(e.seg[i].name, "data"))
			encl_map_seg(&e, &e.seg[i], R | W);
	check_errno(map(room, PAGE, R | W | X, MAP_SHARED | MAP_FIXED), 0, "mmap_absent_rwx");
	munmap((void *)room, PAGE);
	/* Outside of ELRANGE: refused after INIT, even with PROT_NONE. */
	check_errno(map(outside, PAGE, PROT_NONE, MAP_SHARED | MAP_FIXED), EACCES, "mmap_outside");
	check_errno(map(0, 64 * PAGE, R, MAP_SHARED), EACCES, "mmap_anywhere");
	check_errno(protect(code, PAGE, R | W | X), EACCES, "mprotect_code_w");
	check_errno(protect(data, PAGE, R | W | X), EACCES, "mprotect_data_x");
	check_errno(protect(tcs, PAGE, R | W | X), EACCES, "mprotect_tcs_x");
	check_errno(protect(data, PAGE, R), 0, "mprotect_data_r");
	check_errno(protect(data, PAGE, R | W), 0, "mprotect_data_rw");
	check_errno(protect(room, PAGE, R), ENOMEM, "mprotect_hole");
	check(peek(heap) == 0, "still_enters", "%s", e.err);
}

/* do_mmap() and sgx_get_unmapped_area(): what is refused before the driver's own check. */
static void flags(void)
{
	uint64_t other = (uint64_t)mmap(NULL, PAGE, R, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int ro = open(encl_device(), O_RDONLY);

	check_errno(map(heap, PAGE, R, MAP_PRIVATE | MAP_FIXED), EINVAL, "mmap_private");
	check_errno(map(heap, 0, R, MAP_SHARED | MAP_FIXED), EINVAL, "mmap_length_0");
	check_errno(map(heap + 8, PAGE, R, MAP_SHARED | MAP_FIXED), EINVAL, "mmap_misaligned");
	check_errno(map(other, PAGE, R, MAP_SHARED | MAP_FIXED_NOREPLACE), EEXIST, "mmap_noreplace");
	check_errno(map(heap, PAGE, R | W, MAP_SHARED_VALIDATE | MAP_FIXED), 0, "mmap_shared_validate");
	check_errno(mmap((void *)heap, PAGE, R | W, MAP_SHARED | MAP_FIXED, e.fd, 5 * PAGE) == MAP_FAILED
		    ? -1 : 0, 0, "mmap_offset_ignored");
	/* Written to the descriptor's mode, before the driver is asked. */
	check_errno(mmap(NULL, PAGE, R | W, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0, EACCES,
		    "mmap_read_only_fd");
	check_errno(mmap(NULL, PAGE, R, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0, 0, "mmap_not_created");
	close(ro);
	encl_op(&e, OP_POKE, heap, 11, 0, 0);
	check(peek(heap) == 11, "same_page_again", "%s", e.err);
}

/* mprotect() goes VMA by VMA: what came before the refused one stays changed. */
static void partial(void)
{
	uint64_t last = data - PAGE; /* of the code */

	check_errno(protect(last, PAGE, R), 0, "partial_before");
	enter_fails(3, OP_CALL, last + PAGE - 16, ERESUME, last, "partial_not_executable");
	check_errno(protect(last, 2 * PAGE, R | X), EACCES, "partial_mprotect");
	/* The code has its X again, or this could not enter. */
	check(encl_op(&e, OP_SUM, 5, 9, 0, 0) == mix(5, 9), "partial_enters", "%s", e.err);
	encl_op(&e, OP_POKE, data + 2048, 3, 0, 0);
	check(peek(data + 2048) == 3, "partial_data_kept", "%s", e.err);
}

/* A refusal inside one VMA changes nothing. */
static void one_vma(void)
{
	check_errno(map(heap, 2 * PAGE, PROT_NONE, MAP_SHARED | MAP_FIXED), 0, "one_vma_map");
	check_errno(protect(heap, 2 * PAGE, R | W | X), EACCES, "one_vma_refused");
	enter_fails(3, OP_PEEK, heap, ERESUME, heap, "one_vma_unchanged");
	check_errno(protect(heap, 2 * PAGE, R | W), 0, "one_vma_rw");
	CHECK_EQ(peek(heap), 11, "one_vma_content");
}

/* vma_to_resize() and move_vma(). */
static void mremaps(void)
{
	uint64_t away = (uint64_t)mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fixed = MREMAP_MAYMOVE | MREMAP_FIXED;

	check_errno(remap(heap, 2 * PAGE, 3 * PAGE, 0, 0), EFAULT, "mremap_grow");
	check_errno(remap(heap, 2 * PAGE, 3 * PAGE, MREMAP_MAYMOVE, 0), EFAULT, "mremap_grow_maymove");
	check_errno(remap(heap, 0, PAGE, MREMAP_MAYMOVE, 0), EFAULT, "mremap_old_len_0");
	check_errno(remap(heap, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0), EINVAL,
		    "mremap_dontunmap");
	check_errno(remap(heap, PAGE, PAGE, 0, 0), 0, "mremap_same");
	check_errno(remap(heap + PAGE, PAGE, PAGE, fixed, away), 0, "mremap_move");
	enter_fails(3, OP_PEEK, heap + PAGE, ERESUME, heap + PAGE, "mremap_moved_away");
	check_errno(remap(away, PAGE, PAGE, fixed, heap + PAGE), 0, "mremap_move_back");
	CHECK_EQ(peek(heap + PAGE), 22, "mremap_content");
	check_errno(remap(heap, 2 * PAGE, PAGE, 0, 0), 0, "mremap_shrink");
	enter_fails(4, OP_PEEK, heap + PAGE, ERESUME, heap + PAGE, "mremap_shrunk");
	check_errno(map(heap + PAGE, PAGE, R | W, MAP_SHARED | MAP_FIXED), 0, "mremap_map_again");
	CHECK_EQ(peek(heap + PAGE), 22, "mremap_content_again");
}

/* What is unmapped stays in the enclave; what EENTER itself needs faults at EENTER. */
static void munmaps(void)
{
	uint64_t tcs = e.base + e.tcs[5], ssa = tcs + PAGE;

	munmap((void *)heap, PAGE);
	enter_fails(4, OP_PEEK, heap + 8, ERESUME, heap, "munmap_page");
	check_errno(map(heap, PAGE, R, MAP_SHARED | MAP_FIXED), 0, "munmap_map_read");
	CHECK_EQ(peek(heap), 11, "munmap_content");
	enter_fails(4, OP_POKE, heap, ERESUME, heap, "munmap_write_refused");
	munmap((void *)tcs, PAGE);
	enter_fails(5, OP_NOP, 0, EENTER, tcs, "munmap_tcs");
	map(tcs, PAGE, R | W, MAP_SHARED | MAP_FIXED);
	munmap((void *)ssa, PAGE);
	enter_fails(5, OP_NOP, 0, EENTER, ssa, "munmap_ssa");
	map(ssa, PAGE, R | W, MAP_SHARED | MAP_FIXED);
	enter_fails(5, OP_PEEK, heap + 2 * PAGE, ERESUME, heap + 2 * PAGE, "munmap_enters_again");
	/* Memory inside ELRANGE that is no enclave page: the CPU refuses it to the enclave. */
	mmap((void *)heap, PAGE, R | W, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	enter_fails(5, OP_PEEK, heap, ERESUME, heap, "elrange_not_epc");
	map(heap, PAGE, R | W, MAP_SHARED | MAP_FIXED);
	CHECK_EQ(peek(heap), 11, "elrange_mapped_again");
}

static void others(void)
{
	unsigned long old = (unsigned long)personality(0xffffffff);

	check_errno(madvise((void *)heap, PAGE, MADV_DONTNEED), EINVAL, "madvise_dontneed");
	CHECK_EQ(peek(heap), 11, "madvise_content");
	/* Lengths that overflow: PAGE_ALIGN() makes them 0, and access_ok() comes before the answer's place. */
	check_errno(madvise(NULL, ~0ul, MADV_NORMAL), EINVAL, "madvise_wraps");
	check_errno(mlock(NULL, ~0ul), 0, "mlock_wraps");
	check_errno(mprotect(NULL, ~0ul, R), ENOMEM, "mprotect_wraps");
	check_errno(mincore((void *)heap, ~0ul >> 1, (unsigned char *)1), ENOMEM, "mincore_long");
	/* sgx_encl_may_map() refuses tasks with READ_IMPLIES_EXEC whatever they ask. */
	personality(old | READ_IMPLIES_EXEC);
	check_errno(map(room, PAGE, R, MAP_SHARED | MAP_FIXED), EACCES, "read_implies_exec");
	personality(old);
	close(e.fd);
	check(peek(heap) == 11, "after_close", "%s", e.err);
}

int main(void)
{
	if (encl_load(&e, &(struct encl_opts){.threads = 6, .heap = 2 * PAGE, .size = 1 << 20}))
		bail("load", e.err);
	code = e.base;
	data = e.base + e.data;
	heap = e.base + e.heap;
	room = e.base + e.free + 16 * PAGE;
	munmap((void *)room, PAGE); /* the reservation */
	encl_op(&e, OP_POKE, heap + PAGE, 22, 0, 0);
	maximum();
	flags();
	partial();
	one_vma();
	mremaps();
	munmaps();
	others();
	return tap_failed;
}
