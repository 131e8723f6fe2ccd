/* SPDX-License-Identifier: MIT
 *
 * usage: views
 * What /proc and /sys say of the device and its mappings, line by line as Linux's fs/proc/task_mmu.c
 * prints a VMA with VM_PFNMAP, VM_IO, VM_DONTEXPAND and VM_DONTDUMP.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "loader.h"
#include "tap.h"

/* The line of a file that begins with `start`; with `next`, the first such behind that which holds it. */
static const char *line_of(const char *path, const char *start, const char *next)
{
	static char line[4096];
	FILE *f = fopen(path, "r");
	bool found = !next;

	while (f && fgets(line, sizeof(line), f)) {
		if (!found)
			found = strstr(line, next) != NULL;
		else if (!strncmp(line, start, strlen(start))) {
			fclose(f);
			line[strcspn(line, "\n")] = 0;
			return line;
		}
	}
	if (f)
		fclose(f);
	return "";
}

static bool has_word(const char *line, const char *word)
{
	char padded[4200], needle[64];

	snprintf(padded, sizeof(padded), "%s ", line);
	snprintf(needle, sizeof(needle), " %s ", word);
	return strstr(padded, needle) != NULL;
}

static int by_openat2(const char *path, uint64_t resolve)
{
	struct open_how how = {.flags = O_RDONLY, .resolve = resolve};

	return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

int main(void)
{
	struct encl_opts opts = {.heap = 4 * 4096, .size = 1 << 20};
	struct encl e = {0};
	struct stat st, opened;
	char want[300], start[40], path[64];
	uint64_t heap;
	int dir;

	if (encl_load(&e, &opts))
		bail("load", e.err);
	heap = e.base + e.heap;
	/* The heap's VMA, of four pages: one page of it read only makes three. */
	if (mprotect((void *)(heap + 4096), 4096, PROT_READ))
		abort();
	if (stat("/dev/sgx_enclave", &st))
		abort();
	for (int i = 0; i < 3; i++) {
		uint64_t from = heap + (i ? (i + 0ull) * 4096 : 0), to = i == 2 ? heap + 4 * 4096 : from + 4096;
		static const char *names[] = {"maps_before", "maps_page", "maps_behind"};
		int n;

		snprintf(start, sizeof(start), "%08lx-", from);
		n = snprintf(want, sizeof(want), "%08lx-%08lx r%c-s %08x %02x:%02x %lu ", from, to,
			     i == 1 ? '-' : 'w', 0, (unsigned)(st.st_dev >> 8 & 0xfff),
			     (unsigned)(st.st_dev & 0xff), st.st_ino);
		snprintf(want + n, sizeof(want) - (size_t)n, "%*s/dev/sgx_enclave", n < 73 ? 73 - n : 0, "");
		const char *got = line_of("/proc/self/maps", start, NULL);
		/* The offset is the loader's own affair. */
		check(!strncmp(got, want, 30) && !strcmp(got + 47, want + 47), names[i], "%s", got);
	}
	snprintf(start, sizeof(start), "%08lx-", heap);
	check(!strcmp(line_of("/proc/self/smaps", "VmFlags:", start), "VmFlags: rd wr sh mr mw me ms pf io de dd ") ||
		      !strcmp(line_of("/proc/self/smaps", "VmFlags:", start),
			      "VmFlags: rd wr sh mr mw me ms pf io de dd sd "),
	      "smaps_flags", "%s", line_of("/proc/self/smaps", "VmFlags:", start));
	check(!strcmp(line_of("/proc/self/smaps", "Size:", start), "Size:                  4 kB"), "smaps_size",
	      "%s", line_of("/proc/self/smaps", "Size:", start));
	snprintf(path, sizeof(path), "/proc/%d/task/%d/maps", getpid(), getpid());
	check(strstr(line_of(path, start, NULL), "/dev/sgx_enclave"), "maps_of_a_task", "%s", path);
	dir = open("/proc/self", O_PATH);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/maps", dir);
	check(strstr(line_of(path, start, NULL), "/dev/sgx_enclave"), "maps_relative", "%s", path);
	/* What cp(1) looks at: the file is not another one than its name told of. */
	if (stat("/proc/self/maps", &st) || (dir = open("/proc/self/maps", O_RDONLY)) < 0 || fstat(dir, &opened))
		abort();
	check(opened.st_dev == st.st_dev && opened.st_ino == st.st_ino && opened.st_size == st.st_size,
	      "maps_opened", "inode %lu, and %lu by name", opened.st_ino, st.st_ino);
	close(dir);
	if (munmap((void *)heap, 4096))
		abort();
	check(!*line_of("/proc/self/maps", start, NULL), "maps_unmapped", "it is there");
	check(has_word(line_of("/proc/cpuinfo", "flags", NULL), "sgx"), "cpuinfo_sgx", "no flag");
	check(has_word(line_of("/proc/cpuinfo", "flags", NULL), "sgx_lc"), "cpuinfo_sgx_lc", "no flag");
	dir = open("/proc/cpuinfo", O_RDONLY | O_NONBLOCK);
	check(fcntl(dir, F_GETFL) & O_NONBLOCK, "cpuinfo_nonblock", "%#x", fcntl(dir, F_GETFL));
	close(dir);
	check_errno(by_openat2("/proc/cpuinfo", RESOLVE_BENEATH), EXDEV, "cpuinfo_beneath");
	check((dir = by_openat2("/proc/cpuinfo", RESOLVE_NO_SYMLINKS)) >= 0, "cpuinfo_openat2", "%s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", dir);
	check(has_word(line_of(path, "flags", NULL), "sgx"), "cpuinfo_openat2_sgx", "no flag");
	check(!strcmp(line_of("/proc/misc", "125", NULL), "125 sgx_enclave"), "misc", "not there");
	check(atol(line_of("/sys/devices/system/node/node0/x86/sgx_total_bytes", "", NULL)) == 64 << 20,
	      "epc_bytes", "%s", line_of("/sys/devices/system/node/node0/x86/sgx_total_bytes", "", NULL));
	return tap_failed;
}
