/* What enter.c needs of the machine: registers set and seen around a call, a handler that notes
 * what it is called with, and a signal in place of a system call. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

/* probe() calls probe_function with these in RDI, RSI, RDX, RCX, R8, R9, and RBX, RBP,
 * R12 to R15 set to marks; what they are afterwards comes back in probe_after. */
uint64_t probe_function, probe_arguments[6], probe_run, probe_flags, probe_after[6], probe_rsp[2];
long probe(void);
extern char probe_return[];
static const uint64_t marks[6] = { 0xb0b0, 0xb1b1, 0xb2b2, 0xb3b3, 0xb4b4, 0xb5b5 };
__asm__(".text\n"
	"probe:\n"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"sub $8, %rsp\n"
	"pushq probe_run(%rip)\n" /* RSP is a multiple of 16 at the call, with the run on top */
	"mov %rsp, probe_rsp(%rip)\n"
	"lea probe_arguments(%rip), %rax\n"
	"mov 0(%rax), %rdi; mov 8(%rax), %rsi; mov 16(%rax), %rdx\n"
	"mov 24(%rax), %rcx; mov 32(%rax), %r8; mov 40(%rax), %r9\n"
	"mov $0xb0b0, %ebx; mov $0xb1b1, %ebp; mov $0xb2b2, %r12d\n"
	"mov $0xb3b3, %r13d; mov $0xb4b4, %r14d; mov $0xb5b5, %r15d\n"
	"pushf; mov probe_flags(%rip), %rax; or %rax, (%rsp); popf\n"
	"call *probe_function(%rip)\n"
	"probe_return:\n"
	"mov %rsp, probe_rsp+8(%rip)\n"
	"pushf; andq $~0x100, (%rsp); popf\n"
	"mov %rbx, probe_after(%rip); mov %rbp, probe_after+8(%rip)\n"
	"mov %r12, probe_after+16(%rip); mov %r13, probe_after+24(%rip)\n"
	"mov %r14, probe_after+32(%rip); mov %r15, probe_after+40(%rip)\n"
	"cld\n"
	"mov probe_rsp(%rip), %rsp\n"
	"add $16, %rsp\n"
	"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"ret\n");

/* The exit handler: its arguments as they arrive, the stack and the flags. */
uint64_t handled[10];
int64_t (*handle)(void);
extern char handler[];
__asm__(".text\n"
	"handler: .cfi_startproc\n"
	"mov %rdi, handled(%rip); mov %rsi, handled+8(%rip); mov %rdx, handled+16(%rip)\n"
	"mov %rcx, handled+24(%rip); mov %r8, handled+32(%rip); mov %r9, handled+40(%rip)\n"
	"mov 8(%rsp), %rax; mov %rax, handled+48(%rip)\n"
	"mov %rsp, handled+56(%rip)\n"
	"pushf; pop handled+64(%rip)\n"
	"sub $8, %rsp; .cfi_def_cfa_offset 16\n"
	"call *handle(%rip)\n"
	"add $8, %rsp; .cfi_def_cfa_offset 8\n"
	/* What the next entry is to find. */
	"mov $0xc1, %edi; mov $0xc2, %esi; mov $0xc3, %edx; mov $0xc4, %r8d; mov $0xc5, %r9d\n"
	"ret; .cfi_endproc\n");

/* SIGSYS for whatever system call ends at an address. */
static void trap_calls_at(char *address)
{
	uint64_t at = (uint64_t)address;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)at, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, at >> 32, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}
