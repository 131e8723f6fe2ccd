/* SPDX-License-Identifier: MIT
 *
 * usage: names [PATH]
 * What can be done to the name of the device (or of PATH, to see a real node's answers): every call
 * that takes a path, as Linux answers for a character device in a devtmpfs where one is root or not.
 * What is done to it reaches nothing but what this run sees.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "tap.h"

#define TMPFS_MAGIC 0x01021994

static const char *path = "/dev/sgx_enclave";

static void reading(void)
{
	char buf[4096];
	struct statfs fs;
	struct stat st;
	char below[4200];
	int fd;

	check_errno((int)readlink(path, buf, sizeof(buf)), EINVAL, "readlink");
	check(realpath(path, buf) && !strcmp(buf, path), "realpath", "%s", strerror(errno));
	check(!statfs(path, &fs) && fs.f_type == TMPFS_MAGIC, "statfs", "%lx", (long)fs.f_type);
	check_errno(chdir(path), ENOTDIR, "chdir");
	check_errno(truncate(path, 0), EINVAL, "truncate");
	check_errno((int)getxattr(path, "user.x", buf, 8), ENODATA, "getxattr_user");
	check((lgetxattr(path, "system.posix_acl_access", buf, 8) < 0 &&
	       (errno == ENODATA || errno == EOPNOTSUPP)), "lgetxattr_acl", "%s", strerror(errno));
	check(listxattr(path, buf, sizeof(buf)) >= 0, "listxattr", "%s", strerror(errno));
	fd = inotify_init1(IN_CLOEXEC);
	check(inotify_add_watch(fd, path, IN_ALL_EVENTS) > 0, "inotify", "%s", strerror(errno));
	snprintf(below, sizeof(below), "%s/x", path);
	check_errno(stat(below, &st), ENOTDIR, "stat_below");
	check_errno((int)readlink(below, buf, 8), ENOTDIR, "readlink_below");
	check_errno(access(path, X_OK), EACCES, "access_execute");
	check_errno(access(path, 8), EINVAL, "access_odd");
	check(!fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) && S_ISCHR(st.st_mode), "lstat", "%o", st.st_mode);
}

static void creating(void)
{
	check_errno(mkdir(path, 0700), EEXIST, "mkdir");
	check_errno(mknod(path, S_IFREG | 0600, 0), EEXIST, "mknod");
	check_errno(symlink("/etc/passwd", path), EEXIST, "symlink");
	check_errno(linkat(AT_FDCWD, "/etc/passwd", AT_FDCWD, path, 0), EEXIST, "link_to");
	/* Who may not write to /dev hears of that first. */
	check_errno(rmdir(path), access("/dev", W_OK) ? EACCES : ENOTDIR, "rmdir");
	check_errno(open(path, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST, "open_excl");
	check(creat(path, 0600) >= 0, "creat", "%s", strerror(errno));
}

/* As root. */
static void changing(void)
{
	struct timespec times[2] = {{.tv_sec = 1000, .tv_nsec = 5}, {.tv_nsec = UTIME_OMIT}};
	struct stat st, after;

	check_errno(setxattr(path, "user.x", "1", 1, 0), EPERM, "setxattr_user");
	check_errno(removexattr(path, "user.x"), EPERM, "removexattr_user");
	check(!chmod(path, 0640) && !stat(path, &st) && st.st_mode == (S_IFCHR | 0640), "chmod", "%o", st.st_mode);
	check(!lchown(path, 3, 4) && !stat(path, &st) && st.st_uid == 3 && st.st_gid == 4, "chown", "%d", st.st_uid);
	check(!chown(path, (uid_t)-1, 0) && !stat(path, &st) && st.st_uid == 3 && !st.st_gid, "chown_group", "%d", st.st_gid);
	check(!utimensat(AT_FDCWD, path, times, 0) && !stat(path, &after) && after.st_atim.tv_sec == 1000 &&
	      after.st_atim.tv_nsec == 5 && after.st_mtim.tv_sec == st.st_mtim.tv_sec, "utimensat", "%ld", after.st_atim.tv_sec);
	check(!utimensat(AT_FDCWD, path, NULL, 0) && !stat(path, &after) && after.st_atim.tv_sec > 1000, "utimensat_now",
	      "%ld", after.st_atim.tv_sec);
	check(!chmod(path, 0) && open(path, O_RDWR) >= 0, "root_opens", "%s", strerror(errno));
	check(!chmod(path, 0666), "chmod_back", "%s", strerror(errno));
	check_errno(mount(path, "/mnt", "", MS_BIND, NULL), EPERM, "mount");
	check(rename(path, "/dev/softsgx-other") < 0, "rename", "it went through");
	check(rename("/etc/hostname", path) < 0, "rename_onto", "it went through");
	check(link(path, "/dev/softsgx-other") < 0, "link", "it went through");
	check(!unlink(path) && stat(path, &st) < 0 && errno == ENOENT, "unlink", "%s", strerror(errno));
	check(open(path, O_RDWR) < 0 && errno == ENOENT, "open_removed", "%s", strerror(errno));
	check(mkdir(path, 0700) < 0, "mkdir_removed", "it went through");
	check(!mknod(path, S_IFCHR | 0666, makedev(10, 125)) && open(path, O_RDWR) >= 0, "mknod_back", "%s",
	      strerror(errno));
	check(!chmod(path, 0666), "chmod_last", "%s", strerror(errno));
}

static void not_root(void)
{
	if (setgid(12345) || setuid(12345))
		abort();
	check_errno(chmod(path, 0600), EPERM, "user_chmod");
	check_errno(chown(path, 12345, (gid_t)-1), EPERM, "user_chown");
	check_errno(utimensat(AT_FDCWD, path, (struct timespec[2]){{.tv_sec = 1}, {.tv_sec = 1}}, 0), EPERM, "user_utimensat");
	check_errno(unlink(path), EACCES, "user_unlink");
	check_errno(rename(path, "/dev/softsgx-other"), EACCES, "user_rename");
	check_errno(mkdir(path, 0700), EEXIST, "user_mkdir");
	check(!access(path, R_OK | W_OK), "user_access", "%s", strerror(errno));
}

int main(int argc, char **argv)
{
	if (argc > 1)
		path = argv[1];
	reading();
	creating();
	if (getuid())
		skip("changing", "not root");
	else {
		changing();
		not_root();
	}
	return tap_failed;
}
