/* SPDX-License-Identifier: MIT
 *
 * usage: beneath WAY
 * Ways to a file that nobody is to open: the memory of softsgx itself, its descriptors, and what an
 * enclave's pages are in. By calls that nobody looks at, from a process that maps no enclave, begun
 * before the one that does. Code has to stay what it was.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "loader.h"
#include "opens.h"
#include "tap.h"

#define RW (PROT_READ | PROT_WRITE)
#define EVIL 0x4141414141414141ull

static struct encl e;
static uint64_t code, target;
static struct shared {
	uint64_t base, code, heap;
	int ring;
	struct io_uring_params params;
	volatile int step;
} *both; /* by two processes */

static void no_i386(int number)
{
	(void)number;
	skip("i386", "no int 0x80 here");
	_exit(0);
}

/* -- what is there to be found -------------------------------------------------------------- */

/* Whether a program like this one opens what is softsgx's own, if nobody is in the way. */
static bool privileged(void)
{
	FILE *status = fopen("/proc/self/status", "r");
	uint64_t has = 0;
	char line[200];

	while (fgets(line, sizeof(line), status))
		sscanf(line, "CapEff: %lx", &has);
	fclose(status);
	return has & (1ull << 19 | 1ull << 21 | 1ull << 40); /* SYS_PTRACE, SYS_ADMIN, CHECKPOINT_RESTORE */
}

static void writes(long fd, uint64_t at)
{
	uint64_t evil = EVIL;

	if (fd >= 0 && pwrite((int)fd, &evil, 8, (off_t)at) == 8)
		printf("# written by %ld\n", fd);
}

static const char *proc = "/proc";

/* softsgx's own memory, and its descriptors, by every name that it may have. */
static void own(const char *name, long (*open)(const char *, int), const char *when)
{
	char path[200], what[100];
	int found = 0, pid = tracer();
	long fd;

	snprintf(what, sizeof(what), "%s_%s", name, when);
	snprintf(path, sizeof(path), "%s/%d/mem", proc, pid);
	found += open(path, O_RDWR) >= 0;
	snprintf(path, sizeof(path), "%s/%d/task/%d/mem", proc, pid, pid);
	found += open(path, O_RDWR) >= 0;
	for (int i = 3; i < 40; i++) {
		snprintf(path, sizeof(path), "%s/%d/fd/%d", proc, pid, i);
		fd = open(path, O_RDWR | O_NONBLOCK);
		found += fd >= 0;
		if (fd >= 0)
			writes(fd, both->code + 4088 - both->base);
	}
	check(!found, what, "%d are open", found);
}

static long reads_i386(int fd, uint64_t at)
{
	long ret;

	memset(low, 0, 8); /* pread64: the offset is in two registers, of which EDI is the upper */
	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\tpop %%rbx"
			 : "=a"(ret) : "0"(180l), "r"((long)fd), "c"(low), "d"(8l), "S"(at & 0xffffffff), "D"(at >> 32)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

/* The enclave's pages, by the names in the process that maps them. */
static void pages(const char *name, long (*open)(const char *, int), int pid)
{
	char path[600], what[100];
	struct dirent *entry;
	uint64_t a, b, word = 0;
	int found = 0;
	struct stat s;
	DIR *dir;
	long fd, again;

	snprintf(path, sizeof(path), "/proc/%d/map_files", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, "%lx-%lx", &a, &b) != 2 || a > both->code || both->code >= b)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%s", pid, entry->d_name);
		fd = open(path, O_RDWR);
		found += fd >= 0 && !fstat((int)fd, &s) && S_ISREG(s.st_mode); /* the node is a device */
		writes(fd, both->code + 4088 - both->base);
	}
	snprintf(what, sizeof(what), "%s_map_files", name);
	check(!found, what, "it is open");
	if (open == by_ring && !privileged())
		return; /* docs/limits.md */
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR);
	snprintf(what, sizeof(what), "%s_mem", name);
	check(fd < 0 || pread((int)fd, &word, 8, (off_t)both->code) < 0, what, "%#lx is there", word);
	if (fd < 0)
		return;
	writes(fd, both->base + both->heap);
	snprintf(what, sizeof(what), "%s_mem_i386", name);
	check(reads_i386((int)fd, both->code) < 0, what, "%#lx is there", *(uint64_t *)low);
	snprintf(what, sizeof(what), "%s_mem_elsewhere", name);
	if ((fcntl((int)fd, F_GETFL) & O_ACCMODE) != O_WRONLY)
		check(reads_i386((int)fd, (uint64_t)&both->code) == 8 && *(uint64_t *)low == both->code, what,
		      "it is not read");
	again = i386(41, fd, 0, 0, 0); /* dup */
	snprintf(what, sizeof(what), "%s_mem_dup", name);
	check(reads_i386((int)again, both->code) < 0 && pread((int)again, &word, 8, (off_t)both->code) < 0, what,
	      "it is there");
}

