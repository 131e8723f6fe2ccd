/* SPDX-License-Identifier: MIT
 *
 * Seccomp filters of a thread's own.
 */
#ifndef FILTERS_H
#define FILTERS_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As many as go in, which let all calls pass: no more is installed in this thread. */
static inline void fill_filters(void)
{
	static struct sock_filter many[4096];

	for (int i = 0; i < 4096; i++)
		many[i] = (struct sock_filter){BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
	for (unsigned short n = 4096; n; n /= 2) {
		struct sock_fprog program = {n, many};

		while (!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
			;
	}
}

#endif
