/* SPDX-License-Identifier: MIT
 *
 * Mappings of a file's code, by an instruction that softsgx leads past its stop: they answer as
 * before, nothing of it shows, and what is the device's still stops.
 *
 * usage: maps          makes a few, becomes itself, which has the instruction led: the checks
 *        maps many N   makes N, then as many
 *        maps steps    where single steps through one stop, and what they find
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#define PAGE 4096
#define EXEC (PROT_READ | PROT_EXEC)

/* One instruction maps; jump_ goes to `target` with what would be its arguments, and red_ comes to it
 * with all of the red zone in use, and answers how much of that is left. */
asm(".text\n"
    "map_:\n\tmov %rcx, %r10\n"
    "map_mov:\n\tmov $9, %eax\n\tsyscall\n"
    "map_end:\n\tret\n"
    "jump_:\n\tmov %rcx, %r10\n\tjmp *target(%rip)\n"
    "red_:\n\tmov %rcx, %r10\n\tlea 1f(%rip), %rax\n\tpush %rax\n"
    "\tmov $-16, %rcx\n"
    "0:\tmov %rcx, (%rsp, %rcx, 8)\n\tinc %rcx\n\tjnz 0b\n\tjmp map_mov\n"
    "1:\tsub $8, %rsp\n\tmov %rax, %rdx\n\tmov $-16, %rcx\n\txor %eax, %eax\n"
    "2:\tcmp %rcx, (%rsp, %rcx, 8)\n\tjne 3f\n\tinc %rax\n"
    "3:\tinc %rcx\n\tjnz 2b\n\tadd $8, %rsp\n\tret\n");
long map_(void *addr, size_t length, long prot, long flags, long fd, long offset);
long jump_(void *addr, size_t length, long prot, long flags, long fd, long offset);
long red_(void *addr, size_t length, long prot, long flags, long fd, long offset);
extern const unsigned char map_mov[], map_end[];
const unsigned char *target;

static const unsigned char answer[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */
static volatile long caught, stray;
static volatile bool tell;
static int file, other;

/* A file of one page that answers a number. */
static int make(const char *name, unsigned char number)
{
	unsigned char page[PAGE] = { 0 };
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0700);

	memcpy(page, answer, sizeof(answer));
	page[1] = number;
	if (write(fd, page, PAGE) != PAGE)
		bail("file", strerror(errno));
	close(fd);
	return open(name, O_RDONLY);
}

static long plainly(void *addr, size_t length, long prot, long flags, long fd, long offset)
{
	long got = syscall(SYS_mmap, addr, length, prot, flags, fd, offset);

	return got == -1 ? -errno : got;
}

static int ask(long code)
{
	return code > 0 ? ((int (*)(void))code)() : -1;
}

static void unmap(long at)
{
	long result = SYS_munmap;

	asm volatile("syscall" : "+a"(result) : "D"(at), "S"(PAGE) : "rcx", "r11", "memory");
}

/* That files are opened often is what brings the code into a program without a dynamic linker. */
static void heat(int count)
{
	for (int i = 0; i < 40; i++)
		close(open("maps.file", O_RDONLY));
	for (int i = 0; i < count; i++)
		unmap(map_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0));
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	const greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	extern char __executable_start[], etext[];
	unsigned long rip = (unsigned long)r[REG_RIP];

	(void)info;
	again();
	caught++;
	if (number != SIGTRAP)
		stray |= rip < (unsigned long)__executable_start || rip >= (unsigned long)etext;
	else if (tell && rip - (unsigned long)map_mov < 64)
		printf("%ld rax %lld rdi %llx rsi %llx rdx %llx r8 %llx flags %llx\n",
		       (long)(rip - (unsigned long)map_mov), r[REG_RAX] > 4096 ? 1 : r[REG_RAX],
		       r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R8],
		       (unsigned long long)r[REG_EFL] & 0xcd5);
}

