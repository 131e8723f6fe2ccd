/* SPDX-License-Identifier: MIT
 *
 * A signal that comes while ADD_PAGES runs ends it early: 0, and a short count. Which call it
 * meets is left to chance, so there are many; each has a signal of its own, sent a little later
 * than the last one's.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include "loader.h"
#include "tap.h"

#define BYTES (4ull << 20)
#define CALLS 400

static struct encl e;
static uint8_t zeros[BYTES] __attribute__((aligned(4096)));
static atomic_int armed, handled, over;
static pthread_t loader;

static void handle(int number)
{
	(void)number;
	handled++;
}

static void *sender(void *unused)
{
	for (int call = 1; !over; call++) {
		while (armed < call)
			if (over)
				return unused;
		for (volatile int i = 0; i < call * 100; i++)
			;
		pthread_kill(loader, SIGUSR1);
	}
	return unused;
}

int main(void)
{
	struct secinfo info = {.flags = SI_REG | SI_R | SI_W};
	struct sgx_enclave_add_pages arg = {0};
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
	uint64_t offset, calls = 0, shortest = BYTES;
	pthread_t thread;

	encl_plan(&e, &(struct encl_opts){.size = CALLS * BYTES});
	offset = e.free;
	if (encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	loader = pthread_self();
	sigaction(SIGUSR1, &action, NULL);
	pthread_create(&thread, NULL, sender, NULL);
	while (shortest == BYTES && ++calls < CALLS / 2) {
		arg = (struct sgx_enclave_add_pages){
			.src = (uint64_t)zeros, .offset = offset, .length = BYTES,
			.secinfo = (uint64_t)&info,
		};
		armed = (int)calls;
		if (ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg))
			bail("add", strerror(errno));
		offset += arg.count;
		if (arg.count < shortest)
			shortest = arg.count;
	}
	over = 1;
	pthread_join(thread, NULL);
	check(shortest < BYTES, "short_count", "none of %lu calls", calls);
	check(shortest && shortest % PAGE == 0, "whole_pages", "%#lx bytes", shortest);
	check(handled > 0, "handled", "no signal");
	/* The page behind it is not there, and the last one before it is. */
	arg.length = PAGE;
	arg.count = 0;
	arg.offset = offset - PAGE;
	check(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) == -1 && errno == EBUSY, "added", "again");
	arg.offset = offset;
	CHECK_EQ(ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg), 0, "not_added");
	return tap_failed;
}
