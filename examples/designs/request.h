/* SPDX-License-Identifier: MIT
 *
 * What the loader asks of the enclave; the struct lies outside.
 */
#ifndef REQUEST_H
#define REQUEST_H

#include "../hello/hello.h"

enum what {
	GREET,   /* said = "hello, " name */
	GROW,    /* accept the page at `page`, use it as a heap; said = what was read back */
	LOAD,    /* accept the page, put a function into it, make it executable for the CPU */
	CALL,    /* call that function: answer = what it returns */
};

struct request {
	struct hello hello;
	uint64_t what, page, answer;
};

#endif
