/* SPDX-License-Identifier: MIT
 *
 * usage: accepting SEED PAGES [quiet|grow|turns|short|both]
 * An enclave whose pages change in runs that are alike, one leaf a page, between which and in which
 * something else comes by chance: EACCEPT after RESTRICT_PERMISSIONS, MODIFY_TYPES and EAUG, EMODPE,
 * EACCEPTCOPY, removals. Another thread sends it signals and changes pages of its own (not with `quiet`).
 * With `grow` all are added, accepted, trimmed and removed again, and in between it asks where threads may
 * run; with `turns` one after the other is. With `short` the runs are as a library OS has them: few pages, mostly from the
 * top down, added by a fault, extended, restricted, trimmed and removed; with `both` two threads do so at
 * once, each with pages of its own. Prints what each leaf and ioctl answered. At the end it sends itself
 * SIGUSR2, for who looks at what the enclave has become.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

#define HEAP 256
#define ZONE 256 /* pages behind all, for EAUG */
#define THEIRS 64
#define NEW (SI_REG | SI_R | SI_W | SI_PENDING)

static struct encl e;
static uint64_t pages;
static __thread uint64_t seed;
static __thread FILE *out;
static __thread int me; /* whose TCS */
static int held = -1; /* while it is open a child shares the enclave */
static atomic_int over;
static cpu_set_t places;
static volatile sig_atomic_t ticks;
static _Atomic uint64_t done;

static uint64_t any(uint64_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % n;
}

static void handler(int number)
{
	ticks += number;
}

/* Whoever is asked, a thread may run where it could. */
static void *elsewhere(void *who)
{
	cpu_set_t now;
	pid_t tid = who ? *(pid_t *)who : 0;

	return sched_getaffinity(tid, sizeof(now), &now) || !CPU_EQUAL(&now, &places) ? &places : NULL;
}

/* So it is after leaves in a row, for the thread that made them and for who is born then. */
static void where(uint64_t what)
{
	pid_t tid = getpid();
	void *found = NULL;
	pthread_t t;

	if (what % 3 == 0) {
		found = elsewhere(NULL);
	} else if (what % 3 == 1) {
		if (pthread_create(&t, NULL, elsewhere, what % 2 ? &tid : NULL) || pthread_join(t, &found))
			bail("thread", strerror(errno));
	} else {
		int status = 0;
		pid_t child = fork();

		if (!child)
			_exit(elsewhere(NULL) != NULL);
		if (waitpid(child, &status, 0) != child || status)
			found = &places;
	}
	if (found)
		bail("places", "a thread may run elsewhere than before");
}

/* An operation on a thread's TCS; what a fault interrupts is given up. Prints how it ended. */
static void enter(int thread, struct call *c)
{
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[thread]};
	struct call up = {.op = OP_GIVE_UP};
	uint32_t leaf = EENTER;
	int ret;

	for (;;) {
		ret = encl_vdso_enter(c, leaf, &run);
		if (ret || run.function == EEXIT)
			break;
		fprintf(out, "%u %x %llx ", run.exception_vector, run.exception_error_code,
		       run.exception_vector == 14 ? (unsigned long long)(run.exception_addr - e.base) : 0);
		if (run.function == EENTER)
			break;
		if (leaf == ERESUME || !encl_do(&e, thread, &up))
			bail("give up", e.err);
		leaf = ERESUME;
	}
	fprintf(out, "%d %llx\n", ret, (unsigned long long)c->ret);
}

static void leaf_on(int thread, uint64_t leaf, uint64_t page, uint64_t flags, uint64_t src)
{
	struct call c = {.op = OP_ENCLU, .a = leaf, .b = page, .c = flags, .d = src, .ret = 77};

	enter(thread, &c);
}

/* Whether a page can be read and written now. */
static void touch(uint64_t page)
{
	struct call c = {.op = any(2) ? OP_PEEK : OP_POKE, .a = page + 8 * any(512), .b = any(1000)};

	enter(me, &c);
}

/* Each time that some leaves were made. */
static void *ours(void *p)
{
	uint64_t at = e.heap + HEAP * PAGE, next = 0, mine = 1;

	for (; !over; usleep(50)) {
		struct sgx_enclave_modify_types types = {
			.offset = at, .length = THEIRS * PAGE, .page_type = SI_TRIM >> 8 };
		struct sgx_enclave_remove_pages gone = {.offset = at, .length = THEIRS * PAGE};

		if (done < next)
			continue;
		mine = mine * 6364136223846793005ull + 1442695040888963407ull;
		next = done + 10 + (mine >> 33) % 80;
		switch ((mine >> 40) % 4) {
		case 0: /* not accepted: EPERM */
			ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &types);
			ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &gone);
			break;
		case 1:
			mprotect((void *)(e.base + at), THEIRS * PAGE, PROT_READ);
			mprotect((void *)(e.base + at), THEIRS * PAGE, PROT_READ | PROT_WRITE);
			break;
		default:
			pthread_kill(*(pthread_t *)p, SIGALRM);
		}
	}
	return NULL;
}

