/* SPDX-License-Identifier: MIT
 *
 * usage: sources_past FILE
 * Adds pages from memory whose past /proc/PID/maps does not tell any more, and prints `NAME ERRNO`
 * a line: pieces of the heap, of stacks and of a written file, what was moved, inherited, replaced.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define R PROT_READ
#define W PROT_WRITE
#define X PROT_EXEC

static struct encl e;
static int fd;

static void add(const char *name, void *src)
{
	static struct secinfo reg = {.flags = SI_REG | SI_R};
	struct sgx_enclave_add_pages arg = {.src = (uint64_t)src, .offset = e.free, .length = PAGE,
					    .secinfo = (uint64_t)&reg};

	printf("%s %d\n", name, ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) ? errno : 0);
	fflush(stdout);
	e.free += PAGE;
}

/* Two pages of the file, the first of them written. */
static char *written(void)
{
	char *p = mmap(NULL, 2 * PAGE, R | W, MAP_PRIVATE, fd, 0);

	if (p == MAP_FAILED)
		bail("mmap", strerror(errno));
	*(volatile char *)p = 1;
	return p;
}

static void *change(void *p, int prot)
{
	if (mprotect(p, PAGE, prot))
		bail("mprotect", strerror(errno));
	return p;
}

/* A page of the caller's own stack, below what is in use. */
static void *of_stack(void *unused)
{
	char room[16 * PAGE];
	char *p = (char *)(((uint64_t)room + 2 * PAGE) & -PAGE);

	*(volatile char *)p = 1;
	add(unused ? unused : "stack", change(p, R | X));
	change(p, R | W);
	return NULL;
}

/* A program that makes code for ever: what it did with other memory is no matter. */
static void a_long_past(void)
{
	char *p = mmap(NULL, 64 * PAGE, R | W, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (size_t i = 0; i < 600; i++) {
		char *q = p + i % 37 * PAGE;
		size_t n = (1 + i % 23) * PAGE;
		char *code = mmap(NULL, PAGE, R | X, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (mprotect(q, n, R | X) || mprotect(q, n, R | W) || munmap(code, PAGE) || code == MAP_FAILED)
			bail("mprotect", strerror(errno));
		mmap(NULL, PAGE, R, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* the next is elsewhere */
	}
}

int main(int argc, char **argv)
{
	struct encl_opts opts = {.size = 1 << 20};
	char *heap = (char *)(((uint64_t)sbrk(0) + PAGE - 1) & -PAGE), *p, *q;
	pthread_t thread;
	int was, segment;

	fd = open(argc > 1 ? argv[1] : "", O_RDONLY);
	if (fd < 0 || encl_plan(&e, &opts) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	if (brk(heap + 8 * PAGE))
		bail("brk", strerror(errno));
	p = change(heap + 2 * PAGE, R | X);
	a_long_past();
	add("heap_middle", p);
	was = personality(0xffffffff);
	personality(READ_IMPLIES_EXEC);
	change(heap + 4 * PAGE, R);
	q = mmap(NULL, PAGE, R | W, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	personality((unsigned long)was);
	add("heap_implied", heap + 4 * PAGE);
	add("implied", q);
	segment = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0700);
	q = shmat(segment, NULL, SHM_EXEC);
	shmctl(segment, IPC_RMID, NULL);
	add("shared_segment", q);
	shmdt(q);
	of_stack(NULL);
	pthread_create(&thread, NULL, of_stack, "thread_stack");
	pthread_join(thread, NULL);

	/* The kernel looks at the whole VMA, which has an anon_vma: this page was never written. */
	p = written();
	add("file_other_page", change(p + PAGE, R | X));
	q = mremap(p + PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   mmap(NULL, PAGE, 0, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	add("file_moved", q);
	if (!fork()) {
		add("file_inherited", q);
		_exit(0);
	}
	wait(NULL);
	e.free += PAGE;
	munmap(q, PAGE);
	mmap(q, PAGE, R | X, MAP_PRIVATE | MAP_FIXED, fd, PAGE);
	add("file_anew", q);

	/* Executable from the start: execmem, and then it does not become executable any more. */
	p = mmap(NULL, PAGE, R | W | X, MAP_PRIVATE, fd, 0);
	*(volatile char *)p = 1;
	add("file_rwx_then_rx", change(p, R | X));

	/* Refused at the hole, when the first page has been changed. */
	p = written();
	munmap(p + PAGE, PAGE);
	if (!mprotect(p, 2 * PAGE, R | X) || errno != ENOMEM)
		bail("hole", strerror(errno));
	add("file_before_hole", p);

	/* vm_end <= brk does not hold of the last page of a heap that ends within it. */
	if (brk(heap + 8 * PAGE + 100))
		bail("brk", strerror(errno));
	add("heap_ragged", change(heap + 6 * PAGE, R | X));
	return 0;
}
