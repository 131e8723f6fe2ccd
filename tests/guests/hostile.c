/* SPDX-License-Identifier: MIT
 *
 * usage: hostile WAY [NUMBER [thread]]
 * Ways around what is asked of a program's calls: by descriptors and rings that were made before, by
 * what another thread or process changes meanwhile, by filters that answer in the kernel's place.
 * Code has to stay what it was, and what is not code has to stay so.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "filters.h"
#include "loader.h"
#include "ring.h"
#include "tap.h"

#define RW (PROT_READ | PROT_WRITE)
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)
#define EVIL 0xc30000002ab8ull /* mov $42, %eax; ret */

static struct encl e;
static uint64_t code, target, zeros; /* addresses: of code, of its last words, of a page of zeros */
static volatile int go, ready;
static uint64_t evil[512] __attribute__((aligned(4096)));

static void load(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};

	if (encl_plan(&e, &opts) || encl_seg(&e, "zeros", e.free, 4096, SI_REG | SI_R | SI_X, NULL, true)
	    || encl_build(&e, 0))
		bail("load", e.err);
	code = e.base + (e.entry & -4096l);
	target = code + 4088;
	zeros = e.base + e.free;
}

/* What code outside reads there: the content, or ones, as hardware has it. */
static uint64_t reads(uint64_t addr)
{
	return *(volatile uint64_t *)addr;
}

static void finds(uint64_t addr, uint64_t was, const char *name)
{
	check(reads(addr) == was || reads(addr) == ~0ull, name, "%#lx is there", reads(addr));
}

static bool any(uint64_t page)
{
	for (int i = 0; i < 512; i++)
		if (reads(page + 8 * i))
			return true;
	return false;
}

/* -- userfaultfd -------------------------------------------------------------------------- */

static int userfault(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		skip("userfaultfd", strerror(errno));
		exit(0);
	}
	return fd;
}

static int filled(int fd)
{
	struct uffdio_copy copy = {.dst = zeros, .src = (uint64_t)evil, .len = 4096};

	return ioctl(fd, UFFDIO_COPY, &copy);
}

