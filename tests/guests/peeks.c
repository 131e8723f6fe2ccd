/* SPDX-License-Identifier: MIT
 *
 * usage: peeks [PROC]
 * An enclave's memory by system calls and by code outside: what Linux answers for VM_IO | VM_PFNMAP
 * (mm/gup.c, check_vma_flags()), /proc/PID/mem through sgx_vma_access(), the abort page, and pages
 * that a touch from outside adds. PROC: where proc is mounted.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include "loader.h"
#include "tap.h"

static sigjmp_buf back;
static char own_memory[256] = "/proc/self/mem";

static void on_signal(int number)
{
	siglongjmp(back, number);
}

/* 8 bytes at an address by code outside; the signal in `number` if there was one. */
static uint64_t load(uint64_t addr, int *number)
{
	*number = sigsetjmp(back, 1);
	return *number ? 0 : *(volatile uint64_t *)addr;
}

static int store(uint64_t addr, uint64_t value)
{
	int number = sigsetjmp(back, 1);

	if (!number)
		*(volatile uint64_t *)addr = value;
	return number;
}

/* `n` bytes of /proc/self/mem at an address: the count or -errno. */
static long mem(int fd, uint64_t addr, void *buf, size_t n, bool write)
{
	long ret = write ? pwrite(fd, buf, n, (off_t)addr) : pread(fd, buf, n, (off_t)addr);

	return ret < 0 ? -errno : ret;
}

static void debugger(struct encl *e, bool debug)
{
	static const char *names[2][7] = {
		{"mem_data", "mem_code", "mem_tcs", "mem_write_code", "mem_dup", "mem_read", "mem_pidfd"},
		{"debug_mem_data", "debug_mem_code", "debug_mem_tcs", "debug_mem_write_code",
		 "debug_mem_dup", "debug_mem_read", "debug_mem_pidfd"}};
	uint64_t data = e->base + e->heap, code = e->base + e->entry, tcs = e->base + e->tcs[0];
	int fd = open(own_memory, O_RDWR), again;
	uint64_t was = 0, value = 0x1122334455667788;
	char page[4096];
	long got;

	encl_op(e, OP_POKE, data, 0x5a5a, 0, 0);
	got = mem(fd, data, &was, 8, false);
	check(debug ? got == 8 && was == 0x5a5a : got == -EIO, names[debug][0], "%ld, %lx", got, was);
	got = mem(fd, code, page, 64, false);
	check(debug ? got == 64 && !memcmp(page, (void *)code, 64) : got == -EIO, names[debug][1],
	      "%ld", got);
	got = mem(fd, tcs + 32, &was, 8, false); /* OENTRY */
	check(debug ? got == 8 && was == e->entry : got == -EIO, names[debug][2], "%ld, %lx", got, was);
	got = mem(fd, code + 4088, &value, 8, true);
	check(debug ? got == 8 && *(uint64_t *)(code + 4088) == value : got == -EIO,
	      names[debug][3], "%ld", got);
	again = dup(fd);
	got = mem(again, data, &was, 8, false);
	check(debug ? got == 8 : got == -EIO, names[debug][4], "%ld", got);
	/* From memory of our own into the enclave: what comes before it is read. */
	if (lseek(again, (off_t)(uintptr_t)&value, SEEK_SET) < 0 || read(again, &was, 8) != 8)
		abort();
	check(was == value && lseek(again, 0, SEEK_CUR) == (off_t)(uintptr_t)(&value + 1),
	      names[debug][5], "%lx", was);
	close(again);
	again = (int)syscall(SYS_pidfd_open, getpid(), 0);
	again = (int)syscall(SYS_pidfd_getfd, again, fd, 0);
	if (again < 0) {
		skip(names[debug][6], strerror(errno));
	} else {
		got = mem(again, data, &was, 8, false);
		check(debug ? got == 8 : got == -EIO, names[debug][6], "%ld", got);
	}
	close(fd);
}

