/* SPDX-License-Identifier: MIT
 *
 * Ways to open a file: by other numberings of the calls, by rings, by what leads to one.
 */
#ifndef OPENS_H
#define OPENS_H

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "ring.h"
#include "tap.h"

#define X32 0x40000000l

static char *low; /* memory that 32-bit calls reach */

static long i386(long nr, long a, long b, long c, long d)
{
	long ret;

	__asm__ volatile("push %%rbx\n\tmov %k2, %%ebx\n\tint $0x80\n\tpop %%rbx"
			 : "=a"(ret) : "0"(nr), "r"(a), "c"(b), "d"(c), "S"(d), "D"(0x400l) /* AT_SYMLINK_FOLLOW */
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

static long x86_64(long nr, long a, long b, long c, long d, ...)
{
	va_list more;
	long e, ret;

	va_start(more, d);
	e = nr == SYS_fanotify_mark ? va_arg(more, long) : 0;
	va_end(more);
	ret = syscall(nr, a, b, c, d, e);

	return ret < 0 ? -errno : ret;
}

static int tracer(void)
{
	static int pid;
	char line[200];
	FILE *status;

	if (pid)
		return pid;
	status = fopen("/proc/self/status", "r");
	while (fgets(line, sizeof(line), status))
		sscanf(line, "TracerPid: %d", &pid);
	fclose(status);
	return pid;
}

static long plainly(const char *path, int flags)
{
	int fd = open(path, flags);

	return fd < 0 ? -errno : fd;
}

static const char *copied(const char *path)
{
	return strcpy(low, path);
}

static long by_open(const char *path, int flags)
{
	return i386(5, (long)copied(path), flags, 0, 0);
}

static long by_creat(const char *path, int flags)
{
	(void)flags;
	return i386(8, (long)copied(path), 0600, 0, 0);
}

static long by_openat(const char *path, int flags)
{
	return i386(295, AT_FDCWD, (long)copied(path), flags, 0);
}

static long by_openat2(const char *path, int flags)
{
	struct open_how *how = (struct open_how *)(low + 2048);

	*how = (struct open_how){.flags = (unsigned)flags};
	return i386(437, AT_FDCWD, (long)copied(path), (long)how, sizeof(*how));
}

/* From the folder. */
static long by_folder(const char *path, int flags)
{
	char folder[300];
	long fd;

	strcpy(folder, path);
	*strrchr(folder, '/') = 0;
	fd = i386(5, (long)copied(folder), O_PATH | O_DIRECTORY, 0, 0);
	return fd < 0 ? fd : i386(295, fd, (long)copied(strrchr(path, '/') + 1), flags, 0);
}

static long by_link(const char *path, int flags)
{
	char link[] = "beneath-XXXXXX";
	long fd;

	close(mkstemp(link));
	unlink(link);
	if (symlink(path, link))
		return -errno;
	fd = i386(5, (long)copied(link), flags, 0, 0);
	unlink(link);
	return fd;
}

/* Where the kernel has no x32, we are asked all the same. */
static long by_x32(const char *path, int flags)
{
	return x86_64(X32 | SYS_openat, AT_FDCWD, (long)copied(path), flags, 0);
}

static void refused_x32(void)
{
	char path[100];

	snprintf(path, sizeof(path), "/proc/%d/mem", tracer());
	CHECK_EQ(by_x32(path, O_RDWR), -EACCES, "x32_refused");
}

static long by_ring(const char *path, int flags)
{
	struct io_uring_sqe open = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uint64_t)path,
				    .open_flags = (unsigned)flags};

	return through_ring(open);
}

/* What its name is to the kernel, from some file of the same file system. */
static long by_handle(const char *path, int flags, bool by_i386)
{
	struct file_handle *handle = (struct file_handle *)(low + 1024);
	int of = memfd_create("of", 0), *mount = (int *)(low + 2048);
	long ret;

	handle->handle_bytes = 128;
	if (by_i386)
		ret = i386(341, AT_FDCWD, (long)copied(path), (long)handle, (long)mount);
	else
		ret = name_to_handle_at(AT_FDCWD, path, handle, mount, AT_SYMLINK_FOLLOW) ? -errno : 0;
	if (!ret)
		ret = by_i386 ? i386(342, of, (long)handle, flags, 0) : x86_64(SYS_open_by_handle_at, of, (long)handle, flags, 0);
	close(of);
	return ret;
}

static long by_handle_64(const char *path, int flags)
{
	return by_handle(path, flags, false);
}

static long by_handle_i386(const char *path, int flags)
{
	return by_handle(path, flags, true);
}

/* i386's fanotify_mark has a sixth argument, in EBP. */
static long mark_i386(int group, unsigned flags, unsigned mask, const char *path)
{
	long ret;
	char *at = strcpy(low, path);

	__asm__ volatile("push %%rbx\n\tpush %%rbp\n\tmov %k2, %%ebx\n\tmov %k7, %%ebp\n\tint $0x80\n\t"
			 "pop %%rbp\n\tpop %%rbx"
			 : "=a"(ret) : "0"(339l), "r"((long)group), "c"((long)flags), "d"((long)mask), "S"(0l),
			   "D"((long)AT_FDCWD), "r"((long)at)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)ret;
}

/* Who is asked about an open, or told of it, is given the file. */
static long by_mark(const char *path, int flags, bool by_i386)
{
	struct fanotify_event_metadata event;
	int group = fanotify_init(FAN_CLASS_PRE_CONTENT | FAN_NONBLOCK, (unsigned)flags & ~O_NONBLOCK), status;
	pid_t child;
	long got;

	if (group < 0)
		return -errno;
	got = by_i386 ? mark_i386(group, FAN_MARK_ADD, FAN_OPEN_PERM, path)
		      : x86_64(SYS_fanotify_mark, group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, path);
	if (got < 0)
		return got;
	child = fork();
	if (!child)
		_exit(i386(5, (long)copied(path), flags, 0, 0) < 0);
	got = -EAGAIN;
	while (read(group, &event, sizeof(event)) != sizeof(event))
		if (waitpid(child, &status, WNOHANG) == child)
			return got;
	got = event.fd;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return got;
}

static long by_mark_64(const char *path, int flags)
{
	return by_mark(path, flags, false);
}

static long by_mark_i386(const char *path, int flags)
{
	return by_mark(path, flags, true);
}

/* It is opened anew by its link. */
static long by_tree(const char *path, int flags)
{
	char link[64];
	long fd = x86_64(SYS_open_tree, AT_FDCWD, (long)path, O_CLOEXEC, 0);

	if (fd < 0)
		return fd;
	snprintf(link, sizeof(link), "/proc/self/fd/%ld", fd);
	fd = open(link, flags);
	return fd < 0 ? -errno : fd;
}

static const struct {
	const char *name;
	long (*open)(const char *path, int flags);
} ways[] = {
	{"open", by_open}, {"creat", by_creat}, {"openat", by_openat}, {"openat2", by_openat2},
	{"folder", by_folder}, {"link", by_link}, {"x32", by_x32}, {"ring", by_ring},
	{"handle", by_handle_64}, {"handle_i386", by_handle_i386}, {"tree", by_tree}, {"mark", by_mark_64},
	{"mark_i386", by_mark_i386},
};

#endif
