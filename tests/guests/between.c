/* SPDX-License-Identifier: MIT
 *
 * usage: between WAY [FOLDER]
 * What a call is given, and others change between the look at it and the kernel's; calls that wait
 * for somebody who has to stop first; registers that no tracer may write, or that are of 32 bits; answers
 * that are long.
 */
#define _GNU_SOURCE
#include <asm/hwcap2.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define RW (PROT_READ | PROT_WRITE)
#define SECRET 0x5ec2e75ec2e7ull
#define ROUNDS 1000

static struct encl e;
static uint64_t heap, own;
static volatile int over;
static struct iovec part = {.iov_len = 8};
static int memory;

static void load(uint64_t size)
{
	struct encl_opts opts = {.heap = 8192, .size = size};

	if (encl_load(&e, &opts))
		bail("load", e.err);
	heap = e.base + e.heap;
	encl_op(&e, OP_POKE, heap, SECRET, 0, 0);
}

/* Something that stops for softsgx. */
static void stops(void)
{
	close(open(encl_device(), O_RDWR));
}

/* -- changed ------------------------------------------------------------------------------ */

static void *flips(void *unused)
{
	while (!over) {
		*(void *volatile *)&part.iov_base = (void *)heap;
		*(void *volatile *)&part.iov_base = &own;
	}
	return unused;
}

static void *seeks(void *unused)
{
	while (!over) {
		lseek(memory, (off_t)heap, SEEK_SET);
		lseek(memory, (off_t)&own, SEEK_SET);
	}
	return unused;
}

static void *grows(void *unused)
{
	while (!over) {
		*(volatile size_t *)&part.iov_len = 8;
		*(volatile size_t *)&part.iov_len = 4096 + 8;
	}
	return unused;
}

static void changed(void)
{
	uint64_t evil = 42, got, *beside;
	struct iovec local = {&evil, 8};
	pthread_t thread;
	int wrote = 0, read_ = 0;
	char *room = malloc(8192);

	load(1 << 20);
	part.iov_base = &own;
	pthread_create(&thread, NULL, flips, NULL);
	for (int i = 0; i < ROUNDS; i++)
		wrote += process_vm_writev(getpid(), &local, 1, &part, 1, 0) == 8 && *(volatile uint64_t *)heap == 42;
	local.iov_base = &got;
	for (int i = 0; i < ROUNDS; i++)
		read_ += process_vm_readv(getpid(), &local, 1, &part, 1, 0) == 8 && got == SECRET;
	over = 1;
	pthread_join(thread, NULL);
	check(!wrote, "vm_writev", "%d times", wrote);
	check(!read_, "vm_readv", "%d times", read_);
	part.iov_base = &own, own = 7;
	check(process_vm_readv(getpid(), &local, 1, &part, 1, 0) == 8 && got == 7, "own", "%s", strerror(errno));

	memory = open("/proc/self/mem", O_RDONLY);
	over = read_ = 0;
	pthread_create(&thread, NULL, seeks, NULL);
	for (int i = 0; i < ROUNDS; i++)
		read_ += read(memory, &got, 8) == 8 && got == SECRET;
	over = 1;
	pthread_join(thread, NULL);
	check(!read_, "position", "%d times", read_);

	/* Of a page before the enclave's. */
	beside = mmap((void *)(heap - 4096), 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (beside == MAP_FAILED)
		bail("beside", strerror(errno));
	part = (struct iovec){room, 8};
	over = read_ = 0;
	pthread_create(&thread, NULL, grows, NULL);
	for (int i = 0; i < ROUNDS; i++)
		read_ += preadv(memory, &part, 1, (off_t)beside) > 4096 && *(uint64_t *)(room + 4096) == SECRET;
	over = 1;
	pthread_join(thread, NULL);
	check(!read_, "vector", "%d times", read_);
	part.iov_len = 8, *beside = 9;
	check(preadv(memory, &part, 1, (off_t)beside) == 8 && *(uint64_t *)room == 9, "own_vector", "%s", strerror(errno));
	lseek(memory, (off_t)&own, SEEK_SET);
	check(read(memory, &got, 8) == 8 && got == 7 && lseek(memory, 0, SEEK_CUR) == (off_t)(&own + 1),
	      "own_position", "%s", strerror(errno));
	check_errno(write(memory, &got, 8), EBADF, "read_only");
	check_errno(syscall(SYS_preadv, memory, 8, 1, beside, 0), EFAULT, "no_vector");
}

/* -- waits -------------------------------------------------------------------------------- */

static int ends[2];

static void *makes_room(void *unused)
{
	static char all[1 << 17];

	stops();
	if (read(ends[0], all, sizeof(all)) < 0)
		abort();
	return unused;
}

/* A pipe that has the name of a process's memory. */
static void pipes(const char *folder)
{
	int fd, status;
	char c;

	load(1 << 20);
	if (chdir(folder) || mkfifo("mem", 0600))
		bail("mkfifo", strerror(errno));
	if (!fork()) {
		fd = open("mem", O_RDONLY);
		_exit(read(fd, &c, 1) != 1);
	}
	stops();
	fd = open("mem", O_WRONLY);
	check(write(fd, "x", 1) == 1, "written", "%s", strerror(errno));
	wait(&status);
	CHECK_EQ(status, 0, "read");
	unlink("mem");
}

/* Two parts for a full pipe, the other one of which is the enclave's. */
static void splices(void)
{
	static char full[1 << 16];
	struct iovec parts[2] = {{full, 4096}, {NULL, 8}};
	pthread_t thread;
	long got;

	load(1 << 20);
	parts[1].iov_base = (void *)heap;
	if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, sizeof(full)) < 0)
		abort();
	got = vmsplice(ends[1], parts, 2, 0);
	CHECK_EQ(got, 4096, "one");
	if (fcntl(ends[1], F_SETFL, O_NONBLOCK) || write(ends[1], full, sizeof(full)) < 0 || fcntl(ends[1], F_SETFL, 0))
		abort();
	pthread_create(&thread, NULL, makes_room, NULL);
	got = vmsplice(ends[1], parts, 2, 0);
	check(got == 4096 || (got < 0 && errno == EFAULT), "full", "%ld, %s", got, strerror(errno));
	pthread_join(thread, NULL);
}