static long ioctl_i386(int fd, unsigned cmd, void *arg)
{
	long ret;

	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\tpop %%rbx"
			 : "=a"(ret) : "0"(54l), "r"(fd), "c"(cmd), "d"(arg)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

/* Another process registers what is mapped in the one that made the descriptor. */
static void by_another(bool i386)
{
	int fd = userfault(), ends[2], pid, got = 0;
	struct uffdio_register *low = mmap(NULL, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (pipe(ends))
		abort();
	pid = fork();
	if (!pid) {
		if (read(ends[0], &zeros, 8) != 8)
			_exit(1);
		*low = (struct uffdio_register){.range = {zeros, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
		if (i386)
			ioctl_i386(fd, UFFDIO_REGISTER, low);
		else
			got = ioctl(fd, UFFDIO_REGISTER, low) ? errno : 0;
		filled(fd);
		_exit(got);
	}
	load();
	if (write(ends[1], &zeros, 8) != 8)
		abort();
	waitpid(pid, &got, 0);
	check(WIFEXITED(got) && (i386 || WEXITSTATUS(got) == EINVAL), "registered", "status %#x", got);
}

static volatile struct uffdio_register both;
static uint64_t elsewhere;

static void *flips(void *unused)
{
	while (!go) {
		both.range.start = zeros;
		both.range.start = elsewhere;
	}
	return unused;
}

/* What is registered is changed between the look at it and the kernel's. */
static void by_a_thread(void)
{
	int fd = userfault();
	pthread_t thread;

	load();
	elsewhere = (uint64_t)mmap(NULL, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	both = (struct uffdio_register){.range = {elsewhere, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	pthread_create(&thread, NULL, flips, NULL);
	for (int i = 0; i < 2000; i++) {
		struct uffdio_range again = {elsewhere, 4096};

		ioctl(fd, UFFDIO_REGISTER, &both);
		filled(fd);
		ioctl(fd, UFFDIO_UNREGISTER, &again);
	}
	go = 1;
	pthread_join(thread, NULL);
	both.range.start = elsewhere; /* nothing of it is in the way of who means well */
	both.ioctls = 0;
	check(!ioctl(fd, UFFDIO_REGISTER, &both) && both.ioctls & 1ull << _UFFDIO_COPY, "own", "%s", strerror(errno));
}

/* -- advice ------------------------------------------------------------------------------- */

static struct iovec advised = {.iov_len = 4096};

static void *flips_advice(void *unused)
{
	while (!go) {
		*(void *volatile *)&advised.iov_base = (void *)code;
		*(void *volatile *)&advised.iov_base = (void *)elsewhere;
	}
	return unused;
}

static void advises(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	pthread_t thread;
	long last = 0;

	elsewhere = (uint64_t)mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	advised.iov_base = (void *)elsewhere;
	pthread_create(&thread, NULL, flips_advice, NULL);
	for (int i = 0; i < 2000; i++)
		syscall(SYS_process_madvise, fd, &advised, 1, MADV_REMOVE, 0);
	go = 1;
	pthread_join(thread, NULL);
	advised.iov_base = (void *)elsewhere;
	last = syscall(SYS_process_madvise, fd, &advised, 1, MADV_COLD, 0);
	check(last == 4096, "own", "%ld, %s", last, strerror(errno));
}

/* -- rings -------------------------------------------------------------------------------- */

/* What a ring is given for good, which is pinned, a driver's memory cannot be. */
static void registers(uint64_t page)
{
	uint64_t region[8] = {page, 4096, 1 /* IORING_MEM_REGION_TYPE_USER */}, of_region[4] = {(uint64_t)region};
	uint64_t beside[8] = {(uint64_t)evil, 4096, 1}, of_beside[4] = {(uint64_t)beside};
	struct iovec buffer = {(void *)page, 4096}, own = {evil, 4096};
	long ret = syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1);

	check_errno((int)ret, EFAULT, "buffers");
	ret = syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &own, 1);
	check(!ret || errno == ENOMEM, "own_buffers", "%s", strerror(errno)); /* ulimit -l */
	ret = syscall(SYS_io_uring_register, ring.fd, 34 /* IORING_REGISTER_MEM_REGION */, of_region, 1);
	check(ret < 0 && (errno == EFAULT || errno == EINVAL), "region", "%ld", ret); /* Linux 6.13 */
	ret = syscall(SYS_io_uring_register, ring.fd, 34, of_beside, 1);
	check(!ret || errno == EINVAL, "own_region", "%s", strerror(errno));
	ret = syscall(SYS_io_uring_register, ring.fd, 33 /* IORING_REGISTER_RESIZE_RINGS */, region, 1);
	check_errno((int)ret, EINVAL, "resized");
	ret = syscall(SYS_io_uring_register, ring.fd, 4096, region, 1);
	check_errno((int)ret, EINVAL, "unknown");
}

static void *flips_buffer(void *unused)
{
	while (!go) {
		*(void *volatile *)&advised.iov_base = (void *)target;
		*(void *volatile *)&advised.iov_base = (void *)elsewhere;
	}
	return unused;
}

/* What is registered is changed between the look at it and the kernel's; or there is more of it. */
static void registers_others(uint64_t page)
{
	static struct iovec many[1025];
	pthread_t thread;
	int pinned = 0, ends[2];

	for (int i = 0; i < 1025; i++)
		many[i] = (struct iovec){i < 1024 ? evil : (void *)page, 8};
	syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, 0, 0);
	check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, many, 1025), "many", "all are registered");
	target = page;
	elsewhere = (uint64_t)evil;
	advised = (struct iovec){evil, 4096};
	if (pipe(ends) || pthread_create(&thread, NULL, flips_buffer, NULL))
		abort();
	for (int i = 0; i < 1000; i++) {
		struct io_uring_sqe reads = {.opcode = IORING_OP_READ_FIXED, .fd = ends[0], .addr = page, .len = 8};
		uint64_t word = 8;

		if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &advised, 1))
			continue;
		if (write(ends[1], &word, 8) != 8)
			abort();
		pinned += through_ring(reads) == 8 || read(ends[0], &word, 8) != 8;
		syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, 0, 0);
	}
	go = 1;
	pthread_join(thread, NULL);
	check(!pinned, "pinned", "%d times", pinned);
}

