/* SPDX-License-Identifier: MIT
 *
 * usage: loader DESIGN [VARIANT [rdonly]]
 * One enclave, loaded under each of softsgx's designs: read build() for what differs between them.
 *
 * VARIANT  file       the code comes from an unmodified file, mapped R-X
 *          generated  the code is generated in memory that can be written (here: copied there)
 *          heap       as file, and a page is added to the running enclave's heap
 *          dynamic    as file, and a page of code is written inside and executed
 *
 * rdonly: open the device for reading only, which `ioc-mprotect:open=rdonly` is content with.
 * With an LSM, what has to be allowed differs: that is what the designs are about. The loader says at
 * which call it was stopped.
 */
#define _GNU_SOURCE
#include <asm/sgx.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <softsgx_designs.h>
#include "request.h"

enum design { V20, LINUX, SAFE_TO_EXECUTE, SOURCE_VMA, SEGMENTS, IOC_MPROTECT, MAXPERM,
	      SIGSTRUCT_PROXY, EXECUTE_INTENT, ALLOWED_PROT, EMA, FSM, SGX2_V2, DESIGNS };

static const char *const names[DESIGNS] = {"v20", "linux-", "safe-to-execute", "source-vma",
					   "segments", "ioc-mprotect", "maxperm", "sigstruct-proxy",
					   "execute-intent", "allowed-prot", "ema", "fsm", "sgx2-v2"};

static enum design design;
static int fd;        /* the enclave */
static uint64_t base; /* where it is */
static int mode = O_RDWR;

#define NEW_PAGE (ENCLAVE_SIZE - PAGE) /* what `heap` and `dynamic` add */

static void die(const char *what)
{
	fprintf(stderr, "loader: %s: %s\n", what, strerrorname_np(errno));
	exit(1);
}

static void must(long ret, const char *what)
{
	if (ret)
		die(what);
}

/* -- where the content comes from ---------------------------------------------------------- */

static const char *beside_me(const char *name)
{
	static char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);

	if (n < 0)
		die("readlink");
	path[n] = 0;
	return strcat(strcat(dirname(path), "/"), name);
}

/*
 * A mapping of the file. Every private mapping may be made writable (it has VM_MAYWRITE), only a
 * shared one of a file that is open for reading alone cannot: so this is how a loader shows that the
 * code is the file's.
 */
static uint8_t *map_file(const char *name, int prot, int flags, uint64_t *bytes)
{
	struct stat st;
	int file = open(beside_me(name), O_RDONLY | O_CLOEXEC);
	uint8_t *at;

	if (file < 0 || fstat(file, &st))
		die(name);
	at = mmap(NULL, (size_t)st.st_size, prot, flags, file, 0);
	if (at == MAP_FAILED)
		die("mapping the file");
	close(file);
	*bytes = (uint64_t)st.st_size;
	return at;
}

static uint8_t *generate(const uint8_t *image, uint64_t bytes)
{
	uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("memory");
	return memcpy(at, image, bytes);
}

/* -- the steps that differ ------------------------------------------------------------------ */

/* ELRANGE is aligned to its size: twice as much is reserved than is used. */
static void reserve(void)
{
	void *at = mmap(NULL, 2 * ENCLAVE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("reserving ELRANGE");
	base = ((uint64_t)at + ENCLAVE_SIZE - 1) & ~(ENCLAVE_SIZE - 1ull);
}

/* The driver aligns a first mapping itself, and so chooses the address. */
static void let_driver_place(int prot)
{
	void *at = mmap(NULL, ENCLAVE_SIZE, prot, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		die("mmap of the device");
	base = (uint64_t)at;
}

/* The designs that want to know at EADD what a page may ever be mapped with. */
static bool declares(void)
{
	return design == SEGMENTS || design == MAXPERM || design == SIGSTRUCT_PROXY
	       || design == EXECUTE_INTENT || design == ALLOWED_PROT;
}

/* The device, and how pages are added, as in what was merged. */
static bool as_merged(void)
{
	return design == LINUX || design == SGX2_V2;
}

/* EADD. src is 0 for a page that the running enclave gets: it is zeroed, and has to be accepted. */
static void add(uint64_t off, const uint8_t *src, uint64_t bytes, uint64_t flags, uint64_t segment)
{
	uint64_t secinfo[8] __attribute__((aligned(64))) = {flags};

	if (design == V20) { /* one page at a time, at an absolute address */
		for (uint64_t at = 0; at < bytes; at += PAGE) {
			struct sgx_enclave_add_page_v20 arg = {base + off + at, (uint64_t)src + at,
							       (uint64_t)secinfo, 0xffff};

			must(ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGE_V20, &arg), "ADD_PAGE");
		}
	} else if (as_merged()) {
		struct sgx_enclave_add_pages arg = {.src = (uint64_t)src, .offset = off,
						    .length = bytes, .secinfo = (uint64_t)secinfo,
						    .flags = SGX_PAGE_MEASURE};

		must(ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg), "ADD_PAGES");
	} else { /* SEGMENTS, MAXPERM, ALLOWED_PROT: a promise never to map the pages with more than `segment` */
		/* SIGSTRUCT_PROXY wants to know of W alone, EXECUTE_INTENT of X. */
		uint64_t promise = design == SIGSTRUCT_PROXY ? segment & SGX_ALLOW_WRITE
				   : design == EXECUTE_INTENT ? segment & SGX_EXECUTE_INTENT
							      : segment;
		struct sgx_add_region arg = {.src = (uint64_t)src, .offset = off, .length = bytes,
					     .secinfo = (uint64_t)secinfo, .flags = src != NULL,
					     .segment = declares() ? promise : 0};

		must(ioctl(fd, SGX_IOC_ADD_REGION, &arg), "ADD_REGION");
	}
}

