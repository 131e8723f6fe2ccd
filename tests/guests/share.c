/* SPDX-License-Identifier: MIT
 *
 * usage: share
 * One enclave in several processes: a descriptor passed over SCM_RIGHTS to a process that never
 * opened the device, and fork. All enter the same pages.
 * The unrelated process is this program again (`share map FD-SOCKET`), after an exec.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "fds.h"
#include "loader.h"
#include "tap.h"

static struct encl e;

/* What the other process must know to map and to enter; secrets are not needed. */
struct facts {
	uint64_t base, size, counter, tcs;
	int nseg;
	struct { uint64_t off, len; int prot; } seg[40];
};

static int other_process(int sock)
{
	struct facts f;
	uint64_t got;
	int fd;

	if (!check(!receive_fd(sock, &fd, &f, sizeof(f), MSG_CMSG_CLOEXEC), "other_received", "%s", strerror(errno)))
		return 1;
	/* An enclave can only be at its base; nothing of ours is in the way of a PIE's layout here. */
	for (int i = 0; i < f.nseg; i++) {
		void *at = (void *)(f.base + f.seg[i].off);

		if (mmap(at, f.seg[i].len, f.seg[i].prot, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0) != at)
			return !check(false, "other_maps", "segment %d: %s", i, strerror(errno));
	}
	check(true, "other_maps", " ");
	close(fd); /* the mapping keeps the enclave */
	e.base = f.base;
	e.tcs[0] = f.tcs;
	got = encl_op(&e, OP_ADD, f.counter, 5, 0, 0);
	check(got == 105, "other_sees_ours", "counter %ld; %s", (long)got, e.err);
	return tap_failed;
}

static void pass(void)
{
	struct facts f = {.base = e.base, .size = e.size, .counter = e.base + e.heap, .tcs = e.tcs[0],
			  .nseg = e.nseg};
	int sv[2], status;
	char number[16];
	pid_t pid;

	for (int i = 0; i < e.nseg; i++) {
		f.seg[i].off = e.seg[i].off;
		f.seg[i].len = e.seg[i].len;
		f.seg[i].prot = seg_prot(&e.seg[i]);
	}
	CHECK_EQ(encl_op(&e, OP_ADD, f.counter, 100, 0, 0), 100, "first_counts");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv))
		bail("socketpair", strerror(errno));
	pid = fork();
	if (pid == 0) {
		snprintf(number, sizeof(number), "%d", sv[1]);
		close(sv[0]);
		close(e.fd);
		execl("/proc/self/exe", "share", "map", number, (char *)NULL);
		_exit(127);
	}
	check(send_fd(sv[0], e.fd, &f, sizeof(f), 0) == 0, "sent", "%s", strerror(errno));
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "other_exit", "status %#x", status);
	CHECK_EQ(encl_op(&e, OP_PEEK, f.counter, 0, 0, 0), 105, "we_see_others");
	close(sv[0]);
	close(sv[1]);
}

static void forked(void)
{
	uint64_t counter = e.base + e.heap + 64, got;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		got = encl_op(&e, OP_ADD, counter, 7, 0, 0);
		check(got == 7, "child_enters", "%ld; %s", (long)got, e.err);
		_exit(tap_failed);
	}
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child_exit", "status %#x", status);
	got = encl_op(&e, OP_ADD, counter, 1, 0, 0);
	check(got == 8, "parent_sees_child", "%ld; %s", (long)got, e.err);
}

/* Both at once on one TCS each: an atomic counter inside loses nothing. */
static void at_once(void)
{
	uint64_t counter = e.base + e.heap + 128;
	int status;
	bool ok = true;
	pid_t pid = fork();
	struct call c = {.op = OP_ADD, .a = counter, .b = 1};

	for (int i = 0; i < 500; i++)
		ok &= encl_do(&e, pid ? 0 : 1, &c);
	if (pid == 0)
		_exit(!ok);
	waitpid(pid, &status, 0);
	check(ok && status == 0, "at_once", "status %#x; %s", status, e.err);
	CHECK_EQ(encl_op(&e, OP_PEEK, counter, 0, 0, 0), 1000, "at_once_count");
}

/* A TCS is busy for every process, and a killed process leaves its thread inside for nobody. */
static void busy_across(void)
{
	volatile uint64_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
					 -1, 0);
	struct call spin = {.op = OP_SPIN, .a = (uint64_t)&shared[0], .b = (uint64_t)&shared[1]};
	struct call nop = {.op = OP_NOP};
	struct sgx_enclave_run run = {0};
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(!encl_do(&e, 0, &spin));
	while (!shared[0])
		usleep(100);
	encl_call(&e, 0, &nop, &run);
	CHECK_EQ(run.exception_vector, 13, "busy_across");
	shared[1] = 1;
	waitpid(pid, &status, 0);
	CHECK_EQ(status, 0, "busy_left");
	check(encl_do(&e, 0, &nop), "free_across", "%s", e.err);
}

/* Nobody maps it, no process has a descriptor of it: it is in a message that nobody has read. */
static void in_flight(void)
{
	static struct encl lone;
	struct facts f = {0};
	int sv[2], other;
	void *at;

	if (encl_load(&lone, &(struct encl_opts){.threads = 1, .heap = PAGE}))
		bail("in_flight_load", lone.err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv) || send_fd(sv[0], lone.fd, &f, sizeof(f), 0))
		bail("in_flight_sent", strerror(errno));
	close(lone.fd);
	munmap((void *)lone.base, lone.size);
	for (int i = 0; i < 3; i++) { /* at an open the memory of enclaves that are gone is freed */
		other = open("/dev/sgx_enclave", O_RDWR);
		check(other >= 0, "in_flight_open", "%s", strerror(errno));
		close(other);
	}
	if (receive_fd(sv[1], &lone.fd, &f, sizeof(f), MSG_CMSG_CLOEXEC))
		bail("in_flight_received", strerror(errno));
	for (int i = 0; i < lone.nseg; i++) {
		at = (void *)(lone.base + lone.seg[i].off);
		if (mmap(at, lone.seg[i].len, seg_prot(&lone.seg[i]), MAP_SHARED | MAP_FIXED, lone.fd, 0) != at)
			check(false, "in_flight_maps", "segment %d: %s", i, strerror(errno));
	}
	check(encl_op(&lone, OP_SUM, 3, 10, 0, 0) == mix(3, 10), "in_flight_enters", "%s", lone.err);
	close(sv[0]);
	close(sv[1]);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "map"))
		return other_process(atoi(argv[2]));
	if (encl_load(&e, &(struct encl_opts){.threads = 2, .heap = PAGE}))
		bail("load", e.err);
	pass();
	forked();
	at_once();
	busy_across();
	in_flight();
	/* Children that end take nothing with them. */
	check(encl_op(&e, OP_SUM, 3, 10, 0, 0) == mix(3, 10), "still_alive", "%s", e.err);
	return tap_failed;
}
