/* SPDX-License-Identifier: MIT
 *
 * usage: orders
 * Does what it is told on standard input, one order a line, and answers each with one line: 0, a
 * value, the name of an errno, or `fault VECTOR CODE` of an entry. All designs' ioctls are known,
 * so one program builds enclaves under each, with any mistake that the orders make.
 *
 * An order is `WORKER ORDER ARGUMENT…`; worker 0 exists from the start, `fork` and `spawn` make
 * others (1 to 7). Every worker has variables for file descriptors, of one letter. A place is a part
 * of the enclave: the name of a segment of the loader's plan (code, data, stack, tcs, ssa, tls), a
 * test page p0 to p15 behind them, pages from one on (p2+3), `base` (all segments) or `all` (ELRANGE).
 * tcs.1 is the second thread's. A mask is letters of r, w, x, or `-`. ELRANGE is at the same address in every worker.
 *
 *   open F MODE [PATH]           MODE r, w or rw; PATH else as SGX_DEVICE says
 *   close F | send F WORKER | recv F
 *   create F [debug=1 src=SOURCE dir=DIR]  ECREATE, of a DEBUG enclave if said; with a source SIGSTRUCT goes with it, in its own memory, of what was
 *                                planned (add … via=plan adds nothing), and INIT has none
 *   init F [src=SOURCE dir=DIR]  INIT signs what all workers added, in its order; SIGSTRUCT in its own memory
 *   add F PLACE KEY=VALUE…       via=pages|region|v20, src=SOURCE, perm=MASK, segment=MASK|auto, measure=1,
 *                                dir=DIRECTORY of a file source, mrmask=N, type=N, skew=BYTES (of the
 *                                place), value=N (what it returns), content=tcs (no function, but a TCS);
 *                                of several parts: code=SOURCE of the code, datadir=DIRECTORY of the rest
 *   aug F PLACE perm=MASK …      region after INIT, from no source
 *   mmap F PLACE MASK [any|private|validate|noreplace]   any: not MAP_FIXED, answers the offset from ELRANGE
 *   mprotect PLACE MASK | munmap PLACE | mremap PLACE PLACE | foreign PLACE (memory of no enclave)
 *   iocmprotect F PLACE MASK | extend F PLACE MASK
 *   mapsegment F PLACE SEGMENT MASK | segmentfd F NEW SEGMENT
 *   restrict F PLACE MASK | trim F PLACE | totcs F PLACE | remove F PLACE, each with v2 at the end for
 *                                the numbers of February 2022
 *   relax F PLACE MASK           which has no others
 *   ioctl F NUMBER POINTER       as it is
 *   enter                        an operation that does nothing
 *   peek PLACE | poke PLACE N    by enclave code; poke makes the page a function that returns N
 *   call PLACE                   run it: a page pN begins as a function that returns 0x1000 + N
 *   touch PLACE                  read it from outside: the value, or `signal NUMBER`
 *   accept PLACE MASK [pending|restricted|trim|tcs] | emodpe PLACE MASK | acceptcopy PLACE FROM MASK
 *   noexec [DIRECTORY]           it, else ORDERS_DIR, is a noexec mount from now on, for this worker
 *   could SOURCE MASK            whether memory like a source may become MASK: mprotect's answer
 *   hold N F ORDER…              another thread obeys the order, whose call is held at the Nth mark of its rule
 *                                (docs/how-to-write-a-rule.md); F: a descriptor of the device. "held", or the answer
 *   another SOURCE [dir=DIR value=N]  other memory where the last source of add was, for a page that returns N
 *   go F                         the held call goes on: the order's answer
 *   remap PLACE                  remap_file_pages
 *   debug PLACE N                a process that debugs the worker writes the page as poke does, by /proc/PID/mem
 *   setcon CONTEXT | changeprofile NAME   as libselinux and libapparmor do it
 *   exec PROGRAM                 the worker executes another file of this program, and keeps its descriptors
 *   fork WORKER | spawn WORKER PROGRAM (another file of this program) | exit
 * Sources: see lib/source.h. ORDERS_DIR in the environment says where files are.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "added.h"
#include "changes.h"
#include "fds.h"
#include "held.h"
#include "loader.h"
#include "noexec.h"
#include "sgx2.h"
#include "softsgx_designs.h"
#include "source.h"
#include "tap.h"
#include "touched.h"
#include "words.h"
#include "workers.h"

#define BASE 0x100000000000ull
#define TEST_PAGES 16

static struct encl e;
static uint64_t test_pages; /* offset of p0 */
static int fds[128], me;

