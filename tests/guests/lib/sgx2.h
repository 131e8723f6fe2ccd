/* SPDX-License-Identifier: MIT
 *
 * The SGX2 ioctls as they were merged, and those of "x86/sgx and selftests/sgx: Support SGX2" V2
 * (7 February 2022), where what is changed is said in a SECINFO.
 */
#ifndef GUESTS_SGX2_H
#define GUESTS_SGX2_H

#include <asm/sgx.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include "softsgx_designs.h"

/* what: restrict (to perm), totcs, trim, remove. */
static long sgx2(int fd, const char *what, uint64_t off, uint64_t len, uint64_t perm)
{
	struct sgx_enclave_restrict_permissions restricted = {off, len, perm, 0, 0};
	struct sgx_enclave_modify_types type = {off, len, strcmp(what, "trim") ? 1 : 4, 0, 0};
	struct sgx_enclave_remove_pages gone = {off, len, 0};

	if (!strcmp(what, "restrict"))
		return ioctl(fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS, &restricted);
	if (!strcmp(what, "remove"))
		return ioctl(fd, SGX_IOC_ENCLAVE_REMOVE_PAGES, &gone);
	return ioctl(fd, SGX_IOC_ENCLAVE_MODIFY_TYPES, &type);
}

/* The same, and relax. */
static long sgx2_v2(int fd, const char *what, uint64_t off, uint64_t len, uint64_t perm)
{
	uint64_t secinfo[8] __attribute__((aligned(64))) = {perm};
	struct sgx_enclave_relax_perm relax = {off, len, (uint64_t)secinfo, 0};
	struct sgx_enclave_restrict_perm restricted = {off, len, (uint64_t)secinfo, 0, 0};
	struct sgx_enclave_modt type = {off, len, (uint64_t)secinfo, 0, 0};
	struct sgx_enclave_remove_pages_v2 gone = {off, len, 0};

	if (!strcmp(what, "relax"))
		return ioctl(fd, SGX_IOC_ENCLAVE_RELAX_PERMISSIONS, &relax);
	if (!strcmp(what, "restrict"))
		return ioctl(fd, SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2, &restricted);
	if (!strcmp(what, "remove"))
		return ioctl(fd, SGX_IOC_ENCLAVE_REMOVE_PAGES_V2, &gone);
	secinfo[0] = (strcmp(what, "trim") ? 1 : 4) << 8;
	return ioctl(fd, SGX_IOC_ENCLAVE_MODIFY_TYPE, &type);
}

#endif
