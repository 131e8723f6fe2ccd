/* SPDX-License-Identifier: MIT
 *
 * usage: masks
 * Through the vDSO nothing of an enclave's life is a signal: not entering, not faults inside, not
 * pages added by a fault. So a program that blocks or ignores SIGILL, SIGSEGV, SIGTRAP, SIGBUS and
 * SIGFPE still works, and its mask, its dispositions, its pending signals and its alternate stack
 * are afterwards as it left them.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>
#include "loader.h"
#include "tap.h"

static struct encl e;
static const int sync_signals[] = {SIGILL, SIGSEGV, SIGTRAP, SIGBUS, SIGFPE};
static volatile int delivered;

static void handler(int sig)
{
	(void)sig;
	delivered++;
}

static const struct {
	enum fault fault;
	uint64_t address;
	int length, vector;
} faults[] = {
	{F_UD2, 0, 2, 6}, {F_DIV, 0, 2, 0}, {F_HLT, 0, 1, 13}, {F_READ, 0x10, 3, 14}, {F_SYSCALL, 0, 2, 6},
	{F_INT3, 0, 1, 6},
};

/* Enter and leave, fault inside, EAUG by EACCEPT; on a page of its own each time. */
static void use_enclave(const char *name)
{
	static uint64_t page;
	struct sgx_enclave_run run = {.tcs = e.base + e.tcs[1]};
	struct sgx_enclave_run inner = {.tcs = run.tcs};
	bool ok = true;

	for (int i = 0; i < 20; i++)
		ok &= encl_op(&e, OP_SUM, (uint64_t)i, 10, 0, 0) == mix((uint64_t)i, 10);
	page = page ? page + PAGE : e.base + e.free;
	ok &= encl_enclu(&e, 0, EACCEPT, page, SI_REG | SI_R | SI_W | SI_PENDING, 0, NULL) == 0;
	for (unsigned i = 0; i < sizeof(faults) / sizeof(*faults) && ok; i++) {
		struct call c = {.op = OP_FAULT, .a = faults[i].fault, .b = faults[i].address};
		struct call h = {.op = OP_HANDLE, .a = (uint64_t)faults[i].length};

		/* One call enters and resumes, so that both leave from the same stack. */
		for (uint32_t leaf = EENTER; ok; leaf = ERESUME) {
			ok &= encl_vdso_enter(&c, leaf, &run) == 0;
			if (run.function == EEXIT)
				break;
			ok &= run.exception_vector == faults[i].vector && leaf == EENTER;
			ok &= encl_vdso_enter(&h, EENTER, &inner) == 0 && inner.function == EEXIT;
		}
	}
	check(ok, name, "%s; vector %u", e.err, run.exception_vector);
}

static void dispositions(void (*wanted)(int), const char *name)
{
	struct sigaction act;

	for (int i = 0; i < 5; i++) {
		sigaction(sync_signals[i], NULL, &act);
		if (act.sa_handler != wanted)
			return (void)check(false, name, "signal %d: handler %p, was %p", sync_signals[i],
					   (void *)act.sa_handler, (void *)wanted);
	}
	check(true, name, " ");
}

static void blocked(void)
{
	struct sigaction act = {.sa_handler = handler};
	sigset_t all, now, old;
	int missing = 0;

	for (int i = 0; i < 5; i++)
		sigaction(sync_signals[i], &act, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	use_enclave("all_blocked");
	pthread_sigmask(SIG_SETMASK, &old, &now);
	for (int sig = 1; sig < 32; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && !sigismember(&now, sig))
			missing = sig;
	check(!missing, "mask_kept", "signal %d is no more blocked", missing);
	dispositions(handler, "handlers_kept");
	CHECK_EQ(delivered, 0, "nothing_delivered");
}

static void ignored(void)
{
	for (int i = 0; i < 5; i++)
		signal(sync_signals[i], SIG_IGN);
	use_enclave("all_ignored");
	dispositions(SIG_IGN, "ignored_kept");
}

/* ENCLU without the vDSO is no signal either. What it takes to enter is ignored, so it cannot help. */
static void raw_ignored(void)
{
	struct call c = {.op = OP_NOP};
	bool ok = true;

	for (int i = 0; i < 5; i++)
		signal(sync_signals[i], SIG_IGN);
	for (int i = 0; i < 20; i++)
		ok &= encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0;
	check(ok, "raw_ignored", " ");
	dispositions(SIG_IGN, "raw_ignored_kept");
}

/* With one's own AEP a fault inside is a forced signal: it kills if it is blocked or ignored. */
static void raw_fatal(bool block, const char *name)
{
	struct call c = {.op = OP_FAULT, .a = F_DIV};
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct sigaction act = {.sa_handler = block ? handler : SIG_IGN};
		sigset_t set;

		sigemptyset(&set);
		sigaddset(&set, SIGFPE);
		sigaction(SIGFPE, &act, NULL);
		pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
		encl_raw_enter(&c, e.base + e.tcs[2], EENTER); /* a TCS that nobody needs afterwards */
		_exit(1);
	}
	waitpid(pid, &status, 0);
	check(WIFSIGNALED(status) && WTERMSIG(status) == SIGFPE, name, "status %#x", status);
}

