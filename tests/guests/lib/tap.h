/* SPDX-License-Identifier: MIT
 *
 * One line a check: `ok NAME`, `not ok NAME: why`, `ok NAME # SKIP why`. The exit status is 1 if any
 * failed. A line is one write(2), so lines of several processes do not mix.
 */
#ifndef GUESTS_TAP_H
#define GUESTS_TAP_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int tap_failed;

__attribute__((unused, format(printf, 3, 4)))
static bool check_line(bool ok, const char *name, const char *fmt, ...)
{
	char why[400], line[600];
	va_list ap;
	int n;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	n = ok ? snprintf(line, sizeof(line), "ok %s\n", name)
	       : snprintf(line, sizeof(line), "not ok %s: %s\n", name, why);
	if (write(1, line, (size_t)n) != n)
		abort();
	tap_failed |= !ok;
	return ok;
}

__attribute__((unused)) static void skip(const char *name, const char *why)
{
	char line[600];
	int n = snprintf(line, sizeof(line), "ok %s # SKIP %s\n", name, why);

	if (write(1, line, (size_t)n) != n)
		abort();
}

/* A macro, so that the condition is evaluated before what is printed of its effects. */
#define check(condition, ...)                                                                  \
	({                                                                                     \
		bool ok_ = (condition);                                                        \
		check_line(ok_, __VA_ARGS__);                                                  \
	})

/* Nothing more can be tested. */
__attribute__((unused)) static void bail(const char *name, const char *why)
{
	check(false, name, "%s", why);
	exit(1);
}

/* ret is what a call returned that sets errno; want is 0 or an errno value. */
__attribute__((unused)) static bool check_errno(long ret, int want, const char *name)
{
	int got = ret == -1 ? errno : 0;

	return check(got == want, name, "%s (%d), expected %s (%d)", got ? strerror(got) : "success",
		     got, want ? strerror(want) : "success", want);
}

#define CHECK_EQ(got, want, name)                                                              \
	do {                                                                                   \
		unsigned long long got_ = (unsigned long long)(got),                           \
				   want_ = (unsigned long long)(want);                         \
		check(got_ == want_, name, "%s is %#llx, expected %#llx", #got, got_, want_);  \
	} while (0)

#endif
