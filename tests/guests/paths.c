/* SPDX-License-Identifier: MIT
 *
 * Calls on paths, made so often that softsgx leads their instructions past its stop: they answer as
 * before, nothing of it shows, and the device is still there.
 *
 * usage: paths          the checks; `ok led` if the instructions were led
 *        paths steps    where single steps through a hot call stop, and what they find
 *        paths folder   the current folder, opened by the C library's instructions of opendir(3)
 *        paths scribble writes over what softsgx has put into the process, and calls on
 */
#define _GNU_SOURCE
#include "again.h"
#include "tap.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#define HOT 300

/* long NAME(long dirfd, const char *path, long, long): one instruction that makes all calls. */
#define SITE(name, number)                                                                     \
	asm(".text\n" #name ":\n\tmov %rcx, %r10\n" #name "_mov:\n\tmov $" #number ", %eax\n"  \
	    "\tsyscall\n" #name "_end:\n\tret\n");                                             \
	long name(long dirfd, const char *path, long a, long b);                               \
	extern const unsigned char name##_mov[], name##_end[]

SITE(openat_, 257);
SITE(fstatat_, 262);
SITE(stat_, 4);

/* opendir(3): what a jump takes the place of does not load RAX. */
asm(".text\nfolder_:\n\tmov $257, %eax\n\tmov %rdi, %rsi\n\tmov $-100, %edi\n"
    "\tsyscall\n\tret\n");
long folder_(const char *path, long unused, long flags, long mode);

static char room[256];
static volatile long caught, stray;
static volatile long *handled; /* caught, for children to see */
static volatile sig_atomic_t tell;

static long get(const char *path, long flags)
{
	return openat_(AT_FDCWD, path, flags, 0);
}

static long look(const char *path)
{
	return fstatat_(AT_FDCWD, path, (long)room, 0);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	unsigned long rip = (unsigned long)r[REG_RIP], first = (unsigned long)fstatat__mov;

	(void)info;
	again();
	*handled = ++caught;
	if (number == SIGTRAP) {
		if (rip - first < 64 && tell)
			printf("%ld rax %llx rdi %llx rsi %llx flags %llx\n", (long)(rip - first),
			       r[REG_RAX], r[REG_RDI], (unsigned long long)(r[REG_RSI] != 0),
			       (unsigned long long)r[REG_EFL] & 0xcd5);
		return;
	}
	/* The loop calls nothing but this program's own code. */
	extern char __executable_start[], etext[];

	if (rip < (unsigned long)__executable_start || rip >= (unsigned long)etext)
		stray = (long)rip;
}

static void handle(int number, int flags)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags };

	sigaction(number, &action, NULL);
}

static void heat(void)
{
	for (int i = 0; i < HOT; i++) {
		close((int)get("/etc/passwd", O_RDONLY));
		look("/etc/passwd");
		stat_((long)"/etc/passwd", room, 0, 0);
	}
}

