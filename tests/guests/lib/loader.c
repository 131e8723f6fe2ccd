/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "loader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

extern const uint8_t enclave_image[], enclave_image_end[]; /* image.S */

struct image_head {
	uint64_t magic, entry, data_start, data_end;
};

static int fail(struct encl *e, int err, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(e->err, sizeof(e->err), fmt, ap);
	va_end(ap);
	if (n > 0 && n < (int)sizeof(e->err))
		snprintf(e->err + n, sizeof(e->err) - (size_t)n, ": %s", strerror(err));
	return -err;
}

const char *encl_device(void)
{
	const char *name = getenv("SGX_DEVICE");

	return name ? name : "/dev/sgx_enclave";
}

int encl_seg(struct encl *e, const char *name, uint64_t off, uint64_t len, uint64_t flags,
	     const void *src, bool measure)
{
	if (e->nseg == (int)(sizeof(e->seg) / sizeof(e->seg[0])))
		return fail(e, ENOMEM, "too many segments");
	e->seg[e->nseg++] = (struct encl_seg){name, off, len, flags, src, measure, src == NULL};
	return 0;
}

/* ADD_PAGES copies from page-aligned memory, so contents are staged in anonymous pages. */
static uint8_t *stage(const void *from, uint64_t len, uint64_t room)
{
	uint8_t *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	if (from)
		memcpy(p, from, len);
	return p;
}

static int plan_thread(struct encl *e, int n, uint64_t *at, const struct encl_opts *opts)
{
	uint64_t tcs_off = *at + STACK_PAGES * PAGE, tls_off = tcs_off + PAGE + NSSA * PAGE;
	struct tcs *tcs = (struct tcs *)stage(NULL, 0, PAGE);
	uint64_t *tls = (uint64_t *)stage(NULL, 0, PAGE);

	if (!tcs || !tls)
		return fail(e, ENOMEM, "staging a TCS");
	tcs->ossa = tcs_off + PAGE;
	tcs->nssa = NSSA;
	tcs->oentry = e->entry;
	tcs->flags = opts->attributes & ATTR_AEXNOTIFY ? TCS_AEXNOTIFY : 0;
	tcs->ofsbase = tcs->ogsbase = tls_off;
	tcs->fslimit = tcs->gslimit = 0xffffffff;
	tls[0] = (uint64_t)n;
	tls[1] = tls_off;
	e->tcs[n] = tcs_off;
	encl_seg(e, "stack", *at, STACK_PAGES * PAGE, SI_REG | SI_R | SI_W, NULL, true);
	encl_seg(e, "tcs", tcs_off, PAGE, SI_TCS, tcs, true);
	encl_seg(e, "ssa", tcs_off + PAGE, NSSA * PAGE, SI_REG | SI_R | SI_W, NULL, true);
	*at = tls_off + PAGE;
	return encl_seg(e, "tls", tls_off, PAGE, SI_REG | SI_R | SI_W, tls, true);
}

int encl_plan(struct encl *e, const struct encl_opts *opts)
{
	const struct image_head *head = (const void *)enclave_image;
	uint64_t image_len = (uint64_t)(enclave_image_end - enclave_image);
	uint64_t at = (image_len + PAGE - 1) / PAGE * PAGE;
	uint8_t *image;
	int ret = 0;

	memset(e, 0, sizeof(*e));
	e->fd = -1;
	e->threads = opts->threads ? opts->threads : 1;
	if (e->threads > MAX_THREADS)
		return fail(e, EINVAL, "at most %d threads", MAX_THREADS);
	image = stage(enclave_image, image_len, at);
	if (!image)
		return fail(e, ENOMEM, "staging the image");
	e->entry = head->entry;
	e->data = head->data_start;
	encl_seg(e, "code", 0, e->data, SI_REG | SI_R | SI_X, image, true);
	encl_seg(e, "data", e->data, at - e->data, SI_REG | SI_R | SI_W, image + e->data, true);
	for (int n = 0; n < e->threads && !ret; n++)
		ret = plan_thread(e, n, &at, opts);
	e->heap = at;
	if (!ret && opts->heap)
		ret = encl_seg(e, "heap", at, opts->heap, SI_REG | SI_R | SI_W, NULL, false);
	e->free = at + opts->heap;
	for (e->size = PAGE; e->size < e->free || e->size < opts->size;)
		e->size *= 2;
	e->secs.size = e->size;
	e->secs.ssa_frame_size = 1;
	e->secs.miscselect = opts->miscselect;
	e->secs.attributes = ATTR_MODE64BIT | opts->attributes;
	e->secs.xfrm = opts->xfrm ? opts->xfrm : 3;
	return ret;
}

