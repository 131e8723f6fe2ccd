/* SPDX-License-Identifier: MIT
 *
 * usage: foreseen heap|straddle|unaligned|userfault|sharer|locked|faults|apart|ring|late_ring FOLDER
 * Pages are added in a row, until a process that softsgx runs adds them itself, and then something
 * comes that makes the next one another. Prints what was answered and, of faults, what is left of
 * their signals' handlers and masks. At the end it sends itself SIGUSR2, for who looks at the enclave.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "noexec.h"
#include "ring.h"
#include "tap.h"

#define BEFORE 100 /* pages, by when the process adds them itself */

static struct encl e;
static struct secinfo info = {.flags = SI_REG | SI_R | SI_W};
static uint64_t next;
static uint8_t *source;
static struct sgx_enclave_add_pages usual;
static volatile int signalled;

static uint64_t ask(struct sgx_enclave_add_pages *a, uint64_t src)
{
	*a = (struct sgx_enclave_add_pages){.src = src, .offset = next, .length = PAGE,
					    .secinfo = (uint64_t)&info, .flags = SGX_PAGE_MEASURE};
	return (uint64_t)a;
}

static int try(void *a)
{
	int ret;

	errno = 0;
	ret = ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, a);
	return ret ? -errno : 0;
}

static int add(uint64_t src)
{
	int ret;

	ask(&usual, src);
	ret = try(&usual);
	if (!ret)
		next += PAGE;
	return ret;
}

static void told(const char *name, int ret)
{
	printf("%s %d %llu\n", name, ret, (unsigned long long)usual.count);
	fflush(stdout);
}

static void row(int n)
{
	int ret = 0;

	for (int i = 0; i < n; i++)
		ret |= add((uint64_t)source);
	told("row", ret);
}

static void *map(size_t size, int prot, int flags, int fd)
{
	void *at = mmap(NULL, size, prot, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (at == MAP_FAILED)
		bail("map", strerror(errno));
	return at;
}

/* The heap shrinks, and what moves there, by calls that do not name the place, is of a noexec mount. */
static void heap(const char *folder)
{
	uint8_t *low = (uint8_t *)(((uint64_t)sbrk(0) + PAGE - 1) & -PAGE), *all, *at;
	char name[300];
	int fd;

	if (mount_noexec(folder))
		bail("noexec", strerror(errno));
	snprintf(name, sizeof(name), "%s/file", folder);
	fd = open(name, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 2 * PAGE))
		bail("file", strerror(errno));
	all = map(3 * PAGE, PROT_NONE, MAP_PRIVATE, -1);
	at = mmap(all, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
	if (brk(low + 64 * PAGE))
		bail("brk", strerror(errno));
	source = low + 8 * PAGE;
	memset(source, 1, PAGE);
	/* Nowhere below is there room. */
	for (uint64_t size = 1ull << 46; size >= 16 * PAGE; size /= 2)
		for (;;) {
			uint8_t *got = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

			if (got == MAP_FAILED)
				break;
			if (got > low) {
				munmap(got, size);
				break;
			}
		}
	row(BEFORE);
	if (brk(source))
		bail("brk", strerror(errno));
	at = mremap(at, 2 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
	printf("there %d\n", at == source);
	told("noexec", add((uint64_t)source));
}

/* What is told of the count lies in two pages, one of which cannot be written. */
static void straddle(void)
{
	uint8_t *two = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, -1);
	int ret;

	row(BEFORE);
	for (int at = 8; at < 48; at += 8) {
		struct sgx_enclave_add_pages *a = (void *)(two + PAGE - at);

		for (int which = 0; which < 2; which++) {
			mprotect(two, 2 * PAGE, PROT_READ | PROT_WRITE);
			row(90 + at);
			ask(a, (uint64_t)source);
			mprotect(two + which * PAGE, PAGE, PROT_READ);
			ret = try(a);
			printf("%d %d %d %llu\n", at, which, ret, (unsigned long long)a->count);
			next += PAGE; /* it is there */
		}
	}
	mprotect(two, 2 * PAGE, PROT_READ | PROT_WRITE);
	for (int at = 1; at < 64; at++) {
		struct sgx_enclave_add_pages *a = (void *)(two + PAGE - at);

		ask(a, (uint64_t)source);
		ret = try(a);
		printf("%d %d %llu\n", at, ret, (unsigned long long)a->count);
		next += PAGE;
	}
}

/* With alignment checks. */
static void unaligned(void)
{
	uint8_t *two = map(2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, -1);

	row(BEFORE);
	for (int at = 1; at < 64; at++) {
		struct sgx_enclave_add_pages *a = (void *)(two + PAGE - at);
		uint64_t ret = 16;

		ask(a, (uint64_t)source);
		asm volatile("pushfq; orl $0x40000, (%%rsp); popfq\n\t"
			     "call *%1\n\t"
			     "pushfq; andl $~0x40000, (%%rsp); popfq"
			     : "=a"(ret)
			     : "r"(ioctl), "D"((long)e.fd), "S"(SGX_IOC_ENCLAVE_ADD_PAGES), "d"(a)
			     : "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
		printf("%d %d %llu\n", at, (int)ret, (unsigned long long)a->count);
		next += ret ? 0 : PAGE;
	}
}

/* Another process answers the faults of the program's own accesses, and of none of the kernel's. */
static void userfault(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_NONBLOCK | O_CLOEXEC | UFFD_USER_MODE_ONLY), ends[2];
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register of;
	uint8_t *other = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1);
	pid_t child;

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || pipe(ends)) {
		printf("none\n");
		return;
	}
	source = map(8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1);
	memset(source, 1, 2 * PAGE);
	memset(other, 2, 8 * PAGE);
	of = (struct uffdio_register){.range = {(uint64_t)source, 8 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (ioctl(fd, UFFDIO_REGISTER, &of))
		bail("register", strerror(errno));
	child = fork();
	if (!child) {
		struct pollfd both[2] = {{.fd = fd, .events = POLLIN}, {.fd = ends[0], .events = POLLIN}};

		close(ends[1]);
		for (;;) {
			struct uffd_msg m;

			poll(both, 2, -1);
			if (both[1].revents)
				_exit(0);
			if (read(fd, &m, sizeof(m)) == sizeof(m)) {
				struct uffdio_copy c = {.dst = m.arg.pagefault.address & -PAGE,
							.src = (uint64_t)other, .len = PAGE};

				ioctl(fd, UFFDIO_COPY, &c);
			}
		}
	}
	close(ends[0]);
	row(BEFORE);
	told("missing", add((uint64_t)source + 4 * PAGE));
	told("again", add((uint64_t)source + 4 * PAGE));
	row(2);
	close(ends[1]);
	waitpid(child, NULL, 0);
}

/* What is locked, which has a limit, is the program's own memory. */
static void locked(void)
{
	char line[256];
	FILE *status;

	if (mlockall(MCL_FUTURE))
		bail("mlockall", strerror(errno));
	row(BEFORE);
	status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, "VmLck", 5))
			fputs(line, stdout);
	fclose(status);
	row(2);
}

