/* SPDX-License-Identifier: MIT
 *
 * usage: reports [core]
 * What people reported of SGX's loaders and of Linux's driver, each reduced to a few calls. A check
 * is named PROJECT_NUMBER, or PROJECT_NUMBER_DETAIL: an issue or pull request of
 *   intel: intel/linux-sgx            driver: intel/linux-sgx-driver
 *   dcap: intel/SGXDataCenterAttestationPrimitives      emm: intel/sgx-emm
 *   gramine, graphene: gramineproject   oe: openenclave/openenclave   edp: fortanix/rust-sgx
 *   enarx: enarx/enarx   occlum: occlum/occlum   inclavare: inclavare-containers
 *   step: jovanbulck/sgx-step          space18: jovanbulck/sgx-tutorial-space18
 * or `linux`, what was mended after a mail, and `systemd`, a setting of services.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define R PROT_READ
#define W PROT_WRITE
#define X PROT_EXEC
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)
#define POOL 64 /* pages for EAUG */

static struct encl e;
static uint64_t code, heap, pool;

static int call(int thread, struct call *c, struct sgx_enclave_run *run)
{
	*run = (struct sgx_enclave_run){.user_handler = run->user_handler};
	return encl_call(&e, thread, c, run);
}

static bool sums(int thread)
{
	struct call c = {.op = OP_SUM, .a = 3, .b = 40};

	return encl_do(&e, thread, &c) && c.ret == mix(3, 40);
}

/* -- loading ------------------------------------------------------------------------------ */

/* What CREATE answers to a SECS that `change` has spoiled. */
static void create(const char *name, int want, void (*change)(struct secs *))
{
	struct encl other;
	struct sgx_enclave_create arg = {.src = (uint64_t)&other.secs};

	encl_plan(&other, &(struct encl_opts){0});
	encl_open(&other);
	encl_reserve(&other);
	other.secs.base = other.base;
	change(&other.secs);
	check_errno(ioctl(other.fd, SGX_IOC_ENCLAVE_CREATE, &arg), want, name);
	encl_free(&other);
}

static void mpx(struct secs *s) { s->xfrm = 0x1b | 1ull << 62; }
static void tile_config(struct secs *s) { s->xfrm = 3 | 1 << 17; }
static void misc(struct secs *s) { s->miscselect = 1u << 31; }
static void no_frame(struct secs *s) { s->ssa_frame_size = 0; }
static void no_x87(struct secs *s) { s->xfrm = 2; }

static void init(const char *name, int want, void (*change)(struct encl *))
{
	struct encl other;
	struct sgx_enclave_init arg = {.sigstruct = (uint64_t)&other.sig};

	encl_plan(&other, &(struct encl_opts){0});
	encl_sign(&other);
	change(&other);
	encl_resign(&other.sig);
	encl_open(&other);
	encl_reserve(&other);
	encl_create(&other);
	encl_add_all(&other, 0);
	check_errno(ioctl(other.fd, SGX_IOC_ENCLAVE_INIT, &arg), want, name);
	encl_free(&other);
}

static void wrong_hash(struct encl *o) { o->sig.enclavehash[0] ^= 1; }
static void wrong_xfrm(struct encl *o) { o->sig.xfrm = 7, o->sig.xfrmmask = ~0ull; }
static void wrong_debug(struct encl *o) { o->sig.attributemask = ~0ull, o->secs.attributes |= ATTR_DEBUG; }

