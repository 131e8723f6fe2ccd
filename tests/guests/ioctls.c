/* SPDX-License-Identifier: MIT
 *
 * usage: ioctls
 * What the ioctls refuse, and with which errno. The expected values were read off Linux 6.1,
 * arch/x86/kernel/cpu/sgx/ioctl.c; each group names the function, in whose order of checks a row
 * that breaks two rules gets the first one's errno.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#pragma GCC diagnostic ignored "-Woverride-init" /* rows are the good arguments with one change */

#define U(p) ((uint64_t)(p))
static struct encl e;
static uint64_t good;  /* an address of 3 readable pages */
static uint8_t *edge;  /* the end of readable memory: a PROT_NONE page begins here */

static int fresh(void)
{
	struct encl now = {0};

	if (encl_open(&now))
		bail("open", now.err);
	return now.fd;
}

static void row(int fd, unsigned long cmd, const void *arg, int want, const char *group, const char *name)
{
	char full[100];

	snprintf(full, sizeof(full), "%s_%s", group, name);
	check_errno(ioctl(fd, cmd, arg), want, full);
}

/* sgx_ioctl() and the file itself. */
static void unknown(void)
{
	static const struct { const char *name; unsigned long cmd; } rows[] = {
		{"vepc_remove_all", SGX_IOC_VEPC_REMOVE_ALL}, /* /dev/sgx_vepc's */
		{"add_page_of_v20", 0x401aa401}, {"number_7f", _IO(0xa4, 0x7f)},
		{"create_wrong_size", _IOC(_IOC_WRITE, 0xa4, 0, 16)},
		{"create_wrong_direction", _IOC(_IOC_READ, 0xa4, 0, 8)}, {"other_magic", _IO('T', 1)},
	};
	int fd = fresh();
	struct stat st;
	char c;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		row(fd, rows[i].cmd, NULL, ENOTTY, "unknown", rows[i].name);
	check(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode), "file_is_device", "mode %#o", st.st_mode);
	check_errno(read(fd, &c, 1), EINVAL, "file_read"); /* no .read in sgx_encl_fops */
	check_errno(write(fd, &c, 1), EINVAL, "file_write");
	check_errno(ftruncate(fd, PAGE), EINVAL, "file_truncate");
	close(fd);
}

/* sgx_ioc_enclave_create(), sgx_encl_create(): what ECREATE itself refuses (#GP) is EIO. */
static void create(void)
{
	const struct secs ok = {.size = 1 << 16, .base = 1 << 30, .ssa_frame_size = 1,
				.attributes = ATTR_MODE64BIT, .xfrm = 3};
	static struct secs s;
	struct sgx_enclave_create arg = {.src = U(&s)};
	int fd = fresh();
#define CREATE(name, want, ...) \
	(s = ok, (void)((__VA_ARGS__)), row(fd, SGX_IOC_ENCLAVE_CREATE, &arg, want, "create", name))
	/* ECREATE finds these two; since Linux 6.14 the driver does (EINVAL). */
	CREATE("size_0", EIO, s.size = 0);
	CREATE("size_not_power_of_2", EIO, s.size = 3 << 12);
	CREATE("size_of_one_page", EIO, s.size = PAGE);
	CREATE("base_misaligned", EIO, s.base += PAGE);
	CREATE("ssa_frame_size_0", EIO, s.ssa_frame_size = 0);
	CREATE("reserved1", EIO, s.reserved1[3] = 1);
	CREATE("reserved4", EIO, s.reserved4[3000] = 1);
	CREATE("xfrm_without_sse", EIO, s.xfrm = 1);
	CREATE("xfrm_unknown", EIO, s.xfrm |= 1ull << 62);
	CREATE("attributes_reserved", EIO, s.attributes |= 1ull << 40);
	CREATE("miscselect_unknown", EIO, s.miscselect = 1u << 30);
	s = ok;
	arg.src = U(edge - 64);
	row(fd, SGX_IOC_ENCLAVE_CREATE, &arg, EFAULT, "create", "src_truncated");
	row(fd, SGX_IOC_ENCLAVE_CREATE, (void *)8, EFAULT, "create", "arg_pointer");
	arg.src = U(&s);
	/* Nothing of the failures stays. */
	row(fd, SGX_IOC_ENCLAVE_CREATE, &arg, 0, "create", "at_last");
	row(fd, SGX_IOC_ENCLAVE_CREATE, &arg, EINVAL, "create", "twice");
	close(fd);
}

