/* SPDX-License-Identifier: MIT
 *
 * SIGALRM again and again, on a machine of any speed. With an interval shorter than what a signal costs
 * the next one is there before its handler has returned: what it interrupts never makes a step. So the
 * handler sets the next one, and of the pauses each second one is twice as long, each fourth one four
 * times...: most are short, and in the end one is long enough.
 */
#ifndef GUESTS_AGAIN_H
#define GUESTS_AGAIN_H

#include <signal.h>
#include <sys/time.h>

static long again_us; /* the shortest; 0: no more */
static unsigned int again_n;

/* The n-th pause, n from 1; at most half a second or so. */
__attribute__((unused)) static long again_pause_us(unsigned int n, long us)
{
	int twice = n ? __builtin_ctz(n) : 0;

	while (twice && us << twice > 500000)
		twice--;
	return us << twice;
}

/* By the handler of SIGALRM. */
__attribute__((unused)) static void again(void)
{
	long us = __atomic_load_n(&again_us, __ATOMIC_SEQ_CST);
	struct itimerval next = {.it_value.tv_usec = 0};

	if (!us)
		return;
	next.it_value.tv_usec = again_pause_us(++again_n, us);
	setitimer(ITIMER_REAL, &next, NULL);
}

__attribute__((unused)) static void again_begin(long us)
{
	again_n = 0;
	again_us = us;
	again();
}

/* One more may come where another thread is in the handler. */
__attribute__((unused)) static void again_end(void)
{
	struct itimerval off = {0};

	__atomic_store_n(&again_us, 0, __ATOMIC_SEQ_CST);
	setitimer(ITIMER_REAL, &off, NULL);
}

#endif