static void loading(void)
{
	struct encl other;
	struct sgx_enclave_create bad = {.src = 8};
	struct secinfo info = {.flags = SI_TCS | SI_R};
	struct sgx_enclave_add_pages add = {.secinfo = (uint64_t)&info, .length = PAGE};
	void *from = mmap(NULL, PAGE, R | W, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	create("occlum_1278_xfrm", EIO, mpx); /* features that this processor's XCR0 lacks */
	create("edp_694_half_of_amx", EIO, tile_config);
	create("occlum_1259_miscselect", EIO, misc);
	create("edp_565_ssaframesize", EIO, no_frame);
	create("oe_1540_xfrm_legacy", EIO, no_x87);
	/* EINIT's refusals: -1 and EPERM, no code of the instruction. */
	init("intel_497", EPERM, wrong_hash);
	init("occlum_1278", EPERM, wrong_xfrm);
	init("graphene_1952", EPERM, wrong_debug);
	encl_plan(&other, &(struct encl_opts){.size = 1ull << 40}); /* a TiB, as people do */
	encl_sign(&other);
	encl_open(&other);
	check_errno(ioctl(other.fd, SGX_IOC_ENCLAVE_CREATE, &bad), EFAULT, "gramine_557");
	check_errno(encl_reserve(&other) ? -1 : 0, 0, "gramine_1441_reserve");
	check(!encl_create(&other), "intel_37", "%s", other.err);
	add.src = (uint64_t)from;
	check_errno(ioctl(other.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &add), EINVAL, "edp_147");
	/* Reserved by a shared mapping, which the driver's takes the place of. */
	mmap((void *)other.base, 1 << 20, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	check(!encl_add_all(&other, 0) && !encl_init(&other) && !encl_map(&other), "intel_542", "%s", other.err);
	check(encl_op(&other, OP_SUM, 1, 2, 0, 0) == mix(1, 2), "gramine_1441", "%s", other.err);
	/* All of ELRANGE without any right, then what is needed. */
	check(mmap((void *)other.base, other.size, PROT_NONE, MAP_SHARED | MAP_FIXED, other.fd, 0)
	      == (void *)other.base, "enarx_1892", "%s", strerror(errno));
	for (int i = 0; i < other.nseg; i++)
		mprotect((void *)(other.base + other.seg[i].off), other.seg[i].len, seg_prot(&other.seg[i]));
	check(encl_op(&other, OP_SUM, 1, 3, 0, 0) == mix(1, 3), "enarx_1204", "%s", other.err);
	encl_free(&other);
}

/* -- pages that change ---------------------------------------------------------------------- */

static long modify(uint64_t page, uint64_t type)
{
	struct sgx_enclave_modify_types arg = {.offset = page - e.base, .length = PAGE, .page_type = type};

	return ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &arg);
}

static long restrict_to(uint64_t page, uint64_t permissions)
{
	struct sgx_enclave_restrict_permissions arg = {.offset = page - e.base, .length = PAGE,
						       .permissions = permissions};

	return ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &arg);
}

/* The thread is given up for it. */
static void faults(int thread, enum op op, uint64_t page, unsigned code_bits, const char *name)
{
	struct call c = {.op = op, .a = page + 8, .b = 1};
	struct sgx_enclave_run run = {0};
	int ret = call(thread, &c, &run);

	check(ret == 0 && run.function == ERESUME && run.exception_vector == 14
	      && run.exception_error_code == code_bits && run.exception_addr == page, name,
	      "ret %d, function %u, vector %u, code %#x", ret, run.function, run.exception_vector,
	      run.exception_error_code);
}

static void accepts(void)
{
	uint64_t p = pool;

	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, NEW | SI_X, 0, NULL), 19, "driver_150_permissions");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, SI_TRIM | SI_MODIFIED, 0, NULL), 19, "intel_948_type");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, NEW, 0, NULL), 0, "emm_11");
	/* Restricted and not accepted: what is left is allowed already, what is gone faults. */
	check_errno(restrict_to(p, SI_R), 0, "gramine_1135_restrict");
	CHECK_EQ(encl_op(&e, OP_PEEK, p, 0, 0, 0), 0, "gramine_1135_read");
	faults(1, OP_POKE, p, 0x8007, "gramine_1135_write");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, SI_REG | SI_R | SI_PR, 0, NULL), 0, "gramine_1135_accept");
	/* EMODPE extends what EPCM allows; the page tables are mprotect()'s. */
	mprotect((void *)p, PAGE, R);
	CHECK_EQ(encl_enclu(&e, 0, EMODPE, p, SI_REG | SI_R | SI_W, 0, NULL), EMODPE, "gramine_2139_emodpe");
	faults(2, OP_POKE, p, 7, "gramine_2139_fault");
	check_errno(mprotect((void *)p, PAGE, R | W), 0, "gramine_2139_mprotect");
	encl_op(&e, OP_POKE, p, 0x2139, 0, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, p, 0, 0, 0), 0x2139, "gramine_2139");
	check_errno(restrict_to(p, SI_W), EINVAL, "enarx_1892_write_only");
	check_errno(restrict_to(p, 0), 0, "enarx_1892_none");
	faults(3, OP_PEEK, p, 0x8005, "enarx_1892_read");
}

