/* SPDX-License-Identifier: MIT
 *
 * usage: reopens
 * The file of an enclave's pages by the name that its descriptor has in /proc while it is mapped by:
 * another process of the same user takes hold of it (O_PATH, which needs no permission), gives it
 * another mode by a 32-bit call, and opens it by a ring. Code has to stay what it was.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/prctl.h>
#include "loader.h"
#include "opens.h"

#define RW (PROT_READ | PROT_WRITE)
#define EVIL 0x4141414141414141ull
#define ROUNDS 300

static struct {
	volatile int step, held;
	volatile uint64_t offset;
} *both; /* by two processes */

static bool is_pages(long fd)
{
	char path[64], text[200];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%ld", fd);
	n = readlink(path, text, sizeof(text) - 1);
	text[n < 0 ? 0 : n] = 0;
	return strstr(text, "sgx_enclave") != NULL; /* the file, or what is told of it */
}

/* With what a name leads to. */
static void writes(long held)
{
	char path[64];
	uint64_t evil = EVIL;
	long fd;

	both->held = 1;
	snprintf(path, sizeof(path), "/proc/self/fd/%ld", held);
	i386(15, (long)copied(path), 0666, 0, 0); /* chmod */
	fd = by_ring(path, O_RDWR);
	while (!both->offset)
		sched_yield();
	if (fd >= 0 && pwrite((int)fd, &evil, 8, (off_t)both->offset) == 8)
		printf("# written\n");
}

static void looks(pid_t parent)
{
	char folder[64], path[128];
	struct dirent *entry;
	long fd;

	snprintf(folder, sizeof(folder), "/proc/%d/task", parent);
	while (both->step == 1) {
		DIR *dir = opendir(folder);

		while (dir && (entry = readdir(dir))) {
			int tid = atoi(entry->d_name);

			snprintf(path, sizeof(path), "%s/%d/fd/0", folder, tid);
			while (tid && tid != parent && both->step == 1 && !syscall(SYS_tgkill, parent, tid, 0)) {
				fd = by_ring(path, O_PATH);
				if (fd >= 0 && is_pages(fd)) {
					writes(fd);
					_exit(0);
				}
				if (fd >= 0)
					close((int)fd);
			}
		}
		if (dir)
			closedir(dir);
	}
	_exit(0);
}

static void no_i386(int number)
{
	(void)number;
	skip("i386", "no int 0x80 here");
	_exit(0);
}

int main(void)
{
	struct encl_opts opts = {.heap = 8192, .size = 1 << 20};
	pid_t child, parent = getpid();
	static struct encl e;
	uint64_t target;

	setbuf(stdout, NULL);
	low = mmap(NULL, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	both = mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		signal(SIGSEGV, no_i386);
		i386(20, 0, 0, 0, 0); /* getpid */
		if (begin_ring() < 0) {
			skip("io_uring", strerror(errno));
			_exit(0);
		}
		both->step = 1;
		looks(parent);
	}
	while (!both->step && !waitpid(child, NULL, WNOHANG))
		sched_yield();
	if (encl_load(&e, &opts))
		bail("load", e.err);
	target = ((e.base + e.entry) & -4096l) + 4088;
	both->offset = target - e.base;
	for (int i = 0; i < ROUNDS && both->step && !both->held; i++)
		mmap((void *)(e.base + e.heap), 4096, RW, MAP_SHARED | MAP_FIXED, e.fd, 0);
	if (!both->held)
		both->step = 0;
	waitpid(child, NULL, 0);
	printf("# %s\n", both->held ? "found" : "not found");
	check(encl_op(&e, OP_PEEK, target, 0, 0, 0) != EVIL, "code_stays", "it was written");
	return tap_failed;
}
