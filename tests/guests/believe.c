/* SPDX-License-Identifier: MIT
 *
 * usage: believe
 * Memory calls on an enclave's ranges that the kernel may refuse, and what is mapped then: a limit
 * or a seal that is in the way leaves the enclave as it was, and what the kernel did is so. As
 * Linux 6.1 and later answer for a VMA that is VM_PFNMAP | VM_IO | VM_DONTEXPAND.
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "heap.h"
#include "loader.h"
#include "tap.h"

#define RW (PROT_READ | PROT_WRITE)
#define RWX (RW | PROT_EXEC)
#define HEAP_PAGES 8
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static struct encl e;
static char *heap;

static int error(long ret) { return ret == -1 ? errno : 0; }

static void expect(const char *name, int got, int want)
{
	check(got == want, name, "%s, not %s", strerrorname_np(got), strerrorname_np(want));
}

/* A page of the heap is the enclave's, with its limits: RW by SECINFO, never X. */
static bool ours(char *page)
{
	return error(mprotect(page, PAGE, RWX)) == EACCES;
}

static bool works(char *page, uint64_t value)
{
	struct call poke = {.op = OP_POKE, .a = (uint64_t)page, .b = value};

	return encl_do(&e, 0, &poke) && encl_op(&e, OP_PEEK, (uint64_t)page, 0, 0, 0) == value;
}

static bool map(char *at, size_t len)
{
	return mmap(at, len, RW, MAP_SHARED | MAP_FIXED, e.fd, 0) == at;
}

static char *anon(char *at, size_t len, int prot)
{
	return mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);
}

/* What a child's mprotect(RWX) of the page says: EACCES, or ENOMEM if it has no such memory. */
static int in_child(char *page)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(error(mprotect(page, PAGE, RWX)));
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void dontfork(void)
{
	expect("dontfork_odd", error(madvise(heap + 1, PAGE, MADV_DONTFORK)), EINVAL);
	expect("dontfork_odd_child", in_child(heap), EACCES);
	expect("dontfork", error(madvise(heap, PAGE, MADV_DONTFORK)), 0);
	expect("dontfork_child", in_child(heap), ENOMEM);
	expect("dontfork_neighbour", in_child(heap + PAGE), EACCES);
	expect("dofork", error(madvise(heap, PAGE, MADV_DOFORK)), EINVAL);
	munmap(heap, PAGE);
	map(heap, PAGE);
	expect("dontfork_again_child", in_child(heap), EACCES);
}

static void answers(void)
{
	unsigned char vec[2] = {9, 9};

	expect("msync", error(msync(heap, PAGE, MS_SYNC)), EINVAL);
	expect("msync_async", error(msync(heap, PAGE, MS_ASYNC)), 0);
	expect("mincore", error(mincore(heap, 2 * PAGE, vec)), 0);
	check(vec[0] == 0 && vec[1] == 0, "mincore_pages", "%u %u", vec[0], vec[1]);
	expect("remove", error(madvise(heap, PAGE, MADV_REMOVE)), ENODEV);
	expect("populate", error(madvise(heap, PAGE, MADV_POPULATE_READ)), EINVAL);
	expect("mremap_old_0", error((long)mremap(heap, 0, PAGE, MREMAP_MAYMOVE)), EFAULT);
	expect("anon_name", error(prctl(0x53564d41, 0, heap, PAGE, "name")),
	       error(prctl(0x53564d41, 0, heap, 0, "name")) ? EINVAL : EBADF);
	works(heap, 71);
	works(heap + PAGE, 72);
	expect("remap_file_pages", error(syscall(SYS_remap_file_pages, heap, PAGE, 0,
						 (e.heap >> 12) + 1, 0)), 0);
	check(encl_op(&e, OP_PEEK, (uint64_t)heap, 0, 0, 0) == 71, "remap_file_pages_content", "another page's");
	check(ours(heap), "remap_file_pages_ours", "not the enclave's");
}

