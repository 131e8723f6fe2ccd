/* SPDX-License-Identifier: MIT
 *
 * usage: big [SIZE_MIB]            a sparse enclave (1024 by default): a page at the far end, and EAUG
 *        big load SIZE_MIB [CHUNK_KIB [unmeasured]]
 *                                  that much data, loaded in ADD_PAGES of CHUNK_KIB (1024): prints
 *                                  `add_mb_per_s X`, `init_ms X`
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <time.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int sparse(uint64_t mib)
{
	static uint64_t page[PAGE / 8] __attribute__((aligned(4096))) = {0x1122334455667788};
	struct encl_seg dynamic = {.name = "middle", .len = PAGE};
	uint64_t size = mib << 20, last, middle;

	encl_plan(&e, &(struct encl_opts){.size = size});
	last = e.size - PAGE;
	encl_seg(&e, "far", last, PAGE, SI_REG | SI_R | SI_W, page, true);
	if (encl_build(&e, 0))
		bail("load", e.err);
	CHECK_EQ(e.size, size, "size");
	CHECK_EQ(encl_op(&e, OP_PEEK, e.base + last, 0, 0, 0), page[0], "far_read");
	encl_op(&e, OP_POKE, e.base + e.size - 8, 77, 0, 0);
	CHECK_EQ(encl_op(&e, OP_PEEK, e.base + e.size - 8, 0, 0, 0), 77, "far_written");
	dynamic.off = e.size / 2;
	middle = e.base + dynamic.off;
	if (encl_map_seg(&e, &dynamic, PROT_READ | PROT_WRITE))
		bail("map_middle", e.err);
	CHECK_EQ(encl_enclu(&e, 0, EACCEPT, middle, SI_REG | SI_R | SI_W | SI_PENDING, 0, NULL), 0,
		 "middle_accepted");
	CHECK_EQ(encl_op(&e, OP_PEEK, middle, 0, 0, 0), 0, "middle_is_zero");
	return tap_failed;
}

static int load(uint64_t mib, uint64_t chunk_kib, bool measured)
{
	uint64_t len = mib << 20;
	uint64_t *data = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct encl_seg *s;
	double a, b, d;

	if (data == MAP_FAILED)
		bail("memory", strerror(errno));
	for (uint64_t at = 0; at < len / 8; at += 512) /* a word a page, so that all pages differ */
		data[at] = at * 0x9e3779b97f4a7c15ull + 1;
	encl_plan(&e, &(struct encl_opts){.size = len * 2});
	encl_seg(&e, "bulk", e.free, len, SI_REG | SI_R | SI_W, data, measured);
	s = &e.seg[e.nseg - 1];
	if (encl_sign(&e) || encl_open(&e) || encl_reserve(&e) || encl_create(&e))
		bail("create", e.err);
	for (int i = 0; i < e.nseg - 1; i++)
		if (encl_add(&e, &e.seg[i], 0))
			bail("add", e.err);
	a = now();
	if (encl_add(&e, s, chunk_kib << 10))
		bail("add", e.err);
	b = now();
	if (encl_init(&e) || encl_map(&e))
		bail("init", e.err);
	d = now();
	check(encl_op(&e, OP_PEEK, e.base + s->off, 0, 0, 0) == data[0]
	      && encl_op(&e, OP_PEEK, e.base + s->off + len - PAGE, 0, 0, 0) == data[len / 8 - 512],
	      "bulk_read", "%s", e.err);
	/* INIT belongs to the sum: whoever measures late pays there. */
	printf("add_mb_per_s %.1f\ninit_ms %.1f\nload_mb_per_s %.1f\n", (double)len / 1e6 / (b - a),
	       (d - b) * 1e3, (double)len / 1e6 / (d - a));
	return tap_failed;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "load"))
		return load(strtoull(argv[2], NULL, 0), argc > 3 ? strtoull(argv[3], NULL, 0) : 1024,
			    argc <= 4);
	return sparse(argc > 1 ? strtoull(argv[1], NULL, 0) : 1024);
}