/* A regular page becomes a TCS: what Gramine's developers found about its protection. */
static void threads_later(void)
{
	uint64_t p = pool + PAGE;
	struct sgx_enclave_run run;

	check_errno(mprotect((void *)p, PAGE, R | W | X), 0, "gramine_1451_rwx");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, NEW, 0, NULL), 0, "gramine_1451_added");
	encl_op(&e, OP_POKE, p + offsetof(struct tcs, cssa), 1ull << 32, 0, 0); /* NSSA = 1 */
	check_errno(modify(p, 1), 0, "gramine_1451_tcs");
	/* RWX is more than a TCS's page can have: the driver does not map it again. */
	check(encl_enclu(&e, 4, EACCEPT, p, SI_TCS | SI_MODIFIED, 0, &run) == -1 && run.exception_vector == 14
	      && !(run.exception_error_code & 0x8000), "gramine_1451_case_1", "vector %u, code %#x",
	      run.exception_vector, run.exception_error_code);
	check_errno(mprotect((void *)p, PAGE, R | W | X), EACCES, "gramine_1451_case_2");
	check_errno(mprotect((void *)p, PAGE, R), 0, "gramine_1451_case_3");
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, p, SI_TCS | SI_MODIFIED, 0, NULL), 0, "gramine_1451_accept");
	run = (struct sgx_enclave_run){.tcs = p};
	encl_vdso_enter(&(struct call){0}, EENTER, &run);
	check(run.function == EENTER && run.exception_vector == 14 && run.exception_addr == p,
	      "gramine_1451_read_only", "function %u, vector %u", run.function, run.exception_vector);
	check_errno(mprotect((void *)p, PAGE, R | W), 0, "gramine_1451_case_4");
	check_errno(modify(p, 2), EINVAL, "gramine_1451_not_back");
	check_errno(modify(p, 4), 0, "gramine_1451_trim");
}

/* Threads that touch the same absent pages at once: each page is added once, and nobody gets SIGBUS. */
static pthread_barrier_t together;
static int accepted, refused;

static void *race(void *thread)
{
	struct sgx_enclave_run run;

	for (uint64_t p = pool + 8 * PAGE; p < pool + POOL * PAGE; p += PAGE) {
		pthread_barrier_wait(&together);
		switch (encl_enclu(&e, (int)(intptr_t)thread, EACCEPT, p, NEW, 0, &run)) {
		case 0:
			__atomic_add_fetch(&accepted, 1, __ATOMIC_SEQ_CST);
			break;
		case 19:
			__atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST);
		}
	}
	return NULL;
}

static void races(void)
{
	pthread_t t[3];

	pthread_barrier_init(&together, NULL, 3);
	for (intptr_t n = 0; n < 3; n++)
		pthread_create(&t[n], NULL, race, (void *)(n + 5));
	for (int n = 0; n < 3; n++)
		pthread_join(t[n], NULL);
	check(accepted == POOL - 8 && refused == 2 * (POOL - 8), "linux_eaug_race", "%d accepted, %d refused",
	      accepted, refused);
}

/* -- ways in and out -------------------------------------------------------------------------- */

static struct {
	volatile int count, nested;
	volatile bool at_enclu;
	volatile uint64_t addr, flag, stop;
} got;

static void give_back(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	got.addr = (uint64_t)info->si_addr;
	if (++got.count > 4 || mprotect((void *)(got.addr & ~(PAGE - 1)), PAGE, R | X))
		_exit(9);
}

/* Page faults as a side channel: a signal for who enters by itself, none through the vDSO. */
static void controlled_channel(void)
{
	struct sigaction act = {.sa_sigaction = give_back, .sa_flags = SA_SIGINFO};
	struct call c = {.op = OP_SUM, .a = 1, .b = 5};
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[8]};
	int ret = 0;

	sigaction(SIGSEGV, &act, NULL);
	mprotect((void *)code, PAGE, PROT_NONE);
	check(encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0 && c.ret == mix(1, 5) && got.count == 1
	      && got.addr == code, "step_29", "%d signals, address %#lx", got.count, got.addr);
	mprotect((void *)code, PAGE, PROT_NONE);
	c.ret = 0;
	for (uint32_t leaf = EENTER; leaf != EEXIT && !ret;) {
		ret = encl_vdso_enter(&c, leaf, &run);
		if (leaf == EENTER) {
			check(run.exception_vector == 14 && run.exception_error_code == 0x14 && got.count == 1,
			      "space18_1", "vector %u, %d signals", run.exception_vector, got.count);
			mprotect((void *)code, PAGE, R | X);
		}
		leaf = run.function;
	}
	CHECK_EQ(c.ret, mix(1, 5), "space18_1_resumed");
	signal(SIGSEGV, SIG_DFL);
}

static int answer;

static int answers(long a, long b, long c, long d, long f, long g, struct sgx_enclave_run *run)
{
	int ret = answer;

	(void)a, (void)b, (void)c, (void)d, (void)f, (void)g, (void)run;
	answer = 0;
	return ret;
}

