/* SPDX-License-Identifier: MIT
 *
 * The same call again and again: a loader that adds its pages one by one, or a stretch at a time.
 *
 * No rule is written here. The tracer in Python has asked the law what it answers for the next
 * pages, should they come by the same call, with the same SECINFO, from the same mapping, and has
 * put into a block all that the law read. As long as each stop is that of the next pages, and all of
 * it compares equal, the answer is the known one, and what is left to do is a copy. Whatever
 * differs in anything goes to Python, untouched. docs/decisions/0015 says why.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>
#include "../sgx/follow.h"
#include "adds.h"
#include "copyin.h"
#include "procmap.h"
#include "putregs.h"
#include "together.h"

/*
 * The block: words of 64 bits, by these names (host/series.py reads them here).
 * tid: the thread. call, cmd, fd, rip, arch: what its stop has to be. fds: our descriptor of its
 * /proc/TID/fd; device, inode: of the file. length, page_flags: as they have to be in the argument.
 * next: the offset in the enclave of the next pages. secinfo, source, step: where the last SECINFO
 * and pages were, and how far apart pages are; a guess. secinfo_at, vma_at, patched: addresses here:
 * the 64 bytes that SECINFO has to be, the answer that the mapping has to be, and ranges where memory
 * reads otherwise than it is. maps: our descriptor of /proc/TID/maps. memory: of the enclave's pages.
 * copier: the address of a `struct copyin` for it, for more than a page. most: calls to take.
 * poll_ns: how long to poll before a wait blocks, 0 after a poll in vain. together: whether the
 * thread is to run where we do, 0 from where it cannot; cpu: where that is, from 1 on. shared: the
 * address here of what the process adds pages to itself (adds.h), 0 if it does not; armed: how many pages
 * it may add now. slot: the address here of its word on the short way, or 0. follow:
 * the address of what is told to who measures what comes (follow.h), or 0.
 * Told: done: calls taken; added: those of them that the process has made itself; got, status: of
 * whoever had something else to tell, 0 if nobody; lost: whether pages that the process has added could
 * not be kept.
 */
#define WORDS \
	F(tid) F(call) F(cmd) F(fd) F(rip) F(arch) F(fds) F(device) F(inode) F(length) F(page_flags) F(next) \
	F(secinfo) F(source) F(step) F(secinfo_at) F(vma_at) F(patched) F(n_patched) F(maps) \
	F(memory) F(copier) F(most) F(poll_ns) F(together) F(cpu) F(shared) F(armed) F(slot) F(follow) \
	F(done) F(added) F(got) F(status) F(lost)

#include "await.h"

#define F(name) #name " "
EXPORT const char softsgx_series_words[] = WORDS;
#undef F

#define PAGE 4096
#define LED 7 /* the jump to the code and the system call instruction behind it */
#define LONG_WAY 1 /* short.S: what is more in a slot is the row that its thread is inside by */
#define USER_END (1ull << 47)
#define SECCOMP_STOP (PTRACE_EVENT_SECCOMP << 16 | SIGTRAP << 8 | 0x7f)

/* struct sgx_enclave_add_pages; struct sgx_secinfo. tests/host holds them. */
struct add_pages {
	uint64_t src, offset, length, secinfo, flags, count;
};

struct secinfo {
	uint64_t words[8];
};

#define ANSWER(q) ((const char *)&(q)->start)
#define ANSWER_SIZE (offsetof(struct procmap, name_size) - offsetof(struct procmap, start))

struct page {
	struct add_pages add;
	struct secinfo secinfo;
	uint64_t data[PAGE / 8];
};

static bool is_patched(const struct block *b, uint64_t start, uint64_t length)
{
	const uint64_t *range = (const uint64_t *)b->patched;

	for (uint64_t i = 0; i < b->n_patched; i++, range += 2)
		if (range[0] < start + length && start < range[1])
			return true;
	return false;
}

static bool is_fd(const struct block *b)
{
	char name[24];
	struct stat st;

	snprintf(name, sizeof(name), "%u", (unsigned int)b->fd);
	return !fstatat((int)b->fds, name, &st, 0) && st.st_dev == b->device
	       && st.st_ino == b->inode;
}

/* Whether it is the call, by the thread's registers. */
static bool is_call(const struct block *b, struct user_regs_struct *regs)
{
	/* struct ptrace_syscall_info as far as its arch, which <sys/ptrace.h> does not have everywhere */
	struct {
		uint8_t op, pad[3];
		uint32_t arch;
	} info;

	if (ptrace(PTRACE_GETREGS, (pid_t)b->tid, NULL, regs) < 0)
		return false;
	if (b->slot && *(const volatile uint64_t *)b->slot > LONG_WAY)
		return false;
	if (regs->orig_rax != b->call || regs->rip != b->rip || (uint32_t)regs->rdi != b->fd
	    || (uint32_t)regs->rsi != b->cmd)
		return false;
	if (ptrace(0x420e /* GET_SYSCALL_INFO */, (pid_t)b->tid, sizeof(info), &info) < 0)
		return false;
	return info.arch == b->arch;
}

