/* SPDX-License-Identifier: MIT
 *
 * libsgx_dcap_ql for programs that make quotes in their own process: the functions of Intel's
 * library (DCAP 1.23, sgx_dcap_ql_wrapper.h), by AESM's socket. Intel's own loads Intel's signed
 * enclaves, which no software device can run. Nothing is kept between calls, so threads and
 * fork(2) need no care; each request has a connection of its own, as aesmd wants it.
 *
 * Requests and answers are protobuf's wire format, a dozen fields of two types: a library for it
 * would have to be in the program's search path, too.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define AESM_SOCKET "/var/run/aesmd/aesm.socket"
#define KEY_ID_SIZE 256
#define TARGET_INFO_SIZE 512
#define REPORT_SIZE 432
#define MAX_ANSWER (2u << 20)

/* sgx_ql_lib_common.h */
typedef enum {
	QL_SUCCESS = 0,
	QL_UNEXPECTED = 0xe001,
	QL_INVALID_PARAMETER = 0xe002,
	QL_OUT_OF_MEMORY = 0xe003,
	QL_UNSUPPORTED_ATT_KEY_ID = 0xe00b,
	QL_UNSUPPORTED_LOADING_POLICY = 0xe00c,
	QL_INVALID_REPORT = 0xe015,
	QL_SERVICE_UNAVAILABLE = 0xe040,
} quote3_error_t;

/* aesm_error.h */
enum { AESM_PARAMETER_ERROR = 3, AESM_SERVICE_UNAVAILABLE = 30, AESM_UNSUPPORTED_ATT_KEY_ID = 38,
       AESM_INVALID_REPORT = 47 };

enum { INIT_QUOTE_EX = 15, GET_QUOTE_SIZE_EX = 16, GET_QUOTE_EX = 17 };

/* DCAP, sgx_ql_core_wrapper.cpp, g_default_ecdsa_p256_att_key_id: the one key that is asked for. */
static const uint8_t MRSIGNER[32] = {
	0x8c, 0x4f, 0x57, 0x75, 0xd7, 0x96, 0x50, 0x3e, 0x96, 0x13, 0x7f, 0x77, 0xc6, 0x8a, 0x82, 0x9a,
	0x00, 0x56, 0xac, 0x8d, 0xed, 0x70, 0x14, 0x0b, 0x08, 0x1b, 0x09, 0x44, 0x90, 0xc5, 0x7b, 0xff,
};

struct message {
	uint8_t bytes[KEY_ID_SIZE + REPORT_SIZE + 1024];
	size_t size;
};

static void varint(struct message *m, uint64_t value)
{
	for (; value > 0x7f; value >>= 7)
		m->bytes[m->size++] = (uint8_t)(0x80 | value);
	m->bytes[m->size++] = (uint8_t)value;
}

static void put_number(struct message *m, unsigned field, uint64_t value)
{
	varint(m, field << 3);
	varint(m, value);
}

static void put_bytes(struct message *m, unsigned field, const void *data, size_t size)
{
	varint(m, field << 3 | 2);
	varint(m, size);
	memcpy(m->bytes + m->size, data, size);
	m->size += size;
}

static void put_key(struct message *m, unsigned field)
{
	uint8_t id[KEY_ID_SIZE] = {[4] = 32, [54] = 1, [154] = 2}; /* mrsigner_length, prod_id, algorithm_id */

	memcpy(id + 6, MRSIGNER, sizeof(MRSIGNER));
	put_bytes(m, field, id, sizeof(id));
}

struct view {
	const uint8_t *at, *end;
};

static int get_varint(struct view *v, uint64_t *value)
{
	*value = 0;
	for (unsigned shift = 0; v->at < v->end && shift < 64; shift += 7) {
		*value |= (uint64_t)(*v->at & 0x7f) << shift;
		if (!(*v->at++ & 0x80))
			return 1;
	}
	return 0;
}

/* The next field: its number, and its value or its bytes. 0 at the end and where it is malformed. */
static unsigned get_field(struct view *v, uint64_t *value, struct view *bytes)
{
	uint64_t tag, size;

	if (!get_varint(v, &tag))
		return 0;
	switch (tag & 7) {
	case 0:
		return get_varint(v, value) ? (unsigned)(tag >> 3) : 0;
	case 2:
		if (!get_varint(v, &size) || size > (uint64_t)(v->end - v->at))
			return 0;
		*bytes = (struct view){v->at, v->at + size};
		v->at += size;
		return (unsigned)(tag >> 3);
	}
	return 0;
}

static int all_written(int fd, const void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = send(fd, (const uint8_t *)data + done, size - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		done += (size_t)n;
	}
	return 1;
}

static int all_read(int fd, void *data, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = read(fd, (uint8_t *)data + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		done += (size_t)n;
	}
	return 1;
}

