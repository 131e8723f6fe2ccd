/* SPDX-License-Identifier: MIT
 *
 * usage: walk VIA (how the design's loader adds pages: pages, v20, region; declared=MASK, where it
 * declares that part of what a page may; sigstruct=MASK, where SIGSTRUCT comes with CREATE, too)
 * Three initialized enclaves and the memory around them, and memory calls as told on standard
 * input: one a line, its raw result (-errno on failure) a line on standard output. Everything
 * lies at fixed addresses, so the same lines get the same answers. A line is
 *
 *   SLOT NUMBER A0 A1 A2 A3 A4 A5      a system call, in hexadecimal, by the thread of a slot
 *   SLOT OPERATION A0 …                an operation of `enum` below
 *
 * with a `~` before it if nobody has to wait for the answer (it is then no part of the output).
 * Slot 0 is there from the start; OP_FORK and OP_THREAD make others (1 to 7). For mmap A4 is the
 * number of an enclave, or -1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "added.h"
#include "fds.h"
#include "heap.h"
#include "loader.h"
#include "softsgx_designs.h"
#include "source.h"
#include "tap.h"

#define ARENA 0x100000000000ull
#define SCRATCH (ARENA - (1 << 24)) /* a page that calls can write to */
#define HEAP (ARENA + 32 * PAGE)      /* where brk begins, behind the second enclave */
#define ENCLAVES 3
#define SLOTS 8
#define ELRANGE (16 * PAGE)

enum { OP_FORK = 0x1000, OP_THREAD, OP_EXIT, OP_TOUCH, OP_SEND, OP_RECV, OP_MPROTECT, OP_MAP_SEGMENT,
       OP_RESTRICT, OP_TYPES, OP_PROCESS_MADVISE, OP_SHMAT, OP_MAP_LOCKED, OP_USERFAULT,
       OP_LIMITED };

static const uint64_t places[ENCLAVES] = {0, 16, 48};
/* Permissions of the pages from the first on; the rest of ELRANGE stays absent. */
static const char *const pages[] = {"rx", "rw", "r", "rwx", "rw", "rw", "rx", "tcs", "rw", "rw"};
#define NPAGES (sizeof(pages) / sizeof(pages[0]))

struct slot {
	atomic_int go; /* 0 idle, 1 told, 2 done */
	long nr, a[6], ret;
	pid_t pid;
};
static struct slot *slots;
static int fds[ENCLAVES], post[2], segment;
static __thread sigjmp_buf fault;
static __thread volatile int watching;

static void futex_wait(atomic_int *at, int value)
{
	syscall(SYS_futex, at, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void set(atomic_int *at, int value)
{
	atomic_store(at, value);
	syscall(SYS_futex, at, FUTEX_WAKE, 64, NULL, NULL, 0);
}

static void on_signal(int number)
{
	if (watching)
		siglongjmp(fault, number);
	signal(number, SIG_DFL);
}

/* -- enclaves -------------------------------------------------------------------------------- */

static void content(uint8_t *page, size_t i)
{
	memset(page, 0, PAGE);
	if (!strcmp(pages[i], "tcs"))
		*(struct tcs *)page = (struct tcs){.nssa = 1, .fslimit = 0xfff, .gslimit = 0xfff};
	else
		page[0] = 0xc3;
}

static uint64_t secinfo_flags(size_t i)
{
	return strcmp(pages[i], "tcs") ? SI_REG | (uint64_t)letters(pages[i]) : SI_TCS;
}

static long add(int fd, uint64_t base, const char *via, size_t i)
{
	static uint8_t page[PAGE] __attribute__((aligned(4096)));
	struct secinfo info = {.flags = secinfo_flags(i)};
	int declarable = strchr(via, '=') ? atoi(strchr(via, '=') + 1) : 0;

	/* Code comes from what can be executed. */
	mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	content(page, i);
	if (strchr(pages[i], 'x'))
		mprotect(page, PAGE, PROT_READ | PROT_EXEC);
	if (!strcmp(via, "v20")) {
		struct sgx_enclave_add_page_v20 arg = {
			.addr = base + i * PAGE, .src = (uint64_t)page, .secinfo = (uint64_t)&info, .mrmask = 0xffff};

		return ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGE_V20, &arg);
	}
	if (strcmp(via, "pages")) {
		struct sgx_add_region arg = {
			.src = (uint64_t)page, .offset = i * PAGE, .length = PAGE, .secinfo = (uint64_t)&info,
			.flags = 1, .segment = (uint64_t)(declarable & (strcmp(pages[i], "tcs") ? letters(pages[i]) : 3))};

		return ioctl(fd, SGX_IOC_ADD_REGION, &arg);
	}
	struct sgx_enclave_add_pages arg = {
		.src = (uint64_t)page, .offset = i * PAGE, .length = PAGE, .secinfo = (uint64_t)&info, .flags = 1};

	return ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg);
}

