/* SPDX-License-Identifier: MIT
 *
 * A load from outside of an enclave, which may end in a signal.
 */
#ifndef GUESTS_TOUCHED_H
#define GUESTS_TOUCHED_H

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>

static sigjmp_buf outside;

static void on_signal(int number) { siglongjmp(outside, number); }

/* Read the word at an address: 0, or the signal's number. */
static int touched(uint64_t at, uint64_t *value)
{
	struct sigaction action = {.sa_handler = on_signal};
	int number;

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	number = sigsetjmp(outside, 1);
	if (!number)
		*value = *(volatile uint64_t *)at;
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	return number;
}

#endif