static void handlers(void)
{
	static const struct {
		const char *name;
		int answer, want;
	} rows[] = {{"oe_4465_zero", 0, 0}, {"oe_4465_negative", -5, -5}, {"oe_4465_egetkey", 1, -EINVAL},
		    {"oe_4465_eexit", 4, -EINVAL}, {"oe_4465_large", 1 << 30, -EINVAL}, {"oe_4465_again", EENTER, 0}};
	struct sgx_enclave_run run = {.user_handler = (uint64_t)answers};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct call c = {.op = OP_NOP};

		answer = rows[i].answer;
		CHECK_EQ(call(0, &c, &run), rows[i].want, rows[i].name);
	}
}

/* A handler of a signal in the middle of an ECALL enters the same thread again, at CSSA = 1. */
static void enter_again(int sig)
{
	struct call c = {.op = OP_WHO};
	struct sgx_enclave_run run = {0};

	(void)sig;
	got.nested = call(9, &c, &run) == 0 && run.function == EEXIT ? (int)c.ret : -1;
	got.stop = 1;
}

/* It ends the ECALL: the vDSO's AEP is an ENCLU, and behind it is what follows an EEXIT. */
static void leave(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig, (void)info;
	got.at_enclu = regs[REG_RAX] == ERESUME && !memcmp((void *)regs[REG_RIP], "\x0f\x01\xd7", 3);
	if (got.at_enclu)
		regs[REG_RIP] += 3;
	got.stop = 1;
}

static void *kicks(void *thread)
{
	while (!got.flag)
		;
	pthread_kill(*(pthread_t *)thread, SIGUSR1);
	return NULL;
}

static int spun(int thread, struct sgx_enclave_run *run)
{
	struct call c = {.op = OP_SPIN, .a = (uint64_t)&got.flag, .b = (uint64_t)&got.stop};
	pthread_t self = pthread_self(), t;
	int ret;

	got.flag = got.stop = 0;
	pthread_create(&t, NULL, kicks, &self);
	ret = call(thread, &c, run);
	pthread_join(t, NULL);
	return ret;
}

static void *cancelled(void *unused)
{
	struct call c = {.op = OP_SPIN, .a = (uint64_t)&got.flag, .b = (uint64_t)&got.stop};
	struct sgx_enclave_run run = {0};

	(void)unused;
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	call(10, &c, &run);
	return NULL;
}

static void interrupted(void)
{
	struct sigaction act = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO};
	struct sgx_enclave_run run = {0};
	struct call who = {.op = OP_WHO};
	pthread_t t;
	void *how;
	int ret;

	signal(SIGUSR1, enter_again);
	ret = spun(9, &run);
	check(ret == 0 && run.function == EEXIT && got.nested == 1, "oe_4276", "ret %d, function %u, CSSA %d", ret,
	      run.function, got.nested);
	sigaction(SIGUSR1, &act, NULL);
	ret = spun(11, &run);
	check(got.at_enclu && ret == 0 && run.function == EEXIT, "edp_493", "ENCLU %d, ret %d, function %u",
	      got.at_enclu, ret, run.function);
	check(encl_do(&e, 11, &who) && who.ret == 1, "edp_493_cssa", "CSSA %ld", (long)who.ret);
	/* A thread that is cancelled inside: the unwinder passes the vDSO's frame. */
	got.flag = got.stop = 0;
	pthread_create(&t, NULL, cancelled, NULL);
	while (!got.flag)
		;
	pthread_cancel(t);
	pthread_join(t, &how);
	check(how == PTHREAD_CANCELED && encl_do(&e, 10, &who) && who.ret == 1, "intel_877", "%p, CSSA %ld", how,
	      (long)who.ret);
}

/* -- processes ----------------------------------------------------------------------------- */

/* A service that may make nothing executable that was not: systemd's MemoryDenyWriteExecute, by
 * PR_SET_MDWE (Linux 6.3, map_deny_write_exec()) or, before, by a filter. */
static void denied(bool filter)
{
	struct sock_filter code_[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, X, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code_) / sizeof(code_[0]), code_};
	struct encl own;
	void *p;

	if (filter ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
		   : prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0)) {
		skip(filter ? "systemd_filter" : "systemd_mdwe", "not on this kernel");
		_exit(0);
	}
	check(!encl_load(&own, &(struct encl_opts){0}) && encl_op(&own, OP_SUM, 1, 2, 0, 0) == mix(1, 2),
	      filter ? "systemd_filter" : "systemd_mdwe", "%s", own.err);
	p = mmap(NULL, PAGE, PROT_NONE, MAP_SHARED, open(encl_device(), O_RDWR), 0);
	if (!filter) {
		check_errno(mprotect(p, PAGE, R | X), EACCES, "systemd_mdwe_mprotect");
		check_errno(mprotect(p, PAGE, R | W), 0, "systemd_mdwe_rw");
		p = mmap(p, PAGE, R | W | X, MAP_SHARED | MAP_FIXED, open(encl_device(), O_RDWR), 0);
		check_errno(p == MAP_FAILED ? -1 : 0, EACCES, "systemd_mdwe_mmap");
	} else {
		check_errno(mprotect(p, PAGE, R | X), EPERM, "systemd_filter_mprotect");
	}
	_exit(tap_failed);
}

