/* SPDX-License-Identifier: MIT
 *
 * usage: profiled [MILLISECONDS]
 * A profiler in the process: SIGPROF each millisecond, and a perf event that sends SIGTRAP in the
 * thread itself, over a long computation inside. Neither may change its result. Then breakpoints by
 * perf events: following opt-out entry those on ELRANGE do not trigger (SDM, "Breakpoint
 * Suppression"), those outside do.
 */
#define _GNU_SOURCE
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include "loader.h"
#include "tap.h"

#define PERF_REMEDY "perf events are forbidden here: sysctl kernel.perf_event_paranoid=2 allows them"

static struct encl e;
static volatile long profs, traps, other, inside;

static void on_prof(int sig)
{
	(void)sig;
	profs++;
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	uint64_t rip = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)sig;
	traps++;
	other += info->si_code != 6; /* TRAP_PERF */
	inside += rip >= e.base && rip < e.base + e.size;
}

static int perf(uint32_t type, uint64_t config, uint64_t period, uint64_t bp_addr, uint32_t bp_type)
{
	struct perf_event_attr attr = {.type = type, .size = sizeof(attr), .config = config,
				       .sample_period = period, .exclude_kernel = 1, .exclude_hv = 1,
				       .disabled = 1, .remove_on_exec = 1, .sigtrap = 1};

	if (type == PERF_TYPE_BREAKPOINT) {
		attr.bp_type = bp_type;
		attr.bp_addr = bp_addr;
		attr.bp_len = bp_type == HW_BREAKPOINT_X ? sizeof(long) : HW_BREAKPOINT_LEN_8;
	}
	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static bool on(int fd, bool enable)
{
	return ioctl(fd, enable ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0) == 0;
}

static uint64_t rounds_of(long ms)
{
	struct timespec a, b;
	uint64_t rounds = 1 << 16;
	double ns;

	for (;; rounds *= 2) {
		volatile uint64_t sink;

		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
		sink = mix(7, rounds);
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
		(void)sink;
		ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
		if (ns > 5e6)
			return (uint64_t)((double)rounds * (double)ms * 1e6 / ns);
	}
}

static void long_call(bool raw, int fd, long ms)
{
	struct itimerval each_ms = {{0, 1000}, {0, 1000}}, off = {0};
	uint64_t rounds = rounds_of(ms);
	struct call c = {.op = OP_SUM, .a = 7, .b = rounds};
	const char *how = raw ? "raw" : "vdso";
	char name[40];
	uint64_t sum = mix(7, rounds);
	int tries = 0;
	bool left;

	profs = traps = other = inside = 0;
	setitimer(ITIMER_PROF, &each_ms, NULL);
	if (fd >= 0)
		on(fd, true);
	do /* what was calibrated on a busy machine is soon done */
		left = raw ? encl_raw_enter(&c, e.base + e.tcs[0], EENTER) == 0 : encl_do(&e, 0, &c);
	while (left && c.ret == sum && (profs < 4 || (fd >= 0 && traps < 4)) && ++tries < 64);
	if (fd >= 0)
		on(fd, false);
	setitimer(ITIMER_PROF, &off, NULL);
	snprintf(name, sizeof(name), "%s_result", how);
	check(left && c.ret == sum, name, "ret %#lx; %s", c.ret, e.err);
	snprintf(name, sizeof(name), "%s_profiled", how);
	check(profs > 3, name, "%ld SIGPROF", profs);
	snprintf(name, sizeof(name), "%s_sampled", how);
	if (fd < 0)
		skip(name, PERF_REMEDY);
	else
		check(traps > 3 && !other && !inside, name, "%ld SIGTRAP, %ld not by perf, %ld inside", traps,
		      other, inside);
}

static void breakpoint(uint32_t type, uint64_t addr, enum op op, uint64_t operand, bool triggers,
		       const char *name)
{
	int fd = perf(PERF_TYPE_BREAKPOINT, 0, 1, addr, type);
	struct call c = {.op = op, .a = operand, .b = 1};
	bool done;

	if (fd < 0) {
		skip(name, errno == EACCES || errno == EPERM ? PERF_REMEDY : "no debug register here");
		return;
	}
	traps = other = inside = 0;
	on(fd, true);
	done = encl_do(&e, 0, &c);
	on(fd, false);
	close(fd);
	check(done && (triggers ? traps > 0 : !traps) && !other && !inside, name,
	      "%s; %ld SIGTRAP, %ld not by perf, %ld inside", e.err, traps, other, inside);
}

int main(int argc, char **argv)
{
	long ms = argc > 1 ? atol(argv[1]) : 1000;
	struct sigaction prof = {.sa_handler = on_prof, .sa_flags = SA_RESTART};
	struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_RESTART};
	static uint64_t outside __attribute__((aligned(8)));
	int fd;

	if (encl_load(&e, &(struct encl_opts){.heap = PAGE}))
		bail("load", e.err);
	sigaction(SIGPROF, &prof, NULL);
	sigaction(SIGTRAP, &trap, NULL);
	fd = perf(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, 250000, 0, 0);
	long_call(false, fd, ms);
	long_call(true, fd, ms);
	close(fd);
	breakpoint(HW_BREAKPOINT_X, e.base + e.entry, OP_NOP, 0, false, "no_code_breakpoint_inside");
	breakpoint(HW_BREAKPOINT_RW, e.base + e.heap, OP_PEEK, e.base + e.heap, false,
		   "no_data_breakpoint_on_elrange");
	breakpoint(HW_BREAKPOINT_RW, (uint64_t)&outside, OP_PEEK, (uint64_t)&outside, true,
		   "data_breakpoint_outside");
	return tap_failed;
}
