/* SPDX-License-Identifier: MIT
 *
 * Memory that pages are added from, by kind: anon_rw, anon_r, anon_rx, anon_rwx; file_r, file_rx,
 * file_rw, file_rwx: private mappings of a file; written_r, written_rw, written_rx: the same, written
 * to before; shared_r, shared_rx: MAP_SHARED of a file opened for reading; shared_rw.
 */
#ifndef GUESTS_SOURCE_H
#define GUESTS_SOURCE_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "arch.h"

/* PROT_* by their letters. */
static int letters(const char *text)
{
	return (strchr(text, 'r') ? 1 : 0) | (strchr(text, 'w') ? 2 : 0) | (strchr(text, 'x') ? 4 : 0);
}

/* A file of its own with this content, opened as mode says; nobody finds it by its name any more. */
static int source_file(const char *dir, const void *content, uint64_t len, int mode)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/orders-source-XXXXXX", dir ? dir : "/tmp");
	fd = mkstemp(path);
	if (fd < 0 || write(fd, content, len) != (ssize_t)len)
		return -1;
	close(fd);
	fd = open(path, mode);
	unlink(path);
	return fd;
}

/* Such memory with this content, or MAP_FAILED. dir: where its file is made, /tmp if NULL. */
static void *source(const char *kind, const char *dir, const void *content, uint64_t len)
{
	int prot = letters(strchr(kind, '_') ? strchr(kind, '_') : ""), fd;
	char *p;

	if (!strncmp(kind, "anon", 4)) {
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p != MAP_FAILED)
			memcpy(p, content, len);
		return p != MAP_FAILED && mprotect(p, len, prot) ? MAP_FAILED : p;
	}
	if (!strncmp(kind, "shared", 6)) {
		fd = source_file(dir, content, len, prot & PROT_WRITE ? O_RDWR : O_RDONLY);
		p = mmap(NULL, len, prot, MAP_SHARED, fd, 0);
	} else if (!strncmp(kind, "written", 7)) {
		void *other = calloc(1, len); /* the file has zeroes */

		fd = source_file(dir, other, len, O_RDONLY);
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
		if (p != MAP_FAILED)
			memcpy(p, content, len);
		if (p != MAP_FAILED && mprotect(p, len, prot))
			p = MAP_FAILED;
		free(other);
	} else {
		fd = source_file(dir, content, len, O_RDONLY);
		p = mmap(NULL, len, prot, MAP_PRIVATE, fd, 0);
	}
	close(fd);
	return p;
}

#endif
