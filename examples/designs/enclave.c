/* SPDX-License-Identifier: MIT
 *
 * The trusted side. The CPU lets a page that was added after INIT be used only once the enclave has
 * accepted it, and lets only the enclave itself extend a page's permissions.
 */
#include "request.h"

#define EACCEPT 5
#define EMODPE 6
#define SECINFO_PENDING 8

static uint64_t enclu(uint64_t leaf, uint64_t page, uint64_t flags)
{
	uint64_t secinfo[8] __attribute__((aligned(64))) = {flags};

	__asm__ volatile(".byte 0x0f, 0x01, 0xd7"
			 : "+a"(leaf) : "b"(secinfo), "c"(page), "d"(0) : "memory", "cc");
	return leaf; /* 0, or why EACCEPT refused */
}

static void accept(struct request *outside, uint64_t page)
{
	outside->answer = enclu(EACCEPT, page, SECINFO_REG | SECINFO_R | SECINFO_W | SECINFO_PENDING);
}

static void greet(struct hello *outside)
{
	static const char greeting[] = "hello, ";
	int at = 0;

	for (int i = 0; greeting[i]; i++)
		outside->said[at++] = greeting[i];
	for (int i = 0; i < 32 && outside->name[i]; i++)
		outside->said[at++] = outside->name[i];
	outside->said[at] = 0;
}

void enclave_main(struct request *outside)
{
	uint64_t what = *(volatile uint64_t *)&outside->what, page = *(volatile uint64_t *)&outside->page;
	volatile uint8_t *heap = (volatile uint8_t *)page;

	switch (what) {
	case GREET:
		greet(&outside->hello);
		break;
	case GROW:
		accept(outside, page);
		for (int i = 0; i < 31; i++)
			heap[i] = (uint8_t)outside->hello.name[i];
		for (int i = 0; i < 31; i++)
			outside->hello.said[i] = (char)heap[i];
		break;
	case LOAD:
		accept(outside, page);
		heap[0] = 0xb8; /* mov $42, %eax; ret */
		heap[1] = 42;
		heap[5] = 0xc3;
		enclu(EMODPE, page, SECINFO_REG | SECINFO_R | SECINFO_X);
		break;
	case CALL:
		outside->answer = ((uint32_t (*)(void))page)();
		break;
	}
}
