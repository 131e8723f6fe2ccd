/* SPDX-License-Identifier: MIT
 *
 * usage: elsewhere FOLDER
 * Processes with a root, mounts or process numbers of their own: what of the device and of /proc is not there, or is
 * something else, is so for them. FOLDER is an empty one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "loader.h"
#include "tap.h"

static const char *folder;

static void opens(const char *name, const char *path, int want)
{
	int fd = open(path, O_RDONLY);

	check_errno(fd < 0 ? -1 : 0, want, name);
	if (fd >= 0)
		close(fd);
}

static bool tells(const char *path, const char *text)
{
	char line[4096];
	bool found = false;
	FILE *file = fopen(path, "r");

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, text) != NULL;
	if (file)
		fclose(file);
	return found;
}

static bool lists(const char *path, const char *name)
{
	struct dirent *entry;
	bool found = false;
	DIR *dir = opendir(path);

	while (dir && !found && (entry = readdir(dir)))
		found = !strcmp(entry->d_name, name);
	if (dir)
		closedir(dir);
	return found;
}

static void roots(void)
{
	if (chroot(folder) || chdir("/"))
		return check_errno(-1, 0, "chroot"), (void)0;
	opens("root_device", "/dev/sgx_enclave", ENOENT);
	opens("root_cpuinfo", "/proc/cpuinfo", ENOENT);
	opens("root_misc", "/proc/misc", ENOENT);
	opens("root_maps", "/proc/self/maps", ENOENT);
	opens("root_total", "/sys/devices/system/node/node0/x86/sgx_total_bytes", ENOENT);
	mkdir("/proc", 0700);
	close(open("/proc/cpuinfo", O_CREAT | O_WRONLY, 0600));
	check(!tells("/proc/cpuinfo", "processor"), "root_own_cpuinfo", "not the file that is there");
}

static void mounts(void)
{
	char own[300];
	struct encl e;
	int fd;

	snprintf(own, sizeof(own), "%s/own", folder);
	fd = open(own, O_CREAT | O_WRONLY, 0600);
	if (write(fd, "own\n", 4) != 4 || close(fd))
		abort();
	check(tells("/proc/misc", "sgx_enclave"), "mount_misc", "nothing of the device");
	check_errno(encl_load(&e, &(struct encl_opts){0}) ? -1 : 0, 0, "mount_load");
	check_errno(mount(own, "/proc/cpuinfo", NULL, MS_BIND, NULL), 0, "mount_bind");
	check(tells("/proc/cpuinfo", "own"), "mount_own_cpuinfo", "not the file that is there");
	umount("/proc/cpuinfo");
	check_errno(mount("none", "/dev", "tmpfs", 0, NULL), 0, "mount_dev");
	opens("mount_device", "/dev/sgx_enclave", ENOENT);
	check(!lists("/dev", "sgx_enclave"), "mount_listed", "the device in a tmpfs");
	check_errno(umount("/dev"), 0, "mount_dev_gone");
	opens("mount_device_again", "/dev/sgx_enclave", 0);
	check(lists("/dev", "sgx_enclave"), "mount_listed_again", "no device");
	check_errno(mount("none", "/proc", "tmpfs", 0, NULL), 0, "mount_proc");
	opens("mount_maps", "/proc/self/maps", ENOENT);
	umount("/proc");
}

static void numbers(void)
{
	struct encl e;
	int ready[2];
	pid_t child;
	char c;

	check_errno(mount("proc", "/proc", "proc", 0, NULL), 0, "numbers_proc");
	check(tells("/proc/misc", "sgx_enclave"), "numbers_misc", "nothing of the device");
	check_errno(pipe(ready), 0, "numbers_pipe");
	child = fork();
	if (!child) {
		bool ok = !encl_load(&e, &(struct encl_opts){0}) && encl_op(&e, OP_SUM, 1, 2, 0, 0) == mix(1, 2);

		ok &= tells("/proc/self/maps", "/dev/sgx_enclave") && tells("/proc/2/maps", "/dev/sgx_enclave");
		check(ok, "numbers_self", "%s", e.err);
		if (write(ready[1], "x", 1) != 1)
			abort();
		for (;;)
			pause();
	}
	CHECK_EQ(child, 2, "numbers_child");
	check(read(ready[0], &c, 1) == 1 && tells("/proc/2/maps", "/dev/sgx_enclave"), "numbers_child_maps",
	      "nothing of the device");
	check(tells("/proc/2/smaps", "/dev/sgx_enclave"), "numbers_child_smaps", "nothing of the device");
	check(!tells("/proc/1/maps", "/dev/sgx_enclave"), "numbers_other_maps", "the device of another process");
	kill(child, SIGKILL);
	umount("/proc");
	if (!mount("proc", "/proc", "proc", 0, "subset=pid"))
		opens("numbers_subset", "/proc/cpuinfo", ENOENT);
}

static void apart(const char *name, int flags, void (*f)(void))
{
	int status;

	if (!fork()) {
		if (unshare(flags) && unshare(CLONE_NEWUSER | flags))
			_exit(77);
		if (!fork()) {
			if (flags && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
				_exit(77);
			f();
			_exit(tap_failed);
		}
		wait(&status);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	wait(&status);
	if (status == 77 << 8)
		skip(name, "namespaces take a privilege here");
	else
		tap_failed |= status != 0;
}

int main(int argc, char **argv)
{
	folder = argc > 1 ? argv[1] : "/nowhere";
	apart("mount", CLONE_NEWNS, mounts);
	apart("numbers", CLONE_NEWNS | CLONE_NEWPID, numbers);
	apart("root", CLONE_NEWNS, roots);
	return tap_failed;
}
