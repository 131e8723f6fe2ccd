/* SPDX-License-Identifier: MIT
 *
 * What exec has made again: a program that was exec'd before gets what it got then.
 *
 * Nothing is decided here. The tracer in Python has prepared such a program once, and has put into a
 * recipe which files it was mapped of, what was read of it, and what was written into it. Where the
 * mappings are the same ones, the files have not changed, and what was read is there again, the same
 * is written; whatever differs goes to Python, before anything was touched. docs/decisions/0018 says
 * why.
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
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cpuids.h"
#include "execs.h"
#include "procmap.h"

#define WORDS EXECS_WORDS
#include "block.h"

#define F(name) #name " "
EXPORT const char softsgx_execs_words[] = WORDS;
#undef F

#define USER_CS 0x33
#define STACK_BYTES 3072
#define AT_BASE_ 7
#define AT_SYSINFO_EHDR_ 33
#define NEAR (1ull << 32)
#define SECCOMP_STOP (PTRACE_EVENT_SECCOMP << 16 | SIGTRAP << 8 | 0x7f)

/* A mapping. at: from the interpreter's start if it is near that, else from the first one. */
struct map {
	uint64_t size, offset, inode, device, flags, at;
};

/* What a file is told by. name: a path of it, 0 for the mapping's own link. */
struct file {
	uint64_t map, name, device, inode, size, modified_ns, changed_ns;
};

/* A number in a piece: value + the address of one base - that of another. */
struct number {
	uint64_t where, width, value, plus, minus;
};

/* Bytes at an offset from a base. was: what is there before, 0 if that is not looked at. */
struct piece {
	uint64_t base, offset, size, data, was, numbers, n_numbers;
};

/* traps: CPUIDs that have stopped, MOST_TRAPS of them, each in a mapping; 0 bytes in it is none.
 * real, low: how far below the interpreter the kernel's vDSO begins, and our memory ends. paths:
 * whether the code for paths goes in. before: the calls, which are over the vDSO's code for a
 * while, the rows first. */
struct recipe {
	uint64_t maps, n_maps, real, low, files, n_files, paths, before, n_rows, code, after, pieces, n_pieces, traps;
};

struct trap {
	uint64_t map, offset;
};

/* Bases: nothing, our vDSO, the kernel's, the code for paths, then the mappings. */
enum { NOTHING, OURS, REAL, PATHS, MAPS };

struct program {
	uint64_t slot, interpreter, bases[MAPS + MOST_MAPS];
	int mem;
};

static uint64_t word_behind(const uint64_t *words, size_t n, size_t *at, size_t step, uint64_t kind)
{
	for (; *at + 1 < n; *at += step)
		if (words[*at] == kind)
			return words[*at + 1];
	return 0;
}

/* As execve.py has it: both are there, in this order, and what stands before them are addresses. */
static bool read_auxv(struct program *p, struct block *b, uint64_t sp)
{
	static uint64_t words[STACK_BYTES / 8];
	ssize_t n = pread(p->mem, words, sizeof(words), (off_t)sp);
	size_t count = n > 0 ? (size_t)n / 8 : 0, at = 1;

	b->real = word_behind(words, count, &at, 1, AT_SYSINFO_EHDR_);
	p->slot = sp + 8 * at + 8;
	if (!b->real)
		return false;
	p->interpreter = word_behind(words, count, &at, 2, AT_BASE_);
	p->bases[REAL] = b->real;
	return p->interpreter != 0;
}

/* The executable mappings of files. */
static bool read_maps(struct program *p, struct block *b)
{
	struct map *found = (struct map *)b->found;
	uint64_t *starts = (uint64_t *)b->starts;
	struct procmap q = {.end = 0};
	char name[40];
	int fd;
	bool good = false;

	snprintf(name, sizeof(name), "/proc/%u/maps", (unsigned int)b->tid);
	fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	b->n_found = 0;
	while (procmap_query(fd, &q, q.end, PROCMAP_NEXT | PROCMAP_FILE | PROCMAP_EXECUTABLE)) {
		uint64_t n = b->n_found, from;

		if (n == MOST_MAPS)
			goto out;
		from = q.start - p->interpreter + NEAR < 2 * NEAR ? p->interpreter
		       : n					   ? starts[0]
								   : q.start;
		found[n] = (struct map){q.end - q.start, q.offset, q.inode,
					(uint64_t)q.major << 32 | q.minor, q.flags,
					q.start - from};
		starts[n] = p->bases[MAPS + n] = q.start;
		b->n_found++;
	}
	good = errno == ENOENT;
out:
	close(fd);
	return good;
}

