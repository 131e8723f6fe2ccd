/* SPDX-License-Identifier: MIT
 *
 * A thread that stops again and again, woken where its tracer is.
 *
 * Where a processor is idle the thread is woken there, and we are when it stops: each stop would
 * cross between two, which costs more than all else. So we stay where we are, and it is bound for
 * the moment of waking alone.
 */
#ifndef SOFTSGX_TOGETHER_H
#define SOFTSGX_TOGETHER_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/types.h>

/* Stay on one processor of the thread's: which, from 1 on; 0 if that cannot be. was: our places before. */
static inline uint64_t stay(pid_t tid, cpu_set_t *was)
{
	cpu_set_t both, theirs;
	int cpu = sched_getcpu();

	if (sched_getaffinity(0, sizeof(*was), was) || sched_getaffinity(tid, sizeof(theirs), &theirs))
		return 0;
	CPU_AND(&both, was, &theirs);
	for (int i = 0; i < CPU_SETSIZE && !(cpu >= 0 && CPU_ISSET(cpu, &both)); i++)
		cpu = i;
	CPU_ZERO(&both);
	CPU_SET(cpu, &both);
	return sched_setaffinity(0, sizeof(both), &both) ? 0 : (uint64_t)cpu + 1;
}

/* Let it run, on this processor if it is not 0. False: it is gone. */
static inline bool go_on(pid_t tid, uint64_t cpu)
{
	cpu_set_t here, was;
	bool bound = false, good;

	if (cpu && !sched_getaffinity(tid, sizeof(was), &was) && CPU_ISSET(cpu - 1, &was)) {
		CPU_ZERO(&here);
		CPU_SET(cpu - 1, &here);
		bound = !CPU_EQUAL(&here, &was) && !sched_setaffinity(tid, sizeof(here), &here);
	}
	good = ptrace(PTRACE_CONT, tid, NULL, NULL) >= 0;
	if (bound)
		sched_setaffinity(tid, sizeof(was), &was);
	return good;
}

#endif