/* Permissions for a part of ELRANGE. */
static void map(uint64_t off, uint64_t bytes, uint64_t prot, uint64_t segment)
{
	void *at = (void *)(base + off);

	if (design == IOC_MPROTECT) { /* within the pages' VM_MAY*; mprotect itself cannot */
		struct sgx_mprotect arg = {base + off, bytes, prot};

		must(ioctl(fd, SGX_IOC_MPROTECT, &arg), "MPROTECT");
	} else if (design == SEGMENTS) { /* a mapping of the segment's inode */
		struct sgx_map_segment arg = {base + off, bytes, segment, prot};

		must(ioctl(fd, SGX_IOC_MAP_SEGMENT, &arg), "MAP_SEGMENT");
	} else if (design == V20 || design == SIGSTRUCT_PROXY) { /* all is mapped already; a part is mprotected */
		must(mprotect(at, bytes, (int)prot), "mprotect");
	} else if (mmap(at, bytes, (int)prot, MAP_SHARED | MAP_FIXED, fd, 0) != at) {
		die("mmap of the device");
	}
}

/*
 * Code that comes from memory which cannot be executed has no VM_MAYEXEC; it is added here, and asked
 * about when the page is mapped: a page that had VM_MAYWRITE still has it.
 */
static void make_executable(const struct segment *seg)
{
	struct sgx_extend_permissions arg = {seg->start, seg->end - seg->start, 4};

	must(ioctl(fd, SGX_IOC_EXTEND_PERMISSIONS, &arg), "EXTEND_PERMISSIONS");
}