static void handle(int number)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART };

	sigaction(number, &action, NULL);
}

static void same(const char *name, void *addr, size_t length, long prot, long flags, long fd,
		 long offset)
{
	long got = map_(addr, length, prot, flags, fd, offset);
	long want = plainly(addr, length, prot, flags, fd, offset);

	check(got == want || (got > 0 && want > 0), name, "%ld, expected %ld", got, want);
}

static void answers(void)
{
	void *there = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int writing = open("maps.file", O_WRONLY), path = open("maps.file", O_PATH), ends[2];
	long got;

	got = map_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0);
	check(ask(got) == 42, "code", "%d", ask(got));
	unmap(got);
	check(ask(map_(NULL, PAGE, EXEC, MAP_PRIVATE, other, 0)) == 43, "another_file", "%d", other);
	got = map_(there, PAGE, EXEC, MAP_PRIVATE | MAP_FIXED, file, 0);
	check(got == (long)there && ask(got) == 42, "fixed", "%lx", got);
	got = red_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0);
	check(got == 16, "red_zone", "%ld words of 16", got);
	if (pipe(ends))
		bail("pipe", strerror(errno));
	same("no_descriptor", NULL, PAGE, EXEC, MAP_PRIVATE, 999, 0);
	same("no_descriptor_at_all", NULL, PAGE, EXEC, MAP_PRIVATE, -1, 0);
	same("written_alone", NULL, PAGE, EXEC, MAP_PRIVATE, writing, 0);
	same("path_alone", NULL, PAGE, EXEC, MAP_PRIVATE, path, 0);
	same("a_pipe", NULL, PAGE, EXEC, MAP_PRIVATE, ends[0], 0);
	same("odd_offset", NULL, PAGE, EXEC, MAP_PRIVATE, file, 1);
	same("no_length", NULL, 0, EXEC, MAP_PRIVATE, file, 0);
	same("too_long", NULL, 1ul << 47, EXEC, MAP_PRIVATE, file, 0);
	same("odd_address", (char *)there + 1, PAGE, EXEC, MAP_PRIVATE | MAP_FIXED, file, 0);
	same("no_type", NULL, PAGE, EXEC, 0, file, 0);
	same("shared", NULL, PAGE, EXEC, MAP_SHARED, file, 0);
	same("anonymous", NULL, PAGE, EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	same("written_too", NULL, PAGE, EXEC | PROT_WRITE, MAP_PRIVATE, file, 0);
}

static bool is_device(long at)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long start, end;
	bool found = false;
	char line[512];

	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= (unsigned long)at &&
		    (unsigned long)at < end)
			found = strstr(line, "/dev/sgx_enclave");
	fclose(maps);
	return found;
}

/* What jumps to the code's own call on purpose gets no mapping of the device's past the tracer. */
static void on_purpose(void)
{
	const int kinds[] = { MAP_PRIVATE, MAP_PRIVATE | MAP_FIXED };
	static const unsigned char call[] = { 0xb8, 9, 0, 0, 0, 0x0f, 0x05 };
	const unsigned char *stub;
	int device, distance;

	memcpy(&distance, map_mov + 1, 4);
	stub = map_mov + 5 + distance;
	target = memmem(stub, 128, call, sizeof(call));
	if (!target)
		bail("stub", "it makes no call");
	check(ask(jump_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0)) == 42, "jumped", "%p", target);
	device = open("/dev/sgx_enclave", O_RDWR);
	for (int i = 0; i < 2; i++) {
		void *there = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long want = plainly(there, PAGE, EXEC, kinds[i], device, 0);
		long got = jump_(there, PAGE, EXEC, kinds[i], device, 0);

		check(got < 0, "device", "kind %x: mapped at %lx", kinds[i], got);
		got = map_(there, PAGE, EXEC, kinds[i], device, 0);
		check(got == want && got < 0, "device_led", "kind %x: %ld, expected %ld", kinds[i], got, want);
	}
	/* The tracer's answer: it shows as what it is. */
	check(is_device(jump_(NULL, PAGE, EXEC, MAP_SHARED, device, 0)), "device_shared", "unseen");
	check(is_device(map_(NULL, PAGE, EXEC, MAP_SHARED, device, 0)), "device_shared_led", "unseen");
	check(!is_device((long)map_mov), "is_device", "all is");
}