static void ask(uint64_t at, uint64_t n, uint64_t what);

/* A child shares the enclave for a while. */
static void share(void)
{
	int ends[2];
	pid_t child;
	char none;

	if (held >= 0) {
		close(held);
		held = -1;
		wait(NULL);
		return;
	}
	if (pipe(ends))
		bail("pipe", strerror(errno));
	child = fork();
	if (!child) {
		close(ends[1]);
		_exit(read(ends[0], &none, 1) != 0);
	}
	close(ends[0]);
	held = ends[1];
}

/* Something else, between two pages. */
static void between(uint64_t page)
{
	pid_t child;

	switch (any(10)) {
	case 0:
		child = fork();
		if (!child)
			_exit(0);
		waitpid(child, NULL, 0);
		break;
	case 1:
		raise(SIGUSR1);
		break;
	case 2:
		mprotect((void *)page, PAGE * (1 + any(4)), any(2) ? PROT_READ : PROT_READ | PROT_WRITE);
		break;
	case 3:
		mprotect((void *)(e.base + e.heap), HEAP * PAGE, PROT_READ | PROT_WRITE);
		break;
	case 4:
		leaf_on(me, EACCEPT, page + 8, NEW, 0);
		break;
	case 5:
		leaf_on(me, EACCEPT, page, any(2) ? NEW : SI_REG | SI_R | SI_PR, 0);
		break;
	case 6:
		kill(getpid(), SIGILL);
		break;
	case 7:
		ask(page - e.base, 1 + any(3), any(3));
		break;
	case 8:
		if (!me)
			share();
		break;
	default:
		touch(page);
	}
}

static void ask(uint64_t at, uint64_t n, uint64_t what)
{
	static const uint64_t perms[] = {SI_R, SI_R | SI_W, SI_R | SI_X, SI_R | SI_W | SI_X, 0};
	struct sgx_enclave_restrict_permissions restricted = {
		.offset = at, .length = n * PAGE, .permissions = perms[any(5)] };
	struct sgx_enclave_modify_types types = {
		.offset = at, .length = n * PAGE, .page_type = (what > 0 && at == e.free ? SI_TRIM : any(6) ? SI_TRIM : SI_TCS) >> 8 };
	struct sgx_enclave_remove_pages gone = { .offset = at, .length = n * PAGE };
	uint64_t count = 0, result = 0;
	int ret;

	errno = 0;
	if (what == 0) {
		ret = ioctl(e.fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restricted);
		count = restricted.count, result = restricted.result;
	} else if (what == 1) {
		ret = ioctl(e.fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &types);
		count = types.count, result = types.result;
	} else {
		ret = ioctl(e.fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &gone);
		count = gone.count;
	}
	fprintf(out, "ioctl %d %d %llx %llx\n", ret, errno, (unsigned long long)count,
	       (unsigned long long)result);
}

/* Runs of few pages among `n` from `zone` on. */
static void few(uint64_t zone, uint64_t n, uint64_t leaves)
{
	static const uint64_t more[] = {SI_R, SI_R | SI_W, SI_R | SI_W | SI_X, SI_R | SI_X};
	static const uint64_t less[] = {SI_REG | SI_R | SI_PR, SI_REG | SI_R | SI_W | SI_PR, SI_REG | SI_PR};

	while (leaves) {
		uint64_t length = 1 + any(9), first = zone + any(n - length) * PAGE, leaf = EACCEPT, info = NEW;
		uint64_t what = any(6);
		bool down = any(4);

		if (what == 2)
			leaf = EMODPE, info = SI_REG | more[any(4)];
		if (what == 3)
			ask(first - e.base, length, 0), info = less[any(3)];
		if (what == 4)
			ask(first - e.base, length, 1), info = SI_TRIM | SI_MODIFIED;
		for (uint64_t i = 0; i < length && leaves; i++, leaves--) {
			uint64_t page = first + (down ? length - 1 - i : i) * PAGE;

			if (!any(40))
				between(page);
			leaf_on(me, leaf, page, info, 0);
			if (!any(20))
				touch(page);
		}
		if (what == 4)
			ask(first - e.base, length, 2);
	}
}

