/* SPDX-License-Identifier: MIT
 *
 * usage: sgx2
 * Pages that change after INIT: added by a page fault, accepted, extended, restricted, trimmed,
 * removed and added again; code copied into a fresh page and run.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

#define RW (PROT_READ | PROT_WRITE)
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)

static struct encl e;
static uint64_t zone; /* address of 16 mapped pages that hold nothing yet */

static long types(uint64_t page, uint64_t type, struct sgx_enclave_modify_types *arg)
{
	*arg = (struct sgx_enclave_modify_types){.offset = page - e.base, .length = PAGE, .page_type = type};
	return ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, arg);
}

static long restrict_to(uint64_t page, uint64_t perms, struct sgx_enclave_restrict_permissions *arg)
{
	*arg = (struct sgx_enclave_restrict_permissions){.offset = page - e.base, .length = PAGE,
							 .permissions = perms};
	return ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, arg);
}

static long remove_page(uint64_t page, struct sgx_enclave_remove_pages *arg)
{
	*arg = (struct sgx_enclave_remove_pages){.offset = page - e.base, .length = PAGE};
	return ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, arg);
}

/*
 * Enter with c on thread 0; while it faults as expected, let `mend` on thread 1 do its work and
 * resume. One call of encl_vdso_enter(), so that EENTER and ERESUME leave from the same stack: the
 * enclave's EEXIT comes back to where EENTER was.
 */
static int faulting(struct call *c, struct call *mend, unsigned code, uint64_t addr, const char *name)
{
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[0]};
	uint32_t leaf = EENTER;
	int faults = 0, ret;

	for (;;) {
		ret = encl_vdso_enter(c, leaf, &run);
		if (ret || run.function == EEXIT || faults == 3)
			break;
		check(run.function == ERESUME && run.exception_vector == 14
		      && run.exception_error_code == code && run.exception_addr == addr, name,
		      "function %u, vector %u, code %#x, addr %#llx", run.function,
		      run.exception_vector, run.exception_error_code, run.exception_addr);
		faults++;
		/* EMODPE has no code: it leaves its own number in RAX. */
		if (!encl_do(&e, 1, mend) || mend->ret != (mend->a == EMODPE ? EMODPE : 0))
			break;
		leaf = ERESUME;
	}
	return ret || run.function != EEXIT ? -1 : faults;
}

static void by_page_fault(void)
{
	struct call write = {.op = OP_POKE, .a = zone + 8, .b = 0xabcd};
	struct call accept = {.op = OP_ENCLU, .a = EACCEPT, .b = zone, .c = NEW};

	/* The access makes the kernel EAUG; the page is pending, so the CPU still refuses. */
	CHECK_EQ(faulting(&write, &accept, 0x8007, zone, "fault_pending"), 1, "fault_once");
	CHECK_EQ(encl_op(&e, OP_PEEK, zone + 8, 0, 0, 0), 0xabcd, "fault_written");
	/* EACCEPT of an absent page: its own access is the fault that adds it. */
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, zone + PAGE, NEW, 0, NULL), 0, "accept_absent");
	CHECK_EQ(encl_op(&e, OP_PEEK, zone + PAGE, 0, 0, 0), 0, "accept_zeroed");
	/* Accepting twice: SGX_PAGE_ATTRIBUTES_MISMATCH (19). */
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, zone + PAGE, NEW, 0, NULL), 19, "accept_twice");
}

static void restricts(void)
{
	struct sgx_enclave_restrict_permissions r;
	struct call write = {.op = OP_POKE, .a = zone + 16, .b = 0x1234};
	struct call extend = {.op = OP_ENCLU, .a = EMODPE, .b = zone, .c = SI_REG | SI_R | SI_W};

	check_errno(restrict_to(zone, SI_R, &r), 0, "restrict");
	check(r.count == PAGE && r.result == 0, "restrict_out", "count %llu, result %llu", r.count, r.result);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, zone, SI_REG | SI_R | SI_PR, 0, NULL), 0, "restrict_accept");
	CHECK_EQ(faulting(&write, &extend, 0x8007, zone, "restricted_write"), 1, "extended_write");
	CHECK_EQ(encl_op(&e, OP_PEEK, zone + 16, 0, 0, 0), 0x1234, "extended_read");
}

