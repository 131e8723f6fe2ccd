/* The image in this process, its slots filled by the Python side (standard input), its
 * functions against the kernel's system calls. */
#define _GNU_SOURCE
#include "image.h"
#include <errno.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

static const char *base;

static void *find(const char *name)
{
	char prefixed[64];

	snprintf(prefixed, sizeof(prefixed), "__vdso_%s", name);
	void *at = by_hash(base, prefixed);
	CHECK(at && at == by_hash(base, name) && at == by_sections(base, prefixed));
	return at;
}

static int ordered(struct timespec a, struct timespec b)
{
	return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec <= b.tv_nsec);
}

int main(int argc, char **argv)
{
	CHECK(argc == 5);
	size_t size = atol(argv[2]), data = atol(argv[3]);
	int state_allowed = atoi(argv[4]);
	char *image = map_image(argv[1], size);
	uint64_t real = getauxval(AT_SYSINFO_EHDR);
	uint64_t header[3] = { real, end_of_mapping(getpid(), real) - real, (uint64_t)image };
	uint64_t length;

	all(1, header, sizeof(header), 1);
	all(1, (void *)real, header[1], 1);
	all(0, &length, sizeof(length), 0);
	CHECK(length <= size - data);
	all(0, image + data, length, 0);
	CHECK(!mprotect(image, data, PROT_READ | PROT_EXEC));
	CHECK(!mprotect(image + data, size - data, PROT_READ));
	base = image;

	int (*gettime)(clockid_t, struct timespec *) = find("clock_gettime");
	static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME,
		CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_TAI,
		CLOCK_PROCESS_CPUTIME_ID };
	int (*getres)(clockid_t, struct timespec *) = find("clock_getres");
	for (unsigned i = 0; i < sizeof(clocks) / sizeof(*clocks); i++) {
		struct timespec before, seen, after;
		syscall(SYS_clock_gettime, clocks[i], &before);
		CHECK(!gettime(clocks[i], &seen));
		syscall(SYS_clock_gettime, clocks[i], &after);
		CHECK(ordered(before, seen) && ordered(seen, after));
		CHECK(!getres(clocks[i], &seen));
		syscall(SYS_clock_getres, clocks[i], &after);
		CHECK(seen.tv_sec == after.tv_sec && seen.tv_nsec == after.tv_nsec);
	}
	struct timespec unused;
	CHECK(gettime(9999, &unused) == -EINVAL && getres(9999, &unused) == -EINVAL);

	int (*timeofday)(struct timeval *, void *) = find("gettimeofday");
	struct timeval a, b, c;
	syscall(SYS_gettimeofday, &a, NULL);
	CHECK(!timeofday(&b, NULL));
	syscall(SYS_gettimeofday, &c, NULL);
	CHECK(!timercmp(&a, &b, >) && !timercmp(&b, &c, >));

	time_t (*seconds)(time_t *) = find("time");
	time_t t0 = syscall(SYS_time, NULL), stored, t1 = seconds(&stored);
	CHECK(t0 <= t1 && stored == t1 && t1 <= syscall(SYS_time, NULL));

	cpu_set_t set;
	unsigned cpu, node;
	CHECK(!sched_getaffinity(0, sizeof(set), &set));
	int mine = 0;
	while (!CPU_ISSET(mine, &set))
		mine++;
	CPU_ZERO(&set);
	CPU_SET(mine, &set);
	CHECK(!sched_setaffinity(0, sizeof(set), &set));
	long (*getcpu)(unsigned *, unsigned *, void *) = find("getcpu");
	CHECK(!getcpu(&cpu, &node, NULL) && (int)cpu == mine);

	ssize_t (*random)(void *, size_t, unsigned, void *, size_t) = find("getrandom");
	unsigned char one[32] = { 0 }, two[32] = { 0 };
	CHECK(random(one, 32, 0, NULL, 0) == 32 && random(two, 32, 0, NULL, 0) == 32);
	CHECK(memcmp(one, two, 32));
	CHECK(random(one, 32, 0xffff, NULL, 0) == -EINVAL);
	/* How large a state? Zero means an answer was written. */
	uint32_t params[16] = { 0 };
	ssize_t answer = random(NULL, 0, 0, params, ~0UL);
	CHECK(state_allowed ? answer == 0 && params[0] > 0 : answer == -ENOSYS);
	return 0;
}
