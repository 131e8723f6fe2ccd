/* SPDX-License-Identifier: MIT
 *
 * A descriptor over a socket (SCM_RIGHTS), with a message.
 */
#ifndef GUESTS_FDS_H
#define GUESTS_FDS_H

#include <string.h>
#include <sys/socket.h>

/* 0, or -1 with errno. */
static int send_fd(int to, int fd, const void *data, size_t size, int flags)
{
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {(void *)data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	return sendmsg(to, &msg, flags) == (ssize_t)size ? 0 : -1;
}

/* 0; 1 where a message came without one; -1 with errno. */
static int receive_fd(int from, int *fd, void *data, size_t size, int flags)
{
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {data, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			     .msg_controllen = sizeof(control)};

	if (recvmsg(from, &msg, flags) != (ssize_t)size)
		return -1;
	if (!CMSG_FIRSTHDR(&msg))
		return 1;
	memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return 0;
}

#endif
