/* SPDX-License-Identifier: MIT */
#ifndef GUESTS_HEAP_H
#define GUESTS_HEAP_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Let brk() be elsewhere: from start to end, by what needs no privilege, PR_SET_MM_MAP. -1 where a
 * kernel has no such thing (CONFIG_CHECKPOINT_RESTORE). What malloc() has stays where it is. */
__attribute__((unused)) static int move_heap(uint64_t start, uint64_t end)
{
	struct prctl_mm_map map = {.start_brk = start, .brk = end, .exe_fd = (uint32_t)-1};
	char text[2000] = "", *at;
	unsigned long long field[52] = {0}; /* of /proc/self/stat, by proc(5)'s numbers */
	int fd = open("/proc/self/stat", O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	close(fd);
	at = strrchr(text, ')') + 2;
	for (int i = 4; i < 52; i++) {
		at = strchr(at + 1, ' ');
		field[i] = strtoull(at + 1, NULL, 10);
	}
	map.start_code = field[26], map.end_code = field[27], map.start_stack = field[28];
	map.start_data = field[45], map.end_data = field[46];
	map.arg_start = field[48], map.arg_end = field[49], map.env_start = field[50], map.env_end = field[51];
	return prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0);
}

#endif