/* A child is to be born without a page, says a ring, and nobody hears of it. */
static void leaves_out(uint64_t page)
{
	struct io_uring_sqe advises_ = {.opcode = IORING_OP_MADVISE, .addr = page, .len = 4096, .fadvise_advice = MADV_DONTFORK};
	int status;

	check(!through_ring(advises_), "left_out", "it was not");
	if (!fork()) {
		void *there = mmap((void *)page, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		_exit(there != MAP_FAILED || encl_op(&e, OP_PEEK, page, 0, 0, 0) != 7);
	}
	wait(&status);
	CHECK_EQ(status, 0, "child");
}

static void rings(void)
{
	struct io_uring_sqe none = {.opcode = IORING_OP_NOP};
	struct io_uring_sqe empties = {.opcode = IORING_OP_MADVISE, .len = 4096, .fadvise_advice = MADV_REMOVE};
	uint64_t heap;

	if (begin_ring() < 0) {
		skip("io_uring", strerror(errno));
		exit(0);
	}
	check(!through_ring(none), "ring", "no answer");
	load();
	heap = e.base + e.heap;
	empties.addr = code;
	check(through_ring(empties) < 0, "emptied", "it was");
	check(!mprotect((void *)heap, 4096, PROT_READ) && !mprotect((void *)heap, 4096, RW), "mprotect", "%s", strerror(errno));
	encl_op(&e, OP_POKE, heap, 7, 0, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, heap, 0, 0, 0), 7, "data");
	leaves_out(heap);
	registers(heap);
	registers_others(heap);
	target = code + 4088;
}

/* -- filters ------------------------------------------------------------------------------ */

/* Answer calls of a number with success, without making them, where softsgx makes its own. */
static void answer_for(unsigned number, bool by_i386)
{
	uint64_t image = getauxval(AT_SYSINFO_EHDR);
	struct sock_filter code_[] = {
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, 12}, /* the instruction's address */
		{BPF_JMP | BPF_JEQ | BPF_K, 0, 5, (uint32_t)(image >> 32)},
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, 8},
		{BPF_ALU | BPF_SUB | BPF_K, 0, 0, (uint32_t)image},
		{BPF_JMP | BPF_JGE | BPF_K, 2, 0, 0x10000},
		{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}, /* the number */
		{BPF_JMP | BPF_JEQ | BPF_K, 1, 0, number},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
		{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO},
	};
	struct sock_fprog program = {9, code_};
	struct { uint16_t len; uint32_t filter; } *low = mmap(NULL, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long ret;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!by_i386) {
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
			bail("filter", strerror(errno));
		return;
	}
	low->len = 9, low->filter = (uint32_t)(uint64_t)(low + 1);
	memcpy(low + 1, code_, sizeof(code_));
	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\tpop %%rbx"
			 : "=a"(ret) : "0"(354l), "r"(SECCOMP_SET_MODE_FILTER), "c"(0l), "d"(low)
			 : "memory", "r8", "r9", "r10", "r11");
	if ((int)ret) {
		skip("i386", "no int 0x80 here");
		exit(0);
	}
}

static void *waits(void *unused)
{
	while (!go)
		usleep(1000);
	return unused;
}

/* Before an enclave is mapped, or after it: what a descriptor of the tracer's would write to. */
static void deceives(unsigned number, bool thread_too, bool by_i386)
{
	uint64_t word = EVIL;
	pthread_t thread;

	if (thread_too)
		pthread_create(&thread, NULL, waits, NULL);
	if (by_i386)
		answer_for(number, true);
	load();
	if (!by_i386)
		answer_for(number, false);
	mmap((void *)(e.base + e.heap), 4096, RW, MAP_SHARED | MAP_FIXED, e.fd, 0);
	for (int fd = 3; fd < 64; fd++)
		if (pwrite(fd, &word, 8, (off_t)(target - e.base)) == 8)
			printf("# written by %d\n", fd);
	madvise((void *)code, 4096, MADV_DONTFORK);
	if (!fork())
		_exit(!mprotect((void *)code, 4096, RW | PROT_EXEC) && (*(volatile uint64_t *)target = word));
	wait(NULL);
	if (!mprotect((void *)code, 4096, RW | PROT_EXEC))
		*(volatile uint64_t *)target = word;
	check(reads(target) != word, "deceived", "it was written");
	go = 1;
}

