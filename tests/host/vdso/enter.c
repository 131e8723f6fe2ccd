/* __vdso_sgx_enter_enclave in this process. A SIGSYS handler, called for any system call at the
 * ENCLU site, plays the tracer there, and, by a step function a case sets, the enclave behind it. */
#define _GNU_SOURCE
#include "image.h"
#include "probe.h"
#include <asm/sgx.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unwind.h>

#define EENTER 2
#define ERESUME 3
#define EEXIT 4
#define ENTER_CALL SYS_exit
#define NONE_BLOCKED 0x80000000
#define TF 0x100
#define DF 0x400

static char *image;
static char *enclu, *at_aep, *enclu_fault;
static struct sgx_enclave_run run;

static int entries, may_block;
static greg_t seen[8][NGREG];
static void (*enclave)(greg_t *r); /* runs at each ENCLU; EEXIT unless it changes RIP */
static void (*stepped)(greg_t *r);

static void on_trap(int number, siginfo_t *info, void *context)
{
	(void)number;
	CHECK(info->si_code == TRAP_TRACE || info->si_code == TRAP_BRKPT);
	if (stepped)
		stepped(((ucontext_t *)context)->uc_mcontext.gregs);
}

static void on_call(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	(void)number;

	CHECK(r[REG_RIP] == (greg_t)at_aep && entries < 8);
	CHECK(!memcmp(at_aep, "\x0f\x01\xd7", 3));
	CHECK((char *)info->si_call_addr == at_aep && info->si_syscall == ENTER_CALL);
	/* The leaf, and what the function found out about the mask of this thread. */
	may_block = !((uint64_t)r[REG_RAX] >> 32 & NONE_BLOCKED);
	r[REG_RAX] = (uint64_t)r[REG_RAX] >> 32 & ~NONE_BLOCKED;
	memcpy(seen[entries++], r, sizeof(gregset_t));
	r[REG_RAX] = EEXIT;
	r[REG_RIP] += 3; /* behind the ENCLU */
	r[REG_RBX] = 0xdead; /* EEXIT's target in hardware: nothing to rely on */
	if (enclave)
		enclave(r);
}

/* The registers as the kernel's fix-up leaves them. */
static void fault(greg_t *r, int leaf, int vector, int code, uint64_t address)
{
	r[REG_RIP] = (greg_t)enclu_fault;
	r[REG_RAX] = leaf;
	r[REG_RDI] = vector;
	r[REG_RSI] = code;
	r[REG_RDX] = address;
}

static long enter(uint64_t function)
{
	static const uint64_t arguments[6] = { 0xa1, 0xa2, 0xa3, 0, 0xa5, 0xa6 };

	memcpy(probe_arguments, arguments, sizeof(arguments));
	probe_arguments[3] = function;
	entries = 0;
	long result = (int)probe();
	CHECK(!memcmp(probe_after, marks, sizeof(marks)));
	CHECK(probe_rsp[0] == probe_rsp[1]);
	return result;
}

static void sees(int entry, int leaf, const uint64_t *five)
{
	const greg_t *r = seen[entry];

	CHECK(r[REG_RAX] == leaf && r[REG_RBX] == (greg_t)run.tcs);
	CHECK((uint64_t)r[REG_RDI] == five[0] && (uint64_t)r[REG_RSI] == five[1]);
	CHECK((uint64_t)r[REG_RDX] == five[2] && (uint64_t)r[REG_R8] == five[3]);
	CHECK((uint64_t)r[REG_R9] == five[4]);
	CHECK((uint64_t)r[REG_R12] == marks[2] && (uint64_t)r[REG_R15] == marks[5]);
}

static const uint64_t caller_five[5] = { 0xa1, 0xa2, 0xa3, 0xa5, 0xa6 };
static const uint64_t handler_five[5] = { 0xc1, 0xc2, 0xc3, 0xc4, 0xc5 };

static void case_eexit(void)
{
	for (int leaf = EENTER; leaf <= ERESUME; leaf++) {
		run.function = 0;
		CHECK(enter(leaf) == 0 && entries == 1 && run.function == EEXIT);
		sees(0, leaf, caller_five);
	}
	/* function is 32 bits wide */
	CHECK(enter(0x7700000002) == 0 && entries == 1);
	sees(0, EENTER, caller_five);
	CHECK(!run.exception_vector && !run.exception_error_code && !run.exception_addr);
}

/* A signal that an exception would force: the tracer has to hear whether it is blocked. */
static void case_blocked_signals(void)
{
	for (int number = 1; number < 32; number++) {
		sigset_t set, old;
		int forced = number == SIGILL || number == SIGTRAP || number == SIGBUS || number == SIGFPE
			     || number == SIGSEGV;

		if (number == SIGSYS)
			continue; /* ours */
		sigemptyset(&set);
		sigaddset(&set, number);
		CHECK(!sigprocmask(SIG_SETMASK, &set, &old));
		for (int leaf = EENTER; leaf <= ERESUME; leaf++) {
			CHECK(enter(leaf) == 0 && entries == 1 && may_block == forced);
			sees(0, leaf, caller_five);
		}
		CHECK(!sigprocmask(SIG_SETMASK, &old, &set)); /* not changed by having a look */
		CHECK(sigismember(&set, number) == (number != SIGKILL && number != SIGSTOP));
	}
}