int encl_open(struct encl *e)
{
	e->fd = open(encl_device(), O_RDWR | O_CLOEXEC);
	return e->fd < 0 ? fail(e, errno, "open %s", encl_device()) : 0;
}

/* ELRANGE has to be aligned to its size, so twice as much is reserved and the rest given back. */
int encl_reserve(struct encl *e)
{
	uint8_t *p = mmap(NULL, 2 * e->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	uint64_t start = (uint64_t)p;

	if (p == MAP_FAILED)
		return fail(e, errno, "reserving ELRANGE");
	e->base = (start + e->size - 1) & ~(e->size - 1);
	if (e->base > start)
		munmap(p, e->base - start);
	munmap((void *)(e->base + e->size), start + e->size - e->base);
	return 0;
}

int encl_create(struct encl *e)
{
	struct sgx_enclave_create arg = {.src = (uint64_t)&e->secs};

	e->secs.base = e->base;
	return ioctl(e->fd, SGX_IOC_ENCLAVE_CREATE, &arg) ? fail(e, errno, "CREATE") : 0;
}

int encl_add(struct encl *e, const struct encl_seg *s, uint64_t chunk)
{
	static uint8_t zero[1 << 20] __attribute__((aligned(4096))); /* in .bss, never written */
	struct secinfo info = {.flags = s->flags};
	uint64_t done = 0;

	if (s->repeat && (!chunk || chunk > sizeof(zero)))
		chunk = sizeof(zero);
	while (done < s->len) {
		struct sgx_enclave_add_pages arg = {
			.src = (uint64_t)(s->repeat ? zero : s->src + done),
			.offset = s->off + done,
			.length = chunk && chunk < s->len - done ? chunk : s->len - done,
			.secinfo = (uint64_t)&info,
			.flags = s->measure ? SGX_PAGE_MEASURE : 0,
		};

		if (ioctl(e->fd, SGX_IOC_ENCLAVE_ADD_PAGES, &arg))
			return fail(e, errno, "ADD_PAGES %s at %#lx", s->name, s->off + done);
		if (arg.count > arg.length || arg.count % PAGE)
			return fail(e, EPROTO, "ADD_PAGES %s: count %#llx", s->name, arg.count);
		done += arg.count; /* short when a signal came */
	}
	return 0;
}

int encl_add_all(struct encl *e, uint64_t chunk)
{
	int ret = 0;

	for (int i = 0; i < e->nseg && !ret; i++)
		ret = encl_add(e, &e->seg[i], chunk);
	return ret;
}

int encl_init(struct encl *e)
{
	struct sgx_enclave_init arg = {.sigstruct = (uint64_t)&e->sig};

	return ioctl(e->fd, SGX_IOC_ENCLAVE_INIT, &arg) ? fail(e, errno, "INIT") : 0;
}

int encl_map_seg(struct encl *e, const struct encl_seg *s, int prot)
{
	void *at = (void *)(e->base + s->off);

	if (mmap(at, s->len, prot, MAP_SHARED | MAP_FIXED, e->fd, 0) != at)
		return fail(e, errno, "mmap %s at %#lx", s->name, s->off);
	return 0;
}

int encl_map(struct encl *e)
{
	int ret = 0;

	for (int i = 0; i < e->nseg && !ret; i++)
		ret = encl_map_seg(e, &e->seg[i], seg_prot(&e->seg[i]));
	return ret;
}

int encl_build(struct encl *e, uint64_t chunk)
{
	int ret = encl_sign(e);

	if (!ret)
		ret = encl_open(e);
	if (!ret)
		ret = encl_reserve(e);
	if (!ret)
		ret = encl_create(e);
	if (!ret)
		ret = encl_add_all(e, chunk);
	if (!ret)
		ret = encl_init(e);
	if (!ret)
		ret = encl_map(e);
	return ret;
}

int encl_load(struct encl *e, const struct encl_opts *opts)
{
	int ret = encl_plan(e, opts);

	return ret ? ret : encl_build(e, 0);
}

void encl_free(struct encl *e)
{
	if (e->base)
		munmap((void *)e->base, e->size);
	if (e->fd >= 0)
		close(e->fd);
	for (int i = 0; i < e->nseg; i++)
		if (!e->seg[i].repeat && strcmp(e->seg[i].name, "data")) /* staged with code */
			munmap((void *)e->seg[i].src, e->seg[i].len);
	e->base = 0;
	e->fd = -1;
	e->nseg = 0;
}