/* -- answers ------------------------------------------------------------------------------- */

static void answer(const char *fmt, ...)
{
	char line[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (reply_to)
		return (void)strcpy(reply_to, line);
	if (send(orders(me, 1), line, strlen(line), 0) < 0)
		_exit(1);
}

static void answer_call(long ret)
{
	if (ret == -1)
		answer("%s", strerrorname_np(errno));
	else
		answer("%ld", ret);
}

static struct sgx_enclave_run faulted;

/* Called by the vDSO at every way out. The interrupted computation is given up: it goes on by leaving
 * the enclave, which gives its SSA frame back. */
static int give_up(long rdi, long rsi, long rdx, long rsp, long r8, long r9, struct sgx_enclave_run *run)
{
	struct call up = {.op = OP_GIVE_UP};
	struct sgx_enclave_run again = {.tcs = run->tcs};

	(void)rdi, (void)rsi, (void)rdx, (void)rsp, (void)r8, (void)r9;
	if (run->function == EEXIT || faulted.function)
		return 0;
	faulted = *run;
	if (run->function == EENTER || encl_vdso_enter(&up, EENTER, &again) || again.function != EEXIT)
		return 0;
	return ERESUME;
}

static void answer_entry(struct call *c, bool value)
{
	struct sgx_enclave_run run = {.user_handler = (uint64_t)give_up};
	int ret;

	faulted.function = 0;
	ret = encl_call(&e, me % e.threads, c, &run);
	if (ret)
		answer("vdso %d", ret);
	else if (faulted.function)
		answer("fault %u %#x", faulted.exception_vector, faulted.exception_error_code);
	else
		answer("%#lx", value ? c->ret : 0);
}

/* -- words --------------------------------------------------------------------------------- */

static int *var(int i) { return &fds[word(i)[0] & 127]; }

static uint64_t mask(const char *text) { return (uint64_t)letters(text); }

static const char *directory(const char *name) { return option(name, getenv("ORDERS_DIR")); }

struct place {
	uint64_t off, len;
};

static struct place place(const char *name)
{
	const char *dot = strchr(name, '.');
	size_t n = dot ? (size_t)(dot - name) : strlen(name);

	if (name[0] == 'p' && name[1] >= '0' && name[1] <= '9') {
		char *more;
		uint64_t first = strtoull(name + 1, &more, 10);

		return (struct place){test_pages + first * PAGE, (*more == '+' ? number(more + 1) : 1) * PAGE};
	}
	if (!strcmp(name, "all"))
		return (struct place){0, e.size};
	if (!strcmp(name, "base"))
		return (struct place){0, test_pages};
	for (int i = 0, nth = dot ? atoi(dot + 1) : 0; i < e.nseg; i++)
		if (!strncmp(e.seg[i].name, name, n) && !e.seg[i].name[n] && !nth--)
			return (struct place){e.seg[i].off, e.seg[i].len};
	answer("no place %s", name);
	return (struct place){0};
}

/* -- sources ------------------------------------------------------------------------------- */

static void order_noexec(void)
{
	const char *dir = nwords > 1 ? word(1) : getenv("ORDERS_DIR");

	answer_call(mount_noexec(dir ? dir : "/tmp"));
}

static void order_could(void)
{
	static uint8_t content[PAGE] __attribute__((aligned(4096)));
	void *p = source(word(1), directory("dir"), content, PAGE);

	answer_call(p == MAP_FAILED ? -1 : mprotect(p, PAGE, (int)mask(word(2))));
}

/* -- building ------------------------------------------------------------------------------ */

/* A function that returns `value`. */
static void function(uint8_t *at, uint64_t value)
{
	at[0] = 0xb8;
	for (int i = 0; i < 4; i++)
		at[1 + i] = (uint8_t)(value >> (8 * i));
	at[5] = at[6] = at[7] = 0xc3;
}

/* Where the last page was added from, and what is remembered of its content. */
static void *last_source;
static uint8_t *last_content;

static long add_one(int fd, const struct encl_seg *s, const char *from, const char *dir)
{
	const char *via = option("via", "pages");
	struct secinfo info = {.flags = s->flags};
	uint64_t skew = number(option("skew", "0"));
	void *src = NULL;
	long ret;

	if (option("type", NULL))
		info.flags = (info.flags & 7) | number(option("type", NULL)) << 8;
	if (strcmp(from, "none")) {
		src = source(from, dir, s->src, s->len);
		if (src == MAP_FAILED)
			return -1;
		last_source = src;
		last_content = (uint8_t *)s->src;
	}
	if (!strcmp(via, "plan")) {
		ret = 0;
	} else if (!strcmp(via, "v20")) {
		for (uint64_t at = 0; at < s->len; at += PAGE) {
			struct sgx_enclave_add_page_v20 arg = {
				.addr = BASE + s->off + at + skew, .src = (uint64_t)src + at,
				.secinfo = (uint64_t)&info,
				.mrmask = (uint16_t)number(option("mrmask", s->measure ? "0xffff" : "0"))};

			ret = ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGE_V20, &arg);
			if (ret)
				break;
		}
	} else if (!strcmp(via, "region")) {
		struct sgx_add_region arg = {
			.src = (uint64_t)src, .offset = s->off + skew, .length = s->len,
			.secinfo = (uint64_t)&info, .flags = s->measure,
			.segment = mask(option("segment", "-"))};

		if (!strcmp(option("segment", ""), "auto"))
			arg.segment = (uint64_t)seg_prot(s);
		if (option("only", NULL)) /* of these, whatever they are */
			arg.segment &= mask(option("only", "-"));
		ret = ioctl(fd, SGX_IOC_ADD_REGION, &arg);
	} else {
		struct sgx_enclave_add_pages arg = {
			.src = (uint64_t)src, .offset = s->off + skew, .length = s->len,
			.secinfo = (uint64_t)&info, .flags = s->measure};

		ret = ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg);
	}
	if (src && munmap(src, s->len))
		return -1;
	return ret;
}

