/* SPDX-License-Identifier: MIT
 *
 * usage: pagewise SEED PAGES [stretches] [storm | scribble]
 * Two enclaves are loaded a page an ioctl, or a stretch, in runs of what is alike, between which and
 * in which something else comes by chance; in a storm signals come at any moment, and what scribbles writes
 * over what softsgx has in the process to add pages. Prints what each ioctl answered: `ret errno count`. At the end
 * it sends itself SIGUSR2, for who looks at what the enclaves have become.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include "again.h"
#include "loader.h"
#include "tap.h"

#define SOURCES 64
#define LONGEST 257 /* more than 1 MiB, where signals are looked at */

static struct encl e[2];
static int spare[2];
static uint64_t seed, pages;
static cpu_set_t places;
static bool stretches, scribbles, storm;
static uint64_t scribbled;
static uint8_t *sources, *file, *fixed;
static struct secinfo info[2];
static struct sgx_enclave_add_pages args[2];

static uint64_t any(uint64_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (seed >> 33) % n;
}

static void *map(size_t size, int prot, int fd)
{
	void *at = mmap(NULL, size, prot, MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (at == MAP_FAILED)
		bail("memory", strerror(errno));
	return at;
}

/* Returns the bytes that were added. */
static uint64_t ask(int fd, uint64_t cmd, struct sgx_enclave_add_pages *a)
{
	int ret, error;
	uint64_t count;

	errno = 0;
	ret = ioctl(fd, cmd, a);
	error = errno;
	/* It may lie where nothing can be read. */
	count = a == &args[0] || a == &args[1] ? a->count : 0;
	printf("%d %d %llu\n", ret, error, (unsigned long long)count);
	return count % PAGE ? 0 : count;
}

/* Whoever is asked, a thread may run where it could. */
static bool elsewhere(pid_t who)
{
	cpu_set_t now;

	return sched_getaffinity(who, sizeof(now), &now) || !CPU_EQUAL(&now, &places);
}

static void *thread(void *p)
{
	return elsewhere(0) || elsewhere(getpid()) ? NULL : p;
}

static void handler(int number)
{
	if (number == SIGALRM)
		again();
}

/* Chance bytes over what softsgx shares with this process. */
static void scribble(void)
{
	char line[256];
	FILE *maps = fopen("/proc/self/maps", "r");

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;

		if (!strstr(line, "softsgx-adds") || sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		for (int i = 0; i < 64; i++)
			((volatile uint8_t *)start)[any(i % 2 ? 256 : end - start)] = (uint8_t)any(256);
		scribbled++;
	}
	fclose(maps);
}

/* Something else, between two pages. */
static void between(int i, struct sgx_enclave_add_pages a)
{
	uint8_t *page = sources;
	void *back = NULL;
	pthread_t t;
	pid_t child;
	int fd;

	if (stretches)
		page += any(SOURCES) * PAGE;
	if (scribbles)
		scribble();
	switch (any(stretches ? 11 : 7)) {
	case 0: /* another process adds the page */
		child = fork();
		if (!child)
			_exit(ioctl(e[i].fd, SGX_IOC_ENCLAVE_ADD_PAGES, &a) ? errno : 0);
		if (waitpid(child, &fd, 0) != child)
			bail("child", strerror(errno));
		printf("child %d\n", fd);
		break;
	case 1:
		child = fork();
		if (!child)
			_exit(elsewhere(0));
		if (waitpid(child, &fd, 0) != child || fd)
			bail("child", "it may not run where its parent may");
		break;
	case 2:
		raise(SIGUSR1);
		break;
	case 3:
		pthread_create(&t, NULL, thread, sources);
		pthread_join(t, &back);
		if (back != sources)
			bail("thread", "one may not run where both may");
		break;
	case 4:
		fd = open("/dev/null", O_RDONLY);
		close(fd);
		if (elsewhere(0))
			bail("place", "it may not run where it could");
		break;
	case 5: /* another mapping, with the same bytes */
		mprotect(sources, SOURCES / 2 * PAGE, any(2) ? PROT_READ : PROT_READ | PROT_WRITE);
		break;
	case 6:
		access("/dev/sgx_enclave", R_OK);
		break;
	case 7: /* what was there is another */
		((uint64_t *)page)[any(PAGE / 8)] = any(1 << 20);
		break;
	case 8: /* or zero again */
		madvise(page, PAGE, MADV_DONTNEED);
		break;
	case 9: /* in the middle nothing can be read: another mapping, for a while */
		mprotect(page, PAGE, PROT_NONE);
		break;
	default:
		mprotect(sources, SOURCES * PAGE, PROT_READ | PROT_WRITE);
	}
}

/* One thing of the next page's call is otherwise: how much that still adds. */
static uint64_t other(int i, struct sgx_enclave_add_pages a)
{
	struct sgx_enclave_add_pages *where = &args[any(2)];
	uint64_t cmd = SGX_IOC_ENCLAVE_ADD_PAGES;
	int fd = e[i].fd, old;
	uint64_t done;

	switch (any(24)) {
	case 0: a.src += 8; break;
	case 1: a.src = 0; break;
	case 2: a.src = (uint64_t)fixed; break; /* PROT_NONE */
	case 3: a.src = (uint64_t)file + any(2) * PAGE; break; /* the second is behind its end */
	case 4: a.offset -= PAGE; break;
	case 5: a.offset += 8; break;
	case 6: a.offset = e[i].size; break;
	case 7: a.offset = -PAGE; break;
	case 8: a.length = any(2) * 8; break;
	case 9: a.length += PAGE; break;
	case 10: a.secinfo = 8; break;
	case 11: a.secinfo = (uint64_t)&info[1]; break;
	case 12: a.flags ^= SGX_PAGE_MEASURE; break;
	case 13: a.flags |= 2; break;
	case 14: a.count = any(100); break;
	case 15: a.src = 1ull << 47; break;
	case 16: a.src = e[i].base; break; /* reserved, or the enclave itself */
	case 17: cmd ^= any(2) ? 1ull << 40 : 1 << 16; break; /* it has 32 bits */
	case 18: /* the same number is another enclave's */
		old = dup(e[i].fd);
		dup2(e[!i].fd, fd);
		*where = a;
		ask(fd, cmd, where);
		dup2(old, fd);
		close(old);
		return 0;
	case 19: /* and a descriptor of another number is the same */
		fd = dup(fd);
		*where = a;
		done = ask(fd, cmd, where);
		close(fd);
		return done;
	case 20: /* the count cannot be written: EFAULT, and the page is there */
		memcpy(fixed + PAGE, &a, sizeof(a));
		mprotect(fixed + PAGE, PAGE, PROT_READ);
		ask(fd, cmd, (void *)(fixed + PAGE));
		mprotect(fixed + PAGE, PAGE, PROT_READ | PROT_WRITE);
		return a.length;
	case 21: fd = 999; break;
	case 22: /* nothing is heard of a close */
		close(fd);
		*where = a;
		ask(fd, cmd, where);
		dup2(spare[i], fd);
		return 0;
	default:
		ask(fd, cmd, (void *)8);
		return 0;
	}
	*where = a;
	return ask(fd, cmd, where);
}

/* A file of two pages, the second behind its end; of a noexec mount if there is one. */
static int file_fd(void)
{
	static const char *const folders[] = {"/dev/shm", "/run", "/run/lock", "/tmp"};
	char name[64];
	struct statvfs fs;
	int fd = -1;

	for (int i = 0; i < 4 && fd < 0; i++) {
		if (i < 3 && (statvfs(folders[i], &fs) || !(fs.f_flag & ST_NOEXEC)))
			continue;
		snprintf(name, sizeof(name), "%s/softsgx-pagewise-XXXXXX", folders[i]);
		fd = mkstemp(name);
	}
	if (fd < 0 || unlink(name) || write(fd, "file", 4) != 4)
		bail("file", strerror(errno));
	return fd;
}

int main(int argc, char **argv)
{
	uint64_t next[2], added = 0;

	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	pages = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
	for (int i = 3; i < argc; i++) {
		stretches |= !strcmp(argv[i], "stretches");
		scribbles |= !strcmp(argv[i], "scribble");
		storm |= !strcmp(argv[i], "storm");
	}
	signal(SIGUSR1, handler);
	if (storm) {
		sigaction(SIGALRM, &(struct sigaction){.sa_handler = handler, .sa_flags = SA_RESTART}, NULL);
		again_begin(3000);
	}
	sched_getaffinity(0, sizeof(places), &places);
	sources = map((SOURCES + LONGEST) * PAGE, PROT_READ | PROT_WRITE, -1);
	fixed = map(2 * PAGE, PROT_READ | PROT_WRITE, -1);
	mprotect(fixed, PAGE, PROT_NONE);
	file = map(2 * PAGE, PROT_READ, file_fd());
	for (uint64_t i = 0; i < (SOURCES + LONGEST) * PAGE / 8; i += 64)
		if (i / 512 % 3)
			((uint64_t *)sources)[i] = i * 0x9e3779b97f4a7c15ull;
	for (int i = 0; i < 2; i++) {
		if (encl_plan(&e[i], &(struct encl_opts){.size = 4 * pages * PAGE}) || encl_open(&e[i])
		    || encl_reserve(&e[i]) || encl_create(&e[i]))
			bail("create", e[i].err);
		next[i] = 0;
		spare[i] = dup(e[i].fd);
		/* As Intel's loader has it: mapped from the start. */
		if (i && mmap((void *)e[i].base, e[i].size, PROT_NONE, MAP_SHARED | MAP_FIXED, e[i].fd,
			      0) == MAP_FAILED)
			bail("map", strerror(errno));
	}
	while (added < pages) {
		static const uint64_t perms[] = {SI_R, SI_R | SI_W, SI_R | SI_X, SI_W, SI_R | SI_W | SI_X};
		int i = (int)any(2), where = (int)any(2);
		uint64_t n = any(any(4) ? 40 : 400), at = any(SOURCES), step = any(2), kind = any(8);
		uint64_t flags = any(4) ? SGX_PAGE_MEASURE : 0;
		uint64_t each = 1;
		bool odd = any(2);

		info[0].flags = SI_REG | perms[any(5)];
		info[1].flags = any(2) ? SI_REG | SI_R : SI_TCS;
		next[i] += any(3) * PAGE;
		if (stretches) {
			static const uint64_t lengths[] = {2, 2, 3, 5, 16, 16, 17, 64, 256, LONGEST};

			each = lengths[any(10)];
			n %= each < 64 ? 40 : 16;
		}
		for (; n && added < pages; n--, at = (at + step * each) % SOURCES) {
			struct sgx_enclave_add_pages a = {
				.src = (uint64_t)(kind ? sources + at * PAGE : file),
				.offset = next[i],
				.length = each * PAGE,
				.secinfo = (uint64_t)&info[0],
				.flags = flags,
				.count = 7,
			};
			uint64_t done;

			if (odd && !any(12))
				between(i, a);
			if (odd && !any(12)) {
				done = other(i, a);
			} else {
				args[where] = a;
				done = ask(e[i].fd, SGX_IOC_ENCLAVE_ADD_PAGES, &args[where]);
			}
			next[i] += done;
			added += each;
		}
	}
	fflush(stdout);
	if (scribbles)
		fprintf(stderr, "scribbled %llu\n", (unsigned long long)scribbled);
	raise(SIGUSR2);
	return 0;
}
