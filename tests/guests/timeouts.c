/* SPDX-License-Identifier: MIT
 *
 * usage: timeouts [entered]    entered: by a thread that has been in an enclave
 * Waits with a timeout among signals that the program ignores: Linux drops those, so the waits end
 * in time, and by a signal with a handler as ever. What they were called with is as before.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

#define MS 200
#define FEW 3

static volatile sig_atomic_t handled;

static void handle(int number)
{
	(void)number;
	handled++;
}

/* SIGWINCH four times in each timeout, until it is killed; SIGUSR1 after each few of them: one that comes
 * before the wait begins ends none. */
static pid_t sender(bool wanted)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	for (int i = 0; getppid() == parent; i++) {
		nanosleep(&(struct timespec){.tv_nsec = MS * 1000000l / 4}, NULL);
		kill(parent, wanted && i % (FEW + 1) == FEW ? SIGUSR1 : SIGWINCH);
	}
	_exit(0);
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static long elapsed_ms(const struct timespec *since)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - since->tv_sec) * 1000 + (now.tv_nsec - since->tv_nsec) / 1000000;
}

/* epoll_wait(2), and what R10 is behind it. */
static long wait_ms(int epoll, long timeout, long *behind)
{
	struct epoll_event event;
	register long r10 asm("r10") = timeout;
	long ret;

	asm volatile("syscall"
		     : "=a"(ret), "+r"(r10)
		     : "0"((long)SYS_epoll_wait), "D"((long)epoll), "S"(&event), "d"(1l)
		     : "rcx", "r11", "memory");
	*behind = r10;
	return ret;
}

/* recvmmsg(2) of more than there are. */
static int some(int fd)
{
	char byte;
	struct iovec iov = {&byte, 1};
	struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}},
				      {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}}};

	return recvmmsg(fd, messages, 2, 0, NULL);
}

/* A socket's timeout: it ends at the first of them behind it, and is as before. */
static void sockets(void)
{
	struct timeval timeout = {.tv_usec = MS * 1000}, behind = {0};
	socklen_t size = sizeof(behind);
	struct timespec since;
	char byte;
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) ||
	    setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)))
		bail("socketpair", strerror(errno));
	pid = sender(false);
	clock_gettime(CLOCK_MONOTONIC, &since);
	check_errno(recv(fds[0], &byte, 1, 0), EAGAIN, "socket_ends");
	check(elapsed_ms(&since) >= MS, "socket_not_early", "after %ld ms", elapsed_ms(&since));
	getsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &behind, &size);
	CHECK_EQ(behind.tv_sec * 1000000 + behind.tv_usec, MS * 1000, "socket_timeout");
	check_errno(read(fds[0], &byte, 1), EAGAIN, "socket_read_ends");
	if (write(fds[1], "x", 1) != 1)
		abort();
	CHECK_EQ(recv(fds[0], &byte, 1, 0), 1, "socket_receives");
	stop(pid);
	pid = sender(false);
	if (write(fds[1], "x", 1) != 1)
		abort();
	check(some(fds[0]) >= 1, "socket_some", "%s", strerror(errno));
	check_errno(recv(fds[0], &byte, 1, MSG_DONTWAIT), EAGAIN, "socket_no_error");
	stop(pid);
	timeout.tv_sec = 60;
	setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	pid = sender(true);
	check_errno(recv(fds[0], &byte, 1, 0), EINTR, "socket_wanted");
	stop(pid);
	close(fds[0]);
	close(fds[1]);
}

/* io_uring_enter(2) with a struct io_uring_getevents_arg. */
static void rings(void)
{
	struct io_uring_params params = {0};
	struct __kernel_timespec spec = {.tv_nsec = MS * 1000000l};
	struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&spec};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	struct timespec since;
	pid_t pid;

	if (ring < 0) {
		skip("ring_ends", strerror(errno));
		return;
	}
	pid = sender(false);
	clock_gettime(CLOCK_MONOTONIC, &since);
	check_errno(syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
			    &arg, sizeof(arg)), ETIME, "ring_ends");
	check(elapsed_ms(&since) >= MS, "ring_not_early", "after %ld ms", elapsed_ms(&since));
	CHECK_EQ(spec.tv_sec * 1000000000l + spec.tv_nsec, MS * 1000000l, "ring_spec");
	stop(pid);
	close(ring);
}

int main(int argc, char **argv)
{
	const long long_ms = 60000;
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct timespec since, spec = {.tv_nsec = MS * 1000000l};
	sigset_t set;
	long behind, ret;
	pid_t pid;

	if (argc > 1 && !strcmp(argv[1], "entered")) {
		static struct encl e;

		if (encl_load(&e, &(struct encl_opts){0}))
			bail("load", e.err);
		encl_op(&e, OP_NOP, 0, 0, 0, 0);
	}
	signal(SIGUSR1, handle);

	pid = sender(false);
	clock_gettime(CLOCK_MONOTONIC, &since);
	CHECK_EQ(wait_ms(epoll, MS, &behind), 0, "ends");
	check(elapsed_ms(&since) >= MS, "not_early", "after %ld ms", elapsed_ms(&since));
	CHECK_EQ(behind, MS, "register");

	sigemptyset(&set);
	clock_gettime(CLOCK_MONOTONIC, &since);
	ret = syscall(SYS_rt_sigtimedwait, &set, NULL, &spec, 8);
	check(ret == -1 && errno == EAGAIN, "spec_ends", "%ld, %s", ret, strerror(errno));
	check(elapsed_ms(&since) >= MS, "spec_not_early", "after %ld ms", elapsed_ms(&since));
	CHECK_EQ(spec.tv_sec * 1000000000l + spec.tv_nsec, MS * 1000000l, "spec");
	stop(pid);

	sockets();

	handled = 0;
	pid = sender(true);
	CHECK_EQ(wait_ms(epoll, long_ms, &behind), -EINTR, "wanted");
	CHECK_EQ(behind, long_ms, "wanted_register");
	check(handled > 0, "handled", "none");
	stop(pid);

	pid = sender(true);
	spec.tv_sec = long_ms / 1000;
	ret = syscall(SYS_rt_sigtimedwait, &set, NULL, &spec, 8);
	check(ret == -1 && errno == EINTR, "spec_wanted", "%ld, %s", ret, strerror(errno));
	CHECK_EQ(spec.tv_sec * 1000000000l + spec.tv_nsec, long_ms * 1000000l + MS * 1000000l,
		 "wanted_spec");
	stop(pid);
	rings(); /* the last: a ring that is taken down ends waits by EINTR, bare, too */
	return tap_failed;
}