static bool is_file(const struct block *b, const struct program *p, const struct file *f)
{
	const struct map *m = (const struct map *)b->found + f->map;
	uint64_t start = p->bases[MAPS + f->map];
	char name[80];
	struct stat s;

	snprintf(name, sizeof(name), "/proc/%u/map_files/%llx-%llx", (unsigned int)b->tid,
		 (unsigned long long)start, (unsigned long long)(start + m->size));
	return !stat(f->name ? (const char *)f->name : name, &s) && s.st_dev == f->device
	       && s.st_ino == f->inode && (uint64_t)s.st_size == f->size
	       && (uint64_t)s.st_mtim.tv_sec * 1000000000 + (uint64_t)s.st_mtim.tv_nsec
			  == f->modified_ns
	       && (uint64_t)s.st_ctim.tv_sec * 1000000000 + (uint64_t)s.st_ctim.tv_nsec
			  == f->changed_ns;
}

static bool is_there(int mem, uint64_t at, const void *bytes, uint64_t size)
{
	static char there[65536];

	return size <= sizeof(there) && pread(mem, there, size, (off_t)at) == (ssize_t)size
	       && !memcmp(there, bytes, size);
}

/* The numbers of a piece, for this process. */
static bool fill(const struct program *p, const struct piece *piece)
{
	const struct number *number = (const struct number *)piece->numbers;

	for (uint64_t i = 0; i < piece->n_numbers; i++, number++) {
		uint64_t value = number->value + p->bases[number->plus] - p->bases[number->minus];

		if (number->width == 4 && (int64_t)value != (int32_t)value)
			return false;
		memcpy((char *)piece->data + number->where, &value, number->width);
	}
	return true;
}

static bool write_piece(const struct program *p, const struct piece *piece)
{
	return pwrite(p->mem, (const void *)piece->data, piece->size,
		      (off_t)(p->bases[piece->base] + piece->offset))
	       == (ssize_t)piece->size;
}

/* Where our memory will be. */
static bool place(struct block *b, struct program *p, const struct recipe *r)
{
	uint64_t low = p->interpreter - r->low;

	if (b->real != p->interpreter - r->real || low <= b->whole)
		return false;
	b->base = low - b->whole;
	b->paths = 0;
	if (b->place != ~0ull && b->base > b->room + b->place)
		b->paths = b->place + (b->base - b->room - b->place) / b->align * b->align;
	if (b->paths < b->lowest)
		b->paths = 0;
	p->bases[OURS] = b->base;
	p->bases[PATHS] = b->paths;
	return r->paths == !!b->paths;
}

/* The recipe of this program, if there is one and all is as it was. */
static struct recipe *find(struct block *b, struct program *p)
{
	struct recipe *recipe = NULL;
	const struct file *file;
	struct piece *piece;

	for (uint64_t i = 0; i < b->n_recipes && !recipe; i++) {
		struct recipe *r = ((struct recipe **)b->recipes)[i];

		if (r->n_maps == b->n_found
		    && !memcmp((void *)r->maps, (void *)b->found, r->n_maps * sizeof(struct map))
		    && place(b, p, r)) {
			recipe = r;
			b->recipe = i;
		}
	}
	if (!recipe)
		return NULL;
	file = (const struct file *)recipe->files;
	for (uint64_t i = 0; i < recipe->n_files; i++)
		if (!is_file(b, p, file + i))
			return NULL;
	piece = (struct piece *)recipe->pieces;
	for (uint64_t i = 0; i < recipe->n_pieces; i++, piece++)
		if (!fill(p, piece)
		    || (piece->was
			&& !is_there(p->mem, p->bases[piece->base] + piece->offset,
				     (const void *)piece->was, piece->size)))
			return NULL;
	return fill(p, (struct piece *)recipe->before) ? recipe : NULL;
}

/* Let it make its calls: they are over the kernel's vDSO, and every signal is blocked meanwhile. */
static enum stage begin(struct block *b, const struct program *p, const struct recipe *recipe)
{
	const struct piece *before = (const struct piece *)recipe->before;
	struct user_regs_struct *regs = (struct user_regs_struct *)b->regs, work;
	uint64_t all = ~0ull, at = b->real + before->offset;
	pid_t tid = (pid_t)b->tid;