/* The AEP: ERESUME, and nobody had a look. */
static void aep(greg_t *r)
{
	if (entries == 1) {
		CHECK(!may_block);
		r[REG_RIP] = (greg_t)enclu;
		r[REG_RAX] = ERESUME;
		r[REG_RBX] = run.tcs;
	} else {
		CHECK(may_block && r[REG_RAX] == EEXIT);
	}
}

static void case_aep(void)
{
	enclave = aep;
	CHECK(enter(EENTER) == 0 && entries == 2 && run.function == EEXIT);
	sees(1, ERESUME, caller_five);
}

static void push_three(greg_t *r)
{
	r[REG_RSP] -= 24;
	memset((void *)r[REG_RSP], 0x5a, 24);
}

static void case_stack_left_deep(void)
{
	enclave = push_three;
	CHECK(enter(EENTER) == 0);
}

static void case_bad_function(void)
{
	static const uint32_t bad[] = { 0, 1, 4, 5, 9, 0x7fffffff, 0x80000002, 0x80000003, ~0u };
	struct sgx_enclave_run before = run;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		CHECK(enter(bad[i]) == -EINVAL && entries == 0);
	CHECK(!memcmp(&before, &run, sizeof(run)));
	probe_run = 0; /* the leaf is looked at first */
	CHECK(enter(1) == -EINVAL);
}

static void case_reserved(void)
{
	for (unsigned i = 0; i < sizeof(run.reserved); i++) {
		run.reserved[i] = 1 << (i & 7);
		CHECK(enter(EENTER) == -EINVAL && entries == 0);
		run.reserved[i] = 0;
	}
	run.user_data = ~0ull;
	CHECK(enter(EENTER) == 0 && entries == 1);
}

static void page_fault(greg_t *r)
{
	fault(r, ERESUME, 14, 0x8007, 0x7fffdeadb000);
}

static void gp_at_eenter(greg_t *r)
{
	fault(r, EENTER, 13, 0, 0);
}

static void case_fault(void)
{
	enclave = page_fault;
	CHECK(enter(EENTER) == 0 && entries == 1);
	CHECK(run.function == ERESUME && run.exception_vector == 14);
	CHECK(run.exception_error_code == 0x8007 && run.exception_addr == 0x7fffdeadb000);
	enclave = gp_at_eenter;
	CHECK(enter(EENTER) == 0 && run.function == EENTER && run.exception_vector == 13);
	CHECK(run.exception_error_code == 0 && run.exception_addr == 0);
	enclave = NULL; /* EEXIT leaves the exception fields alone */
	run.exception_vector = 77;
	CHECK(enter(ERESUME) == 0 && run.function == EEXIT && run.exception_vector == 77);
}

static int64_t answer;
static int64_t give(void)
{
	return answer;
}

/* Looks while the enclave's stack is live: below RSP nothing has to last. */
static int64_t give_above_stack(void)
{
	for (int i = 0; i < 24; i++) /* nothing that the enclave pushed was overwritten */
		CHECK(((char *)handled[3])[i] == 0x5a);
	return answer;
}

static void leaves_values(greg_t *r)
{
	push_three(r);
	r[REG_RDI] = 0xd1, r[REG_RSI] = 0xd2, r[REG_RDX] = 0xd3;
	r[REG_R8] = 0xd5, r[REG_R9] = 0xd6;
	r[REG_EFL] |= DF;
}

static void case_handler(void)
{
	static const int64_t answers[] = { 0, -1, -7, INT_MIN, 0x500000000, 0x9fffffff9 };
	enclave = leaves_values;
	run.user_handler = (uint64_t)handler;
	handle = give_above_stack;
	for (unsigned i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		answer = answers[i]; /* an int: the upper half is not looked at */
		run.function = 0;
		CHECK(enter(EENTER) == (int)answer && entries == 1 && run.function == EEXIT);
		CHECK(handled[0] == 0xd1 && handled[1] == 0xd2 && handled[2] == 0xd3);
		CHECK(handled[3] == (uint64_t)seen[0][REG_RSP] - 24);
		CHECK(handled[4] == 0xd5 && handled[5] == 0xd6);
		CHECK(handled[6] == (uint64_t)&run);
		CHECK(handled[7] % 16 == 8 && handled[7] < handled[3]);
		CHECK(!(handled[8] & DF));
	}
}

static void case_handler_at_fault(void)
{
	enclave = page_fault;
	run.user_handler = (uint64_t)handler;
	handle = give;
	CHECK(enter(EENTER) == 0);
	CHECK(handled[0] == 14 && handled[1] == 0x8007 && handled[2] == 0x7fffdeadb000);
	CHECK(handled[4] == 0xa5 && handled[5] == 0xa6 && run.function == ERESUME);
}

static void two_faults(greg_t *r)
{
	push_three(r);
	if (entries < 3)
		page_fault(r);
}

static int64_t resume(void)
{
	return run.function == ERESUME ? ERESUME : 0;
}