static void answers(void)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static char many[5000];
	struct stat *st = (struct stat *)room;
	long fd, dir;

	munmap(page + 4096, 4096);
	memcpy(page + 4096 - 12, "/etc/passwd", 12);
	check(!look(page + 4096 - 12), "path_at_the_end_of_memory", "%s", room);
	check(look(page + 4096 - 11 + 11) == -EFAULT, "path_behind_it", "%s", room);
	memcpy(page + 4096 - 11, "/etc/passwd", 11);
	check(look(page + 4096 - 11) == -EFAULT, "path_without_end", "%s", room);
	check(look(NULL) == -EFAULT && get((char *)1, 0) == -EFAULT, "bad_address", "%s", room);
	memset(many, 'x', sizeof(many) - 1);
	check(look(many) == -ENAMETOOLONG, "too_long", "%s", room);
	check(look("") == -ENOENT, "no_path", "%s", room);
	check(look("/etc/passwd/x") == -ENOTDIR, "below_a_file", "%s", room);
	check(get("/nowhere", O_RDONLY) == -ENOENT, "not_there", "%s", room);

	fd = get("/dev/sgx_enclave", O_RDWR);
	check(fd >= 0, "device", "%ld", fd);
	check(!look("/dev/sgx_enclave") && S_ISCHR(st->st_mode), "device_stat", "%o", st->st_mode);
	check(look("/dev/sgx_enclave/x") == -ENOTDIR, "below_the_device", "%s", room);
	check(!look("/dev/../dev/./sgx_enclave"), "device_by_dots", "%s", room);
	dir = get("/dev", O_RDONLY | O_DIRECTORY);
	check(!fstatat_(dir, "sgx_enclave", (long)room, 0), "device_in_dev", "%s", room);
	check(!symlink("/dev/sgx_enclave", "paths.link"), "link", "%s", strerror(errno));
	fd = get("paths.link", O_RDWR);
	check(fd >= 0, "device_by_link", "%ld", fd);
	check(get("paths.link", O_RDWR | O_NOFOLLOW) == -ELOOP, "link_itself", "%s", room);
	fd = openat_(AT_FDCWD, "paths.link", O_RDWR | O_CREAT, 0600);
	check(fd >= 0 && !fstat((int)fd, st) && S_ISCHR(st->st_mode), "device_by_link_made", "%ld", fd);
	unlink("paths.new");
	fd = openat_(AT_FDCWD, "paths.new", O_RDWR | O_CREAT, 0640);
	check(fd >= 0 && !fstat((int)fd, st) && st->st_mode == (S_IFREG | 0640), "made", "%ld", fd);
	unlink("paths.new");
	fd = get("paths.link", O_RDWR);
	unlink("paths.link");
	check(!fstatat_(fd, "", (long)room, AT_EMPTY_PATH) && S_ISCHR(st->st_mode),
	      "device_by_no_path", "%o", st->st_mode);
	snprintf(many, sizeof(many), "/proc/self/fd/%ld", fd);
	check(!look(many) && S_ISCHR(st->st_mode), "device_by_descriptor", "%o", st->st_mode);
	dir = get("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	snprintf(many, sizeof(many), "%ld", fd);
	fd = openat_(dir, many, O_RDWR, 0);
	check(fd >= 0 && !fstat((int)fd, st) && S_ISCHR(st->st_mode), "device_in_proc", "%ld", fd);
	munmap(page, 4096);
}

/* A path that is not there is no fault of the program's: its SIGSEGV is as it was. */
static void faults(void)
{
	struct sigaction now;
	sigset_t blocked, old;

	handle(SIGSEGV, 0);
	caught = 0;
	check(look((char *)8) == -EFAULT && !caught, "no_signal", "%ld", caught);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGSEGV);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	check(look((char *)8) == -EFAULT, "blocked", "%s", room);
	sigaction(SIGSEGV, NULL, &now);
	check(now.sa_sigaction == on_signal, "handler_kept", "%p", (void *)now.sa_sigaction);
	sigprocmask(SIG_SETMASK, NULL, &old);
	check(sigismember(&old, SIGSEGV), "still_blocked", "%d", sigismember(&old, SIGSEGV));
	sigprocmask(SIG_UNBLOCK, &blocked, NULL);
	signal(SIGSEGV, SIG_DFL);
}

static void storm(void)
{
	long wrong = 0;

	handle(SIGALRM, SA_RESTART);
	caught = stray = 0;
	again_begin(500);
	for (long i = 0; caught < 300; i++) {
		long fd = get("/etc/passwd", O_RDONLY);

		wrong += fd < 0 || look("/etc/passwd") || get("/nowhere", 0) != -ENOENT;
		asm volatile("syscall" : : "a"(SYS_close), "D"(fd) : "rcx", "r11", "memory");
	}
	again_end();
	check(!wrong && !stray, "signals", "%ld wrong, at %lx", wrong, stray);
}

static void interrupted(const char *fifo)
{
	/* One that comes before the call begins interrupts nothing. */
	long before;

	handle(SIGALRM, 0);
	caught = stray = 0;
	again_begin(20000);
	check(get(fifo, O_RDONLY) == -EINTR && caught, "open_interrupted", "%ld", caught);
	again_end();
	before = caught;
	handle(SIGALRM, SA_RESTART);
	again_begin(20000);
	if (!fork()) {
		while (*handled < before + 2)
			usleep(1000);
		_exit(open(fifo, O_WRONLY) < 0);
	}
	check(get(fifo, O_RDONLY) >= 0 && caught >= before + 2 && !stray, "open_restarted", "%ld", caught);
	again_end();
	wait(NULL);
}

/* A filter of the program's own that traps: the call is its instruction's, wherever it was led. */
static void on_trap(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	bool here = info->si_call_addr == fstatat__end && r[REG_RIP] == (greg_t)fstatat__end;

	caught++;
	r[REG_RAX] = here && number == SIGSYS && info->si_syscall == SYS_newfstatat ? 4711 : -1;
}