static void build(bool generated)
{
	static struct secs secs;
	struct sgx_enclave_create create = {.src = (uint64_t)&secs};
	struct sgx_enclave_init init;
	struct segment seg[4];
	uint64_t bytes, sig_bytes;
	uint8_t *data, *code;
	long code_of_einit;

	/* The code is mapped as it shall run, the data as it shall be used. */
	data = map_file("enclave.bin", PROT_READ | PROT_WRITE, MAP_PRIVATE, &bytes);
	code = map_file("enclave.bin", PROT_READ | PROT_EXEC, MAP_SHARED, &bytes);
	if (generated)
		code = generate(data, bytes);
	init.sigstruct = (uint64_t)map_file("enclave.sig", PROT_READ, MAP_PRIVATE, &sig_bytes);
	hello_segments(seg, bytes);

	/* 1. Open. */
	fd = open(as_merged() ? "/dev/sgx_enclave" : "/dev/sgx/enclave", mode | O_CLOEXEC);
	if (fd < 0)
		die("open");

	/* 2. An address, 3. CREATE. */
	if (design == V20)
		let_driver_place(PROT_READ | PROT_WRITE | PROT_EXEC);
	else if (design == IOC_MPROTECT)
		let_driver_place(PROT_NONE);
	else
		reserve();
	secs.base = base;
	secs.size = ENCLAVE_SIZE;
	secs.ssa_frame_pages = 1;
	secs.attributes = ATTRIBUTES_MODE64BIT;
	secs.xfrm = XFRM_X87_SSE;
	if (design == SIGSTRUCT_PROXY) { /* whose file stands for the enclave from now on */
		struct sgx_enclave_create_sigstruct with = {(uint64_t)&secs, init.sigstruct};

		must(ioctl(fd, SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, &with), "CREATE");
		init.sigstruct = 0;
	} else {
		must(ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &create), "CREATE");
	}
	if ((design == SEGMENTS || design == SIGSTRUCT_PROXY)
	    && mmap((void *)base, ENCLAVE_SIZE, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		die("mmap of the device");

	/* 4. The pages: TCS, SSA and stack from data, the rest is code. */
	for (int i = 0; i < 4; i++)
		add(seg[i].start, (i < 3 ? data : code) + seg[i].start, seg[i].end - seg[i].start,
		    seg[i].flags, i < 3 ? 3 : 5);

	/* 5. INIT. v20 answers with the CPU's own code, later drivers with an errno. */
	code_of_einit = ioctl(fd, SGX_IOC_ENCLAVE_INIT, &init);
	if (code_of_einit > 0) {
		fprintf(stderr, "loader: INIT: SGX error %ld\n", code_of_einit);
		exit(1);
	}
	must(code_of_einit, "INIT");

	/* 6. Mappings. */
	if (generated && design == IOC_MPROTECT)
		make_executable(&seg[3]);
	for (int i = 0; i < 4; i++)
		map(seg[i].start, seg[i].end - seg[i].start, i < 3 ? 3 : 5, i < 3 ? 3 : 5);
}

/* A page for the running enclave, that may be used with `may` in the end: SGX2. */
static void grow(uint64_t may)
{
	if (design == V20) {
		fprintf(stderr, "loader: v20 has no SGX2\n");
		exit(3);
	}
	if (design == SGX2_V2 && may & PROT_EXEC) { /* "not allowed to be made executable at this time" */
		fprintf(stderr, "loader: sgx2-v2 has no code in pages of EAUG\n");
		exit(3);
	}
	/* Elsewhere a page is added by touching it: the driver's page fault handler does it. */
	if (declares() || design == IOC_MPROTECT || design == FSM)
		add(NEW_PAGE, NULL, PAGE, SECINFO_REG | may, may);
	map(NEW_PAGE, PAGE, 3, may);
}

/* -- entering ------------------------------------------------------------------------------ */

static vdso_sgx_enter_enclave_t find_enter_enclave(void)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *ehdr = (const void *)vdso;
	const Elf64_Phdr *ph = (const void *)(vdso + (vdso ? ehdr->e_phoff : 0));
	const Elf64_Dyn *dyn = NULL;
	const Elf64_Sym *sym = NULL;
	const char *strings = NULL;
	const uint32_t *hash = NULL;

	for (int i = 0; vdso && i < ehdr->e_phnum; i++)
		if (ph[i].p_type == PT_DYNAMIC)
			dyn = (const void *)(vdso + ph[i].p_offset);
	for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(vdso + dyn->d_un.d_ptr);
		else if (dyn->d_tag == DT_STRTAB)
			strings = vdso + dyn->d_un.d_ptr;
		else if (dyn->d_tag == DT_HASH)
			hash = (const void *)(vdso + dyn->d_un.d_ptr);
	}
	for (uint32_t i = 0; sym && strings && hash && i < hash[1]; i++)
		if (!strcmp(strings + sym[i].st_name, "__vdso_sgx_enter_enclave"))
			return (vdso_sgx_enter_enclave_t)(vdso + sym[i].st_value);
	errno = ENOSYS;
	die("__vdso_sgx_enter_enclave");
	return NULL;
}

static void enter(struct request *request, enum what what)
{
	struct sgx_enclave_run run = {.tcs = base + TCS_OFF};
	int ret;

	request->what = what;
	ret = find_enter_enclave()((unsigned long)request, 0, 0, 2 /* EENTER */, 0, 0, &run);
	if (ret || run.function != 4 /* EEXIT */) {
		fprintf(stderr, "loader: the enclave failed: vector %u, code %#x, address %#llx\n",
			run.exception_vector, run.exception_error_code, run.exception_addr);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct request request = {.hello = {.name = "you"}};
	const char *variant = argc > 2 ? argv[2] : "file";

	for (design = 0; design < DESIGNS; design++) {
		size_t whole = design == LINUX ? strlen(names[design]) : SIZE_MAX; /* any release */

		if (argc > 1 && !strncmp(argv[1], names[design], whole))
			break;
	}
	if (design == DESIGNS || (strcmp(variant, "file") && strcmp(variant, "generated")
				  && strcmp(variant, "heap") && strcmp(variant, "dynamic"))) {
		fprintf(stderr, "usage: loader DESIGN [file|generated|heap|dynamic [rdonly]]\n");
		return 2;
	}
	if (argc > 3 && !strcmp(argv[3], "rdonly"))
		mode = O_RDONLY;
	build(!strcmp(variant, "generated"));
	request.page = base + NEW_PAGE;
	if (!strcmp(variant, "heap")) {
		grow(3);
		enter(&request, GROW);
		printf("read back from the heap: %s\n", request.hello.said);
	} else if (!strcmp(variant, "dynamic")) {
		grow(7);
		enter(&request, LOAD);
		/* From writable to executable: what WRITE (or EXECMOD) stands for. */
		map(NEW_PAGE, PAGE, 5, 7);
		enter(&request, CALL);
		printf("the code written inside returns %lu\n", request.answer);
	} else {
		enter(&request, GREET);
		printf("the enclave says: %s\n", request.hello.said);
	}
	return 0;
}