/* The test_bit() at the head of each function: before any pointer is looked at. */
static void wrong_state(void)
{
	static const struct { const char *name; unsigned long cmd; } rows[] = {
		{"add", SGX_IOC_ENCLAVE_ADD_PAGES}, {"init", SGX_IOC_ENCLAVE_INIT},
		{"restrict", SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS},
		{"modify_types", SGX_IOC_ENCLAVE_MODIFY_TYPES}, {"remove", SGX_IOC_ENCLAVE_REMOVE_PAGES},
	};
	int fd = fresh();

	for (int i = 0; i < 5; i++)
		row(fd, rows[i].cmd, (void *)8, EINVAL, "not_created", rows[i].name);
	for (int i = 2; i < 5; i++)
		row(e.fd, rows[i].cmd, (void *)8, EINVAL, "not_initialized", rows[i].name);
	close(fd);
}

/* __sgx_encl_add_page(): a source that may not become executable is denied. */
static void noexec_source(struct sgx_enclave_add_pages arg)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int fd;

		/* A mount of our own; needs root, or user namespaces. */
		if (unshare(CLONE_NEWNS) && unshare(CLONE_NEWUSER | CLONE_NEWNS))
			_exit(77);
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)
		    || mount("none", "/tmp", "tmpfs", MS_NOEXEC, NULL)
		    || (fd = open("/tmp/source", O_RDWR | O_CREAT, 0600)) < 0 || ftruncate(fd, PAGE))
			_exit(77);
		arg.src = U(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0));
		_exit(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) ? errno : 0);
	}
	waitpid(pid, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		return skip("add_noexec_source", "cannot mount a noexec file system here (be root)");
	check(WIFEXITED(status) && WEXITSTATUS(status) == EACCES, "add_noexec_source", "status %#x", status);
}