static void across(void)
{
	char *before = heap + PAGE, *away = anon(NULL, 4 * PAGE, PROT_NONE);

	anon(before, PAGE, RW);
	expect("mremap_into", error((long)mremap(before, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, away)),
	       EFAULT);
	check(ours(before + PAGE), "mremap_into_ours", "not the enclave's");
	anon(before, PAGE, RW);
	expect("shrink_into", error((long)mremap(before, 2 * PAGE, PAGE, 0)), 0);
	expect("shrink_into_gone", error(mprotect(before + PAGE, PAGE, RW)), ENOMEM);
	check(map(before, 2 * PAGE) && ours(before) && works(before, 5), "map_again", "not the enclave's");
}

static void shared_memory(void)
{
	int id = shmget(IPC_PRIVATE, PAGE, 0600);
	char *at = heap + 2 * PAGE;

	if (id < 0)
		return skip("shmat", "no System V shared memory");
	expect("shmat_taken", error((long)shmat(id, at, 0)), EINVAL);
	check(shmat(id, at, SHM_REMAP) == at, "shmat_remap", "%s", strerror(errno));
	shmctl(id, IPC_RMID, NULL);
	*at = 3;
	expect("shmat_remap_foreign", error(mprotect(at, PAGE, RW)), 0);
	check(map(at, PAGE) && ours(at), "shmat_map_again", "not the enclave's");
}

static long field(const char *path, const char *name)
{
	char line[300];
	FILE *f = fopen(path, "r");
	long value = -1;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			value = atol(line + strlen(name));
	if (f)
		fclose(f);
	return value;
}

static void locked(void)
{
	struct rlimit none = {0, 0};
	long before = field("/proc/self/status", "VmLck:");
	pid_t pid;
	int status;

	expect("mlock", error(mlock(heap, 2 * PAGE)), 0);
	check(field("/proc/self/status", "VmLck:") == before, "mlock_counts_nothing", "locked");
	pid = fork();
	if (pid == 0) {
		setrlimit(RLIMIT_MEMLOCK, &none);
		if (geteuid() == 0 && setresuid(65534, 65534, 65534))
			_exit(EPERM);
		_exit(error(mlock(heap, PAGE)));
	}
	waitpid(pid, &status, 0);
	expect("mlock_no_limit", WIFEXITED(status) ? WEXITSTATUS(status) : -1, EPERM);
}

static void address_space(void)
{
	struct rlimit was, now;
	char *at = heap + 3 * PAGE;

	getrlimit(RLIMIT_AS, &was);
	munmap(at, 2 * PAGE);
	now = was;
	now.rlim_cur = (rlim_t)field("/proc/self/status", "VmSize:") * 1024 + PAGE;
	setrlimit(RLIMIT_AS, &now);
	expect("as_fixed", error((long)mmap(at, 2 * PAGE, RW, MAP_SHARED | MAP_FIXED, e.fd, 0)), ENOMEM);
	expect("as_anywhere", error((long)mmap(NULL, 1 << 19, PROT_NONE, MAP_SHARED, e.fd, 0)), ENOMEM);
	expect("as_secinfo_first", error((long)mmap(heap, PAGE, RWX, MAP_SHARED | MAP_FIXED, e.fd, 0)), EACCES);
	check(map(heap, PAGE), "as_replaces", "%s", strerror(errno));
	setrlimit(RLIMIT_AS, &was);
	expect("as_left_a_hole", error(mprotect(at, PAGE, RW)), ENOMEM);
	check(map(at, 2 * PAGE) && ours(at) && ours(heap) && works(heap, 6), "as_map_again", "not the enclave's");
}

