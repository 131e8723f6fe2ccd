/* SPDX-License-Identifier: MIT
 *
 * The trusted side: builds a greeting and hands it out.
 */
#include "hello.h"

void enclave_main(struct hello *outside)
{
	static const char greeting[] = "hello, ";
	char name[32]; /* our own copy: memory outside may change while we look at it */
	int at = 0;

	/* A real enclave also checks here that all of *outside does lie outside of it. */
	for (int i = 0; i < 32; i++)
		name[i] = ((volatile char *)outside->name)[i];
	name[31] = 0;
	for (int i = 0; greeting[i]; i++)
		outside->said[at++] = greeting[i];
	for (int i = 0; name[i]; i++)
		outside->said[at++] = name[i];
	outside->said[at] = 0;
}
