/* A program that finds the image as its vDSO: by AT_SYSINFO_EHDR, by ld.so, and through
 * the libc's own clock functions. */
#define _GNU_SOURCE
#include "image.h"
#include <dlfcn.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#ifdef DYNAMIC_GLIBC
/* Fortanix's way: a weak reference, which ld.so may or may not resolve. */
extern int __vdso_sgx_enter_enclave(void) __attribute__((weak));

static int listed;
static int each(struct dl_phdr_info *info, size_t size, void *base)
{
	(void)size;
	listed += info->dlpi_addr == (uint64_t)base;
	return 0;
}
#endif

int main(int argc, char **argv)
{
	char *base = (char *)getauxval(AT_SYSINFO_EHDR);
	struct timespec before, now, after;
	struct timeval day;
	unsigned char random[8];

	CHECK(argc == 2 && base == (char *)strtoull(argv[1], NULL, 0));
	void *enter = by_hash(base, "__vdso_sgx_enter_enclave");
	CHECK(enter && enter == by_sections(base, "__vdso_sgx_enter_enclave"));
	CHECK(by_hash(base, "__vdso_nothing_like_it") == NULL);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before);
	CHECK(!clock_gettime(CLOCK_MONOTONIC, &now));
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after);
	CHECK(now.tv_sec >= before.tv_sec && now.tv_sec <= after.tv_sec);
	CHECK(!gettimeofday(&day, NULL) && day.tv_sec - time(NULL) <= 1);
	CHECK(getrandom(random, 8, 0) == 8);
#ifdef DYNAMIC_GLIBC
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	CHECK(vdso && dlsym(vdso, "__vdso_sgx_enter_enclave") == enter);
	CHECK(dlvsym(vdso, "__vdso_sgx_enter_enclave", "LINUX_2.6") == enter);
	CHECK(!dlvsym(vdso, "__vdso_sgx_enter_enclave", "LINUX_2.7"));
	CHECK(!__vdso_sgx_enter_enclave || (void *)__vdso_sgx_enter_enclave == enter);
	Dl_info info;
	CHECK(dladdr((char *)enter + 8, &info) && info.dli_saddr == enter);
	CHECK(!strcmp(info.dli_sname, "__vdso_sgx_enter_enclave") && info.dli_fbase == base);
	dl_iterate_phdr(each, base);
	CHECK(listed == 1);
#endif
	return 0;
}
