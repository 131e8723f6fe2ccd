/* SPDX-License-Identifier: MIT
 *
 * What two processes share, as the kernel says (kcmp(2)), which a tracer may ask.
 */
#ifndef SOFTSGX_SHARES_H
#define SOFTSGX_SHARES_H

#include <linux/kcmp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether two processes have the same memory, descriptors or handlers, or not, as flags say. */
static inline bool is_so(pid_t parent, pid_t child, uint64_t flags)
{
	static const struct {
		uint64_t flag;
		int what;
	} shared[] = {{CLONE_VM, KCMP_VM}, {CLONE_FILES, KCMP_FILES}, {CLONE_SIGHAND, KCMP_SIGHAND}};

	for (int i = 0; i < 3; i++) {
		long got = syscall(SYS_kcmp, parent, child, shared[i].what, 0, 0);

		if (got < 0 || !got != !!(flags & shared[i].flag))
			return false;
	}
	return true;
}

#endif