/* Ask on a connection: the answer (to be freed) and its size, or NULL. */
static uint8_t *transact(int fd, const struct message *request, uint32_t *size)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = AESM_SOCKET};
	uint32_t asked = (uint32_t)request->size;
	uint8_t *answer = NULL;

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
	    !all_written(fd, &asked, sizeof(asked)) || !all_written(fd, request->bytes, asked) ||
	    !all_read(fd, size, sizeof(*size)) || *size > MAX_ANSWER)
		return NULL;
	answer = malloc(*size + 1);
	if (answer && !all_read(fd, answer, *size)) {
		free(answer);
		return NULL;
	}
	return answer;
}

static quote3_error_t error_of(uint64_t code)
{
	switch (code) {
	case 0:
		return QL_SUCCESS;
	case AESM_PARAMETER_ERROR:
		return QL_INVALID_PARAMETER;
	case AESM_SERVICE_UNAVAILABLE:
		return QL_SERVICE_UNAVAILABLE;
	case AESM_UNSUPPORTED_ATT_KEY_ID:
		return QL_UNSUPPORTED_ATT_KEY_ID;
	case AESM_INVALID_REPORT:
		return QL_INVALID_REPORT;
	}
	return QL_UNEXPECTED;
}

/*
 * One request of AESM: the field of its answer, a number, or bytes that are copied to `out`, which
 * has `size` bytes. An answer without it, or with other than `size` bytes, is none.
 */
static quote3_error_t ask(unsigned which, const struct message *inner, unsigned field,
			  uint64_t *number, void *out, size_t size)
{
	struct message request = {.size = 0};
	struct view outer, in, bytes;
	uint64_t value = 0, code = 1;
	uint32_t length = 0;
	uint8_t *answer;
	int found = 0;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return QL_SERVICE_UNAVAILABLE;
	put_bytes(&request, which, inner->bytes, inner->size);
	answer = transact(fd, &request, &length);
	close(fd);
	if (!answer)
		return QL_SERVICE_UNAVAILABLE;
	outer = (struct view){answer, answer + length};
	if (get_field(&outer, &value, &in) == which) {
		for (unsigned at; (at = get_field(&in, &value, &bytes));) {
			if (at == 1)
				code = value;
			else if (at == field && number) {
				*number = value;
				found = 1;
			} else if (at == field && (size_t)(bytes.end - bytes.at) == size) {
				memcpy(out, bytes.at, size);
				found = 1;
			}
		}
	}
	free(answer);
	if (code)
		return error_of(code);
	return found ? QL_SUCCESS : QL_UNEXPECTED;
}

/* 0: the enclaves stay loaded, 1: they do not; there are none. */
API quote3_error_t sgx_qe_set_enclave_load_policy(int policy)
{
	return policy == 0 || policy == 1 ? QL_SUCCESS : QL_UNSUPPORTED_LOADING_POLICY;
}

API quote3_error_t sgx_qe_cleanup_by_policy(void)
{
	return QL_SUCCESS;
}

/* Where Intel's enclaves and its provider of certificates are: not asked for. */
API quote3_error_t sgx_ql_set_path(int type, const char *path)
{
	return type < 0 || type > 3 || !path ? QL_INVALID_PARAMETER : QL_SUCCESS;
}

API quote3_error_t sgx_ql_set_trace_callback(void *logger, int level)
{
	(void)logger;
	(void)level;
	return QL_SUCCESS;
}

API quote3_error_t sgx_qe_get_target_info(void *target_info)
{
	struct message m = {.size = 0};

	if (!target_info)
		return QL_INVALID_PARAMETER;
	put_key(&m, 1);
	put_number(&m, 3, 1);  /* b_pub_key_id */
	put_number(&m, 4, 32); /* buf_size */
	return ask(INIT_QUOTE_EX, &m, 2, NULL, target_info, TARGET_INFO_SIZE);
}

API quote3_error_t sgx_qe_get_quote_size(uint32_t *size)
{
	struct message m = {.size = 0};
	uint64_t value = 0;
	quote3_error_t error;

	if (!size)
		return QL_INVALID_PARAMETER;
	put_key(&m, 1);
	error = ask(GET_QUOTE_SIZE_EX, &m, 2, &value, NULL, 0);
	if (!error)
		*size = (uint32_t)value;
	return error;
}

API quote3_error_t sgx_qe_get_quote(const void *report, uint32_t size, uint8_t *quote)
{
	struct message m = {.size = 0};

	if (!report || !quote || !size)
		return QL_INVALID_PARAMETER;
	put_bytes(&m, 1, report, REPORT_SIZE);
	put_key(&m, 2);
	put_number(&m, 4, size);
	return ask(GET_QUOTE_EX, &m, 2, NULL, quote, size);
}