static void handler(int number, siginfo_t *si, void *context)
{
	(void)si, (void)context;
	signalled = number;
}

static void left(int number)
{
	struct sigaction was;
	sigset_t mask, pending;

	sigaction(number, NULL, &was);
	sigprocmask(SIG_SETMASK, NULL, &mask);
	sigpending(&pending);
	printf("%d handler %d %x blocked %d pending %d signalled %d\n", number,
	       was.sa_handler == SIG_DFL ? 0 : was.sa_handler == SIG_IGN ? 1 : 2, was.sa_flags,
	       sigismember(&mask, number), sigismember(&pending, number), signalled);
}

/* What the kernel answers EFAULT for, where a signal of it is handled, with the signal blocked too, ignored or
 * the default. */
static void faults(const char *folder)
{
	static const int numbers[] = {SIGSEGV, SIGBUS};
	char name[300];
	uint8_t *file;
	int fd;

	snprintf(name, sizeof(name), "%s/file", folder);
	fd = open(name, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 4 * PAGE))
		bail("file", strerror(errno));
	file = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	for (int n = 0; n < 2; n++)
		for (int how = 0; how < 5; how++)
			for (int blocked = 0; blocked < (how == 1 || how == 2 ? 1 : 2); blocked++)
				for (int late = 0; late < 2; late++) {
					struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
					sigset_t set;

					signal(numbers[n], SIG_DFL);
					sigemptyset(&set);
					sigprocmask(SIG_SETMASK, &set, NULL);
					if (ftruncate(fd, 4 * PAGE))
						bail("file", strerror(errno));
					source = file;
					if (late)
						row(70);
					if (how == 1)
						sa = (struct sigaction){.sa_handler = SIG_IGN};
					if (how == 2)
						sa = (struct sigaction){.sa_handler = SIG_DFL};
					if (how == 3)
						sa.sa_flags |= SA_RESETHAND | SA_NODEFER;
					if (how == 4)
						sa.sa_flags |= SA_ONSTACK | SA_RESTART;
					sigaction(numbers[n], &sa, NULL);
					sigaddset(&set, numbers[n]);
					if (blocked)
						sigprocmask(SIG_BLOCK, &set, NULL);
					if (!late)
						row(70);
					signalled = 0;
					if (n == 0) {
						told("nowhere", try((void *)8));
						told("noncanonical", try((void *)(1ull << 62)));
						ask(&usual, (uint64_t)source);
						usual.secinfo = 1ull << 63;
						told("secinfo", try(&usual));
					} else {
						if (ftruncate(fd, PAGE))
							bail("file", strerror(errno));
						told("behind", add((uint64_t)source + 2 * PAGE));
					}
					left(numbers[n]);
				}
}