/* All of some bytes of the thread's, as it could read them. */
static bool read_all(const struct block *b, void *to, uint64_t from, size_t size)
{
	struct iovec ours = {to, size}, theirs = {(void *)from, size};

	return from < USER_END - size && !is_patched(b, from, size)
	       && process_vm_readv((pid_t)b->tid, &ours, 1, &theirs, 1, 0) == (ssize_t)size;
}

/*
 * The argument, SECINFO and, if it is one, the page, at once if they are where they are thought to
 * be. Of more than one page nothing is read yet.
 */
static bool read_page(const struct block *b, uint64_t argument, struct page *p)
{
	bool one = b->length == PAGE;
	struct iovec ours = {p, one ? sizeof(*p) : offsetof(struct page, data)}, theirs[3] = {
		{(void *)argument, sizeof(p->add)},
		{(void *)b->secinfo, sizeof(p->secinfo)},
		{(void *)b->source, sizeof(p->data)},
	};
	ssize_t n;

	if (argument >= USER_END - sizeof(p->add) || is_patched(b, argument, sizeof(p->add)))
		return false;
	n = process_vm_readv((pid_t)b->tid, &ours, 1, theirs, one ? 3 : 2, 0);
	if (n < (ssize_t)sizeof(p->add))
		return false;
	if (n < (ssize_t)(sizeof(p->add) + sizeof(p->secinfo)) || p->add.secinfo != b->secinfo)
		if (!read_all(b, &p->secinfo, p->add.secinfo, sizeof(p->secinfo)))
			return false;
	if (one && (n < (ssize_t)sizeof(*p) || p->add.src != b->source))
		return read_all(b, p->data, p->add.src, sizeof(p->data));
	return p->add.src < USER_END - b->length
	       && !is_patched(b, p->add.secinfo, sizeof(p->secinfo))
	       && !is_patched(b, p->add.src, b->length);
}

static bool is_vma(const struct block *b, uint64_t source)
{
	const struct procmap *known = (const struct procmap *)b->vma_at;
	struct procmap q;

	return procmap_query((int)b->maps, &q, source, known->query_flags) && source >= q.start && b->length <= q.end - source
	       && !memcmp(ANSWER(&q), ANSWER(known), ANSWER_SIZE);
}

static bool is_zero(const uint64_t *data)
{
	uint64_t any = 0;

	for (int i = 0; i < PAGE / 8; i++)
		any |= data[i];
	return !any;
}

/* What comes next into the enclave's memory, from a thread's or, of no thread, ours. */
static bool fill(const struct block *b, uint64_t tid, uint64_t from, uint64_t bytes)
{
	struct copyin *copier = (struct copyin *)b->copier;

	copier->tid = tid;
	copier->from = from;
	copier->to = b->next;
	copier->bytes = bytes;
	softsgx_copyin(copier);
	return copier->done;
}

/* The pages into the enclave's memory, which has none there: it is zero. False: nor has it now. */
static bool copy(const struct block *b, const struct page *p)
{
	if (b->length == PAGE)
		return is_zero(p->data)
		       || pwrite((int)b->memory, p->data, PAGE, (off_t)p->add.offset) == PAGE;
	return fill(b, b->tid, p->add.src, b->length);
}

/* Some pages into the enclave's memory, which is zero there. What is written is what was read once. */
static bool keep(const struct block *b, const uint8_t *pages, uint64_t n)
{
	for (uint64_t i = 0, end; i < n; i = end + 1) {
		for (end = i; end < n && !is_zero((const uint64_t *)(pages + end * PAGE)); end++)
			;
		for (uint64_t at = i * PAGE; at < end * PAGE;) {
			ssize_t wrote = pwrite((int)b->memory, pages + at, end * PAGE - at,
					       (off_t)(b->next + at));

			if (wrote <= 0)
				return false;
			at += (uint64_t)wrote;
		}
	}
	return true;
}

/* Whoever measures may go on. */
static void told(const struct block *b)
{
	struct follow *f = (struct follow *)b->follow;

	if (!f)
		return;
	if (((const struct copyin *)b->copier)->holes)
		f->holes = 1;
	follow_tell(f, &f->ready, b->next);
}

/*
 * From now on the process adds none, and what it has added is in the enclave. Whether that is all that it
 * might have added.
 */