/* A signal that was sent while it is blocked stays pending over ECALLs, and comes afterwards. */
static void pending(void)
{
	sigset_t set, old, now;

	for (int i = 0; i < 5; i++)
		signal(sync_signals[i], handler);
	delivered = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGILL);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGUSR1);
	signal(SIGUSR1, handler);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	raise(SIGILL);
	raise(SIGSEGV);
	raise(SIGUSR1);
	use_enclave("pending_uses");
	sigpending(&now);
	check(sigismember(&now, SIGILL) && sigismember(&now, SIGSEGV) && sigismember(&now, SIGUSR1),
	      "pending_kept", "SIGILL %d, SIGSEGV %d, SIGUSR1 %d", sigismember(&now, SIGILL),
	      sigismember(&now, SIGSEGV), sigismember(&now, SIGUSR1));
	CHECK_EQ(delivered, 0, "pending_not_delivered");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	CHECK_EQ(delivered, 3, "pending_delivered");
}

static void *sends(void *arg)
{
	for (int i = 0; i < 5; i++)
		pthread_kill(*(pthread_t *)arg, sync_signals[i]);
	return NULL;
}

/* The same for signals that come while the thread computes inside, every one of them blocked. */
static void sent_inside(void)
{
	pthread_t self = pthread_self(), other;
	sigset_t set, old, now;
	int missing = 0;

	delivered = 0;
	sigemptyset(&set);
	for (int i = 0; i < 5; i++) {
		signal(sync_signals[i], handler);
		sigaddset(&set, sync_signals[i]);
	}
	pthread_sigmask(SIG_BLOCK, &set, &old);
	pthread_create(&other, NULL, sends, &self);
	check(encl_op(&e, OP_SUM, 1, 10000000, 0, 0) == mix(1, 10000000), "sent_inside", " ");
	pthread_join(other, NULL);
	use_enclave("sent_inside_uses");
	sigpending(&now);
	for (int i = 0; i < 5; i++)
		if (!sigismember(&now, sync_signals[i]))
			missing = sync_signals[i];
	check(!missing, "sent_inside_pending", "signal %d is not pending", missing);
	CHECK_EQ(delivered, 0, "sent_inside_not_delivered");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	CHECK_EQ(delivered, 5, "sent_inside_delivered");
}

static volatile sig_atomic_t at_enclu;

/* Returns to where it came from, from then on with SIGILL blocked. */
static void blocks_ill(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	const uint8_t *rip = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];

	(void)sig;
	(void)info;
	if (at_enclu || memcmp(rip, "\x0f\x01\xd7", 3))
		return;
	at_enclu = 1;
	sigaddset(&u->uc_sigmask, SIGILL);
}

/* A handler's return to the AEP with SIGILL blocked; by the vDSO's, or one's own. */
static void blocked_at_the_aep(bool raw, void (*action)(int), const char *name)
{
	struct itimerval soon = {0}, off = {0};
	struct sigaction act = {.sa_sigaction = blocks_ill, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct call c = {.op = OP_SUM, .a = 1, .b = 10000000};
	bool ok = true;
	sigset_t now, ill;

	sigemptyset(&ill);
	sigaddset(&ill, SIGILL);
	signal(SIGILL, action);
	sigaction(SIGALRM, &act, NULL);
	at_enclu = 0;
	while (ok && !at_enclu) {
		soon.it_value.tv_usec = (soon.it_value.tv_usec + 2000) % 500000; /* an entry may take long */
		setitimer(ITIMER_REAL, &soon, NULL);
		if (raw)
			ok = encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0;
		else
			ok = encl_op(&e, OP_SUM, 1, 10000000, 0, 0) == mix(1, 10000000);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	pthread_sigmask(SIG_UNBLOCK, &ill, &now);
	check(ok && sigismember(&now, SIGILL), name, "%s", ok ? "no more blocked" : "wrong");
}

/* SA_RESETHAND would show a signal that was swallowed on the way. */
static void once_only(void)
{
	struct sigaction act = {.sa_handler = handler, .sa_flags = SA_RESETHAND};

	for (int i = 0; i < 5; i++)
		sigaction(sync_signals[i], &act, NULL);
	use_enclave("resethand_uses");
	dispositions(handler, "resethand_kept");
}

static void altstack(void)
{
	static char stack[1 << 15];
	stack_t alt = {.ss_sp = stack, .ss_size = sizeof(stack)}, now;

	sigaltstack(&alt, NULL);
	use_enclave("altstack_uses");
	sigaltstack(NULL, &now);
	check(now.ss_sp == stack && now.ss_size == sizeof(stack) && now.ss_flags == 0, "altstack_kept",
	      "sp %p, size %zu, flags %d", now.ss_sp, now.ss_size, now.ss_flags);
	alt.ss_flags = SS_DISABLE;
	sigaltstack(&alt, NULL);
	use_enclave("no_altstack_uses");
}

int main(void)
{
	struct encl_seg seg = {.name = "dynamic", .len = 16 * PAGE};

	if (encl_load(&e, &(struct encl_opts){.threads = 3, .size = 1 << 20}))
		bail("load", e.err);
	seg.off = e.free;
	if (encl_map_seg(&e, &seg, PROT_READ | PROT_WRITE))
		bail("map", e.err);
	encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
	if (!encl_vdso)
		bail("vdso", "no __vdso_sgx_enter_enclave");
	use_enclave("default");
	dispositions(SIG_DFL, "default_kept");
	blocked();
	ignored();
	raw_ignored();
	raw_fatal(true, "raw_blocked_kills");
	raw_fatal(false, "raw_ignored_kills");
	pending();
	sent_inside();
	once_only();
	altstack();
	blocked_at_the_aep(false, SIG_DFL, "aep_default");
	blocked_at_the_aep(false, SIG_IGN, "aep_ignored");
	blocked_at_the_aep(false, handler, "aep_handled");
	blocked_at_the_aep(true, SIG_DFL, "raw_aep_default");
	blocked_at_the_aep(true, handler, "raw_aep_handled");
	return tap_failed;
}