static void load(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};

	if (encl_load(&e, &opts))
		bail("load", e.err);
	code = both->code = (e.base + e.entry) & -4096l;
	target = code + 4088;
	both->base = e.base;
	both->heap = e.heap;
}

static void turn(int step)
{
	both->step = step;
}

static void until(int step)
{
	while (both->step < step)
		sched_yield();
}

static uint64_t is(uint64_t addr)
{
	return *(volatile uint64_t *)addr;
}

static bool any(uint64_t page)
{
	for (int i = 0; i < 512; i++)
		if (is(page + 8 * (uint64_t)i))
			return true;
	return false;
}

/* -- rings ---------------------------------------------------------------------------------- */

/* What a ring is for works, whenever it was made. */
static void serves(const char *name)
{
	uint64_t word = 0;
	int ends[2];
	struct io_uring_sqe reads = {.opcode = IORING_OP_READ, .addr = (uint64_t)&word, .len = 8};

	if (pipe(ends) || write(ends[1], "abcdefgh", 8) != 8)
		abort();
	reads.fd = ends[0];
	check(through_ring(reads) == 8 && !memcmp(&word, "abcdefgh", 8), name, "%#lx", word);
}

static void ring_before(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	pid_t child = fork();
	int status;

	if (!child) {
		if (begin_ring() < 0) {
			skip("io_uring", strerror(errno));
			both->ring = -1;
		} else {
			check(by_ring("/dev/null", O_RDONLY) >= 0, "ring_opens", "no /dev/null");
		}
		turn(1);
		until(2);
		serves("ring_serves");
		_exit(tap_failed);
	}
	until(1);
	if (both->ring < 0)
		exit(0);
	if (privileged())
		check(encl_load(&e, &opts) && errno == EPERM, "refused", "%s", e.err);
	else
		check(!encl_load(&e, &opts), "granted", "%s", e.err);
	turn(2);
	waitpid(child, &status, 0);
	tap_failed |= status != 0;
	memset(&e, 0, sizeof(e));
	load(); /* the ring is gone */
}

static void ring_after(void)
{
	pid_t parent = getpid(), child = fork();
	int status;

	if (!child) {
		until(1);
		if (begin_ring() < 0) {
			skip("io_uring", strerror(errno));
			_exit(0);
		}
		serves("ring_serves");
		own("ring", by_ring, "after");
		pages("ring", by_ring, parent);
		_exit(tap_failed);
	}
	load();
	turn(1);
	waitpid(child, &status, 0);
	tap_failed |= status != 0;
}

/* A ring that is made when the code is mapped already, in a process that it is handed to. */
static void ring_late(void)
{
	struct io_uring_sqe empties = {.opcode = IORING_OP_MADVISE, .len = 4096, .fadvise_advice = MADV_REMOVE};
	int fd = -1;
	pid_t child = fork();

	if (!child) {
		until(1);
		both->ring = begin_ring();
		both->params = ring.params;
		if (both->ring < 0)
			skip("io_uring", strerror(errno));
		turn(2);
		until(3);
		_exit(0);
	}
	load();
	encl_op(&e, OP_POKE, e.base + e.heap, 7, 0, 0);
	turn(1);
	until(2);
	if (both->ring >= 0)
		fd = (int)syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, child, 0), both->ring, 0);
	if (fd < 0) {
		skip("late", strerror(errno));
	} else {
		ring.params = both->params;
		map_ring(fd);
		empties.addr = code;
		check(through_ring(empties) < 0, "emptied", "it was");
		CHECK_EQ(encl_op(&e, OP_PEEK, e.base + e.heap, 0, 0, 0), 7, "data");
	}
	turn(3);
	waitpid(child, NULL, 0);
}

/* -- other calls ------------------------------------------------------------------------------ */

static void ends(bool by_i386)
{
	char path[100];

	for (int i = 3; i < 40; i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", tracer(), i);
		copied(path);
		if (by_i386)
			i386(92, (long)low, 0, 0, 0);
		else if (truncate(low, 0))
			continue;
	}
}

