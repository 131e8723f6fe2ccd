/* SPDX-License-Identifier: MIT
 *
 * PROCMAP_QUERY of a descriptor of /proc/PID/maps (Linux 6.11): one mapping, not all of them printed.
 */
#ifndef SOFTSGX_PROCMAP_H
#define SOFTSGX_PROCMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* struct procmap_query of <linux/fs.h>, which is younger than many a libc. tests/host hold it. */
struct procmap {
	uint64_t size, query_flags, addr, start, end, flags, page_size, offset, inode;
	uint32_t major, minor, name_size, build_id_size;
	uint64_t name, build_id;
};

#define PROCMAP_QUERY_ 0xC0686611
#define PROCMAP_EXECUTABLE 0x04
#define PROCMAP_NEXT 0x10
#define PROCMAP_FILE 0x20

/* False with ENOENT where there is none. */
static inline bool procmap_query(int maps, struct procmap *q, uint64_t addr, uint64_t flags)
{
	*q = (struct procmap){.size = sizeof(*q), .query_flags = flags, .addr = addr};
	return !ioctl(maps, PROCMAP_QUERY_, q);
}

#endif