static void order_add(bool late)
{
	struct place where = place(word(2));
	static uint8_t buffer[TEST_PAGES * PAGE] __attribute__((aligned(4096)));
	long ret = 0;

	if (word(2)[0] == 'p' || late) {
		uint64_t flags = SI_REG | mask(option("perm", "r"));
		uint8_t *content = buffer;
		struct encl_seg s = {"test", where.off, where.len, flags, content,
				     !late && number(option("measure", "1")), false};

		memset(content, 0, where.len);
		for (uint64_t at = 0; at < where.len; at += PAGE)
			if (!strcmp(option("content", ""), "tcs"))
				/* What EACCEPT of a page that EMODT made a TCS wants. */
				*(struct tcs *)(content + at) = (struct tcs){.nssa = 1, .fslimit = 0xfff, .gslimit = 0xfff};
			else
				function(content + at, option("value", NULL) ? number(option("value", NULL))
				 : 0x1000 + (where.off - test_pages + at) / PAGE);
		ret = add_one(*var(1), &s, late ? "none" : option("src", "anon_rw"), directory("dir"));
		if (!ret && !late)
			remember(&s);
		return answer_call(ret);
	}
	for (int i = 0; i < e.nseg && !ret; i++) {
		struct encl_seg s = e.seg[i];
		uint8_t *whole;

		if (s.off < where.off || s.off >= where.off + where.len)
			continue;
		whole = mmap(NULL, s.len, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (!s.repeat)
			memcpy(whole, s.src, s.len);
		s.src = whole;
		s.repeat = false;
		if (s.flags & SI_X)
			ret = add_one(*var(1), &s, option("code", option("src", "file_rx")), directory("dir"));
		else
			ret = add_one(*var(1), &s, option("src", "anon_rw"),
				      option("datadir", directory("dir")));
		if (!ret)
			remember(&s);
	}
	answer_call(ret);
}

/* CREATE or INIT, with the SIGSTRUCT of what was added; src=SOURCE: in memory of its own. */
static long with_sigstruct(unsigned long request, __u64 *field, void *arg)
{
	const char *from = option("src", NULL);
	void *copy = NULL;
	long ret;

	sign_added(&e);
	*field = (uint64_t)&e.sig;
	if (from) {
		copy = source(from, directory("dir"), &e.sig, sizeof(e.sig));
		if (copy == MAP_FAILED)
			return -1;
		*field = (uint64_t)copy;
	}
	ret = ioctl(*var(1), request, arg);
	return copy && munmap(copy, sizeof(e.sig)) ? -1 : ret;
}

static void order_init(void)
{
	struct sgx_enclave_init arg = {0};

	answer_call(added->planned ? ioctl(*var(1), SGX_IOC_ENCLAVE_INIT, &arg)
				   : with_sigstruct(SGX_IOC_ENCLAVE_INIT, &arg.sigstruct, &arg));
}

static void order_create(void)
{
	struct sgx_enclave_create arg = {.src = (uint64_t)&e.secs};
	struct sgx_enclave_create_sigstruct with = {.src = (uint64_t)&e.secs};

	if (option("debug", NULL))
		added->attributes = e.secs.attributes |= ATTR_DEBUG;
	if (!option("src", NULL))
		return answer_call(ioctl(*var(1), SGX_IOC_ENCLAVE_CREATE, &arg));
	answer_call(with_sigstruct(SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT, &with.sigstruct, &with));
	added->planned = true;
}

static void order_open(void)
{
	int mode = strcmp(word(2), "r") ? strcmp(word(2), "w") ? O_RDWR : O_WRONLY : O_RDONLY;
	int fd = open(nwords > 3 ? word(3) : encl_device(), mode | O_CLOEXEC);

	if (fd >= 0)
		*var(1) = fd;
	answer_call(fd < 0 ? -1 : 0);
}

/* -- mapping ------------------------------------------------------------------------------- */

static void order_mmap(void)
{
	struct place where = place(word(2));
	void *at = (void *)(BASE + where.off), *got;
	int flags = MAP_SHARED;

	if (!strcmp(word(4), "noreplace"))
		flags |= MAP_FIXED_NOREPLACE;
	else if (strcmp(word(4), "any"))
		flags |= MAP_FIXED;
	else
		at = NULL;
	if (!strcmp(word(4), "private"))
		flags ^= MAP_SHARED | MAP_PRIVATE;
	if (!strcmp(word(4), "validate"))
		flags |= MAP_SHARED_VALIDATE;
	got = mmap(at, where.len, (int)mask(word(3)), flags, *var(1), 0);
	if (got == MAP_FAILED)
		return answer_call(-1);
	answer(at ? "%ld" : "aligned %d", at ? (long)got - (long)at : !((uint64_t)got % where.len));
}

static void order_sgx2(void)
{
	struct place where = place(word(2));
	bool v2 = !strcmp(word(nwords - 1), "v2") || !strcmp(word(0), "relax");

	answer_call((v2 ? sgx2_v2 : sgx2)(*var(1), word(0), where.off, where.len, mask(word(3))));
}

static void order_design(void)
{
	struct place where = place(word(2));
	uint64_t at = BASE + where.off;
	struct sgx_mprotect p = {at, where.len, mask(word(3))};
	struct sgx_extend_permissions x = {where.off, where.len, mask(word(3))};
	struct sgx_map_segment s = {at, where.len, mask(word(3)), mask(word(4))};

	if (!strcmp(word(0), "iocmprotect"))
		answer_call(ioctl(*var(1), SGX_IOC_MPROTECT, &p));
	else if (!strcmp(word(0), "extend"))
		answer_call(ioctl(*var(1), SGX_IOC_EXTEND_PERMISSIONS, &x));
	else
		answer_call(ioctl(*var(1), SGX_IOC_MAP_SEGMENT, &s));
}

static void order_segmentfd(void)
{
	struct sgx_segment_fd arg = {mask(word(3)), O_CLOEXEC};
	int fd = ioctl(*var(1), SGX_IOC_SEGMENT_FD, &arg);

	if (fd >= 0)
		*var(2) = fd;
	answer_call(fd < 0 ? -1 : 0);
}

/* -- inside -------------------------------------------------------------------------------- */

static void order_inside(void)
{
	bool nothing = !strcmp(word(0), "enter");
	struct call c = {.op = nothing ? OP_NOP : OP_PEEK, .a = nothing ? 0 : BASE + place(word(1)).off};

	if (!strcmp(word(0), "poke")) {
		uint8_t code[8];

		function(code, number(word(2)));
		c.op = OP_POKE;
		memcpy(&c.b, code, 8);
		return answer_entry(&c, false);
	}
	if (!strcmp(word(0), "call"))
		c.op = OP_CALL;
	answer_entry(&c, !nothing);
}

static void order_debug(void)
{
	uint8_t code[8];

	function(code, number(word(2)));
	answer_call(debugged_write(BASE + place(word(1)).off, code, sizeof(code)));
}

static void order_touch(void)
{
	uint64_t value;
	int number = touched(BASE + place(word(1)).off, &value);

	number ? answer("signal %d", number) : answer("%#lx", value);
}

static void order_enclu(void)
{
	uint64_t flags = SI_REG | mask(word(2));

	if (!strcmp(word(3), "pending"))
		flags |= SI_PENDING;
	if (!strcmp(word(3), "restricted"))
		flags |= SI_PR;
	if (!strcmp(word(3), "trim"))
		flags = SI_TRIM | SI_MODIFIED;
	if (!strcmp(word(3), "tcs"))
		flags = SI_TCS | SI_MODIFIED;
	struct call c = {.op = OP_ENCLU, .a = strcmp(word(0), "accept") ? EMODPE : EACCEPT,
			 .b = BASE + place(word(1)).off, .c = flags};
	answer_entry(&c, true);
}

static void order_acceptcopy(void)
{
	struct call c = {.op = OP_ENCLU, .a = EACCEPTCOPY, .b = BASE + place(word(1)).off,
			 .c = SI_REG | mask(word(3)), .d = BASE + place(word(2)).off};
	answer_entry(&c, true);
}

/* -- workers ------------------------------------------------------------------------------- */

static void order_send(void)
{
	char byte = 0;
	int done;

	if (!strcmp(word(0), "send"))
		return answer_call(send_fd(inbox((int)number(word(2)), 1), *var(1), &byte, 1, 0));
	done = receive_fd(inbox(me, 0), var(1), &byte, 1, MSG_CMSG_CLOEXEC);
	return done == 1 ? answer("nothing") : answer_call(done);
}

static void order_exec(void)
{
	execute(word(1), me, fds);
	answer_call(-1);
}

static void order_context(void) { answer_call(change_context(word(0), word(1))); }

static void order_fork(void)
{
	int worker = (int)number(word(1));
	char text[8];
	pid_t pid = fork();

	if (pid == 0) {
		me = worker;
		if (!strcmp(word(0), "spawn")) {
			snprintf(text, sizeof(text), "%d", worker);
			execl(word(2), word(2), text, NULL);
		}
		return;
	}
	answer_call(pid < 0 ? -1 : 0);
}

/* -- held calls ------------------------------------------------------------------------------ */

static void obey(void);

static void obey_line(char *line) { split(line), obey(); }

static void order_hold(void)
{
	char line[400] = "";

	for (int i = 3; i < nwords; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), "%s ", word(i));
	answer("%s", hold_next(*var(2), number(word(1)), line, obey_line));
}