static void storm(void)
{
	long wrong = 0;

	handle(SIGALRM);
	caught = stray = 0;
	again_begin(400);
	while (caught < 300) {
		long got = map_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0);

		wrong += got < 0 || memcmp((void *)got, answer, sizeof(answer));
		unmap(got);
	}
	again_end();
	check(!wrong && !stray, "signals", "%ld wrong, %ld astray", wrong, stray);
}

static void *thread(void *arg)
{
	for (int i = 0; i < 500; i++) {
		int number = ((long)arg + i) & 1;
		int fd = open(number ? "maps.other" : "maps.file", O_RDONLY);
		long got = map_(NULL, PAGE, EXEC, MAP_PRIVATE, fd, 0);

		if (ask(got) != 42 + number)
			return (void *)"wrong";
		unmap(got);
		close(fd);
	}
	return NULL;
}

static void others(void)
{
	pthread_t threads[4];
	bool good = true;
	int status;

	if (!fork())
		_exit(thread(NULL) != NULL);
	wait(&status);
	check(!status, "child", "%x", status);
	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, thread, (void *)i);
	for (int i = 0; i < 4; i++) {
		void *result;

		pthread_join(threads[i], &result);
		good &= !result;
	}
	check(good, "threads", "a mapping was another's");
}

static void on_trap(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	bool here = info->si_call_addr == map_end && r[REG_RIP] == (greg_t)map_end;

	caught++;
	r[REG_RAX] = here && number == SIGSYS && info->si_syscall == SYS_mmap ? 4711 : -1;
}

static void forbid(int number, unsigned int how)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, how),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program))
		_exit(2);
}

/* What the program forbids itself is a call of its own, never one of ours. */
static void filtered(const char *self)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	int status;

	if (!fork()) {
		caught = 0;
		sigaction(SIGSYS, &action, NULL);
		forbid(SYS_mmap, SECCOMP_RET_TRAP);
		for (int i = 0; i < 5; i++)
			if (map_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0) != 4711 || caught != i + 1)
				_exit(1);
		_exit(0);
	}
	wait(&status);
	check(!status, "mmap_trapped", "%x", status);
	if (!fork()) {
		forbid(SYS_fstat, SECCOMP_RET_KILL_PROCESS);
		heat(5);
		execl(self, self, "many", "5", NULL);
	}
	wait(&status);
	check(!status, "fstat_forbidden", "%x", status);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int count = argc > 2 ? atoi(argv[2]) : 3;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 4) {
		file = make("maps.file", 42);
		heat(count);
		execl(argv[0], argv[0], what, argc > 2 ? argv[2] : "3", "again", NULL);
		bail("exec", strerror(errno));
	}
	file = open("maps.file", O_RDONLY);
	heat(count);
	if (!strcmp(what, "many"))
		return 0;
	if (!strcmp(what, "steps")) {
		handle(SIGTRAP);
		tell = true;
		asm volatile("pushf; orl $0x100, (%%rsp); popf" : : : "memory", "cc");
		map_(NULL, PAGE, EXEC, MAP_PRIVATE, file, 0);
		asm volatile("pushf; andl $~0x100, (%%rsp); popf" : : : "memory", "cc");
		return 0;
	}
	other = make("maps.other", 43);
	check(map_mov[0] == 0xe9, "led", "%x", map_mov[0]);
	storm();
	others();
	filtered(argv[0]);
	answers();
	on_purpose();
	return tap_failed;
}
