/* SPDX-License-Identifier: MIT
 *
 * usage: sources_truth FILE
 * Adds a page from executable memory of every kind that tests/data/truth has rows of, made by mmap
 * or by a later mprotect, and prints `KIND MODE SHARING TOUCH MMAP MPROTECT ERRNO` a line: of the
 * first step that failed, mmap, mprotect (- for none) or the adding. Only what is readable in the
 * end is tried: a page is read when it is added.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static int add(void *src)
{
	static struct secinfo reg = {.flags = SI_REG | SI_R};
	struct sgx_enclave_add_pages arg = {.src = (uint64_t)src, .offset = e.free, .length = PAGE,
					    .secinfo = (uint64_t)&reg};

	e.free += PAGE;
	return ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) ? errno : 0;
}

static int attempt(int flags, int fd, int touch, int first, int then)
{
	char *p = mmap(NULL, PAGE, first, flags, fd, 0);
	int error = 0;

	if (p == MAP_FAILED)
		return errno;
	if (touch && first & PROT_WRITE)
		*(volatile char *)p = 1;
	if (then >= 0 && mprotect(p, PAGE, then))
		error = errno;
	if (!error)
		error = add(p);
	munmap(p, PAGE);
	return error;
}

static void all(const char *kind, const char *mode, const char *sharing, int flags, int fd)
{
	for (int touch = 0; touch < 2; touch++)
		for (int first = 0; first < 8; first++) {
			if ((first & 5) == 5)
				printf("%s %s %s t%d %d - %d\n", kind, mode, sharing, touch, first,
				       attempt(flags, fd, touch, first, -1));
			for (int then = 5; then < 8; then += 2)
				printf("%s %s %s t%d %d %d %d\n", kind, mode, sharing, touch, first, then,
				       attempt(flags, fd, touch, first, then));
		}
}

int main(int argc, char **argv)
{
	struct encl_opts opts = {.size = 4 << 20};
	int memfd = memfd_create("m", 0);
	int ro = open(argc > 1 ? argv[1] : "", O_RDONLY), rw = open(argc > 1 ? argv[1] : "", O_RDWR);

	if (ro < 0 || rw < 0 || ftruncate(memfd, PAGE))
		bail("file", strerror(errno));
	if (encl_plan(&e, &opts) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	all("anon", "rw", "priv", MAP_PRIVATE | MAP_ANONYMOUS, -1);
	all("anon", "rw", "shar", MAP_SHARED | MAP_ANONYMOUS, -1);
	all("memfd", "rw", "priv", MAP_PRIVATE, memfd);
	all("memfd", "rw", "shar", MAP_SHARED, memfd);
	all("memfd", "rw", "shva", MAP_SHARED_VALIDATE, memfd);
	all("file", "ro", "priv", MAP_PRIVATE, ro);
	all("file", "ro", "shar", MAP_SHARED, ro);
	all("file", "ro", "shva", MAP_SHARED_VALIDATE, ro);
	all("file", "rw", "priv", MAP_PRIVATE, rw);
	all("file", "rw", "shar", MAP_SHARED, rw);
	all("file", "rw", "shva", MAP_SHARED_VALIDATE, rw);
	return 0;
}
