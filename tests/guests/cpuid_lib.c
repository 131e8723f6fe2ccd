/* SPDX-License-Identifier: MIT
 *
 * A library that comes by dlopen: its CPUID instructions are not there when the program starts.
 */
#include <cpuid.h>
#include <stdint.h>

void lib_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
}

/* 0f a2 in an immediate. */
uint32_t lib_immediate(void)
{
	uint32_t value;

	__asm__ volatile("mov $0x12a20f34, %0" : "=r"(value));
	return value;
}