	regs->orig_rax = (unsigned long long)-1; /* as they are behind the call */
	regs->rax = 0;
	work = *regs;
	work.rbx = at;
	work.rbp = recipe->n_rows;
	work.rip = at + recipe->code;
	work.r13 = work.rip + b->batch;
	if (!write_piece(p, before) || ptrace(PTRACE_GETSIGMASK, tid, 8, &b->mask) < 0
	    || ptrace(PTRACE_SETSIGMASK, tid, 8, &all) < 0
	    || ptrace(PTRACE_SETREGS, tid, NULL, &work) < 0
	    || ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
		return GONE;
	return WAITING;
}

static void wait_one(struct block *b)
{
	uint64_t end = b->poll_ns ? now_ns() + b->poll_ns : 0;
	pid_t got = 0;
	int status = 0;

	while (end && !got) {
		got = waitpid((pid_t)b->tid, &status, __WALL | WNOHANG);
		if (now_ns() > end)
			b->poll_ns = end = 0;
	}
	if (!got)
		got = waitpid((pid_t)b->tid, &status, __WALL);
	b->got = got > 0 ? (uint64_t)got : got < 0 && errno == ECHILD ? ~0ull : 0;
	b->status = (uint64_t)(uint32_t)status;
}

static bool is_fault(uint64_t status)
{
	int number = (int)(status >> 8);

	return (status & 0xff) == 0x7f
	       && (number == SIGILL || number == SIGBUS || number == SIGSEGV);
}

static enum stage finish(struct block *b, struct program *p, const struct recipe *recipe)
{
	const struct piece *before = (const struct piece *)recipe->before, *piece;
	struct user_regs_struct *regs = (struct user_regs_struct *)b->regs, work;
	pid_t tid = (pid_t)b->tid;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &work) < 0
	    || ptrace(PTRACE_SETSIGMASK, tid, 8, &b->mask) < 0)
		return GONE;
	b->made = (work.rbx - b->real - before->offset) / 64;
	b->answer = work.r12;
	pwrite(p->mem, (const void *)recipe->after, before->size,
	       (off_t)(b->real + before->offset));
	if (b->made != recipe->n_rows || b->status != SECCOMP_STOP)
		return PARTLY;
	piece = (const struct piece *)recipe->pieces;
	for (uint64_t i = 0; i < recipe->n_pieces; i++)
		write_piece(p, piece + i);
	pwrite(p->mem, &b->base, 8, (off_t)p->slot);
	for (int i = 0; i < MOST_TRAPS; i++) {
		const struct trap *trap = (const struct trap *)recipe->traps + i;

		((uint64_t *)b->traps)[i] = trap->offset ? p->bases[MAPS + trap->map] + trap->offset : 0;
	}
	if (ptrace(PTRACE_SETREGS, tid, NULL, regs) < 0 || ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
		return GONE;
	return DONE;
}

static bool look(struct block *b, struct program *p)
{
	struct user_regs_struct *regs = (struct user_regs_struct *)b->regs;
	char name[40];

	snprintf(name, sizeof(name), "/proc/%u/mem", (unsigned int)b->tid);
	p->mem = open(name, O_RDWR | O_CLOEXEC);
	b->mem = (uint64_t)(int64_t)p->mem;
	return p->mem >= 0 && ptrace(PTRACE_GETREGS, (pid_t)b->tid, NULL, regs) >= 0
	       && regs->cs == USER_CS && read_auxv(p, b, regs->rsp) && read_maps(p, b)
	       && is_there(p->mem, b->real, (const void *)b->real_head, b->head_size);
}

/* From PTRACE_EVENT_EXEC; or, where Python has let it run on, from its calls. */
EXPORT void softsgx_execs(void *words)
{
	struct block *b = words;
	static struct program p;
	static struct recipe *recipe;

	if (b->stage != WAITING) {
		p = (struct program){.mem = -1};
		b->n_found = b->paths = b->made = 0;
		recipe = look(b, &p) ? find(b, &p) : NULL;
		b->stage = recipe ? begin(b, &p, recipe) : UNKNOWN;
	}
	if (b->stage != WAITING)
		return;
	wait_one(b);
	if (b->got == b->tid && (b->status == SECCOMP_STOP || is_fault(b->status)))
		b->stage = finish(b, &p, recipe);
}