static void trim_and_again(void)
{
	struct sgx_enclave_modify_types t;
	struct sgx_enclave_remove_pages r;
	struct sgx_enclave_run run = {0};
	struct call read = {.op = OP_PEEK, .a = zone};

	check_errno(types(zone, 4, &t), 0, "trim");
	check_errno(remove_page(zone, &r), EPERM, "remove_unaccepted");
	CHECK_EQ(r.count, 0, "remove_unaccepted_count");
	encl_call(&e, 2, &read, &run); /* thread 2 stays in that fault */
	check(run.exception_vector == 14 && run.exception_error_code == 0x8005, "trimmed_read",
	      "vector %u, code %#x", run.exception_vector, run.exception_error_code);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, zone, SI_TRIM | SI_MODIFIED, 0, NULL), 0, "trim_accept");
	check_errno(remove_page(zone, &r), 0, "remove");
	CHECK_EQ(r.count, PAGE, "remove_count");
	check_errno(remove_page(zone, &r), EFAULT, "remove_absent"); /* sgx_encl_load_page() */
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, zone, NEW, 0, NULL), 0, "add_again");
	CHECK_EQ(encl_op(&e, OP_PEEK, zone + 8, 0, 0, 0), 0, "again_is_zero");
}

/* EACCEPTCOPY code into a fresh page, EMODPE X, and a mapping that is RX. */
static void new_code(void)
{
	static const uint8_t code[] = {0x48, 0x8d, 0x47, 0x2a, 0xc3}; /* lea 42(%rdi), %rax; ret */
	uint64_t page = zone + 2 * PAGE, src = e.base + e.heap;
	struct encl_seg seg = {.name = "jit", .off = page - e.base, .len = PAGE};

	encl_op(&e, OP_COPY, src, (uint64_t)code, sizeof(code), 0);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPTCOPY, page, SI_REG | SI_R | SI_W, src, NULL), 0, "acceptcopy");
	encl_enclu(&e, 0, EMODPE, page, SI_REG | SI_R | SI_W | SI_X, 0, NULL);
	check_errno(mprotect((void *)page, PAGE, PROT_READ | PROT_EXEC), 0, "mprotect_x");
	CHECK_EQ(encl_op(&e, OP_CALL, page, 58, 0, 0), 100, "new_code_runs");
	/* The source is still a heap page: it does not run. */
	{
		struct call call = {.op = OP_CALL, .a = src, .b = 1};
		struct sgx_enclave_run run = {0};

		encl_call(&e, 3, &call, &run);
		check(run.exception_vector == 14 && (run.exception_error_code & 0x10), "heap_does_not",
		      "vector %u, code %#x", run.exception_vector, run.exception_error_code);
	}
	/* The kernel's maximum of an EAUGed page is RWX, and a new mapping may use it. */
	check_errno(encl_map_seg(&e, &seg, PROT_READ | PROT_WRITE | PROT_EXEC) ? -1 : 0, 0, "map_rwx");
}

/* A hole of the enclave with no mapping at all: a fault, not an EAUG. */
static void unmapped(void)
{
	struct sgx_enclave_run run = {0};
	struct call read = {.op = OP_PEEK, .a = zone + 64 * PAGE};

	encl_call(&e, 4, &read, &run);
	check(run.exception_vector == 14 && run.exception_error_code == 4
	      && run.exception_addr == zone + 64 * PAGE, "unmapped_read", "vector %u, code %#x, addr %#llx",
	      run.exception_vector, run.exception_error_code, run.exception_addr);
}

static void many(void)
{
	struct sgx_enclave_modify_types t = {.offset = zone + 4 * PAGE - e.base, .length = 8 * PAGE,
					     .page_type = 4};
	struct sgx_enclave_remove_pages r = {.offset = t.offset, .length = 8 * PAGE};
	int64_t bad = 0;

	for (int i = 4; i < 12; i++)
		bad |= encl_enclu(&e, 0, EACCEPT, zone + (uint64_t)i * PAGE, NEW, 0, NULL);
	CHECK_EQ(bad, 0, "many_added");
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &t), 0, "many_trimmed");
	CHECK_EQ(t.count, 8 * PAGE, "many_trimmed_count");
	for (int i = 4; i < 8; i++)
		bad |= encl_enclu(&e, 0, EACCEPT, zone + (uint64_t)i * PAGE, SI_TRIM | SI_MODIFIED, 0, NULL);
	CHECK_EQ(bad, 0, "half_accepted");
	/* REMOVE works up to the first page that was not accepted, and says how far it came. */
	check_errno(ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &r), EPERM, "half_removed");
	CHECK_EQ(r.count, 4 * PAGE, "half_removed_count");
}

int main(void)
{
	struct encl_seg seg = {.name = "zone", .len = 16 * PAGE};

	if (encl_load(&e, &(struct encl_opts){.threads = 5, .heap = 2 * PAGE, .size = 1 << 20}))
		bail("load", e.err);
	encl_op(&e, OP_NOP, 0, 0, 0, 0);
	seg.off = e.free;
	zone = e.base + e.free;
	if (encl_map_seg(&e, &seg, RW))
		bail("map", e.err);
	by_page_fault();
	restricts();
	trim_and_again();
	new_code();
	unmapped();
	many();
	return tap_failed;
}