static volatile bool over;

static void *enters(void *failed)
{
	while (!over)
		if (!sums(12))
			*(volatile bool *)failed = true;
	return NULL;
}

static void processes(void)
{
	struct itimerval each_20ms = {{0, 20000}, {0, 20000}}, off = {0};
	bool failed = false, children = true;
	struct encl own;
	pthread_t t;
	int status;

	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &each_20ms, NULL);
	check(sums(0), "oe_4542", "%s", e.err);
	setitimer(ITIMER_REAL, &off, NULL);
	pthread_create(&t, NULL, enters, &failed);
	for (int i = 0; i < 12; i++) {
		pid_t child = fork();

		if (!child)
			_exit(sums(0) ? 0 : 1);
		children &= waitpid(child, &status, 0) == child && status == 0;
	}
	over = true;
	pthread_join(t, NULL);
	check(!failed && children, "dcap_81", "parent %d, children %d", !failed, children);
	if (!fork())
		_exit(encl_load(&own, &(struct encl_opts){0}) || encl_op(&own, OP_SUM, 1, 2, 0, 0) != mix(1, 2));
	wait(&status);
	check(status == 0, "oe_2939", "status %#x", status);
	if (!fork()) /* through the parent's enclave, whose descriptor is closed there */
		_exit(close(e.fd) || !sums(7));
	wait(&status);
	check(status == 0, "oe_3035", "status %#x", status);
	for (int filter = 0; filter < 2; filter++) {
		if (!fork())
			denied(filter);
		wait(&status);
		check(status == 0, filter ? "systemd_filter_ends" : "systemd_mdwe_ends", "status %#x", status);
	}
}

/* -- what others see -------------------------------------------------------------------------- */

static void seen(void)
{
	static uint8_t all[1 << 20];
	char line[400], first[400] = "";
	struct encl debug;
	FILE *maps = fopen("/proc/self/maps", "r");
	int mem = open("/proc/self/mem", O_RDONLY);
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);

	while (fgets(line, sizeof(line), maps) && !strstr(first, "/dev/sgx_enclave\n"))
		strcpy(first, line);
	fclose(maps);
	check(strtoull(first, NULL, 16) == e.base && strstr(first, "r-xs "), "step_47", "%s", first);
	check(pread(mem, all, 8, (off_t)heap) == -1 && errno == EIO, "oe_4558", "%s", strerror(errno));
	/* A debugger reads many TCSs and stacks in one go. */
	encl_load(&debug, &(struct encl_opts){.threads = 20, .attributes = ATTR_DEBUG});
	check(pread(mem, all, debug.free, (off_t)debug.base) == (ssize_t)debug.free
	      && !memcmp(all + debug.tcs[19] + offsetof(struct tcs, ossa), &(uint64_t){debug.tcs[19] + PAGE}, 8),
	      "intel_444", "%s", strerror(errno));
	encl_free(&debug);
	close(mem);
	check(vdso && dlsym(vdso, "__vdso_sgx_enter_enclave") == vdso_find("__vdso_sgx_enter_enclave"), "oe_4194",
	      "%p", vdso);
}

int main(int argc, char **argv)
{
	struct encl_seg seg = {.name = "pool", .len = POOL * PAGE};

	if (encl_load(&e, &(struct encl_opts){.threads = 13, .heap = PAGE, .size = 1 << 21}))
		bail("load", e.err);
	encl_op(&e, OP_NOP, 0, 0, 0, 0);
	if (argc > 1 && !strcmp(argv[1], "core")) { /* where it is, and a core dump */
		printf("%#lx %#lx\n", e.base, e.base + e.free);
		fflush(stdout);
		abort();
	}
	code = e.base;
	heap = e.base + e.heap;
	seg.off = e.free;
	pool = e.base + e.free;
	encl_map_seg(&e, &seg, R | W);
	loading();
	accepts();
	threads_later();
	races();
	controlled_channel();
	handlers();
	interrupted();
	processes();
	seen();
	return tap_failed;
}
