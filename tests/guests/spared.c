/* SPDX-License-Identifier: MIT
 *
 * usage: spared FILE exec|default|ignore
 * Runs, with a handler of SIGUSR1, until the first byte of the file is not 0; what its next call does then
 * takes the handler away. Says how often the handler has run before that.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile long *handled;

static void handle(int number)
{
	(void)number;
	++*handled;
}

int main(int argc, char **argv)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} action = {0};
	char *again[] = {argv[0], argv[1], NULL};
	volatile char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, open(argv[1], O_RDWR), 0);

	if (shared == MAP_FAILED)
		return 2;
	handled = (volatile long *)(shared + 8);
	if (argc > 2) {
		signal(SIGUSR1, handle);
		action.handler = !strcmp(argv[2], "ignore");
		printf("%d\n", getpid());
		fflush(stdout);
		__asm__ volatile("1:	cmpb	$0, (%0)\n	je	1b" : : "r"(shared) : "cc", "memory");
		if (!strcmp(argv[2], "exec"))
			execv(argv[0], again);
		else
			syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, 8);
	}
	printf("%ld\n", *handled);
	return 0;
}
