/* SPDX-License-Identifier: MIT */
#ifndef GUESTS_CRYPTO_H
#define GUESTS_CRYPTO_H

#include <stddef.h>
#include <stdint.h>

/* AES-128-CMAC (RFC 4493), the MAC of an SGX REPORT. Small, not constant-time: for tests only. */
void aes_cmac(const uint8_t key[16], const uint8_t *data, size_t len, uint8_t mac[16]);

#endif