/* Who unmaps waits until somebody has read of it. */
static void events(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP}, none = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0) {
		skip("events", strerror(errno));
		return;
	}
	check_errno(ioctl(fd, UFFDIO_API, &api), EINVAL, "events");
	check(!api.api && !api.features, "told", "%#llx", api.features);
	check(!ioctl(fd, UFFDIO_API, &none) && none.ioctls & 1ull << _UFFDIO_REGISTER, "faults", "%s", strerror(errno));
	check_errno(ioctl(fd, UFFDIO_API, NULL), EFAULT, "nowhere");
}

/* -- registers ---------------------------------------------------------------------------- */

/* A base in the kernel's half and a selector with another RPL: a program may have both. */
static void odd(void)
{
	uint64_t was, base = 0xffff800000001000, now;
	uint16_t segment = 0x28, after, before;
	struct encl_opts opts = {.heap = 256 << 10, .size = 1 << 20};
	uint32_t a = 7, b, c = 0, d;
	int status, fd;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
		skip("registers", "the kernel lets no program write its bases");
		return;
	}
	__asm__ volatile("rdgsbase %0" : "=r"(was));
	__asm__ volatile("mov %%ds, %0" : "=r"(before));
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(segment));
	__asm__ volatile("wrgsbase %0" : : "r"(base));
	fd = open(encl_device(), O_RDWR);
	check(fd >= 0, "open", "%s", strerror(errno));
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
	check(b >> 2 & 1, "cpuid", "EBX is %#x", b);
	if (!fork())
		_exit(7);
	wait(&status);
	CHECK_EQ(WEXITSTATUS(status), 7, "fork");
	check(!encl_plan(&e, &opts) && !encl_build(&e, 4096), "load", "%s", e.err); /* page by page */
	__asm__ volatile("rdgsbase %0" : "=r"(now));
	__asm__ volatile("mov %%ds, %0" : "=r"(after));
	CHECK_EQ(now, base, "base");
	CHECK_EQ(after, segment, "segment");
	encl_op(&e, OP_POKE, e.base + e.heap, 7, 0, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, e.base + e.heap, 0, 0, 0), 7, "entered");
	__asm__ volatile("wrgsbase %0" : : "r"(was));
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(before));
}

