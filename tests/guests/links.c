/* SPDX-License-Identifier: MIT
 *
 * usage: links PATH FOLDER
 * What Linux answers where PATH, a device in /dev, is named in roundabout ways: through symbolic
 * links in FOLDER, /proc/self/fd, openat2's scopes, and where it is to go to another file system.
 * Prints `NAME ANSWER` a line, the same for every device: errno's name, or what was found.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

static const char *path, *base;
static struct stat node;

static void say(const char *name, long ret)
{
	printf("%s %s\n", name, ret < 0 ? strerrorname_np(errno) : "ok");
	fflush(stdout);
}

/* Is it the device, a link, or what? */
static void is(const char *name, int ret, const struct stat *st)
{
	const char *what = ret < 0 ? strerrorname_np(errno) : S_ISLNK(st->st_mode) ? "link"
			   : S_ISCHR(st->st_mode) && st->st_rdev == node.st_rdev ? "device" : "other";

	printf("%s %s\n", name, what);
	fflush(stdout);
}

static void by_name(const char *how, const char *name)
{
	char text[200], buf[64];
	struct statx stx = {0};
	struct statfs fs;
	struct stat st;
	int fd;

#define NAME(call) (snprintf(text, sizeof(text), "%s_%s", how, call), text)
	is(NAME("stat"), stat(name, &st), &st);
	is(NAME("lstat"), lstat(name, &st), &st);
	is(NAME("fstatat"), fstatat(AT_FDCWD, name, &st, AT_SYMLINK_NOFOLLOW), &st);
	say(NAME("statx"), statx(AT_FDCWD, name, 0, STATX_ALL, &stx));
	printf("%s %o\n", NAME("statx_mode"), stx.stx_mode & S_IFMT);
	say(NAME("access"), access(name, R_OK));
	say(NAME("access_x"), access(name, X_OK));
	say(NAME("faccessat2"), syscall(SYS_faccessat2, AT_FDCWD, name, R_OK, AT_SYMLINK_NOFOLLOW));
	say(NAME("statfs"), statfs(name, &fs));
	say(NAME("truncate"), truncate(name, 0));
	say(NAME("chdir"), chdir(name));
	say(NAME("getxattr"), getxattr(name, "user.x", buf, sizeof(buf)));
	say(NAME("setxattr"), setxattr(name, "user.x", "1", 1, 0));
	say(NAME("mkdir"), mkdir(name, 0700));
	say(NAME("mknod"), mknod(name, S_IFREG | 0600, 0));
	say(NAME("open_excl"), open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
	say(NAME("open_nofollow"), open(name, O_RDONLY | O_NOFOLLOW));
	say(NAME("open_directory"), open(name, O_RDONLY | O_DIRECTORY));
	fd = inotify_init1(IN_CLOEXEC);
	say(NAME("inotify"), inotify_add_watch(fd, name, IN_ATTRIB));
	close(fd);
	fd = open(name, O_RDWR);
	is(NAME("open"), fd < 0 ? fd : fstat(fd, &st), &st);
	close(fd);
	fd = open(name, O_PATH);
	is(NAME("open_path"), fd < 0 ? fd : fstat(fd, &st), &st);
	close(fd);
}

static void scopes(int folder, const char *link1, const char *magic)
{
	static const struct { const char *name; uint64_t resolve; } how[] = {
		{"no_xdev", RESOLVE_NO_XDEV}, {"beneath", RESOLVE_BENEATH}, {"in_root", RESOLVE_IN_ROOT},
		{"both", RESOLVE_BENEATH | RESOLVE_IN_ROOT}, {"no_symlinks", RESOLVE_NO_SYMLINKS},
		{"no_magiclinks", RESOLVE_NO_MAGICLINKS}, {"all", RESOLVE_NO_XDEV | RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS},
	};
	int dev = open("/dev", O_RDONLY | O_DIRECTORY), root = open("/", O_PATH | O_DIRECTORY);
	char up[300], slash[300], inside[300];

	snprintf(up, sizeof(up), "../dev/%s", base);
	snprintf(slash, sizeof(slash), "/%s", base);
	snprintf(inside, sizeof(inside), "dev/%s", base);
	for (size_t i = 0; i < sizeof(how) / sizeof(*how); i++) {
		struct open_how h = {.flags = O_RDWR, .resolve = how[i].resolve};
		const struct { const char *name; int dir; const char *path; } way[] = {
			{"link", AT_FDCWD, link1}, {"link_in_folder", folder, "one"}, {"magic", AT_FDCWD, magic},
			{"absolute", AT_FDCWD, path}, {"in_dev", dev, base}, {"up", dev, up}, {"slash", dev, slash},
			{"from_root", root, inside}, {"absolute_dev", dev, path},
		};

		for (size_t k = 0; k < sizeof(way) / sizeof(*way); k++) {
			char text[100];
			struct stat st;
			long fd = syscall(SYS_openat2, way[k].dir, way[k].path, &h, sizeof(h));

			snprintf(text, sizeof(text), "openat2_%s_%s", how[i].name, way[k].name);
			is(text, fd < 0 ? -1 : fstat((int)fd, &st), &st);
			close((int)fd);
		}
	}
}

static void across(const char *folder)
{
	char to[300], nowhere[300], there[300], other[300];

	snprintf(to, sizeof(to), "%s/to", folder);
	snprintf(nowhere, sizeof(nowhere), "%s/nowhere/to", folder);
	snprintf(there, sizeof(there), "%s/there", folder);
	snprintf(other, sizeof(other), "%s/other", folder);
	close(creat(there, 0600));
	say("rename_across", rename(path, to));
	say("rename_across_onto", rename(path, there));
	say("rename_nowhere", rename(path, nowhere));
	say("rename_from", rename(there, path));
	say("rename_from_missing", rename(other, path));
	say("rename_flags", syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, to, 64));
	say("rename_exchange", syscall(SYS_renameat2, AT_FDCWD, path, AT_FDCWD, there, RENAME_EXCHANGE));
	say("rename_itself", rename(path, path));
	say("link_across", link(path, to));
	say("link_across_onto", link(path, there));
	say("link_nowhere", link(path, nowhere));
	say("link_onto", link(there, path));
	say("link_itself", link(path, path));
}

