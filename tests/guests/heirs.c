/* SPDX-License-Identifier: MIT
 *
 * usage: heirs [KILLS]
 * An enclave whose pages are added one by one: some by a process, more by its children, which are killed at
 * some moment, each from where the one before was, and at last by the process. However far each came, it is the same enclave then, of
 * the same measurement. At the end it sends itself SIGUSR2, for who looks at what it has become.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

#define PAGES 2000

static struct encl e;
static volatile uint64_t *known;
static uint8_t sources[64 * PAGE] __attribute__((aligned(4096)));

/* From the last one that somebody knows of: what is there says EBUSY, or what this design has for it. */
static void add(uint64_t pages)
{
	struct secinfo info = {.flags = SI_REG | SI_R | SI_W};

	for (uint64_t page = *known; page < pages; page++) {
		struct sgx_enclave_add_pages arg = {
			.src = (uint64_t)sources + page % 64 * PAGE, .offset = page * PAGE, .length = PAGE,
			.secinfo = (uint64_t)&info, .flags = SGX_PAGE_MEASURE,
		};

		ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg);
		*known = page;
	}
}

int main(int argc, char **argv)
{
	unsigned int kills = argc > 1 ? (unsigned int)atoi(argv[1]) : 8;

	known = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (known == MAP_FAILED)
		bail("memory", strerror(errno));
	for (uint64_t i = 0; i < sizeof(sources) / 8; i++)
		((uint64_t *)sources)[i] = i * 0x9e3779b97f4a7c15ull;
	if (encl_plan(&e, &(struct encl_opts){.size = 4 * PAGES * PAGE}) || encl_open(&e) || encl_reserve(&e)
	    || encl_create(&e))
		bail("create", e.err);
	add(PAGES / 10);
	for (unsigned int i = 0; i < kills; i++) {
		struct timespec t = {.tv_nsec = 3000000 + i * 7919 * 1000 % 40000000};
		pid_t pid = fork();

		if (!pid) {
			add(PAGES);
			_exit(0);
		}
		nanosleep(&t, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	add(PAGES);
	fflush(stdout);
	raise(SIGUSR2);
	return 0;
}