/* The same, before anything of the enclave's is mapped. */
static void deceives_first(unsigned number)
{
	uint64_t word = EVIL;

	answer_for(number, false);
	load();
	if (!mprotect((void *)code, 4096, RW | PROT_EXEC))
		*(volatile uint64_t *)target = word;
	check(reads(target) != word, "deceived", "it was written");
}

static void *full(void *unused)
{
	fill_filters();
	ready = 1;
	return waits(unused);
}

/* A thread that takes no more filters, beside the one that maps. */
static void full_thread(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	pthread_t thread;

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	pthread_create(&thread, NULL, full, NULL);
	while (!ready)
		sched_yield();
	check(encl_load(&e, &opts) && strstr(e.err, "Cannot allocate memory"), "refused", "%s", e.err);
	go = 1;
	pthread_join(thread, NULL);
}

/* -- personality -------------------------------------------------------------------------- */

/* What is readable is executable, says the program, and the kernel adds it to what we ask for. */
static void implied(void)
{
	uint64_t page;
	struct call runs = {.op = OP_CALL};
	struct sgx_enclave_run run = {0};

	load();
	page = runs.a = e.base + 0x80000;
	if (mmap((void *)page, 4096, RW | PROT_EXEC, MAP_SHARED | MAP_FIXED, e.fd, 0) != (void *)page)
		bail("mmap", strerror(errno));
	personality(READ_IMPLIES_EXEC);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, page, NEW, 0, NULL), 0, "accepted");
	encl_op(&e, OP_POKE, page, EVIL, 0, 0);
	encl_call(&e, 0, &runs, &run);
	check(run.function == ERESUME && run.exception_vector == 14, "no_code", "it gave %lu", runs.ret);
	CHECK_EQ(personality(0xffffffff), READ_IMPLIES_EXEC, "personality");
}

static void catches(int number)
{
	(void)number;
	_exit(1);
}

/* Addresses with tags, where the processor has such. */
static void tagged(void)
{
	bool on = !syscall(SYS_arch_prctl, 0x4002 /* ARCH_ENABLE_TAGGED_ADDR */, 6);

	load();
	mprotect((void *)(code | (on ? 1ull << 57 : 0)), 4096, RW | PROT_EXEC);
	check(mprotect((void *)code, 4096, RW | PROT_EXEC) && errno == EACCES, "refused", "%s", strerror(errno));
	check(!on, "tags", "they are on");
}

/* A handler without a stack, as of a stack that has grown too far: the signal kills. */
static void no_frame(void)
{
	load();
	encl_op(&e, OP_NOP, 0, 0, 0, 0);
	signal(SIGSEGV, catches);
	__asm__ volatile("xor %%esp, %%esp\n\tpush %%rax" ::: "memory");
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";
	unsigned number = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
	evil[0] = EVIL;
	if (!strcmp(way, "by_another") || !strcmp(way, "by_another_i386"))
		by_another(!strcmp(way, "by_another_i386"));
	else if (!strcmp(way, "by_a_thread"))
		by_a_thread();
	else if (!strcmp(way, "advises")) {
		load();
		advises();
	} else if (!strcmp(way, "rings"))
		rings();
	else if (!strcmp(way, "deceives"))
		deceives(number, argc > 3, false);
	else if (!strcmp(way, "deceives_i386"))
		deceives(number, argc > 3, true);
	else if (!strcmp(way, "deceives_first"))
		deceives_first(number);
	else if (!strcmp(way, "full_thread")) {
		full_thread();
		return tap_failed;
	} else if (!strcmp(way, "tagged"))
		tagged();
	else if (!strcmp(way, "no_frame"))
		no_frame();
	else if (!strcmp(way, "implied"))
		implied();
	else
		bail("usage", way);
	finds(zeros, 0, "zeros");
	check(any(code), "code", "it is gone");
	return tap_failed;
}
