/* SPDX-License-Identifier: MIT
 *
 * Numbers of descriptors that are the device's now, and now other files': what is asked of each is told.
 *
 * usage: reused SEED STEPS   so many steps by chance; a process that execs goes on with the rest
 *        reused many N       a program that a holder has begun asks N times about a file
 *        reused asked        how often /dev lists the node
 */
#define _GNU_SOURCE
#include "tap.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>

#define NODE "/dev/sgx_enclave"
#define FIRST 20 /* numbers from there on */
#define NUMBERS 4

static unsigned long seed;
static int left;
static const char *who = "";
static char *program;

static unsigned int chance(unsigned int below)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned int)(seed >> 33) % below;
}

/* An instruction of our own, which can be led; the C library may make another call of it. */
static long plain_fstat(int fd, struct stat *s)
{
	long answer;

	asm volatile("mov $5, %%eax\n\tsyscall" : "=a"(answer) : "D"(fd), "S"(s) : "rcx", "r11", "memory");
	return answer;
}

static int error(long answer)
{
	return answer < 0 ? errno : 0;
}

static void ask(int fd)
{
	char byte = 0, line[400];
	struct termios t;
	struct statfs fs = {0};
	struct stat a = {0}, b = {0};
	int stat1 = (int)plain_fstat(fd, &a), stat2 = error(fstatat(fd, "", &b, AT_EMPTY_PATH));
	int got[12] = {
		error(read(fd, &byte, 0)), error(lseek(fd, 0, SEEK_CUR)), error(pread(fd, &byte, 1, 0)),
		error(ioctl(fd, FIONREAD, &byte)), error(ioctl(fd, TCGETS, &t)), error(fsync(fd)),
		error(fstatfs(fd, &fs)), error(write(fd, &byte, 0)), error(fcntl(fd, F_GETFD)),
	};
	int flags = fcntl(fd, F_GETFL);
	void *private = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	int other = dup(fd), n;

	got[9] = private == MAP_FAILED ? errno : 0;
	if (private != MAP_FAILED)
		munmap(private, 4096);
	got[10] = other < 0 ? errno : 0;
	n = snprintf(line, sizeof(line), "%s%d: %d %o %x %d %o %x fs %lx fl %x:", who, fd, stat1,
		     a.st_mode & S_IFMT, (unsigned int)a.st_rdev, stat2, b.st_mode & S_IFMT,
		     (unsigned int)b.st_rdev, got[6] ? 0 : (unsigned long)fs.f_type, flags);
	for (int i = 0; i < 11; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " %d", got[i]);
	line[n++] = '\n';
	if (write(1, line, (size_t)n) != n)
		abort();
	if (other >= 0)
		close(other);
}

static void put(int made, int fd)
{
	if (made >= 0 && made != fd) {
		dup2(made, fd);
		close(made);
	}
}

static void change(void)
{
	int fd = FIRST + (int)chance(NUMBERS), to = FIRST + (int)chance(NUMBERS);

	switch (chance(8)) {
	case 0:
	case 1:
		put(open(NODE, O_RDWR), fd);
		break;
	case 2:
		put(open(NODE, chance(2) ? O_RDONLY : O_PATH), fd);
		break;
	case 3:
		put(open("/etc/passwd", O_RDONLY), fd);
		break;
	case 4:
		put(eventfd(1, EFD_NONBLOCK), fd);
		break;
	case 5:
		dup2(fd, to);
		break;
	default:
		close(fd);
	}
	ask(fd);
	ask(fd);
	ask(to);
}

static int child(void *arg)
{
	(void)arg;
	who = "  child ";
	for (int i = 0; i < 3; i++)
		change();
	_exit(0);
}

static char stack[65536] __attribute__((aligned(16)));

static void step(void)
{
	static const int ways[] = { 0, CLONE_VM | CLONE_VFORK, CLONE_FILES };
	unsigned int way = chance(8);
	char words[2][32];
	pid_t pid;

	if (way < 3) {
		pid = clone(child, stack + sizeof(stack), ways[way] | SIGCHLD, NULL);
		waitpid(pid, NULL, 0);
		chance(7);
		who = "";
	} else if (way == 3 && left > 1) {
		snprintf(words[0], sizeof(words[0]), "%lu", seed);
		snprintf(words[1], sizeof(words[1]), "%d", left - 1);
		execl("/proc/self/exe", program, words[0], words[1], NULL);
		abort();
	} else {
		change();
	}
	for (int i = 0; i < NUMBERS; i++)
		ask(FIRST + i);
}

/* Its memory and /dev, asked about again and again as other files are. */
static void asked(void)
{
	int memory = open("/proc/self/mem", O_RDONLY), dev, listed = 0;
	char line[64], entries[8192];

	for (int i = 0; i < 30; i++) {
		struct stat s;
		long got;

		fstat(memory, &s);
		plain_fstat(memory, &s);
		if (pread(memory, line, 8, (off_t)(uintptr_t)&program) != 8)
			abort();
		dev = open("/dev", O_RDONLY | O_DIRECTORY);
		fstat(dev, &s);
		plain_fstat(dev, &s);
		while ((got = syscall(SYS_getdents64, dev, entries, sizeof(entries))) > 0)
			listed += memmem(entries, (size_t)got, "sgx_enclave", 12) != NULL;
		close(dev);
	}
	printf("listed %d\n", listed);
}

int main(int argc, char **argv)
{
	program = argv[0];
	if (argc == 2 && !strcmp(argv[1], "asked")) {
		asked();
		return 0;
	}
	if (argc < 3)
		return 2;
	left = atoi(argv[2]);
	if (!strcmp(argv[1], "many") && argc == 3) {
		close(open(NODE, O_RDWR));
		execl("/proc/self/exe", argv[0], "many", argv[2], "again", NULL);
		return 1;
	}
	if (argc == 4) {
		int fd = open("/etc/passwd", O_RDONLY);

		for (int i = 0; i < left; i++) {
			struct stat s;

			put(open("/etc/passwd", O_RDONLY), fd);
			if (fstat(fd, &s) || plain_fstat(fd, &s) || lseek(fd, 0, SEEK_SET) || fcntl(fd, F_GETFD) < 0)
				return 1;
			munmap(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0), 4096);
			if (pread(fd, &s, 1, 0) != 1 || read(fd, &s, 1) != 1 || ioctl(fd, TCGETS, &s) != -1)
				return 1;
		}
		printf("%d\n", fd);
		return 0;
	}
	for (seed = strtoul(argv[1], NULL, 10); left; left--)
		step();
	return 0;
}
