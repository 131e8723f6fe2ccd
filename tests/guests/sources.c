/* SPDX-License-Identifier: MIT
 *
 * usage: sources [FILE]
 * Adds one page to an enclave from each kind of memory that a loader may have it in, and prints
 * `NAME ERRNO` a line (0: added; MAP: the memory could not be had). FILE is mapped where a file is
 * wanted; without it, this program.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

#define R PROT_READ
#define W PROT_WRITE
#define X PROT_EXEC
#define PRIVATE_ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static struct encl e;

static void add(const char *name, void *src)
{
	static struct secinfo reg = {.flags = SI_REG | SI_R};
	struct sgx_enclave_add_pages arg = {.src = (uint64_t)src, .offset = e.free, .length = PAGE,
					    .secinfo = (uint64_t)&reg};

	if (src == MAP_FAILED) {
		printf("%s MAP\n", name);
		return;
	}
	printf("%s %d\n", name, ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) ? errno : 0);
	e.free += PAGE;
}

/* Memory that is written through W first and gets its protection then. */
static void *changed(int flags, int fd, int prot)
{
	char *p = mmap(NULL, PAGE, R | W, flags, fd, 0);

	if (p == MAP_FAILED)
		return p;
	*(volatile char *)p = *(volatile char *)p;
	return mprotect(p, PAGE, prot) ? MAP_FAILED : p;
}

int main(int argc, char **argv)
{
	struct encl_opts opts = {.size = 1 << 20};
	int fd = open(argc > 1 ? argv[1] : "/proc/self/exe", O_RDONLY);
	int memfd = memfd_create("source", 0);
	char *heap = sbrk(0);

	if (encl_plan(&e, &opts) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	heap = (char *)(((uint64_t)heap + PAGE - 1) & -PAGE);
	if (brk(heap + 2 * PAGE) || mprotect(heap, PAGE, R | X) || ftruncate(memfd, PAGE))
		bail("memory", strerror(errno));
	add("anon_rw", mmap(NULL, PAGE, R | W, PRIVATE_ANON, -1, 0));
	add("anon_rwx", mmap(NULL, PAGE, R | W | X, PRIVATE_ANON, -1, 0));
	add("anon_rx", changed(PRIVATE_ANON, -1, R | X));
	add("shared_anon_rx", mmap(NULL, PAGE, R | X, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	add("heap_rx", heap);
	add("file_r", mmap(NULL, PAGE, R, MAP_PRIVATE, fd, 0));
	add("file_rx", mmap(NULL, PAGE, R | X, MAP_PRIVATE, fd, 0));
	add("file_rwx", mmap(NULL, PAGE, R | W | X, MAP_PRIVATE, fd, 0));
	add("file_written_rx", changed(MAP_PRIVATE, fd, R | X));
	add("memfd_rx", mmap(NULL, PAGE, R | X, MAP_SHARED, memfd, 0));
	return 0;
}