static void *theirs(void *p)
{
	char **told = p;
	size_t size;

	me = 1, seed = 5, out = open_memstream(told, &size);
	few(e.base + e.free + ZONE / 2 * PAGE, ZONE / 2, pages);
	fclose(out);
	return NULL;
}

int main(int argc, char **argv)
{
	bool quiet = argc > 3;
	uint64_t grow = !quiet ? 0 : argv[3][0] == 'g' ? ZONE : argv[3][0] == 't';
	pthread_t other, self = pthread_self();
	uint64_t zone, turn = 0;
	char *told = NULL;

	out = stdout;
	sched_getaffinity(0, sizeof(places), &places);
	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	pages = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
	signal(SIGUSR1, handler);
	signal(SIGALRM, handler);
	signal(SIGILL, handler);
	if (encl_plan(&e, &(struct encl_opts){.threads = 2, .heap = (HEAP + THEIRS) * PAGE,
					      .size = (ZONE + HEAP + THEIRS + 64) * PAGE})
	    || encl_build(&e, 0))
		bail("load", e.err);
	encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
	zone = e.base + e.free;
	if (mmap((void *)zone, ZONE * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, e.fd, 0)
	    == MAP_FAILED)
		bail("map", strerror(errno));
	printf("%llx\n", (unsigned long long)e.heap);
	for (int i = 0; i < 40; i++) /* until no entry stops */
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	if (!quiet)
		pthread_create(&other, NULL, ours, &self);
	for (; grow && done < pages; done += grow) {
		for (uint64_t i = 0; i < grow; i++)
			leaf_on(0, EACCEPT, zone + i * PAGE, NEW, 0);
		if (grow > 1)
			where(turn++);
		ask(e.free, grow, 1);
		for (uint64_t i = grow; i-- > 0;)
			leaf_on(0, EACCEPT, zone + i * PAGE, SI_TRIM | SI_MODIFIED, 0);
		if (grow > 1)
			where(turn++);
		ask(e.free, grow, 2);
	}
	if (quiet && argv[3][0] == 'b')
		pthread_create(&other, NULL, theirs, &told);
	if (quiet && strchr("sb", argv[3][0])) {
		few(zone, ZONE / 2, pages);
		done = pages;
	}
	if (quiet && argv[3][0] == 'b') {
		pthread_join(other, NULL);
		fputs(told, stdout);
	}
	while (done < pages) {
		uint64_t n = 1 + any(any(4) ? 24 : 120), what = any(8), thread = any(4) ? 0 : any(2);
		bool fresh = what >= 4 && what <= 6, odd = !any(3), down = !any(3);
		uint64_t room = fresh ? ZONE : HEAP, first = any(room - n);
		uint64_t at = (fresh ? zone : e.base + e.heap) + first * PAGE;
		static const uint64_t flags[] = {
			SI_REG | SI_R | SI_PR, SI_REG | SI_R | SI_W | SI_PR, SI_TRIM | SI_MODIFIED,
			SI_TCS | SI_MODIFIED, SI_REG | SI_R | SI_W | SI_X | SI_PR, SI_REG | SI_R | SI_X | SI_PR,
			SI_REG | SI_PR, NEW};
		static const uint64_t more[] = {SI_R, SI_R | SI_W, SI_R | SI_W | SI_X, SI_W, SI_R | SI_X};
		uint64_t leaf = EACCEPT, info = fresh ? NEW : flags[any(any(2) ? 3 : 8)];

		if (what < 3)
			ask(at - e.base, n, what);
		if (what == 3)
			leaf = EMODPE, info = SI_REG | more[any(5)];
		if (what == 6)
			leaf = EACCEPTCOPY, info = SI_REG | SI_R | SI_W;
		for (uint64_t i = 0; i < n && done < pages; i++, done++) {
			uint64_t page = at + (down ? n - 1 - i : i) * PAGE;

			if (odd && !any(12))
				between(page);
			if (odd && !any(12))
				leaf_on((int)any(2), any(2) ? EACCEPT : EMODPE, page + (any(2) ? PAGE : 0), info, 0);
			leaf_on((int)thread, leaf, page, odd && !any(12) ? NEW : info, e.base + e.heap);
			if (odd && !any(6))
				touch(page);
		}
	}
	over = 1;
	if (!quiet)
		pthread_join(other, NULL);
	if (held >= 0)
		share();
	fflush(stdout);
	raise(SIGUSR2);
	return 0;
}