static void build(const char *via)
{
	static uint8_t page[PAGE] __attribute__((aligned(4096)));
	struct encl e;

	if (encl_plan(&e, &(struct encl_opts){.threads = 1}))
		bail("plan", e.err);
	e.size = e.secs.size = ELRANGE;
	share_added(true);
	for (size_t i = 0; i < NPAGES; i++) {
		content(page, i);
		remember(&(struct encl_seg){"page", i * PAGE, PAGE, secinfo_flags(i), page, true, false});
	}
	sign_added(&e);
	for (int n = 0; n < ENCLAVES; n++) {
		struct sgx_enclave_create create = {.src = (uint64_t)&e.secs};
		/* A file's: `ema` launches nothing else. */
		void *sig = source("file_r", NULL, &e.sig, sizeof(e.sig));
		struct sgx_enclave_create_sigstruct both = {(uint64_t)&e.secs, (uint64_t)sig};
		bool first = !strncmp(via, "sigstruct", 9);
		struct sgx_enclave_init init = {.sigstruct = first ? 0 : (uint64_t)sig};

		e.secs.base = ARENA + places[n] * PAGE;
		fds[n] = open(encl_device(), O_RDWR);
		if (fds[n] < 0 || (first ? ioctl(fds[n], SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, &both)
				   : ioctl(fds[n], SGX_IOC_ENCLAVE_CREATE, &create)))
			bail("create", strerror(errno));
		for (size_t i = 0; i < NPAGES; i++)
			if (add(fds[n], e.secs.base, via, i))
				bail("add", strerror(errno));
		if (ioctl(fds[n], SGX_IOC_ENCLAVE_INIT, &init))
			bail("init", strerror(errno));
		munmap(sig, sizeof(e.sig));
	}
}

/* -- operations ------------------------------------------------------------------------------ */

static long touch(unsigned long addr)
{
	int number = sigsetjmp(fault, 1);
	long value;

	if (number) {
		watching = 0;
		return -number;
	}
	watching = 1;
	value = *(volatile uint8_t *)addr;
	watching = 0;
	return value;
}

static long pass_fd(bool give, int *fd)
{
	char byte = 0;
	int got;

	if (give)
		return send_fd(post[1], *fd, &byte, 1, MSG_DONTWAIT) ? -errno : 0;
	if (receive_fd(post[0], &got, &byte, 1, MSG_DONTWAIT))
		return -errno;
	close(*fd);
	*fd = got;
	return 0;
}

static void *work(void *arg);

static long make_slot(bool thread, long n)
{
	pthread_t id;
	pid_t pid;

	atomic_store(&slots[n].go, 0);
	if (thread) {
		slots[n].pid = getpid();
		return -pthread_create(&id, NULL, work, &slots[n]);
	}
	pid = fork();
	if (pid == 0)
		work(&slots[n]);
	if (pid < 0)
		return -errno;
	slots[n].pid = pid; /* not by the child: who is told to exit at once may not have run yet */
	return 0;
}

