/* SPDX-License-Identifier: MIT
 *
 * A server of files as nginx is one: for each request on a connection that stays open it asks epoll,
 * reads the request, opens the file, asks for its size, sends it and closes it. The client is a
 * process of its own. The guest of bench/bystander.py.
 *
 * usage: server REQUESTS
 * Prints `ns_per_request X`, as the client sees it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BODY = 612 }; /* nginx's welcome page */

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void serve(int listener, const char *path)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN};
	char request[1024];

	if (fd < 0 || ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		die("accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (;;) {
		struct stat st;
		ssize_t n;
		int f;

		if (epoll_wait(ep, &ev, 1, -1) != 1)
			continue;
		n = read(fd, request, sizeof(request));
		if (n <= 0)
			return;
		f = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (f < 0 || fstat(f, &st) || sendfile(fd, f, NULL, (size_t)st.st_size) != st.st_size)
			die("send");
		close(f);
	}
}

int main(int argc, char **argv)
{
	long requests = argc > 1 ? atol(argv[1]) : 10000;
	static char page[BODY], body[BODY], path[] = "/tmp/softsgx-bench-XXXXXX";
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(at);
	struct timespec a, b;
	int file = mkstemp(path), listener = socket(AF_INET, SOCK_STREAM, 0), fd, one = 1;
	pid_t pid;

	if (file < 0 || write(file, page, BODY) != BODY || listener < 0)
		die("setup");
	if (bind(listener, (struct sockaddr *)&at, length) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&at, &length))
		die("listen");
	pid = fork();
	if (pid == 0) {
		serve(listener, path);
		_exit(0);
	}
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&at, length))
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (long i = 0; i < requests; i++) {
		static const char get[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

		if (write(fd, get, sizeof(get) - 1) < 0)
			die("request");
		for (ssize_t got = 0, n; got < BODY; got += n) {
			n = read(fd, body, sizeof(body));
			if (n <= 0)
				die("answer");
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	close(fd);
	waitpid(pid, NULL, 0);
	unlink(path);
	printf("ns_per_request %.0f\n", ((double)(b.tv_sec - a.tv_sec) * 1e9 +
					 (double)(b.tv_nsec - a.tv_nsec)) / (double)requests);
	return 0;
}
