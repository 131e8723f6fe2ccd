/* SPDX-License-Identifier: MIT
 *
 * usage: bench_mmap [ROUNDS]
 * What a program that has nothing to do with SGX pays: maps, protects and unmaps 64 KiB, anonymous
 * and of a private file. Prints `anon_ns X`, `file_ns X`, `getppid_ns X` (a round each).
 *
 * Where the leaf of the kernel's tree of mappings that they lie in is just full each call splits and
 * joins it, which takes a fifth more, and one mapping of somebody else's decides whether it is: all
 * is done with some others, then with one more.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include "tap.h"

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static bool round_trip(int flags, int fd)
{
	char *p = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		return false;
	*(volatile char *)p = 1;
	return mprotect(p, 4096, PROT_READ) == 0 && munmap(p, 1 << 16) == 0;
}

#define OTHERS 8

/* One more mapping, next to no other, far below the last one that was made. */
static void *one_more(void *last)
{
	return mmap((char *)last - (1 << 22), 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int main(int argc, char **argv)
{
	long rounds = (argc > 1 ? atol(argv[1]) : 10000) / OTHERS;
	int fd = open("/proc/self/exe", O_RDONLY);
	bool ok = true;
	double anon = 0, file = 0, ppid = 0, all = (double)(rounds * OTHERS);
	void *last = (void *)((uintptr_t)&printf & ~0xffful);

	for (int others = 0; others < OTHERS; others++) {
		double a = now(), b, c;

		for (long i = 0; i < rounds; i++)
			ok &= round_trip(MAP_PRIVATE | MAP_ANONYMOUS, -1);
		b = now();
		for (long i = 0; i < rounds; i++)
			ok &= round_trip(MAP_PRIVATE, fd);
		c = now();
		for (long i = 0; i < rounds; i++)
			syscall(SYS_getppid);
		ppid += now() - c;
		file += c - b;
		anon += b - a;
		last = one_more(last);
	}
	check(ok, "mmap", "%s", strerror(errno));
	printf("anon_ns %.0f\nfile_ns %.0f\ngetppid_ns %.0f\n", anon / all, file / all, ppid / all);
	return tap_failed;
}
