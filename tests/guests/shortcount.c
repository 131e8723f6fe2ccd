/* SPDX-License-Identifier: MIT
 *
 * usage: shortcount right|wrong [SIGNAL]
 * A loader that adds a segment with one ADD_PAGES and goes on after a short count. The right one goes
 * on in the enclave and in the source; the wrong one forgets the source, so that the pages behind
 * are the first ones again: INIT refuses what it measured. With SIGNAL (any word) it handles SIGALRM, and
 * calls are not restarted.
 */
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "loader.h"
#include "tap.h"

static struct encl e;

static int add(const struct encl_seg *s, bool wrong)
{
	struct secinfo info = {.flags = s->flags};
	uint8_t *from = mmap(NULL, s->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (from == MAP_FAILED)
		return -errno;
	for (uint64_t at = 0; at < s->len && s->src; at += PAGE)
		memcpy(from + at, s->src + (s->repeat ? 0 : at), PAGE);
	for (uint64_t done = 0; done < s->len;) {
		struct sgx_enclave_add_pages arg = {
			.src = (uint64_t)from + (wrong ? 0 : done), .offset = s->off + done,
			.length = s->len - done, .secinfo = (uint64_t)&info, .flags = s->measure};

		if (ioctl(e.fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg) && errno != EINTR && errno != EBUSY)
			return -errno;
		done += arg.count; /* 0 as it was given where the driver did not come to it */
	}
	return munmap(from, s->len);
}

static volatile int signals;

static void count(int number)
{
	(void)number;
	signals++;
}

int main(int argc, char **argv)
{
	bool wrong = argc > 1 && !strcmp(argv[1], "wrong");
	struct call sum = {.op = OP_SUM, .a = 4, .b = 100};
	int error;

	if (argc > 2)
		sigaction(SIGALRM, &(struct sigaction){.sa_handler = count}, NULL);
	if (encl_plan(&e, &(struct encl_opts){.threads = 1, .heap = 2 * PAGE}) || encl_sign(&e)
	    || encl_open(&e) || encl_reserve(&e))
		bail("plan", e.err);
	do
		error = encl_create(&e);
	while (error == -EBUSY || error == -EINTR);
	if (error)
		bail("create", e.err);
	for (int i = 0; i < e.nseg; i++) {
		error = add(&e.seg[i], wrong);
		if (error)
			bail("add", strerror(-error));
	}
	do
		error = encl_init(&e);
	while (error == -EBUSY || error == -EINTR);
	if (error || encl_map(&e))
		bail("init", e.err);
	if (!encl_do(&e, 0, &sum))
		bail("ecall", e.err);
	printf("the sum is %ld\n", (long)sum.ret);
	if (signals)
		printf("%d signals\n", signals);
	return 0;
}
