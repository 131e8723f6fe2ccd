/* SPDX-License-Identifier: MIT
 *
 * The driver's ioctl.c as it is, and a way to those of its functions that have no other.
 */
#include "encls.h"

#include "ioctl.c"

int judge_validate_secinfo(const struct sgx_secinfo *secinfo)
{
	struct sgx_secinfo copy = *secinfo;

	return sgx_validate_secinfo(&copy);
}

int judge_validate_offset_length(unsigned long size, unsigned long offset, unsigned long length)
{
	struct sgx_encl encl = { .size = size };

	return sgx_validate_offset_length(&encl, offset, length);
}