int main(int argc, char **argv)
{
	char link1[300], link2[300], text[100], text2[100];
	struct stat st;
	int fd, dir;

	if (argc < 3)
		return 2;
	path = argv[1];
	base = strrchr(path, '/') + 1;
	snprintf(link1, sizeof(link1), "%s/one", argv[2]);
	snprintf(link2, sizeof(link2), "%s/two", argv[2]);
	if (symlink(path, link1) || symlink("one", link2) || stat(path, &node))
		return 3;
	by_name("plain", path);
	by_name("link", link1);
	by_name("links", link2);
	fd = open(path, O_RDWR);
	snprintf(text, sizeof(text), "/proc/self/fd/%d", fd);
	by_name("magic", text);
	strcpy(text2, text);
	snprintf(text, sizeof(text), "/dev/fd/%d", fd);
	is("dev_fd", stat(text, &st), &st);
	dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	snprintf(text, sizeof(text), "%d", fd);
	is("relative_magic", fstatat(dir, text, &st, 0), &st);
	is("relative_magic_link", fstatat(dir, text, &st, AT_SYMLINK_NOFOLLOW), &st);
	if (chdir("/proc/self/fd"))
		return 4;
	is("here_magic", stat(text, &st), &st);
	dup2(fd, 0);
	is("stdin", stat("/dev/stdin", &st), &st);
	is("stdin_open", (fd = open("/dev/stdin", O_RDONLY)) < 0 ? fd : fstat(fd, &st), &st);
	scopes(open(argv[2], O_PATH), link1, text2);
	across(argv[2]);
	return 0;
}