static void sealed(void)
{
	char *at = heap + 6 * PAGE, *foreign = heap + 5 * PAGE;

	if (error(syscall(SYS_mseal, NULL, 0, 0)) == ENOSYS)
		return skip("mseal", "since Linux 6.10");
	anon(foreign, PAGE, RW);
	expect("mseal_hole", error(syscall(SYS_mseal, at, 4 << 20, 0)), ENOMEM);
	expect("mseal_foreign", error(syscall(SYS_mseal, foreign, PAGE, 0)), 0);
	expect("sealed_beside", error(munmap(heap + 4 * PAGE, 2 * PAGE)), EPERM);
	check(ours(heap + 4 * PAGE) && works(heap + 4 * PAGE, 7), "sealed_beside_ours", "forgotten");
	expect("mseal", error(syscall(SYS_mseal, at, PAGE, 0)), 0);
	expect("sealed_munmap", error(munmap(at, 2 * PAGE)), EPERM);
	expect("sealed_mprotect", error(mprotect(at, PAGE, PROT_READ)), EPERM);
	expect("sealed_mmap", error((long)anon(at, PAGE, RW)), EPERM);
	expect("sealed_mremap", error((long)mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, heap)), EPERM);
	expect("sealed_over", error((long)mremap(heap, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at)), EPERM);
	check(ours(heap) && works(at, 8) && works(at + PAGE, 9), "sealed_works", "forgotten");
}

static void too_many(void)
{
	long most = field("/proc/sys/vm/max_map_count", "");
	size_t len = (size_t)(most + 1000) * PAGE;
	char *many;
	int got = 0;

	if (most > 300000)
		return skip("max_map_count", "too many mappings to make");
	many = anon(NULL, len, PROT_NONE);
	for (long i = 1; i < most + 1000 && !got; i += 2)
		got = error(mprotect(many + i * PAGE, PAGE, RW));
	expect("max_map_count", got, ENOMEM);
	expect("max_map_count_split", error(munmap(heap + 3 * PAGE, PAGE)), ENOMEM);
	munmap(many, len);
	check(ours(heap + 3 * PAGE) && works(heap + 3 * PAGE, 10), "max_map_count_ours", "forgotten");
}

/* An enclave over the heap goes with it when it shrinks. */
static void over_heap(void)
{
	struct encl over;
	char *low = sbrk(0), *base;

	if (encl_plan(&over, &(struct encl_opts){.threads = 1, .heap = PAGE}))
		bail("plan", over.err);
	base = (char *)(((uint64_t)low + over.size) & -over.size);
	if (brk(base + over.size + PAGE))
		return skip("brk", "no room for the heap");
	over.base = over.secs.base = (uint64_t)base;
	if (encl_sign(&over) || encl_open(&over) || encl_create(&over) || encl_add_all(&over, 0)
	    || encl_init(&over) || encl_map(&over))
		bail("over", over.err);
	expect("brk_ours", error(mprotect(base + over.heap, PAGE, RWX)), EACCES);
	expect("brk", error(brk(low)), 0);
	expect("brk_gone", error(mprotect(base + over.heap, PAGE, PROT_READ)), ENOMEM);
	close(over.fd);
}

/* The same where the heap comes to lie under an enclave that is mapped already. */
static void moved_heap(void)
{
	struct encl under;

	if (encl_load(&under, &(struct encl_opts){.threads = 1, .heap = PAGE}))
		bail("under", under.err);
	if (move_heap(under.base, under.base + under.size))
		return skip("brk_moved", strerror(errno));
	check((uint64_t)syscall(SYS_brk, under.base) == under.base, "brk_moved", "it did not shrink");
	expect("brk_moved_gone", error(mprotect((char *)under.base + under.heap, PAGE, PROT_READ)), ENOMEM);
	close(under.fd);
}

int main(void)
{
	if (encl_load(&e, &(struct encl_opts){.threads = 1, .heap = HEAP_PAGES * PAGE, .size = 1 << 19}))
		bail("load", e.err);
	heap = (char *)e.base + e.heap;
	dontfork();
	answers();
	across();
	shared_memory();
	locked();
	address_space();
	if (!fork()) { /* whose heap nobody has looked at yet */
		moved_heap();
		_exit(tap_failed);
	}
	expect("moved_heap", wait(NULL) < 0, 0);
	over_heap();
	too_many();
	sealed(); /* last: what is sealed stays */
	return tap_failed;
}
