/* SPDX-License-Identifier: MIT
 *
 * How a run begins: two processes that share Python's memory instead of a copy of it.
 *
 * fork(2) makes both sides copy each page that one of them writes to, and Python writes to all of
 * them, since that is where its reference counts are. So here are the two parts that need no Python:
 *
 * - The front, the process that a shell started (front.c), of which Python goes on as the child.
 * - What becomes the program is a child that shares the tracer's memory until it executes it.
 *
 * Neither has a page of its own but its stack, which lies in the block that it is given.
 */
#include "start.h"

#include <cpuid.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define EXPORT __attribute__((visibility("default")))

/* What this processor answers: every start asks (programs/answers.py). */
EXPORT void softsgx_cpuid(uint32_t *answer, uint32_t leaf, uint32_t subleaf)
{
	__cpuid_count(leaf, subleaf, answer[0], answer[1], answer[2], answer[3]);
}

#define F(name) #name " "
EXPORT const char softsgx_start_words[] = WORDS;
#undef F

/* softsgx_clone(flags, stack, block): the parent returns, the child is what becomes the program. */
long softsgx_clone(uint64_t flags, void *stack, struct block *b);
__asm__(".text\n"
	".hidden softsgx_clone\n"
	"softsgx_clone:\n"
	"	mov %rdx, %r9\n"
	"	xor %edx, %edx\n"
	"	xor %r10d, %r10d\n"
	"	mov $56, %eax\n"
	"	syscall\n"
	"	test %rax, %rax\n"
	"	jz 2f\n"
	"	ret\n"
	"2:	xor %ebp, %ebp\n"
	"	mov %r9, %rdi\n"
	"	call softsgx_child\n"
	"	hlt\n");

/* A descriptor in flight: what CMSG_SPACE(4) has room for. */
struct rights {
	size_t length;
	int level, type, fd, pad;
};

static long filter(struct block *b, long flags)
{
	struct sock_fprog program;

	program.len = (unsigned short)b->n_filter;
	program.filter = (struct sock_filter *)b->filter;
	return CALL(seccomp, SECCOMP_SET_MODE_FILTER, flags, &program, 0, 0);
}

static void message_of(struct msghdr *m, struct iovec *io, char *byte, struct rights *rights)
{
	io->iov_base = byte;
	io->iov_len = 1;
	m->msg_name = 0;
	m->msg_namelen = 0;
	m->msg_iov = io;
	m->msg_iovlen = 1;
	m->msg_control = rights;
	m->msg_controllen = sizeof *rights;
	m->msg_flags = 0;
	rights->length = offsetof(struct rights, pad);
	rights->level = SOL_SOCKET;
	rights->type = SCM_RIGHTS;
	rights->fd = -1;
	rights->pad = 0;
}

_Noreturn static void fail(struct block *b, enum failure what, long error)
{
	b->error = (uint64_t)-error;
	b->failed = what;
	leave(127);
}

__attribute__((used, noreturn)) void softsgx_child(struct block *b);
void softsgx_child(struct block *b)
{
	int ours = (int)b->other;
	struct rights rights;
	struct msghdr m;
	struct iovec io;
	char byte = 0;

	CALL(close, b->socket, 0, 0, 0, 0);
	/* A handler would run in the tracer's memory, and exec takes it away anyway. */
	for (int number = 1; number <= MOST_SIGNALS; number++) {
		struct action action;

		if (CALL(rt_sigaction, number, 0, &action, 8, 0) == 0 && action.handler > 1)
			dispose(number, 0);
	}
	if (CALL(read, ours, &byte, 1, 0, 0) != 1)
		leave(127); /* the tracer was killed before it had us */
	long listener = filter(b, SECCOMP_FILTER_FLAG_NEW_LISTENER);

	if (listener == -EACCES) { /* without CAP_SYS_ADMIN: give up setuid programs first */
		CALL(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		listener = filter(b, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	}
	if (listener >= 0) {
		message_of(&m, &io, &byte, &rights);
		rights.fd = (int)listener;
		CALL(sendmsg, ours, &m, 0, 0, 0);
		CALL(close, listener, 0, 0, 0, 0);
	}
	CALL(close, ours, 0, 0, 0, 0);
	if (listener < 0) { /* the chain of filters has one already: descriptors go the other way */
		long error = filter(b, 0);

		if (error < 0)
			fail(b, FILTER, error);
	}
	dispose(SIGPIPE, 0);
	dispose(SIGXFSZ, 0);
	if (b->ignores_children)
		dispose(SIGCHLD, 1);
	mask(SIG_SETMASK, b->mask);
	close_all((const int *)b->fds, b->n_fds);
	fail(b, EXEC, CALL(execve, b->path, b->argv, b->environment, 0, 0));
}

/* The pid of a child that waits to be traced. */
static long launch(struct block *b)
{
	uint64_t all = ALL, before;
	int ends[2];
	long got = CALL(socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends, 0);

	if (got < 0)
		return got;
	b->socket = (uint64_t)ends[0];
	b->other = (uint64_t)ends[1];
	b->failed = 0;
	CALL(rt_sigprocmask, SIG_BLOCK, &all, &before, 8, 0); /* no handler of ours in the child */
	got = softsgx_clone(CLONE_VM | SIGCHLD, stack_of(b), b);
	mask(SIG_SETMASK, before);
	CALL(close, ends[1], 0, 0, 0, 0);
	if (got < 0)
		CALL(close, ends[0], 0, 0, 0, 0);
	return got;
}

/* Let it go on: the descriptor of its filter's listener, if there is one. */
static long listen_(struct block *b)
{
	struct rights rights;
	struct msghdr m;
	struct iovec io;
	char byte = 'x';
	long got;

	CALL(write, b->socket, &byte, 1, 0, 0); /* SIGPIPE is blocked, or Python ignores it */
	message_of(&m, &io, &byte, &rights);
	do
		got = CALL(recvmsg, b->socket, &m, MSG_CMSG_CLOEXEC, 0, 0);
	while (got == -EINTR);
	CALL(close, b->socket, 0, 0, 0, 0);
	return got == 1 && m.msg_controllen >= offsetof(struct rights, pad) ? rights.fd : -ENOENT;
}

/* Enclaves are files of ours: what the program may have of these is not to bound them. */
static void limits(void)
{
	static const int which[] = {RLIMIT_NOFILE, RLIMIT_FSIZE, RLIMIT_CPU};
	uint64_t limit[2];

	for (int i = 0; i < 3; i++)
		if (CALL(prlimit64, 0, which[i], 0, limit, 0) == 0) {
			limit[0] = limit[1];
			CALL(prlimit64, 0, which[i], limit, 0, 0); /* more than the kernel allows now? */
		}
}

EXPORT void softsgx_start(struct block *b)
{
	long result = 0;

	switch (b->step) {
	case SPLIT:
		result = softsgx_becomes_two(b);
		break;
	case LAUNCH:
		result = launch(b);
		break;
	case LISTEN:
		result = listen_(b);
		break;
	case LIMITS:
		limits();
		break;
	}
	b->result = (uint64_t)result;
}
