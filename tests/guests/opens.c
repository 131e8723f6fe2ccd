/* SPDX-License-Identifier: MIT
 *
 * usage: opens
 * The device as a file: the ways to open it, what stat, fcntl and /proc say, what dup, O_CLOEXEC and
 * exec do with it. Each open file is an enclave of its own; a dup is the same one.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

/* That it is the device, and nothing was created on it yet: CREATE works, and once only. */
static void is_new(int fd, const char *name)
{
	static struct secs secs = {.size = 1 << 16, .base = 1 << 30, .ssa_frame_size = 1,
				   .attributes = ATTR_MODE64BIT, .xfrm = 3};
	struct sgx_enclave_create arg = {.src = (uint64_t)&secs};

	if (fd < 0)
		return (void)check(false, name, "open: %s", strerror(errno));
	if (!check_errno(ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &arg), 0, name))
		return;
	if (ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &arg) != -1 || errno != EINVAL)
		check(false, name, "a second CREATE on it was not EINVAL");
}

static void ways(void)
{
	struct open_how how = {.flags = O_RDWR | O_CLOEXEC};
	int dir = open("/dev", O_RDONLY | O_DIRECTORY), fd;
	char link[64], cwd[4096];

	is_new(open("/dev/sgx_enclave", O_RDWR), "open");
	is_new(open("/dev/sgx_enclave", O_RDONLY), "open_read_only");
	is_new(openat(AT_FDCWD, "/dev//../dev/./sgx_enclave", O_RDWR), "open_odd_path");
	is_new(openat(dir, "sgx_enclave", O_RDWR), "openat");
	is_new((int)syscall(SYS_openat2, AT_FDCWD, "/dev/sgx_enclave", &how, sizeof(how)), "openat2");
	is_new((int)syscall(SYS_open, "/dev/sgx_enclave", O_RDWR), "open_syscall");
	is_new(open("/dev/sgx_enclave", O_RDWR | O_CREAT, 0600), "open_creat");
	if (getcwd(cwd, sizeof(cwd)) && chdir("/dev") == 0) {
		is_new(open("sgx_enclave", O_RDWR), "open_relative");
		if (chdir(cwd))
			abort();
	}
	snprintf(link, sizeof(link), "/tmp/softsgx-opens-%d", getpid());
	if (symlink("/dev/sgx_enclave", link) == 0) {
		is_new(open(link, O_RDWR), "open_symlink");
		check_errno(open(link, O_RDWR | O_NOFOLLOW), ELOOP, "open_nofollow");
		unlink(link);
	}
	check_errno(open("/dev/sgx_enclave", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST, "open_excl");
	check_errno(open("/dev/sgx_enclave/x", O_RDWR), ENOTDIR, "open_below");
	check_errno(open("/dev/sgx_enclave", O_RDWR | O_DIRECTORY), ENOTDIR, "open_directory");
	check_errno(open("/dev/sgx_enclave_not", O_RDWR), ENOENT, "open_other_name");
	fd = open("/dev/sgx_enclave", O_PATH);
	check_errno(ioctl(fd, SGX_IOC_ENCLAVE_CREATE, NULL), EBADF, "o_path");
	/* Opening it again through /proc is another enclave. */
	fd = open("/dev/sgx_enclave", O_RDWR);
	is_new(fd, "proc_first");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	is_new(open(link, O_RDWR), "proc_reopen");
	fd = open("/dev/sgx_provision", O_RDONLY);
	if (fd >= 0)
		check_errno(ioctl(fd, SGX_IOC_ENCLAVE_CREATE, NULL), ENOTTY, "provision_is_another");
	else
		skip("provision_is_another", "no /dev/sgx_provision");
}

static void looks(void)
{
	int fd = open("/dev/sgx_enclave", O_RDWR | O_CLOEXEC), again;
	struct stat by_path, by_fd;
	char link[64], name[256] = "";

	check(stat("/dev/sgx_enclave", &by_path) == 0 && S_ISCHR(by_path.st_mode), "stat", "mode %#o",
	      by_path.st_mode);
	check(fstat(fd, &by_fd) == 0 && S_ISCHR(by_fd.st_mode) && by_fd.st_rdev == by_path.st_rdev
	      && by_fd.st_ino == by_path.st_ino, "fstat", "mode %#o, rdev %#lx, by path %#lx",
	      by_fd.st_mode, by_fd.st_rdev, by_path.st_rdev);
	check_errno(access("/dev/sgx_enclave", R_OK | W_OK), 0, "access");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	check(readlink(link, name, sizeof(name) - 1) > 0 && !strcmp(name, "/dev/sgx_enclave"), "proc_fd",
	      "%s", name);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR, "getfl");
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC, "cloexec");
	again = open("/dev/sgx_enclave", O_RDWR);
	CHECK_EQ(fcntl(again, F_GETFD), 0, "no_cloexec");
	check(again == fd + 1, "lowest_fd", "%d after %d", again, fd);
	close(fd);
	fd = open("/dev/sgx_enclave", O_RDWR | O_NONBLOCK);
	CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "nonblock");
	close(fd);
	close(again);
}

/* A dup is the same enclave; the number that was closed is free for anything. */
static void dups(void)
{
	static struct encl e;
	int other, null;

	encl_plan(&e, &(struct encl_opts){.heap = PAGE});
	if (encl_sign(&e) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("dup_create", e.err);
	other = fcntl(e.fd, F_DUPFD_CLOEXEC, 100);
	close(e.fd);
	null = open("/dev/null", O_RDWR);
	check_errno(ioctl(null, SGX_IOC_ENCLAVE_CREATE, NULL), ENOTTY, "number_again");
	e.fd = dup2(other, 50);
	close(other);
	if (encl_add_all(&e, 0) || encl_init(&e) || encl_map(&e))
		bail("dup_build", e.err);
	close(e.fd);
	check(encl_op(&e, OP_SUM, 2, 20, 0, 0) == mix(2, 20), "dup_enters", "%s", e.err);
	check_errno(ioctl(50, SGX_IOC_ENCLAVE_INIT, NULL), EBADF, "closed");
}

/* Over exec: an fd without O_CLOEXEC is still that enclave, in a program that is new. */
static int after_exec(int fd)
{
	struct sgx_enclave_create arg = {0};

	check_errno(ioctl(fd, SGX_IOC_ENCLAVE_CREATE, &arg), EINVAL, "exec_keeps"); /* was created */
	check_errno(ioctl(fd, SGX_IOC_ENCLAVE_INIT, (void *)8), EFAULT, "exec_state");
	check_errno(fcntl(fd + 1, F_GETFD), EBADF, "exec_closes");
	return tap_failed;
}

static void execs(void)
{
	static struct encl e;
	char number[16];
	int status, fd;
	pid_t pid;

	encl_plan(&e, &(struct encl_opts){0});
	e.fd = dup2(open("/dev/sgx_enclave", O_RDWR), 60);
	fd = dup3(e.fd, 61, O_CLOEXEC);
	if (fd != 61 || encl_reserve(&e) || encl_create(&e))
		bail("exec_create", e.err);
	pid = fork();
	if (pid == 0) {
		snprintf(number, sizeof(number), "%d", e.fd);
		execl("/proc/self/exe", "opens", "after", number, (char *)NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "exec_status", "status %#x", status);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "after"))
		return after_exec(atoi(argv[2]));
	ways();
	looks();
	dups();
	execs();
	return tap_failed;
}
