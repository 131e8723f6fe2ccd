/* SPDX-License-Identifier: MIT
 *
 * usage: tables SEED STEPS enclaves|files
 * Threads and processes that share their tables of descriptors, or leave them, or take descriptors of each
 * other, by chance and one after the other. After each step it says what is behind each number: an enclave,
 * told apart by its size, which an ioctl finds; or, to know what Linux does, a file in memory of that size.
 */
#define _GNU_SOURCE
#include <asm/sgx.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "arch.h"
#include "tap.h"

#define FIRST 20 /* numbers from there on */
#define NUMBERS 8
#define ACTORS 8
#define CLASSES 12
#define SHARED 10 /* descriptors of its own */
#define SOCKETS 11
#define OVER 1000

/* In whose turn it is; the actors: their processes, how many threads these have beside the first. */
struct shared {
	volatile int turn;
	unsigned long seed;
	int left, step;
	volatile int alive[ACTORS], pid[ACTORS], threads[ACTORS], of[ACTORS];
};

static struct shared *sh;
static bool enclaves;
static char **arguments;

static unsigned int chance(unsigned int below)
{
	sh->seed = sh->seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned int)(sh->seed >> 33) % below;
}

static int number(void)
{
	return FIRST + (int)chance(NUMBERS);
}

static int opened(unsigned int class)
{
	static struct secs secs;
	struct sgx_enclave_create arg = {.src = (uint64_t)&secs};
	int fd;

	if (!enclaves) {
		fd = memfd_create("tables", 0);
		if (ftruncate(fd, 1l << (13 + class)))
			abort();
		return fd;
	}
	fd = open("/dev/sgx_enclave", O_RDWR);
	memset(&secs, 0, sizeof(secs));
	secs.size = 1ul << (13 + class);
	secs.base = 1ul << 40;
	secs.ssa_frame_size = 1;
	secs.attributes = 4; /* MODE64BIT */
	secs.xfrm = 3;
	if (ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &arg))
		bail("create", strerror(errno));
	return fd;
}

/* Which it is: the first offset that is outside; -1 for none. */
static int class_of(int fd)
{
	static uint8_t source[4096] __attribute__((aligned(4096)));
	struct stat s;

	if (!enclaves)
		return fstat(fd, &s) ? -1 : __builtin_ctzl((unsigned long)s.st_size) - 13;
	for (int class = 0; class < CLASSES; class++) {
		struct sgx_enclave_add_pages arg = {
			.src = (uint64_t)source, .offset = 1ul << (13 + class), .length = 4096,
		};

		ioctl(fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg);
		if (errno == EBADF)
			return -1;
		if (errno != EFAULT) /* SECINFO is looked at behind the offset */
			return errno == EINVAL ? class : 100 + errno;
	}
	return CLASSES;
}

static void tell(int me, const char *what, long answer)
{
	char line[300];
	int n = snprintf(line, sizeof(line), "%d %d %s %ld:", sh->step, me, what, answer < 0 ? -errno : answer);

	for (int i = 0; i < NUMBERS; i++) {
		int class = class_of(FIRST + i), flags = fcntl(FIRST + i, F_GETFD);

		n += class < 0 ? snprintf(line + n, sizeof(line) - (size_t)n, " -")
			       : snprintf(line + n, sizeof(line) - (size_t)n, " %d%s", class, flags ? "c" : "");
	}
	line[n++] = '\n';
	if (write(1, line, (size_t)n) != n)
		abort();
}

/* Sent to itself, as one that the kernel numbers. */
static long sent(int fd)
{
	char byte = 0;
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} rights = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec io = {&byte, 1};
	struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof(rights)};
	int got;

	memcpy(CMSG_DATA(&rights.header), &fd, sizeof(int));
	if (sendmsg(SOCKETS, &m, 0) < 0)
		return -1;
	if (recvmsg(SOCKETS + 1, &m, 0) < 0)
		return -1;
	memcpy(&got, CMSG_DATA(&rights.header), sizeof(int));
	return got;
}

static long taken(int pid, int fd)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	long got = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	int error = errno;

	close(pidfd);
	errno = error;
	return got;
}

static int new_actor(int process)
{
	for (int i = 0; i < ACTORS; i++)
		if (!sh->alive[i]) {
			sh->threads[i] = 0;
			sh->of[i] = process;
			sh->alive[i] = 1;
			return i;
		}
	return -1;
}

static void act(int me);

static void *thread(void *me)
{
	act((int)(long)me);
	return NULL;
}

static void next(void)
{
	int to;

	do
		to = (int)chance(ACTORS);
	while (!sh->alive[to]);
	sh->turn = sh->left-- > 0 ? to : OVER;
}

