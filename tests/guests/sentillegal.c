/* SPDX-License-Identifier: MIT
 *
 * A thread that has been inside gets SIGILLs that another one sends, while it makes calls on paths so
 * often that softsgx leads them past their stop: each finds it in the program's own code. So does one
 * that meets it before an ENCLU or a CPUID, which are yet to be executed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define HOT 300
#define ENOUGH 200

/* long get(long dirfd, const char *path, long flags, long mode): one instruction for all calls */
asm(".text\nget:\n\tmov %rcx, %r10\nget_mov:\n\tmov $257, %eax\n\tsyscall\n\tret\n");
long get(long dirfd, const char *path, long flags, long mode);
extern const unsigned char get_mov[];
extern char __executable_start[], etext[];

static volatile long caught, stray;
static volatile int looping, over;

static void on_signal(int number, siginfo_t *info, void *context)
{
	unsigned long rip = (unsigned long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)number;
	(void)info;
	caught++;
	if (looping && (rip < (unsigned long)__executable_start || rip >= (unsigned long)etext))
		stray = (long)rip;
}

/* unblock(set): SIGILL, which pends, comes between the call and the instruction behind it */
asm(".text\n"
    "unblock_enclu:\n\tmov $14, %eax\n\tmov $8, %r10d\n\tmov %rdi, %rsi\n"
    "\tmov $1, %edi\n\txor %edx, %edx\n\tsyscall\nenclu:\n\t.byte 0x0f, 0x01, 0xd7\nno_enclu:\n\tret\n"
    "unblock_cpuid:\n\tpush %rbx\n\tmov $14, %eax\n\tmov $8, %r10d\n\tmov %rdi, %rsi\n"
    "\tmov $1, %edi\n\txor %edx, %edx\n\tsyscall\n\tcpuid\n\tpop %rbx\n\tret\n");
long unblock_enclu(const sigset_t *set), unblock_cpuid(const sigset_t *set);
extern char enclu[], no_enclu[];

static void passes(int number, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	caught += info->si_code <= 0;
	if (regs[REG_RIP] == (greg_t)enclu)
		regs[REG_RIP] = (greg_t)no_enclu;
}

static long met(long (*unblock)(const sigset_t *set))
{
	sigset_t set;
	long before = caught;

	sigemptyset(&set);
	sigaddset(&set, SIGILL);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGILL);
	unblock(&set);
	return caught - before;
}

static void *sender(void *arg)
{
	while (!over) {
		long before = caught;

		pthread_kill(*(pthread_t *)arg, SIGILL);
		while (!over && caught == before)
			sched_yield();
	}
	return NULL;
}

int main(void)
{
	struct sigaction act = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
	pthread_t self = pthread_self(), t;
	static struct encl e;
	long wrong = 0;

	for (int i = 0; i < HOT; i++)
		close((int)get(AT_FDCWD, "/etc/passwd", O_RDONLY, 0));
	check(get_mov[0] == 0xe9, "led", "%x", get_mov[0]);
	if (encl_load(&e, &(struct encl_opts){.heap = PAGE}))
		bail("load", e.err);
	check(encl_op(&e, OP_SUM, 1, 2, 0, 0) == mix(1, 2), "inside", "%s", e.err);
	sigaction(SIGILL, &act, NULL);
	pthread_create(&t, NULL, sender, &self);
	looping = 1; /* it calls nothing but this program's own code */
	while (caught < ENOUGH) {
		long fd = get(AT_FDCWD, "/etc/passwd", O_RDONLY, 0);

		wrong += fd < 0 || get(AT_FDCWD, "/nowhere", 0, 0) != -ENOENT;
		asm volatile("syscall" : "+a"((long){SYS_close}) : "D"(fd) : "rcx", "r11", "memory");
	}
	looping = 0;
	over = 1;
	pthread_join(t, NULL);
	check(!wrong && !stray, "signals", "%ld wrong, at %lx", wrong, stray);
	act.sa_sigaction = passes;
	sigaction(SIGILL, &act, NULL);
	CHECK_EQ(met(unblock_enclu), 1, "before_enclu");
	CHECK_EQ(met(unblock_cpuid), 1, "before_cpuid");
	check(encl_op(&e, OP_SUM, 3, 4, 0, 0) == mix(3, 4), "inside_again", "%s", e.err);
	return tap_failed;
}
