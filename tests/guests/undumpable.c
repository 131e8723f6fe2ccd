/* SPDX-License-Identifier: MIT
 *
 * usage: undumpable
 * PR_SET_DUMPABLE of 0 hides a process from tracers without CAP_SYS_PTRACE; children inherit it, exec
 * ends it, and enclaves are loaded and entered all the same.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

int main(int argc, char **argv)
{
	int status = -1;

	if (argc > 1) {
		CHECK_EQ(prctl(PR_GET_DUMPABLE), 1, "after_exec");
		return tap_failed;
	}
	CHECK_EQ(prctl(PR_GET_DUMPABLE), 1, "at_first");
	check_errno(prctl(PR_SET_DUMPABLE, 2), EINVAL, "root_alone");
	check_errno(prctl(PR_SET_DUMPABLE, 0), 0, "set");
	CHECK_EQ(prctl(PR_GET_DUMPABLE), 0, "got");
	if (encl_load(&e, &(struct encl_opts){.heap = 4096}))
		bail("load", e.err);
	CHECK_EQ(encl_op(&e, OP_SUM, 1, 3, 0, 0), mix(1, 3), "entered");
	if (!fork()) {
		CHECK_EQ(prctl(PR_GET_DUMPABLE), 0, "inherited");
		CHECK_EQ(encl_op(&e, OP_SUM, 2, 3, 0, 0), mix(2, 3), "entered_by_child");
		execv("/proc/self/exe", (char *[]){argv[0], "again", NULL});
		_exit(127);
	}
	wait(&status);
	check(status == 0, "child", "status %#x", status);
	check_errno(prctl(PR_SET_DUMPABLE, 1), 0, "set_back");
	CHECK_EQ(prctl(PR_GET_DUMPABLE), 1, "got_back");
	return tap_failed;
}