static void case_reenter(void)
{
	enclave = two_faults;
	run.user_handler = (uint64_t)handler;
	handle = resume;
	run.tcs = 0x1000;
	CHECK(enter(EENTER) == 0 && entries == 3 && run.function == EEXIT);
	sees(0, EENTER, caller_five);
	sees(1, ERESUME, handler_five);
	sees(2, ERESUME, handler_five);
	/* The enclave finds its stack pointer again. */
	CHECK(seen[1][REG_RSP] == seen[0][REG_RSP] - 24);
	CHECK(seen[2][REG_RSP] == seen[1][REG_RSP] - 24);
	CHECK(seen[1][REG_RBP] == seen[0][REG_RBP]);
}

static int64_t spoil(void)
{
	run.reserved[215] = 1;
	return EENTER;
}

static void case_reenter_refused(void)
{
	static const int bad[] = { 1, 4, 5, INT_MAX };
	enclave = push_three;
	run.user_handler = (uint64_t)handler;
	handle = give;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		answer = bad[i];
		CHECK(enter(EENTER) == -EINVAL && entries == 1);
	}
	handle = spoil;
	CHECK(enter(EENTER) == -EINVAL && entries == 1);
}

static jmp_buf out;
static int64_t jump(void)
{
	longjmp(out, 1);
}

static void case_longjmp(void)
{
	run.user_handler = (uint64_t)handler;
	handle = jump;
	if (!setjmp(out)) {
		enter(EENTER);
		CHECK(!"came back");
	}
	CHECK(entries == 1 && run.function == EEXIT);
}

/* At every instruction of the function the unwinder finds the caller and its registers. */
extern void __register_frame(void *);
static int steps_in_image, in_image;
static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *argument)
{
	uint64_t ip = _Unwind_GetIP(context);

	if (in_image) {
		CHECK(ip == (uint64_t)probe_return);
		CHECK((uint64_t)_Unwind_GetGR(context, 3) == marks[0]); /* RBX, RBP */
		CHECK((uint64_t)_Unwind_GetGR(context, 6) == marks[1]);
		*(int *)argument = 1;
		return _URC_END_OF_STACK;
	}
	in_image = ip >= (uint64_t)image && ip < (uint64_t)image + 0x2000;
	return _URC_NO_REASON;
}

static void unwind_here(greg_t *r)
{
	int found = 0;

	if (r[REG_RIP] < (greg_t)image || r[REG_RIP] >= (greg_t)image + 0x2000)
		return;
	in_image = 0;
	_Unwind_Backtrace(frame, &found);
	CHECK(found);
	steps_in_image++;
}

static int64_t unwind_in_handler(void)
{
	int found = 0;

	in_image = 0;
	_Unwind_Backtrace(frame, &found);
	CHECK(found);
	return resume();
}

static void case_unwind(void)
{
	stepped = unwind_here;
	probe_flags = TF;
	for (int i = 0; i < 4; i++) {
		steps_in_image = 0;
		enclave = i & 1 ? push_three : page_fault;
		enter(i == 3 ? 1 : EENTER);
		CHECK(steps_in_image > 10);
	}
	probe_flags = 0;
	enclave = push_three;
	run.user_handler = (uint64_t)handler;
	handle = unwind_in_handler;
	enter(EENTER);
}

static const struct {
	const char *name;
	void (*body)(void);
} cases[] = {
	{ "eexit", case_eexit },
	{ "blocked_signals", case_blocked_signals },
	{ "aep", case_aep },
	{ "stack_left_deep", case_stack_left_deep },
	{ "bad_function", case_bad_function },
	{ "reserved", case_reserved },
	{ "fault", case_fault },
	{ "handler", case_handler },
	{ "handler_at_fault", case_handler_at_fault },
	{ "reenter", case_reenter },
	{ "reenter_refused", case_reenter_refused },
	{ "longjmp", case_longjmp },
	{ "unwind", case_unwind },
};

int main(int argc, char **argv)
{
	CHECK(argc == 8);
	image = map_image(argv[2], atol(argv[3]));
	CHECK(!mprotect(image, 0x2000, PROT_READ | PROT_EXEC));
	enclu = image + atol(argv[4]);
	at_aep = image + atol(argv[5]);
	enclu_fault = image + atol(argv[6]);
	if (!strcmp(argv[1], "unwind"))
		__register_frame(image + atol(argv[7]));
	probe_function = (uint64_t)by_hash(image, "__vdso_sgx_enter_enclave");
	CHECK(probe_function && probe_function == (uint64_t)by_sections(image, "__vdso_sgx_enter_enclave"));
	probe_run = (uint64_t)&run;
	run.tcs = 0x7f0000001000;
	static char stack[1 << 17];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	CHECK(!sigaltstack(&alternate, NULL) && !sigaction(SIGTRAP, &action, NULL));
	action.sa_sigaction = on_call;
	CHECK(!sigaction(SIGSYS, &action, NULL));
	trap_calls_at(at_aep);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++)
		if (!strcmp(cases[i].name, argv[1])) {
			cases[i].body();
			return 0;
		}
	return 2;
}
