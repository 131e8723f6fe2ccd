/* SPDX-License-Identifier: MIT
 *
 * A noexec mount over a directory, in a mount namespace of the caller's own.
 */
#ifndef GUESTS_NOEXEC_H
#define GUESTS_NOEXEC_H

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static void write_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

/* 0, or -1 with errno. */
static int mount_noexec(const char *dir)
{
	unsigned int uid = geteuid(), gid = getegid();
	char map[40];

	if (unshare(CLONE_NEWNS)) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
			return -1;
		/* Who is nobody there can make no files. */
		snprintf(map, sizeof(map), "%u %u 1", uid, uid);
		write_map("/proc/self/uid_map", map);
		write_map("/proc/self/setgroups", "deny");
		snprintf(map, sizeof(map), "%u %u 1", gid, gid);
		write_map("/proc/self/gid_map", map);
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	return mount("none", dir, "tmpfs", MS_NOEXEC, NULL);
}

#endif