/* sgx_ioc_enclave_add_pages(), sgx_validate_offset_length(), sgx_validate_secinfo(). */
static void add(void)
{
	static struct secinfo reg = {.flags = SI_REG | SI_R | SI_W}, si;
	static struct tcs bad_tcs __attribute__((aligned(4096))) = {.nssa = 1, .reserved = {1}};
	uint64_t at = e.free, none = U(mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint64_t wo = U(mmap(NULL, PAGE, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	uint64_t hole = U(mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	struct sgx_enclave_add_pages arg, *ro;
#define ADD_ARG(...) (struct sgx_enclave_add_pages){.src = good, .offset = at, .length = PAGE, \
						    .secinfo = U(&reg), __VA_ARGS__}
#define ADD(name, want, ...) \
	(arg = ADD_ARG(__VA_ARGS__), row(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg, want, "add", name))
#define SECINFO(name, f, byte) \
	(si = (struct secinfo){.flags = f, .reserved = {[55] = byte}}, ADD(name, EINVAL, .secinfo = U(&si)))

	row(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, (void *)8, EFAULT, "add", "arg_pointer");
	ADD("src_misaligned", EINVAL, .src = good + 8);
	ADD("offset_misaligned", EINVAL, .offset = at + 8);
	ADD("length_0", EINVAL, .length = 0);
	ADD("length_misaligned", EINVAL, .length = PAGE + 1);
	ADD("overflow", EINVAL, .offset = -PAGE, .length = 2 * PAGE);
	ADD("offset_is_size", EINVAL, .offset = e.size);
	ADD("beyond_size", EINVAL, .offset = e.size - PAGE, .length = 2 * PAGE);
	ADD("secinfo_pointer", EFAULT, .secinfo = 8);
	ADD("secinfo_truncated", EFAULT, .secinfo = U(edge - 32));
	SECINFO("type_secs", SI_SECS | SI_R, 0);
	SECINFO("type_va", 3 << 8 | SI_R, 0);
	SECINFO("type_trim", SI_TRIM, 0);
	SECINFO("write_only", SI_REG | SI_W, 0);
	SECINFO("tcs_with_rw", SI_TCS | SI_R | SI_W, 0);
	SECINFO("flag_pending", SI_REG | SI_R | SI_PENDING, 0);
	SECINFO("flag_bit_16", SI_REG | SI_R | 1 << 16, 0);
	SECINFO("secinfo_reserved", SI_REG | SI_R, 1);
	si = (struct secinfo){.flags = SI_TCS};
	ADD("tcs_reserved", EIO, .src = U(&bad_tcs), .secinfo = U(&si)); /* EADD's #GP */
	munmap((void *)hole, PAGE); /* only now, or another mmap() takes the place; a VMA stays above */
	ADD("src_unmapped", EFAULT, .src = hole);
	ADD("src_prot_none", EFAULT, .src = none);
	ADD("src_write_only", EFAULT, .src = wo); /* get_user_pages() wants VM_READ */
	noexec_source(ADD_ARG(.src = good));
	ADD("after_failures", 0, .offset = at);
	CHECK_EQ(arg.count, PAGE, "add_count");
	ADD("duplicate", EBUSY, .offset = at); /* xa_insert() */
	CHECK_EQ(arg.count, 0, "add_duplicate_count");
	ADD("stale_count", EBUSY, .offset = at, .count = 99);
	CHECK_EQ(arg.count, 0, "add_stale_count_out");
	ADD("src_ends_early", EFAULT, .src = U(edge) - 2 * PAGE, .offset = at + PAGE, .length = 4 * PAGE);
	CHECK_EQ(arg.count, 2 * PAGE, "add_src_ends_early_count");
	ADD("then_duplicate", EBUSY, .src = good, .offset = at + 2 * PAGE, .length = PAGE);
	/* The answer cannot be written: EFAULT, but the page is in (copy_to_user() comes last). */
	ro = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*ro = ADD_ARG(.offset = at + 3 * PAGE);
	mprotect(ro, PAGE, PROT_READ);
	row(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, ro, EFAULT, "add", "arg_read_only");
	ADD("arg_read_only_is_in", EBUSY, .offset = at + 3 * PAGE);
	/* Unknown flags are not looked at. */
	ADD("unknown_flags", 0, .offset = at + 4 * PAGE, .flags = 0xfffe);
}

/* The enclave that add() left, with all its pages in order, for MRENCLAVE. */
static void plan_as_added(void)
{
	for (uint64_t i = 0; i < 5; i++)
		encl_seg(&e, "added", e.free + i * PAGE, PAGE, SI_REG | SI_R | SI_W, NULL, false);
}

/* sgx_ioc_enclave_init(), sgx_encl_init(): what EINIT answers with a code is EPERM. */
static void init(void)
{
	struct sgx_enclave_init arg;
	static struct sigstruct s;
#define INIT(name, want, ...) (s = e.sig, (void)((__VA_ARGS__)), arg.sigstruct = U(&s), \
			       row(e.fd, SGX_IOC_ENCLAVE_INIT, &arg, want, "init", name))
#define SIGNED(name, want, ...) INIT(name, want, (__VA_ARGS__), encl_resign(&s))

	row(e.fd, SGX_IOC_ENCLAVE_INIT, (void *)8, EFAULT, "init", "arg_pointer");
	arg.sigstruct = 8;
	row(e.fd, SGX_IOC_ENCLAVE_INIT, &arg, EFAULT, "init", "sigstruct_pointer");
	memcpy(edge - 1800, &e.sig, 1800);
	arg.sigstruct = U(edge - 1800);
	row(e.fd, SGX_IOC_ENCLAVE_INIT, &arg, EFAULT, "init", "sigstruct_truncated");
	SIGNED("vendor", EINVAL, s.vendor = 0x1234);
	SIGNED("attributes_unknown", EINVAL, s.attributes |= 1ull << 63);
	SIGNED("xfrm_unknown", EINVAL, s.xfrm |= 1ull << 62);
	SIGNED("miscselect_unknown", EINVAL, s.miscselect |= 1u << 31);
	INIT("signature_flipped", EPERM, s.signature[17] ^= 1);
	INIT("modulus_flipped", EPERM, s.modulus[100] ^= 1);
	INIT("date_unsigned", EPERM, s.date ^= 1);
	INIT("q1_flipped", EPERM, s.q1[9] ^= 1);
	INIT("q2_flipped", EPERM, s.q2[9] ^= 1);
	SIGNED("header", EPERM, s.header[0] = 7);
	SIGNED("exponent", EPERM, s.exponent = 65537);
	SIGNED("reserved", EPERM, s.reserved1[7] = 1);
	SIGNED("measurement", EPERM, s.enclavehash[0] ^= 1);
	SIGNED("attributes_differ", EPERM, s.attributes |= ATTR_DEBUG, s.attributemask = ~0ull);
	SIGNED("xfrm_differs", EPERM, s.xfrm = 1);
	SIGNED("miscselect_differs", EPERM, s.miscselect ^= 1);
	/* A failed EINIT changes nothing. SIGSTRUCT may end with the last mapped byte. */
	memcpy(edge - sizeof(e.sig), &e.sig, sizeof(e.sig));
	arg.sigstruct = U(edge - sizeof(e.sig));
	row(e.fd, SGX_IOC_ENCLAVE_INIT, &arg, 0, "init", "at_last");
	row(e.fd, SGX_IOC_ENCLAVE_INIT, &arg, EINVAL, "init", "twice");
	row(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, (void *)8, EINVAL, "initialized", "add");
	row(e.fd, SGX_IOC_ENCLAVE_CREATE, (void *)8, EINVAL, "initialized", "create");
}

/* sgx_ioc_enclave_{restrict_permissions,modify_types,remove_pages}(). */
static void sgx2(void)
{
	uint64_t reg = e.data, tcs = e.tcs[0], absent = e.size - 2 * PAGE, pending = e.size - PAGE;
	struct encl_seg seg = {.name = "pending", .off = pending, .len = PAGE};
	struct sgx_enclave_restrict_permissions r;
	struct sgx_enclave_modify_types m;
	struct sgx_enclave_remove_pages d;
	struct sgx_enclave_run run = {0};
	struct call touch = {.op = OP_PEEK, .a = e.base + pending};
#define RESTRICT(name, want, ...) \
	(r = (struct sgx_enclave_restrict_permissions){.offset = reg, .length = PAGE, .permissions = 3, \
						       __VA_ARGS__}, \
	 row(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &r, want, "restrict", name))
#define MODIFY(name, want, ...) \
	(m = (struct sgx_enclave_modify_types){.offset = reg, .length = PAGE, .page_type = 4, __VA_ARGS__}, \
	 row(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &m, want, "modify", name))
#define REMOVE(name, want, ...) \
	(d = (struct sgx_enclave_remove_pages){.offset = reg, .length = PAGE, __VA_ARGS__}, \
	 row(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &d, want, "remove", name))
#define RANGES(X) \
	X("offset_misaligned", EINVAL, .offset = reg + 8); \
	X("length_0", EINVAL, .length = 0); \
	X("length_misaligned", EINVAL, .length = 100); \
	X("overflow", EINVAL, .offset = -PAGE, .length = 2 * PAGE); \
	X("beyond_size", EINVAL, .offset = e.size); \
	X("count_not_0", EINVAL, .count = 1); \
	X("absent", EFAULT, .offset = absent)

	RANGES(RESTRICT);
	RANGES(MODIFY);
	RANGES(REMOVE);
	row(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, (void *)8, EFAULT, "restrict", "arg_pointer");
	row(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, (void *)8, EFAULT, "modify", "arg_pointer");
	row(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, (void *)8, EFAULT, "remove", "arg_pointer");
	RESTRICT("permissions_8", EINVAL, .permissions = 8);
	RESTRICT("write_only", EINVAL, .permissions = 2);
	RESTRICT("result_not_0", EINVAL, .result = 1);
	RESTRICT("tcs", EINVAL, .offset = tcs);
	CHECK_EQ(r.count, 0, "restrict_tcs_count");
	/* Data, then the first thread's stack, then its TCS: stops there and says how far it came. */
	RESTRICT("up_to_tcs", EINVAL, .offset = tcs - PAGE, .length = 2 * PAGE);
	CHECK_EQ(r.count, PAGE, "restrict_up_to_tcs_count");
	MODIFY("type_reg", EINVAL, .page_type = 2);
	MODIFY("type_secs", EINVAL, .page_type = 0);
	MODIFY("type_100", EINVAL, .page_type = 0x100);
	MODIFY("result_not_0", EINVAL, .result = 1);
	MODIFY("tcs_to_tcs", EINVAL, .offset = tcs, .page_type = 1);
	MODIFY("code_to_tcs", EPERM, .offset = 0, .page_type = 1); /* its maximum is R-X, a TCS is RW */
	REMOVE("regular", EPERM, .offset = e.free);
	CHECK_EQ(d.count, 0, "remove_regular_count");
	/* A page that is pending: SGX_PAGE_NOT_MODIFIABLE (20) in `result`, EFAULT. */
	if (encl_map_seg(&e, &seg, PROT_READ | PROT_WRITE))
		bail("map_pending", e.err);
	encl_call(&e, 1, &touch, &run);
	RESTRICT("pending", EFAULT, .offset = pending);
	CHECK_EQ(r.result, 20, "restrict_pending_result");
	MODIFY("pending", EFAULT, .offset = pending);
	CHECK_EQ(m.result, 20, "modify_pending_result");
}

/* sgx_ioc_enclave_provision(), and INIT with an attribute that was not allowed. */
static void provision(void)
{
	static struct encl p;
	struct sgx_enclave_provision arg = {.fd = 999};
	struct sgx_enclave_init in = {.sigstruct = U(&p.sig)};
	int fd = open("/dev/sgx_provision", O_RDONLY), null = open("/dev/null", O_RDONLY);
	struct keyrequest key = {.keyname = KEY_PROVISION};
	struct call c = {.op = OP_GETKEY};

	encl_plan(&p, &(struct encl_opts){.attributes = ATTR_PROVISIONKEY});
	if (encl_sign(&p) || encl_open(&p) || encl_reserve(&p) || encl_create(&p) || encl_add_all(&p, 0))
		bail("provision_load", p.err);
	row(p.fd, SGX_IOC_ENCLAVE_INIT, &in, EACCES, "provision", "not_allowed");
	row(p.fd, SGX_IOC_ENCLAVE_PROVISION, (void *)8, EFAULT, "provision", "arg_pointer");
	row(p.fd, SGX_IOC_ENCLAVE_PROVISION, &arg, EINVAL, "provision", "no_fd");
	arg.fd = (uint64_t)null;
	row(p.fd, SGX_IOC_ENCLAVE_PROVISION, &arg, EINVAL, "provision", "other_file");
	if (fd < 0)
		return skip("provision_allowed", "no /dev/sgx_provision");
	arg.fd = (uint64_t)fd;
	row(p.fd, SGX_IOC_ENCLAVE_PROVISION, &arg, 0, "provision", "allowed");
	row(p.fd, SGX_IOC_ENCLAVE_INIT, &in, 0, "provision", "init");
	if (encl_map(&p))
		bail("provision_map", p.err);
	memcpy(c.buf, &key, sizeof(key));
	check(encl_do(&p, 0, &c) && c.ret == 0, "provision_key", "code %ld; %s", (long)c.ret, p.err);
	encl_free(&p);
}

int main(void)
{
	uint8_t *m = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(m + 3 * PAGE, PAGE, PROT_NONE);
	good = U(m);
	edge = m + 3 * PAGE;
	unknown();
	create();
	encl_plan(&e, &(struct encl_opts){.threads = 2, .size = 1 << 18});
	if (encl_open(&e) || encl_reserve(&e) || encl_create(&e) || encl_add_all(&e, 0))
		bail("load", e.err);
	wrong_state();
	add();
	plan_as_added();
	if (encl_sign(&e))
		bail("sign", e.err);
	init();
	if (encl_map(&e))
		bail("map", e.err);
	sgx2();
	provision();
	return tap_failed;
}