static bool collect(struct block *b)
{
	uint8_t *shared = (uint8_t *)b->shared;
	uint64_t n, calls, armed = b->armed, each = b->length / PAGE;

	if (!shared)
		return false;
	n = (uint32_t)__atomic_exchange_n((uint64_t *)(shared + ADDS_STATE), 0, __ATOMIC_SEQ_CST);
	if (n > armed) /* it says so itself */
		n = armed;
	b->armed = 0;
	calls = n / each;
	if (!calls)
		return false;
	n = calls * each;
	if (!(each > 1 ? fill(b, 0, (uint64_t)shared + ADDS_PAGES, n * PAGE)
		       : keep(b, shared + ADDS_PAGES, n)))
		b->lost = 1;
	b->next += n * PAGE;
	b->source += calls * b->step;
	b->done += calls;
	b->added += calls;
	told(b);
	return n == armed;
}

/* The process may add all that are foreseen but the last, whose stop is the time to foresee more. */
static bool arm(struct block *b)
{
	uint8_t *shared = (uint8_t *)b->shared;
	uint64_t n = b->most - b->done, each = b->length / PAGE, most = ADDS_MOST / each;

	if (!shared || n < 2 || !most)
		return false;
	b->armed = (n - 1 < most ? n - 1 : most) * each;
	*(uint64_t *)(shared + ADDS_OFFSET) = b->next;
	__atomic_store_n((uint64_t *)(shared + ADDS_STATE), b->armed << 32, __ATOMIC_SEQ_CST);
	return true;
}

/* The thread goes on with these registers. */
static enum taken set(const struct block *b, struct user_regs_struct *regs)
{
	if (!put_regs((pid_t)b->tid, regs) || !go_on((pid_t)b->tid, b->cpu))
		return LOST; /* killed: its end is reported by a later wait */
	return TAKEN;
}

/*
 * Where the last calls left no room this one is made again, by the instruction that leads to the code. It compares
 * what we would, and reads the pages in a quarter of the time that it takes to read another process's.
 */
static enum taken again(struct block *b, struct user_regs_struct *regs)
{
	regs->rip -= LED;
	regs->orig_rax = (unsigned long long)-1;
	return set(b, regs);
}

/* One call, from its stop to where its thread runs on. Nothing is done that Python could not. */
static enum taken take(struct block *b)
{
	struct user_regs_struct regs;
	struct page p;
	struct iovec ours = {&p.add, sizeof(p.add)}, theirs = {NULL, sizeof(p.add)};
	bool full = collect(b);

	if (b->lost || !is_call(b, &regs))
		return OTHER;
	if (full && b->length > PAGE && arm(b))
		return again(b, &regs);
	if (!is_fd(b) || !read_page(b, regs.rdx, &p))
		return OTHER;
	if (p.add.src % PAGE || p.add.offset != b->next || p.add.length != b->length
	    || p.add.flags != b->page_flags
	    || memcmp(&p.secinfo, (const void *)b->secinfo_at, sizeof(p.secinfo))
	    || !is_vma(b, p.add.src) || !copy(b, &p))
		return OTHER;
	b->step = p.add.src - (b->source - b->step);
	b->source = p.add.src + b->step;
	b->secinfo = p.add.secinfo;
	b->next += b->length;
	b->done++;
	told(b);
	p.add.count = b->length;
	theirs.iov_base = (void *)regs.rdx;
	regs.rax = 0;
	if (process_vm_writev((pid_t)b->tid, &ours, 1, &theirs, 1, 0) != sizeof(p.add))
		regs.rax = (unsigned long long)-EFAULT;
	regs.orig_rax = (unsigned long long)-1;
	arm(b);
	return set(b, &regs);
}

/* Wait for stops of the thread with this status, and take them until `most` are taken, or something
 * else has happened. */
static void answer(struct block *b, int stop, enum taken (*take)(struct block *))
{
	while (b->done < b->most) {
		int status = 0;
		pid_t tid = wait_any(&b->poll_ns, &status);
		enum taken taken = OTHER;

		if (tid <= 0)
			return; /* a signal for Python, or nobody is left: its own wait says */
		if ((uint64_t)tid == b->tid && status == stop)
			taken = take(b);
		if (taken == OTHER) {
			b->got = (uint64_t)tid;
			b->status = (uint64_t)(uint32_t)status;
		}
		if (taken != TAKEN)
			return;
	}
}

/* Wait and take calls until `most` are taken, or something else has happened. */
EXPORT void softsgx_series(struct block *b)
{
	cpu_set_t was;

	b->done = b->added = b->got = b->status = b->lost = 0;
	if (b->most && b->together && !b->cpu) {
		b->cpu = stay((pid_t)b->tid, &was);
		b->together = b->cpu != 0;
	}
	answer(b, SECCOMP_STOP, take);
	collect(b);
}
