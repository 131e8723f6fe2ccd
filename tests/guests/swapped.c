/* SPDX-License-Identifier: MIT
 *
 * usage: swapped DIRECTORY [TRIES]
 * Executable pages from a source in whose place another mapping comes, of a file of a noexec mount: by
 * the thread itself, between two pages, and by another one, at any moment. What is of the noexec mount
 * never gets in: the enclave measures as if nothing had been there but what may be.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "noexec.h"
#include "tap.h"

#define BEFORE 8 /* pages, by when more of them are expected */

static struct encl e;
static uint8_t *at;
static int file;
static volatile int over;
static uint64_t next;

static void map(int fd, int prot)
{
	if (mmap(at, PAGE, prot, MAP_PRIVATE | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0) != at)
		abort();
}

/* 0 or an errno; a page that came is one more. */
static int add(void)
{
	static struct secinfo info = {.flags = SI_REG | SI_R | SI_X};
	struct sgx_enclave_add_pages arg = {.src = (uint64_t)at, .offset = next, .length = PAGE,
					    .secinfo = (uint64_t)&info, .flags = SGX_PAGE_MEASURE};

	if (ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg))
		return errno;
	next += PAGE;
	return 0;
}

static void *swaps(void *unused)
{
	for (uint64_t n = 0; !over; n++) {
		map(file, PROT_READ);
		for (volatile uint64_t i = 0; i < n % 512; i++)
			;
		map(-1, PROT_READ);
	}
	return unused;
}

static void load(uint64_t size)
{
	if (encl_plan(&e, &(struct encl_opts){.size = size}) || encl_open(&e) || encl_reserve(&e)
	    || encl_create(&e))
		bail("load", e.err);
	next = e.free;
}

/* The mount becomes noexec between two pages, and the mapping is made again. */
static void remounted(const char *folder, int before)
{
	char name[60];
	int first = 0;

	snprintf(name, sizeof(name), "mapped_again_after_%d", before);
	if (mount("none", folder, NULL, MS_REMOUNT, NULL)) {
		skip(name, strerror(errno));
		return;
	}
	load(2 * (BEFORE + 1) * PAGE);
	map(file, PROT_READ);
	for (int i = 0; i < before; i++)
		first |= add();
	CHECK_EQ(first, 0, name);
	if (mount("none", folder, NULL, MS_REMOUNT | MS_NOEXEC, NULL))
		bail("remount", strerror(errno));
	map(file, PROT_READ);
	CHECK_EQ(add(), EACCES, name);
	encl_free(&e);
}

int main(int argc, char **argv)
{
	int tries = argc > 2 ? atoi(argv[2]) : 4000, refused = 0, other = 0;
	char page[PAGE], name[300];
	pthread_t t;

	if (mount_noexec(argv[1])) {
		skip("noexec", strerror(errno));
		return 0;
	}
	snprintf(name, sizeof(name), "%s/file", argv[1]);
	memset(page, 0xBB, sizeof(page));
	file = open(name, O_RDWR | O_CREAT, 0600);
	if (file < 0 || write(file, page, sizeof(page)) != sizeof(page))
		bail("file", strerror(errno));
	at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	remounted(argv[1], 1);
	remounted(argv[1], BEFORE);

	load((tries + 1) * PAGE);
	pthread_create(&t, NULL, swaps, NULL);
	for (int i = 0; i < tries; i++) {
		int error = add();

		refused += error == EACCES;
		other += error && error != EACCES;
	}
	over = 1;
	pthread_join(t, NULL);
	CHECK_EQ(other, 0, "swapped");
	/* Whatever came: it is zero. */
	memmove(e.seg + 1, e.seg, sizeof(e.seg[0]) * (unsigned)e.nseg);
	e.seg[0] = (struct encl_seg){"swapped", e.free, next - e.free, SI_REG | SI_R | SI_X, NULL, true, true};
	e.nseg++;
	if (encl_sign(&e))
		bail("sign", e.err);
	for (int i = 1; i < e.nseg; i++)
		if (encl_add(&e, &e.seg[i], 0))
			bail("add", e.err);
	check(!encl_init(&e), "nothing_of_it_is_in", "%s (%d refused)", e.err, refused);
	return tap_failed;
}
