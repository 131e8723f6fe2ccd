/* A tracer in small: start a program, put the image behind its AT_SYSINFO_EHDR at the
 * exec stop, then let it go. Talks to the Python side on standard input and output. */
#define _GNU_SOURCE
#include "image.h"
#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

static pid_t child;

static void stopped_by_trap(void)
{
	int status;
	siginfo_t info;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	CHECK(!ptrace(PTRACE_GETSIGINFO, child, 0, &info));
}

static void run_at(uint64_t rip, struct user_regs_struct *regs, int request)
{
	regs->rip = rip;
	regs->orig_rax = -1;
	CHECK(!ptrace(PTRACE_SETREGS, child, 0, regs));
	CHECK(!ptrace(request, child, 0, 0));
	stopped_by_trap();
	CHECK(!ptrace(PTRACE_GETREGS, child, 0, regs));
}

int main(int argc, char **argv)
{
	CHECK(argc == 9);
	const char *path = argv[1];
	uint64_t size = atol(argv[2]), data = atol(argv[3]), base = strtoull(argv[4], NULL, 0);
	uint64_t syscall_site = base + atol(argv[5]), cpuid_site = base + atol(argv[6]);
	uint64_t xgetbv_site = base + atol(argv[7]);

	child = fork();
	if (!child) {
		dup2(2, 1);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execl(argv[8], argv[8], argv[4], NULL);
		_exit(99);
	}
	stopped_by_trap();
	struct user_regs_struct start, regs;
	CHECK(!ptrace(PTRACE_GETREGS, child, 0, &start));

	/* argc, argv, NULL, envp, NULL, auxv */
	char name[64];
	snprintf(name, sizeof(name), "/proc/%d/mem", child);
	int mem = open(name, O_RDWR);
	CHECK(mem >= 0);
	uint64_t at = start.rsp, word, entry[2];
	CHECK(pread(mem, &word, 8, at) == 8);
	at += 8 * (word + 2);
	do {
		CHECK(pread(mem, &word, 8, at) == 8);
		at += 8;
	} while (word);
	for (;; at += 16) {
		CHECK(pread(mem, entry, 16, at) == 16 && entry[0] != AT_NULL);
		if (entry[0] == AT_SYSINFO_EHDR)
			break;
	}
	uint64_t real = entry[1], header[2] = { real, end_of_mapping(child, real) - real };
	char *bytes = malloc(header[1]);
	CHECK(pread(mem, bytes, header[1], real) == (ssize_t)header[1]);
	all(1, header, sizeof(header), 1);
	all(1, bytes, header[1], 1);

	uint64_t reply[2];
	static char slots[4096];
	all(0, reply, sizeof(reply), 0); /* where a syscall instruction is; how long the slots are */
	CHECK(reply[1] <= sizeof(slots));
	all(0, slots, reply[1], 0);

	regs = start;
	regs.rax = SYS_mmap, regs.rdi = base, regs.rsi = size, regs.rdx = PROT_READ | PROT_EXEC;
	regs.r10 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, regs.r8 = -1, regs.r9 = 0;
	run_at(real + reply[0], &regs, PTRACE_SINGLESTEP);
	CHECK(regs.rax == base);

	static char file[16384];
	int fd = open(path, O_RDONLY);
	ssize_t length = read(fd, file, sizeof(file));
	CHECK(length > 0 && pwrite(mem, file, length, base) == length);
	CHECK(pwrite(mem, slots, reply[1], base + data) == (ssize_t)reply[1]);

	/* From here on by the image's own sites; a step, or what is there, stops behind the instruction. */
	regs = start;
	regs.rax = SYS_mprotect, regs.rdi = base + data, regs.rsi = size - data, regs.rdx = PROT_READ;
	run_at(syscall_site, &regs, PTRACE_SINGLESTEP);
	CHECK(regs.rax == 0 && regs.rip == syscall_site + 2);
	unsigned a, b, c, d;
	__cpuid(0, a, b, c, d);
	regs = start;
	regs.rax = 0;
	run_at(cpuid_site, &regs, PTRACE_CONT);
	CHECK(regs.rax == a && regs.rbx == b && regs.rcx == c && regs.rdx == d);
	uint32_t low, high;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	regs = start;
	regs.rcx = 0;
	run_at(xgetbv_site, &regs, PTRACE_CONT);
	CHECK(regs.rax == low && regs.rdx == high);

	CHECK(pwrite(mem, &base, 8, at + 8) == 8);
	start.orig_rax = -1;
	CHECK(!ptrace(PTRACE_SETREGS, child, 0, &start));
	CHECK(!ptrace(PTRACE_DETACH, child, 0, 0));
	int status;
	CHECK(waitpid(child, &status, 0) == child);
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	return WEXITSTATUS(status);
}