/* -- code of 32 bits ---------------------------------------------------------------------- */

/* A far jump to code of 32 bits at `code`, with EAX, EBX and ECX, and back by the jump at its end. */
long between_gate(long code, long stack, long number, long b, long c);
__asm__(".text\n"
	"between_gate:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rsp, (%rsi)\n"
	"	lea 1f(%rip), %rax\n	mov %rax, 8(%rsi)\n"
	"	mov %edi, 16(%rsi)\n	movl $0x23, 20(%rsi)\n" /* __USER32_CS */
	"	mov %rsi, %rsp\n"
	"	mov %rdx, %rax\n	mov %rcx, %rbx\n	mov %r8, %rcx\n	xor %edx, %edx\n"
	"	ljmp *16(%rsp)\n"
	"1:	mov (%rsp), %rsp\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n	ret\n");

static void none(int number)
{
	(void)number;
	skip("code_of_32_bits", "no int 0x80, or no such segment");
	_exit(0);
}

/* It stops where softsgx makes calls in it, which are of 64. */
static void narrow(void)
{
	static const uint8_t calls[] = {0xcd, 0x80, 0xea, 0, 0, 0, 0, 0x33, 0}, back[] = {0xff, 0x64, 0x24, 8};
	uint8_t *low = mmap(NULL, 8192, RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	uint32_t to = (uint32_t)(uintptr_t)(low + 64);
	uint64_t word = 7, got = 0;
	int fd;

	if (low == MAP_FAILED)
		bail("mmap", strerror(errno));
	memcpy(low, calls, sizeof(calls));
	memcpy(low + 3, &to, 4);
	memcpy(low + 64, back, sizeof(back));
	strcpy((char *)low + 128, "/proc/self/mem");
	signal(SIGSEGV, none);
	CHECK_EQ((int)between_gate((long)low, (long)low + 8192 - 64, 20 /* getpid */, 0, 0), getpid(), "called");
	signal(SIGSEGV, SIG_DFL);
	fd = (int)between_gate((long)low, (long)low + 8192 - 64, 5 /* open */, (long)low + 128, O_RDWR);
	check(pread(fd, &got, 8, (off_t)&word) == 8 && got == 7, "memory", "%d", fd);
}

/* -- answers ------------------------------------------------------------------------------ */

/* A byte a page of a large enclave, where softsgx has little memory left. */
static void told(void)
{
	char path[64], line[256];
	uint64_t kib = 0, size = 1ull << 40;
	uint8_t *vec = mmap(NULL, size >> 12, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct rlimit most;
	FILE *file;

	load(size);
	snprintf(path, sizeof(path), "/proc/%d/status", getppid());
	for (file = fopen(path, "r"); file && fgets(line, sizeof(line), file);)
		sscanf(line, "VmSize: %lu", &kib);
	if (!kib || vec == MAP_FAILED)
		bail("status", strerror(errno));
	most.rlim_cur = most.rlim_max = (kib << 10) + (64 << 20);
	if (mmap((void *)e.base, size, PROT_NONE, MAP_SHARED | MAP_FIXED, e.fd, 0) == MAP_FAILED
	    || prlimit(getppid(), RLIMIT_AS, &most, NULL))
		bail("limit", strerror(errno));
	check_errno(mincore((void *)e.base, size, vec), 0, "mincore");
	check_errno(mincore((void *)e.base, size, (void *)4096), EFAULT, "nowhere");
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";

	if (!strcmp(way, "changed"))
		changed();
	else if (!strcmp(way, "pipes"))
		pipes(argc > 2 ? argv[2] : ".");
	else if (!strcmp(way, "splices"))
		splices();
	else if (!strcmp(way, "events"))
		events();
	else if (!strcmp(way, "odd"))
		odd();
	else if (!strcmp(way, "narrow"))
		narrow();
	else if (!strcmp(way, "told"))
		told();
	else
		bail("usage", way);
	return tap_failed;
}