static int untraced(void *p)
{
	char none;
	int *ends = p;

	while (read(ends[0], &none, 1) == 1) {
		int ret = dup2(ends[2], e.fd);

		if (write(ends[3], &ret, sizeof(ret)) < 0)
			break;
	}
	_exit(0);
}

/* A child whose calls nobody stops shares the descriptors. */
static void sharer(void)
{
	struct {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	} how = {.flags = CLONE_FILES | CLONE_UNTRACED, .exit_signal = SIGCHLD};
	int to[2], from[2], ret = 0, ends[4];
	pid_t child;

	if (pipe(to) || pipe(from))
		bail("pipe", strerror(errno));
	ends[0] = to[0], ends[2] = open("/dev/null", O_RDONLY), ends[3] = from[1];
	child = (pid_t)syscall(SYS_clone3, &how, sizeof(how));
	if (!child)
		untraced(ends);
	row(BEFORE);
	if (write(to[1], "x", 1) != 1 || read(from[0], &ret, sizeof(ret)) != sizeof(ret))
		bail("pipe", strerror(errno));
	printf("its dup2 %d\n", ret == e.fd);
	told("another file", add((uint64_t)source));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

/* A ring closes the descriptor, in whose process it was not made, or not yet. */
static void by_ring(bool late)
{
	struct io_uring_sqe closes = {.opcode = IORING_OP_CLOSE, .fd = e.fd};
	int ends[2], to[2], pid = 0, is = -1;

	if (pipe(ends) || pipe(to))
		bail("pipe", strerror(errno));
	if (!late) { /* its parameters come along with it */
		pid = fork();
		if (!pid) {
			is = begin_ring();
			close(ends[1]);
			if (write(to[1], &is, sizeof(is)) < 0 || write(to[1], &ring.params, sizeof(ring.params)) < 0
			    || read(ends[0], &is, 1))
				_exit(1);
			_exit(0);
		}
		if (read(to[0], &is, sizeof(is)) != sizeof(is)
		    || read(to[0], &ring.params, sizeof(ring.params)) != sizeof(ring.params))
			bail("pipe", strerror(errno));
	}
	row(BEFORE);
	if (late)
		is = begin_ring();
	if (is < 0) {
		printf("none\n");
		return;
	}
	if (!late)
		map_ring((int)syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, pid, 0), is, 0));
	row(BEFORE);
	printf("closed %d\n", through_ring(closes));
	told("closed", add((uint64_t)source));
	close(ends[1]);
	if (!late)
		waitpid(pid, NULL, 0);
}

static void *waiting(void *p)
{
	pause();
	return p;
}

/* Sources so far apart that there is no address where the next one would be. */
static void apart(void)
{
	uint8_t *low = mmap((void *)0x10000, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	pthread_t t;

	if (low == MAP_FAILED)
		bail("low", strerror(errno));
	memset(low, 4, PAGE);
	for (int threads = 1; threads <= 2; threads++) {
		for (int i = 0; i < 12; i++)
			told("apart", add((uint64_t)(i % 3 % 2 ? low : source)));
		if (threads == 1 && pthread_create(&t, NULL, waiting, NULL))
			bail("thread", "none");
	}
	pthread_cancel(t);
	pthread_join(t, NULL);
	row(BEFORE);
}

int main(int argc, char **argv)
{
	static char line[PAGE];
	const char *what = argc > 1 ? argv[1] : "", *folder = argc > 2 ? argv[2] : ".";
	uint64_t first;

	if (!strcmp(what, "heap") && !(personality(0xffffffff) & ADDR_COMPAT_LAYOUT)) {
		personality(ADDR_COMPAT_LAYOUT); /* what is mapped anywhere comes from below */
		execv("/proc/self/exe", argv);
	}
	setvbuf(stdout, line, _IOLBF, sizeof(line));
	if (encl_plan(&e, &(struct encl_opts){.size = 1 << 26}) || encl_open(&e) || encl_reserve(&e)
	    || encl_create(&e))
		bail("create", e.err);
	next = first = e.free;
	source = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1);
	memset(source, 3, 2 * PAGE);
	if (!strcmp(what, "heap"))
		heap(folder);
	if (!strcmp(what, "straddle"))
		straddle();
	if (!strcmp(what, "unaligned"))
		unaligned();
	if (!strcmp(what, "userfault"))
		userfault();
	if (!strcmp(what, "locked"))
		locked();
	if (!strcmp(what, "faults"))
		faults(folder);
	if (!strcmp(what, "sharer"))
		sharer();
	if (!strcmp(what, "apart"))
		apart();
	if (!strcmp(what, "ring") || !strcmp(what, "late_ring"))
		by_ring(!strcmp(what, "late_ring"));
	printf("pages %llu\n", (unsigned long long)(next - first) / PAGE);
	fflush(stdout);
	raise(SIGUSR2);
	return 0;
}