/* A filter of its own for a child; action: for what that traps, NULL for nothing. */
static void confine(const struct sock_fprog *program, const struct sigaction *action)
{
	caught = 0;
	if (action)
		sigaction(SIGSYS, action, NULL);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, program))
		_exit(2);
}

static void trapped(void)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_newfstatat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };
	int status;

	if (!fork()) {
		confine(&program, &action);
		for (int i = 0; i < 20; i++)
			if (look("/etc/passwd") != 4711 || caught != i + 1)
				_exit(1);
		_exit(0);
	}
	wait(&status);
	check(!status, "filter_of_its_own", "%x", status);
	code[1].k = SYS_lstat; /* never called by this program */
	if (!fork()) {
		confine(&program, &action);
		for (int i = 0; i < 20; i++)
			if (stat_((long)"/nowhere", room, 0, 0) != -ENOENT || caught)
				_exit(1);
		_exit(0);
	}
	wait(&status);
	check(!status, "filter_of_a_sibling", "%x", status);
	code[1].k = SYS_readlinkat; /* nor is this */
	code[2].k = SECCOMP_RET_KILL_PROCESS;
	if (!fork()) {
		confine(&program, NULL);
		_exit(openat_(AT_FDCWD, "paths.killed", O_RDWR | O_CREAT, 0600) < 0);
	}
	wait(&status);
	unlink("paths.killed");
	check(!status, "filter_that_kills", "%x", status);
}

static void *thread(void *arg)
{
	for (int i = 0; i < 2000; i++)
		if (look("/etc/passwd") || get("/nowhere", 0) != -ENOENT)
			return (void *)"wrong";
	return arg;
}

static void others(void)
{
	pthread_t threads[4];
	bool good = true;
	int status;

	if (!fork()) {
		heat();
		_exit(look("/dev/sgx_enclave") || get("/dev/sgx_enclave", O_RDWR) < 0);
	}
	wait(&status);
	check(!status, "child", "%x", status);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, thread, NULL);
	for (int i = 0; i < 4; i++) {
		void *result;

		pthread_join(threads[i], &result);
		good &= !result;
	}
	check(good, "threads", "a call answered otherwise");
}

static void steps(void)
{
	handle(SIGTRAP, 0);
	tell = 1;
	asm volatile("pushf; orl $0x100, (%%rsp); popf" : : : "memory", "cc");
	look("/etc/passwd");
	asm volatile("pushf; andl $~0x100, (%%rsp); popf" : : : "memory", "cc");
}

static void scribble(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];

	while (fgets(line, sizeof(line), maps)) {
		unsigned long start, end, inode;
		char perms[8];

		if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %lu", &start, &end, perms, &inode) != 4 ||
		    inode || strcmp(perms, "r-xp") || strstr(line, "[v") || end - start != 0x8000)
			continue;
		for (int round = 0; round < 30; round++) {
			if (!fork()) {
				if (mprotect((void *)start, end - start, PROT_READ | PROT_WRITE | PROT_EXEC))
					_exit(1);
				/* INT3 and what is no instruction: nobody wants random system calls. */
				srand((unsigned)round);
				for (int i = 0; i < 1 << round % 12; i++)
					((volatile char *)start)[(unsigned)rand() % 0x8000] =
						rand() % 2 ? 0x06 : (char)0xcc;
				ualarm(100000, 0);
				heat();
				_exit(0);
			}
			wait(NULL);
		}
		printf("scribbled\n");
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	handled = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "folder")) {
		for (int i = 0; i < HOT; i++) {
			long fd = folder_(".", 0, O_RDONLY | O_DIRECTORY, 0);

			if (fd < 0 || close((int)fd))
				printf("the %dth is %ld\n", i, fd);
		}
		return 0;
	}
	heat();
	if (!strcmp(what, "steps")) {
		steps();
		return 0;
	}
	if (!strcmp(what, "scribble")) {
		scribble();
		return 0;
	}
	if (mkfifo("paths.fifo", 0600))
		bail("fifo", strerror(errno));
	check(openat__mov[0] == 0xe9 && fstatat__mov[0] == 0xe9, "led", "%x", openat__mov[0]);
	storm();
	interrupted("paths.fifo");
	faults();
	trapped();
	others();
	answers();
	return tap_failed;
}