/* Moved to a number, so that tables are the same whatever made it. */
static long moved(long fd)
{
	long answer;
	int error;

	if (fd < 0)
		return fd;
	answer = dup3((int)fd, number(), chance(2) ? O_CLOEXEC : 0);
	error = errno;
	close((int)fd);
	errno = error;
	return answer;
}

static void made(int me, bool shares)
{
	int actor = new_actor(-1);
	pid_t pid;

	if (actor < 0) {
		tell(me, "nobody", 0);
		return;
	}
	pid = (pid_t)syscall(SYS_clone, SIGCHLD | (shares ? CLONE_FILES : 0), 0, 0, 0, 0);
	if (!pid) {
		sh->pid[actor] = (int)syscall(SYS_getpid);
		sh->of[actor] = actor;
		act(actor);
		_exit(0);
	}
	while (sh->of[actor] != actor)
		sched_yield();
	tell(me, shares ? "sharing" : "fork", 0);
}

static void threaded(int me)
{
	int actor = new_actor(sh->of[me]);
	pthread_t t;

	if (actor >= 0) {
		sh->threads[sh->of[me]]++;
		pthread_create(&t, NULL, thread, (void *)(long)actor);
		pthread_detach(t);
	}
	tell(me, "thread", 0);
}

static bool alone(int me)
{
	return sh->of[me] == me && !sh->threads[me];
}

/* One step; false if the actor is no more. */
static bool step(int me)
{
	int a = number(), b = number(), low = a < b ? a : b, high = a < b ? b : a, cloexec = chance(2);
	int who = (int)chance(ACTORS);
	char text[12];

	sh->step++;
	switch (chance(15)) {
	case 0:
	case 1:
		tell(me, "open", moved(opened(chance(CLASSES))));
		break;
	case 2:
		tell(me, "dup", moved(dup(a)));
		break;
	case 3:
		tell(me, "dup2", dup2(a, b));
		break;
	case 4:
		tell(me, "dup3", dup3(a, b, cloexec ? O_CLOEXEC : 0));
		break;
	case 5:
		tell(me, "dupfd", moved(fcntl(a, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, b)));
		break;
	case 6:
		tell(me, "close", close(a));
		break;
	case 7:
		tell(me, "range", syscall(SYS_close_range, low, high, cloexec ? CLOSE_RANGE_CLOEXEC : 0));
		break;
	case 8:
		tell(me, "apart", syscall(SYS_close_range, low, high, CLOSE_RANGE_UNSHARE));
		break;
	case 9:
		tell(me, "unshare", unshare(CLONE_FILES));
		break;
	case 10:
		tell(me, "sent", moved(sent(a)));
		break;
	case 11:
		if (sh->alive[who])
			tell(me, "taken", moved(taken(sh->pid[sh->of[who]], a)));
		break;
	case 12:
		made(me, cloexec);
		break;
	case 13:
		threaded(me);
		break;
	default:
		if (alone(me)) {
			snprintf(text, sizeof(text), "%d", me);
			execl("/proc/self/exe", arguments[0], arguments[1], arguments[2], arguments[3], text, NULL);
			bail("exec", strerror(errno));
		}
		if (sh->of[me] != me) {
			sh->alive[me] = 0;
			sh->threads[sh->of[me]]--;
			next();
			return false;
		}
	}
	return true;
}

static void act(int me)
{
	for (;;) {
		while (sh->turn != me && sh->turn != OVER)
			sched_yield();
		if (sh->turn == OVER)
			break;
		if (!step(me))
			return;
		next();
	}
	if (sh->of[me] != me) {
		__atomic_fetch_sub(&sh->threads[sh->of[me]], 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (sh->threads[me])
		sched_yield();
}

int main(int argc, char **argv)
{
	int sockets[2], me = argc > 4 ? atoi(argv[4]) : 0;

	arguments = argv;
	enclaves = !strcmp(argv[3], "enclaves");
	if (argc < 5) {
		int fd = memfd_create("shared", 0);

		prctl(PR_SET_CHILD_SUBREAPER, 1);
		if (dup2(fd, SHARED) < 0 || ftruncate(SHARED, 4096) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
			bail("set up", strerror(errno));
		close(fd);
		/* Out of the way of what is opened, at the same places in both. */
		dup2(sockets[0], 30);
		dup2(sockets[1], 31);
		close(sockets[0]);
		close(sockets[1]);
		dup2(30, SOCKETS);
		dup2(31, SOCKETS + 1);
		close(30);
		close(31);
	}
	sh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED, 0);
	if (argc < 5) {
		sh->seed = (unsigned long)atol(argv[1]);
		sh->left = atoi(argv[2]);
		sh->alive[0] = 1;
		sh->pid[0] = getpid();
	} else {
		tell(me, "exec", 0);
		next();
	}
	act(me);
	while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR)
		;
	return 0;
}