static void order_go(void) { answer("%s", go_on(*var(1))); }

static void order_another(void)
{
	static uint8_t content[PAGE] __attribute__((aligned(4096)));
	void *p;

	function(content, number(option("value", "0")));
	p = source(word(1), directory("dir"), content, PAGE);
	memcpy(last_content, content, PAGE); /* that is what will be measured */
	answer_call(p == MAP_FAILED
		    || mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, last_source) == MAP_FAILED ? -1 : 0);
}

static void obey(void)
{
	static const struct {
		const char *names;
		void (*run)(void);
	} table[] = {
		{"open", order_open}, {"create", order_create}, {"init", order_init},
		{"send recv", order_send}, {"fork spawn", order_fork}, {"mmap", order_mmap},
		{"restrict relax trim totcs remove", order_sgx2}, {"iocmprotect extend mapsegment", order_design},
		{"segmentfd", order_segmentfd}, {"peek poke call enter", order_inside},
		{"accept emodpe", order_enclu}, {"touch", order_touch},
		{"noexec", order_noexec}, {"could", order_could},
		{"debug", order_debug}, {"exec", order_exec}, {"setcon changeprofile", order_context},
		{"acceptcopy", order_acceptcopy}, {"hold", order_hold}, {"go", order_go}, {"another", order_another},
	};
	const char *name = word(0);
	struct place a, b;

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *at = strstr(table[i].names, name);
		size_t n = strlen(name);

		if (at && (at == table[i].names || at[-1] == ' ') && (!at[n] || at[n] == ' '))
			return table[i].run();
	}
	if (!strcmp(name, "add") || !strcmp(name, "aug"))
		return order_add(!strcmp(name, "aug"));
	if (!strcmp(name, "close"))
		return answer_call(close(*var(1)));
	if (!strcmp(name, "ioctl"))
		return answer_call(ioctl(*var(1), number(word(2)), number(word(3))));
	if (!strcmp(name, "exit"))
		_exit(0);
	a = place(word(1));
	if (!strcmp(name, "mprotect"))
		return answer_call(mprotect((void *)(BASE + a.off), a.len, (int)mask(word(2))));
	if (!strcmp(name, "foreign"))
		return answer_call(mmap((void *)(BASE + a.off), a.len, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
	if (!strcmp(name, "remap"))
		return answer_call(remap_file_pages((void *)(BASE + a.off), a.len, 0, a.off / PAGE, 0));
	if (!strcmp(name, "munmap"))
		return answer_call(munmap((void *)(BASE + a.off), a.len));
	if (!strcmp(name, "mremap")) {
		b = place(word(2));
		return answer_call(mremap((void *)(BASE + a.off), a.len, b.len,
					  MREMAP_MAYMOVE | MREMAP_FIXED, BASE + b.off) == MAP_FAILED ? -1 : 0);
	}
	answer("no order %s", name);
}

static void work(void)
{
	char line[400];
	ssize_t n;

	while ((n = recv(orders(me, 1), line, sizeof(line) - 1, 0)) > 0) {
		line[n] = 0;
		obey_line(line);
	}
	_exit(0);
}

static void lead(void)
{
	char *line = NULL, reply[200];
	size_t room = 0;
	ssize_t n;

	while ((n = getline(&line, &room, stdin)) > 0) {
		int worker, skip = 0;

		while (n && (line[n - 1] == '\n' || line[n - 1] == ' '))
			line[--n] = 0;
		if (!n || line[0] == '#')
			continue;
		if (sscanf(line, "%d %n", &worker, &skip) != 1 || worker < 0 || worker >= WORKERS) {
			puts("no worker");
			continue;
		}
		send(orders(worker, 0), line + skip, strlen(line + skip), 0);
		if (!strcmp(line + skip, "exit"))
			continue;
		n = recv(orders(worker, 0), reply, sizeof(reply) - 1, 0);
		reply[n > 0 ? n : 0] = 0;
		puts(n > 0 ? reply : "gone");
		fflush(stdout);
	}
	for (int worker = 0; worker < WORKERS; worker++)
		send(orders(worker, 0), "exit", 4, MSG_DONTWAIT);
}

int main(int argc, char **argv)
{
	if (encl_plan(&e, &(struct encl_opts){.threads = 2, .size = 1 << 19}))
		bail("plan", e.err);
	e.base = e.secs.base = BASE;
	test_pages = e.free;
	share_added(argc < 2);
	if (argc > 1) {
		me = atoi(argv[1]);
		if (executed(argc, argv, fds))
			answer("0");
		work();
	}
	if (connect_workers())
		bail("sockets", strerror(errno));
	if (fork() == 0)
		work();
	lead();
	return 0;
}