static void pinned(struct encl *e)
{
	uint64_t data = e->base + e->heap;
	char buf[16];
	struct iovec local = {buf, 8}, remote = {(void *)data, 8};
	struct iovec two[2] = {{&local, 8}, {(void *)data, 8}};
	struct uffdio_register reg = {.range = {data, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct uffdio_api api = {.api = UFFD_API};
	char params[256] = {0};
	int pipes[2], fd;

	check_errno((int)process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT, "vm_readv");
	check_errno((int)process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT, "vm_writev");
	local.iov_len = 16;
	check(process_vm_readv(getpid(), &local, 1, two, 2, 0) == 8, "vm_readv_part", "%s",
	      strerror(errno));
	if (pipe(pipes))
		abort();
	check_errno((int)vmsplice(pipes[1], &remote, 1, 0), EFAULT, "vmsplice");
	fd = (int)syscall(SYS_io_uring_setup, 1, params);
	if (fd < 0)
		skip("io_uring_buffers", "no io_uring here (sysctl kernel.io_uring_disabled)");
	else
		check_errno((int)syscall(SYS_io_uring_register, fd, 0, &remote, 1), EFAULT,
			    "io_uring_buffers");
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		skip("userfaultfd", "no userfaultfd here");
	else
		check_errno(ioctl(fd, UFFDIO_REGISTER, &reg), EINVAL, "userfaultfd");
	/* Whose faults the kernel waits for: not for those of a tracer. */
	check_errno((int)syscall(SYS_userfaultfd, O_CLOEXEC), EPERM, "userfaultfd_of_all");
	fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		skip("userfaultfd_dev", strerror(errno));
	else
		check_errno(ioctl(fd, USERFAULTFD_IOC_NEW, O_CLOEXEC), EPERM, "userfaultfd_dev");
}

/* Who is a page's, where is it, and where should it be? */
static void pages_of(struct encl *e)
{
	uint64_t at = e->base + e->heap, own[2] = {0}, mask = 1;
	void *pages[2] = {(void *)at, own};
	int nodes[2] = {0, 0}, status[2] = {77, 77}, mode = -1;
	struct { uint64_t value, addr; uint32_t flags, reserved; } waiter = {0, at, 2, 0};
	struct timespec now = {0};

	check_errno((int)syscall(SYS_futex, at, 0 /* WAIT */, 0, &now, NULL, 0), EFAULT, "futex_wait");
	check_errno((int)syscall(SYS_futex, at, 1 /* WAKE */, 1, NULL, NULL, 0), EFAULT, "futex_wake");
	check_errno((int)syscall(SYS_futex, own, 3 /* REQUEUE */, 1, 1, at, 0), EFAULT, "futex_requeue");
	check(syscall(SYS_futex, at, 1 | 128, 1, NULL, NULL, 0) == 0, "futex_private", "%s", strerror(errno));
	check_errno((int)syscall(SYS_futex, at + 1, 1, 1, NULL, NULL, 0), EINVAL, "futex_odd");
	check(syscall(SYS_futex, own, 1, 1, NULL, NULL, 0) == 0, "futex_elsewhere", "%s", strerror(errno));
	if (syscall(SYS_futex_waitv, &waiter, 0, 0, NULL, 0) < 0 && errno == ENOSYS)
		skip("futex_waitv", "before Linux 5.16");
	else
		check_errno((int)syscall(SYS_futex_waitv, &waiter, 1, 0, NULL, 0), EFAULT, "futex_waitv");
	if (syscall(SYS_get_mempolicy, &mode, NULL, 0, own, 3) < 0) {
		skip("numa", strerror(errno));
		return;
	}
	mode = -1;
	check_errno((int)syscall(SYS_get_mempolicy, &mode, NULL, 0, at, 3), EFAULT, "mempolicy_node");
	check(mode == -1, "mempolicy_nothing", "%d", mode);
	check(syscall(SYS_get_mempolicy, &mode, NULL, 0, at, 2) == 0 && mode == 0, "mempolicy", "%d", mode);
	check_errno((int)syscall(SYS_get_mempolicy, &mode, NULL, 0, at, 11), EINVAL, "mempolicy_flags");
	check(syscall(SYS_mbind, at, 4096, 2 /* BIND */, &mask, 2, 1 | 2) == 0, "mbind_strict", "%s",
	      strerror(errno));
	check_errno((int)syscall(SYS_mbind, at, 4096, 2, &mask, 2, 64), EINVAL, "mbind_flags");
	own[0] = 1;
	check(syscall(SYS_move_pages, 0, 2, pages, NULL, status, 0) == 0 && status[0] == -ENOENT && !status[1],
	      "pages_status", "%d %d", status[0], status[1]);
	check(syscall(SYS_move_pages, 0, 2, pages, nodes, status, 2) == 0 && status[0] == -EFAULT && !status[1],
	      "pages_move", "%d %d", status[0], status[1]);
	check(encl_op(e, OP_PEEK, at, 0, 0, 0) != ~0ull, "still_there", "%s", e->err);
}

static void abort_page(struct encl *e)
{
	uint64_t tcs = e->base + e->tcs[0], absent = e->base + e->free, got;
	struct sgx_enclave_run run = {0};
	int number;

	got = load(tcs, &number);
	check(!number && got == ~0ull, "tcs_load", "signal %d, %lx", number, got);
	check(!store(tcs + 32, 0), "tcs_store", "a signal");
	check(encl_op(e, OP_PEEK, e->base + e->heap, 0, 0, 0) == 0x5a5a, "tcs_store_dropped",
	      "the TCS is spoilt");
	if (mmap((void *)absent, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e->fd, 0) ==
	    MAP_FAILED)
		abort();
	got = load(absent, &number);
	check(!number && got == ~0ull, "absent_load", "signal %d, %lx", number, got);
	check(!store(absent, 7), "absent_store", "a signal");
	/* The touch has added it: there is something to accept. */
	number = (int)encl_enclu(e, 0, 5, absent, 3 | SI_REG | 8, 0, &run);
	check(number == 0, "absent_added", "EACCEPT: %d, vector %d", number, run.exception_vector);
	check(encl_op(e, OP_PEEK, absent, 0, 0, 0) == 0, "absent_zero", "not zero");
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct encl e;

	if (argc > 1)
		snprintf(own_memory, sizeof(own_memory), "%s/self/mem", argv[1]);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	for (int debug = 0; debug < 2; debug++) {
		struct encl_opts opts = {.heap = 8192, .size = 1 << 20, .attributes = debug ? 2 : 0};

		memset(&e, 0, sizeof(e));
		if (encl_load(&e, &opts))
			bail("load", e.err);
		debugger(&e, debug);
	}
	pinned(&e);
	pages_of(&e);
	abort_page(&e);
	return tap_failed;
}