/* By another mount of proc, or by a mount of what is in it. */
static void mounts(const char *folder)
{
	char from[100], file[300];
	int pid = tracer(), fd;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		skip("mounts", "they take a privilege here");
		exit(0);
	}
	snprintf(file, sizeof(file), "%s/file", folder);
	close(open(file, O_CREAT | O_WRONLY, 0600));
	snprintf(from, sizeof(from), "/proc/%d/fd", pid);
	check_errno(mount(from, folder, NULL, MS_BIND, NULL), EACCES, "bind_fd");
	check_errno(syscall(SYS_open_tree, AT_FDCWD, from, 1 /* OPEN_TREE_CLONE */), EACCES, "tree_fd");
	check(i386(21, (long)copied(from), (long)strcpy(low + 2048, folder), 0, MS_BIND) < 0, "bind_fd_i386", "it is");
	snprintf(from, sizeof(from), "/proc/%d/mem", pid);
	check_errno(mount(from, file, NULL, MS_BIND, NULL), EACCES, "bind_mem");
	check_errno(mount("proc", folder, "proc", 0, NULL), 0, "mount_proc");
	proc = folder;
	own("mounts", plainly, "proc");
	own("mounts_i386", by_open, "proc");
	snprintf(from, sizeof(from), "%s/self/mem", folder);
	check((fd = open(from, O_RDONLY)) >= 0, "self_is_ones_own", "%s", strerror(errno));
	check(pread(fd, low, 8, (off_t)(uintptr_t)both) == 8, "self_is_read", "%s", strerror(errno));
	check_errno(chroot(folder) || chdir("/") ? -1 : 0, 0, "chroot");
	proc = "";
	own("chroot", plainly, "proc");
	own("chroot_i386", by_open, "proc");
	check(open("/self/mem", O_RDONLY) >= 0, "self_in_chroot", "%s", strerror(errno));
}

/* By each of its threads, of which one is named as well as by the process. */
static void threads(void)
{
	char path[100], word[8];
	struct iovec local = {word, 8}, remote = {(void *)path, 8};
	struct dirent *entry;
	int found = 0, taken = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", tracer());
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		int tid = atoi(entry->d_name), pidfd;

		if (!tid)
			continue;
		if (process_vm_readv(tid, &local, 1, &remote, 1, 0) >= 0 || errno != EPERM)
			found++;
		if (ptrace(PTRACE_SEIZE, tid, 0, 0) >= 0 || errno != EPERM)
			found++;
		pidfd = (int)syscall(SYS_pidfd_open, tid, O_EXCL /* PIDFD_THREAD */);
		for (int i = 0; pidfd >= 0 && i < 40; i++)
			taken += syscall(SYS_pidfd_getfd, pidfd, i, 0) >= 0;
	}
	check(!found, "threads", "%d were reached", found);
	check(!taken, "threads_pidfd", "%d were taken", taken);
}

static void traces(void)
{
	int pid = tracer();
	long got = i386(26, PTRACE_ATTACH, pid, 0, 0);

	check(got < 0, "ptrace_i386", "it is traced");
	check(ptrace(PTRACE_ATTACH, pid, 0, 0) < 0, "ptrace", "it is traced");
	check(ptrace(PTRACE_SEIZE, pid, 0, 0) < 0, "ptrace_seize", "it is traced");
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";
	pid_t child, parent = getpid();
	bool known = false;
	int status = 0;

	setbuf(stdout, NULL);
	signal(SIGSEGV, no_i386);
	low = mmap(NULL, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	both = mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prctl(PR_SET_PTRACER, parent, 0, 0, 0);
	if (!strcmp(way, "ring_before")) {
		ring_before();
	} else if (!strcmp(way, "ring_after")) {
		ring_after();
	} else if (!strcmp(way, "ring_late")) {
		ring_late();
	} else if (!strcmp(way, "mounts")) {
		child = fork();
		if (!child) {
			mounts(argc > 2 ? argv[2] : "/nowhere");
			_exit(tap_failed);
		}
		load();
		waitpid(child, &status, 0);
		tap_failed |= status != 0;
	} else if (!strcmp(way, "threads")) {
		child = fork();
		if (!child) {
			until(1);
			threads();
			_exit(tap_failed);
		}
		load();
		turn(1);
		waitpid(child, &status, 0);
		tap_failed |= status != 0;
	} else if (!strcmp(way, "traces")) {
		traces();
		load();
	} else if (!strncmp(way, "ends", 4)) {
		child = fork();
		if (!child) {
			until(1);
			ends(!strcmp(way, "ends_i386"));
			_exit(0);
		}
		load();
		turn(1);
		waitpid(child, NULL, 0);
	} else {
		for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
			if (strcmp(ways[i].name, way))
				continue;
			known = true;
			child = fork();
			if (!child) {
				own(way, ways[i].open, "before");
				turn(1);
				until(2);
				own(way, ways[i].open, "after");
				pages(way, ways[i].open, parent);
				if (ways[i].open == by_x32)
					refused_x32();
				_exit(tap_failed);
			}
			until(1);
			load();
			turn(2);
			waitpid(child, &status, 0);
			tap_failed |= status != 0;
		}
		if (!known)
			bail("usage", way);
	}
	check(is(target) != EVIL, "code_stays", "it was written");
	check(any(code), "code_is_there", "it is gone");
	return tap_failed;
}
