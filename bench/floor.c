/* SPDX-License-Identifier: MIT
 *
 * usage: floor [MIB]   what cannot be left out of loading an enclave with large ioctls
 *
 * Another process has MIB (256) of memory. It is read, kept in a new file of memory, and hashed as
 * EADD and EEXTEND records: nobody is stopped, and no rule is asked. Prints microseconds a page: of the
 * hash of as many bytes alone; of its parts, in small pages and in large ones; and of all of it, on one
 * processor, and where there is a second one on two.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "../src/softsgx/sgx/sha256.c"

#define LARGE (512ul * PAGE)
#define AT_ONCE (256ul * PAGE)
#define RECORDS 5184
#define COLLAPSE 25 /* MADV_COLLAPSE */

static unsigned char *theirs, *view, buffer[AT_ONCE] __attribute__((aligned(64)));
static size_t bytes;
static pid_t child;
static int file = -1;
static struct sha256 hash;
static const unsigned char eadd[64] = "EADD", eextend[64] = "EEXTEND";
static uint64_t ready;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void check(bool good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static void anew(void)
{
	unsigned char *room;

	if (file >= 0) {
		close(file);
		munmap(view, bytes);
	}
	file = memfd_create("floor", MFD_CLOEXEC);
	room = mmap(NULL, bytes + LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(file >= 0 && !ftruncate(file, (off_t)bytes) && room != MAP_FAILED, "memory");
	view = (unsigned char *)(((uintptr_t)room + LARGE - 1) & ~(LARGE - 1));
	check(mmap(view, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == view, "mmap");
}

static void measure(const unsigned char *data, size_t at, size_t size)
{
	sha256_pages(&hash, data, size / PAGE, at, PAGE, eadd, eextend);
}

static void fetch(void *to, size_t at)
{
	struct iovec here = {to, AT_ONCE}, there = {theirs + at, AT_ONCE};

	check(process_vm_readv(child, &here, 1, &there, 1, 0) == (ssize_t)AT_ONCE, "process_vm_readv");
}

/* false: the kernel has no large pages. */
static bool one(bool large, bool keeps, bool hashes)
{
	for (size_t at = 0; at < bytes; at += AT_ONCE) {
		unsigned char *to = large ? view + at : buffer;

		if (large && at % LARGE == 0) {
			check(pwrite(file, "", 1, (off_t)at) == 1, "pwrite");
			if (madvise(view + at, LARGE, COLLAPSE))
				return false;
		}
		fetch(to, at);
		if (keeps && !large)
			check(pwrite(file, buffer, AT_ONCE, (off_t)at) == (ssize_t)AT_ONCE, "pwrite");
		if (hashes)
			measure(to, at, AT_ONCE);
		for (size_t i = 0; keeps && !large && !hashes && i < AT_ONCE; i += 16 * PAGE)
			*(volatile unsigned char *)(view + at + i);
		__atomic_store_n(&ready, at + AT_ONCE, __ATOMIC_RELEASE);
	}
	return true;
}

static void *beside(void *unused)
{
	for (size_t at = 0; at < bytes; at += AT_ONCE) {
		while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) <= at)
			usleep(10);
		measure(view + at, at, AT_ONCE);
	}
	return unused;
}

static void told(const char *what, double start, bool good)
{
	if (good)
		printf("%s %.2f\n", what, (now() - start) / (double)(bytes / PAGE));
	fflush(stdout);
}

static void two(const char *what, bool large)
{
	pthread_t thread;
	double start;
	bool good;

	anew();
	ready = 0;
	start = now();
	pthread_create(&thread, NULL, beside, NULL);
	good = one(large, true, false);
	__atomic_store_n(&ready, bytes, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	told(what, start, good);
}

static void alone(const char *what, bool large, bool keeps, bool hashes)
{
	double start;

	anew();
	start = now();
	told(what, start, one(large, keeps, hashes));
}

int main(int argc, char **argv)
{
	cpu_set_t cpus;
	double start;
	int pipes[2];
	char byte;

	bytes = (argc > 1 ? strtoul(argv[1], NULL, 0) : 256) << 20;
	if (!softsgx_sha256_is()) {
		puts("no SHA extensions");
		return 1;
	}
	theirs = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(theirs != MAP_FAILED && !pipe(pipes), "memory");
	child = fork();
	check(child >= 0, "fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (size_t at = 0; at < bytes; at += PAGE)
			*(uint64_t *)(theirs + at) = at * 0x9e3779b97f4a7c15 + 1;
		check(write(pipes[1], "", 1) == 1, "write");
		for (;;)
			pause();
	}
	check(read(pipes[0], &byte, 1) == 1, "read");
	softsgx_sha256_init(&hash);
	start = now();
	for (size_t i = 0; i < bytes / PAGE; i++)
		softsgx_sha256_update(&hash, buffer, RECORDS);
	told("hash", start, true);
	alone("read", false, false, false);
	alone("kept", false, true, false);
	alone("kept_large", true, true, false);
	alone("one", false, true, true);
	alone("one_large", true, true, true);
	if (!sched_getaffinity(0, sizeof(cpus), &cpus) && CPU_COUNT(&cpus) > 1) {
		two("two", false);
		two("two_large", true);
	}
	return 0;
}
