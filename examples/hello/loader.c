/* SPDX-License-Identifier: MIT
 *
 * usage: hello [NAME]
 * A whole SGX loader for the Linux interface (asm/sgx.h, /dev/sgx_enclave), to be read from top to
 * bottom: the steps are numbered in main(). It expects enclave.bin and enclave.sig beside itself.
 */
#define _GNU_SOURCE
#include <asm/sgx.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "hello.h"

static void die(const char *what)
{
	fprintf(stderr, "hello: %s: %s\n", what, strerror(errno));
	exit(1);
}

static char *beside_me(const char *name)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);

	if (n < 0)
		die("readlink");
	path[n] = 0;
	strcat(strcat(dirname(path), "/"), name);
	return path;
}

/* The file's contents, page-aligned: ADD_PAGES copies from whole pages. */
static uint8_t *map_file(const char *path, uint64_t *bytes)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *at;

	if (fd < 0 || fstat(fd, &st))
		die(path);
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED)
		die(path);
	close(fd);
	*bytes = (uint64_t)st.st_size;
	return at;
}

/*
 * The kernel offers the way in as a function of the vDSO, a small library that it maps into every
 * process. It turns faults inside the enclave into return values instead of signals.
 */
static vdso_sgx_enter_enclave_t find_enter_enclave(void)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *ehdr = (const void *)vdso;
	const Elf64_Phdr *ph = (const void *)(vdso + (vdso ? ehdr->e_phoff : 0));
	const Elf64_Dyn *dyn = NULL;
	const Elf64_Sym *sym = NULL;
	const char *names = NULL;
	const uint32_t *hash = NULL;

	for (int i = 0; vdso && i < ehdr->e_phnum; i++)
		if (ph[i].p_type == PT_DYNAMIC)
			dyn = (const void *)(vdso + ph[i].p_offset);
	for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(vdso + dyn->d_un.d_ptr);
		else if (dyn->d_tag == DT_STRTAB)
			names = vdso + dyn->d_un.d_ptr;
		else if (dyn->d_tag == DT_HASH)
			hash = (const void *)(vdso + dyn->d_un.d_ptr);
	}
	for (uint32_t i = 0; sym && names && hash && i < hash[1]; i++)
		if (!strcmp(names + sym[i].st_name, "__vdso_sgx_enter_enclave"))
			return (vdso_sgx_enter_enclave_t)(vdso + sym[i].st_value);
	errno = ENOSYS;
	die("__vdso_sgx_enter_enclave");
	return NULL;
}

int main(int argc, char **argv)
{
	static struct secs secs;
	struct sgx_enclave_create create = {.src = (uint64_t)&secs};
	struct sgx_enclave_init init;
	struct sgx_enclave_run run = {0};
	struct hello hello = {.name = "world"};
	struct segment seg[4];
	uint64_t image_bytes, sig_bytes, base;
	uint8_t *image, *reserved;
	int fd, ret;

	if (argc > 1)
		snprintf(hello.name, sizeof(hello.name), "%s", argv[1]);
	image = map_file(beside_me("enclave.bin"), &image_bytes);
	init.sigstruct = (uint64_t)map_file(beside_me("enclave.sig"), &sig_bytes);
	hello_segments(seg, image_bytes);

	/* 1. An open file is an enclave to be. */
	fd = open("/dev/sgx_enclave", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die("/dev/sgx_enclave");

	/* 2. Reserve addresses. ELRANGE is aligned to its size: take twice as much, use half. */
	reserved = mmap(NULL, 2 * ENCLAVE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (reserved == MAP_FAILED)
		die("reserving ELRANGE");
	base = ((uint64_t)reserved + ENCLAVE_SIZE - 1) & ~(ENCLAVE_SIZE - 1ull);

	/* 3. CREATE: what the enclave is, in an SECS page (the CPU's ECREATE). */
	secs.base = base;
	secs.size = ENCLAVE_SIZE;
	secs.ssa_frame_pages = 1;
	secs.attributes = ATTRIBUTES_MODE64BIT;
	secs.xfrm = XFRM_X87_SSE;
	if (ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &create))
		die("CREATE");

	/* 4. ADD_PAGES: copy and measure (EADD, EEXTEND). A signal may cut a call short: see count. */
	for (int i = 0; i < 4; i++) {
		uint64_t secinfo[8] __attribute__((aligned(64))) = {seg[i].flags};
		struct sgx_enclave_add_pages add = {.secinfo = (uint64_t)secinfo,
						    .flags = SGX_PAGE_MEASURE};

		for (uint64_t at = seg[i].start; at < seg[i].end; at += add.count) {
			add.src = (uint64_t)image + at;
			add.offset = at;
			add.length = seg[i].end - at;
			if (ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add))
				die("ADD_PAGES");
		}
	}

	/* 5. INIT: the CPU compares its measurement with the signed one (EINIT). */
	if (ioctl(fd, SGX_IOC_ENCLAVE_INIT, &init))
		die("INIT");

	/* 6. Map the pages, each with no more than its SECINFO allows (a TCS is RW to the kernel). */
	for (int i = 0; i < 4; i++) {
		int prot = i == 0 ? PROT_READ | PROT_WRITE : (int)(seg[i].flags & 7);

		if (mmap((void *)(base + seg[i].start), seg[i].end - seg[i].start, prot,
			 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			die("mapping the enclave");
	}

	/* 7. Enter. The first argument arrives in the enclave's RDI. */
	run.tcs = base + TCS_OFF;
	ret = find_enter_enclave()((unsigned long)&hello, 0, 0, 2 /* EENTER */, 0, 0, &run);
	if (ret || run.function != 4 /* EEXIT */) {
		fprintf(stderr, "hello: the enclave failed: vector %u, code %#x, address %#llx\n",
			run.exception_vector, run.exception_error_code, run.exception_addr);
		return 1;
	}
	printf("the enclave says: %s\n", hello.said);
	return 0;
}