static long design_ioctl(const struct slot *s)
{
	const long *a = s->a;
	struct sgx_mprotect p = {(uint64_t)a[1], (uint64_t)a[2], (uint64_t)a[3]};
	struct sgx_map_segment m = {(uint64_t)a[1], (uint64_t)a[2], (uint64_t)a[4], (uint64_t)a[3]};
	struct sgx_enclave_restrict_permissions r = {(uint64_t)a[1], (uint64_t)a[2], (uint64_t)a[3], 0, 0};
	struct sgx_enclave_modify_types t = {(uint64_t)a[1], (uint64_t)a[2], (uint64_t)a[3], 0, 0};
	int fd = fds[a[0]], ret = s->nr == OP_MPROTECT ? ioctl(fd, SGX_IOC_MPROTECT, &p)
	    : s->nr == OP_MAP_SEGMENT ? ioctl(fd, SGX_IOC_MAP_SEGMENT, &m)
	    : s->nr == OP_RESTRICT ? ioctl(fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &r)
	    : ioctl(fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &t);

	return ret < 0 ? -errno : ret;
}

static long self_madvise(const long *a)
{
	struct iovec v[2] = {{(void *)a[0], (size_t)a[1]}, {(void *)a[2], (size_t)a[3]}};
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	long ret = syscall(SYS_process_madvise, fd, v, 2, a[4], 0);

	if (ret < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* A segment of two pages over what is there, and away again. */
static long attach(const long *a)
{
	long ret = syscall(SYS_shmat, segment, a[0], a[1]);

	if (ret == -1)
		return -errno;
	munmap((void *)ret, 2 * PAGE);
	return ret;
}

/* An mmap of an enclave while all that is mapped is to be locked. */
static long map_locked(const long *a)
{
	long ret;

	mlockall(MCL_FUTURE);
	ret = syscall(SYS_mmap, a[0], a[1], a[2], a[3], fds[a[4]], a[5]);
	ret = ret == -1 ? -errno : ret;
	munlockall();
	return ret;
}

/* A machine without userfaultfd says no, too. */
static long userfault(const long *a)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {{(uint64_t)a[0], (uint64_t)a[1]}, UFFDIO_REGISTER_MODE_MISSING, 0};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	long ret = fd < 0 || ioctl(fd, UFFDIO_API, &api) ? -EINVAL : ioctl(fd, UFFDIO_REGISTER, &range);

	if (ret == -1)
		ret = -errno;
	close(fd);
	return ret;
}

/* A call that finds the address space at its limit (RLIMIT_AS). */
static long limited(const long *a)
{
	struct rlimit was, none;
	long ret;

	getrlimit(RLIMIT_AS, &was);
	none = (struct rlimit){.rlim_cur = PAGE, .rlim_max = was.rlim_max};
	setrlimit(RLIMIT_AS, &none);
	ret = syscall(a[0], a[1], a[2], a[3], a[4], a[0] == SYS_mmap && a[5] >= 0 ? fds[a[5]] : a[5], 0);
	ret = ret == -1 ? -errno : ret;
	setrlimit(RLIMIT_AS, &was);
	return ret;
}

static long obey(struct slot *s)
{
	const long *a = s->a;
	long ret;

	switch (s->nr) {
	case OP_FORK:
	case OP_THREAD:
		return make_slot(s->nr == OP_THREAD, a[0]);
	case OP_TOUCH:
		return touch((unsigned long)a[0]);
	case OP_SEND:
	case OP_RECV:
		return pass_fd(s->nr == OP_SEND, &fds[a[0]]);
	case OP_MPROTECT:
	case OP_MAP_SEGMENT:
	case OP_RESTRICT:
	case OP_TYPES:
		return design_ioctl(s);
	case OP_PROCESS_MADVISE:
		return self_madvise(a);
	case OP_SHMAT:
		return attach(a);
	case OP_MAP_LOCKED:
		return map_locked(a);
	case OP_USERFAULT:
		return userfault(a);
	case OP_LIMITED:
		return limited(a);
	}
	ret = syscall(s->nr, a[0], a[1], a[2], a[3], s->nr == SYS_mmap && a[4] >= 0 ? fds[a[4]] : a[4], a[5]);
	return ret == -1 ? -errno : ret;
}

static void *work(void *arg)
{
	struct slot *s = arg;

	for (;;) {
		for (int go; (go = atomic_load(&s->go)) != 1;)
			futex_wait(&s->go, go);
		if (s->nr == OP_EXIT)
			_exit(0); /* the process, whatever threads it has */
		s->ret = obey(s);
		set(&s->go, 2);
	}
	return NULL;
}

/* -- the list -------------------------------------------------------------------------------- */

/* Whether a process has ended; it may be a zombie that another process has to reap. */
static bool ended(pid_t pid)
{
	char path[40], text[300] = "";
	FILE *f;

	waitpid(pid, NULL, WNOHANG);
	if (kill(pid, 0))
		return true;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return true;
	if (!fgets(text, sizeof(text), f))
		text[0] = 0;
	fclose(f);
	return !text[0] || strstr(text, ") Z");
}

/* Wait for a slot to be idle or done; who dies of what it was told ends the walk. */
static void await(struct slot *s)
{
	struct timespec patience = {.tv_sec = 1};

	while (atomic_load(&s->go) == 1)
		if (syscall(SYS_futex, &s->go, FUTEX_WAIT, 1, &patience, NULL, 0) && errno == ETIMEDOUT
		    && ended(s->pid))
			bail("slot", "its process is gone");
}

int main(int argc, char **argv)
{
	char line[400];

	setvbuf(stdout, NULL, _IOLBF, 0);
	slots = mmap(NULL, SLOTS * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc < 2 || slots == MAP_FAILED || socketpair(AF_UNIX, SOCK_DGRAM, 0, post))
		bail("usage", "walk VIA");
	sigaction(SIGSEGV, &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_NODEFER}, NULL);
	sigaction(SIGBUS, &(struct sigaction){.sa_handler = on_signal, .sa_flags = SA_NODEFER}, NULL);
	if (mmap((void *)SCRATCH, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		bail("scratch", strerror(errno));
	segment = shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600);
	if (segment < 0 || shmat(segment, NULL, 0) == (void *)-1 || shmctl(segment, IPC_RMID, NULL))
		bail("shmget", strerror(errno)); /* it goes with the last process that has it */
	build(argv[1]);
	if (move_heap(HEAP, HEAP)) /* among the enclaves, of no pages yet */
		fprintf(stderr, "no heap: %s\n", strerror(errno));
	/* The one that reads the list is none of those that obey it, and holds no enclave. */
	if (make_slot(false, 0))
		bail("fork", strerror(errno));
	for (int i = 0; i < ENCLAVES; i++)
		close(fds[i]);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		char *rest = line + (*line == '~');
		struct slot *s = &slots[strtol(rest, &rest, 16) % SLOTS];
		pid_t pid;

		await(s);
		s->nr = strtol(rest, &rest, 16);
		for (int i = 0; i < 6; i++)
			s->a[i] = (long)strtoul(rest, &rest, 16);
		pid = s->pid;
		if (s->nr == OP_EXIT) {
			set(&s->go, 1);
			while (!ended(pid))
				sched_yield();
			for (int i = 0; i < SLOTS; i++)
				if (slots[i].pid == pid)
					slots[i] = (struct slot){0};
			puts("0");
			continue;
		}
		set(&s->go, 1);
		if (*line == '~')
			continue;
		await(s);
		printf("%ld\n", s->ret);
	}
	for (int i = 0; i < SLOTS; i++)
		if (slots[i].pid)
			kill(slots[i].pid, SIGKILL);
	return 0;
}
