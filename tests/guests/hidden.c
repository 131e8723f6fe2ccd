/* SPDX-License-Identifier: MIT
 *
 * A child that shares its parent's memory, though what clone3 was given says otherwise as soon as it
 * has been read: the kernel writes the pidfd there. It loads an enclave and ends; its parent has that
 * mapped then, and may do no more to its code than the enclave's own process.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

#define STACK (1 << 18)

static struct encl e;
static struct clone_args args;
static volatile int loaded;

__attribute__((used, noreturn)) static void child(void)
{
	loaded = encl_plan(&e, &(struct encl_opts){.heap = 8192}) || encl_build(&e, 0) ? -1 : 1;
	_exit(0);
}

static long made(void)
{
	long ret;

	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "and $-16, %%rsp\n\t"
		     "call child\n"
		     "1:"
		     : "=a"(ret)
		     : "0"((long)SYS_clone3), "D"(&args), "S"(sizeof(args))
		     : "rcx", "r11", "memory");
	return ret;
}

int main(void)
{
	void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t code;
	long pid;

	for (int i = 0; i < 20; i++) { /* until they stop for nobody */
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid((pid_t)pid, NULL, 0);
	}
	args = (struct clone_args){
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
		.pidfd = (uint64_t)&args.flags,
		.exit_signal = SIGCHLD,
		.stack = (uint64_t)stack,
		.stack_size = STACK,
	};
	pid = made();
	if (pid < 0) {
		skip("clone3", strerror((int)-pid));
		return 0;
	}
	check(!(args.flags & CLONE_VM), "args_are_gone", "%llx", args.flags);
	waitpid((pid_t)pid, NULL, 0);
	CHECK_EQ(loaded, 1, "loaded");
	code = e.base + (e.entry & -4096l);
	check_errno(mprotect((void *)code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), EACCES, "code_stays_code");
	check(encl_do(&e, 0, &(struct call){.op = OP_NOP}), "entered", "%s", e.err);
	return tap_failed;
}
