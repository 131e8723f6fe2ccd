/* SPDX-License-Identifier: MIT
 *
 * A line as words, of which some are KEY=VALUE. Each thread has a line of its own.
 */
#ifndef GUESTS_WORDS_H
#define GUESTS_WORDS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char *words[32];
static _Thread_local int nwords;

static void split(char *line)
{
	char *save;

	nwords = 0;
	for (char *w = strtok_r(line, " ", &save); w && nwords < 32; w = strtok_r(NULL, " ", &save))
		words[nwords++] = w;
}

static const char *word(int i) { return i < nwords ? words[i] : ""; }

static const char *option(const char *name, const char *otherwise)
{
	size_t n = strlen(name);

	for (int i = 0; i < nwords; i++)
		if (!strncmp(words[i], name, n) && words[i][n] == '=')
			return words[i] + n + 1;
	return otherwise;
}

static uint64_t number(const char *text) { return strtoull(text, NULL, 0); }

#endif
