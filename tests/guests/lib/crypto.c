/* SPDX-License-Identifier: MIT
 *
 * AES-128 and CMAC in as few lines as can be read: the S-box is computed from its definition
 * (inverse in GF(2^8), then the affine map), so there is no table to mistype.
 * Linked into the enclave, and into `native`, which compares it with OpenSSL.
 */
#include "crypto.h"

static uint8_t sbox[256];

static uint8_t mul(uint8_t a, uint8_t b) /* in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 */
{
	uint8_t p = 0;

	for (; b; b >>= 1) {
		if (b & 1)
			p ^= a;
		a = (uint8_t)((a << 1) ^ ((a >> 7) * 0x1b));
	}
	return p;
}

static uint8_t rol(uint8_t x, int n)
{
	return (uint8_t)((x << n) | (x >> (8 - n)));
}

static void make_sbox(void)
{
	uint8_t power = 1, inverse = 1; /* of the generator 3, and of its inverse 0xf6 */

	do {
		power = mul(power, 3);
		inverse = mul(inverse, 0xf6);
		sbox[power] = inverse ^ rol(inverse, 1) ^ rol(inverse, 2) ^ rol(inverse, 3)
			^ rol(inverse, 4) ^ 0x63;
	} while (power != 1);
	sbox[0] = 0x63;
}

static void aes_encrypt(const uint8_t key[16], uint8_t s[16])
{
	uint8_t k[16], t[16], rcon = 1;

	for (int i = 0; i < 16; i++) {
		k[i] = key[i];
		s[i] ^= k[i];
	}
	for (int round = 1; round <= 10; round++) {
		for (int i = 0; i < 4; i++)
			k[i] ^= sbox[k[12 + (i + 1) % 4]];
		k[0] ^= rcon;
		rcon = mul(rcon, 2);
		for (int i = 4; i < 16; i++)
			k[i] ^= k[i - 4];
		for (int i = 0; i < 16; i++) /* SubBytes and ShiftRows */
			t[i] = sbox[s[(i + 4 * (i % 4)) % 16]];
		for (int i = 0; i < 16; i++) { /* MixColumns, not in the last round */
			int col = i & ~3;

			s[i] = round == 10 ? t[i]
				: (uint8_t)(mul(t[i], 2) ^ mul(t[col + (i + 1) % 4], 3)
					^ t[col + (i + 2) % 4] ^ t[col + (i + 3) % 4]);
			s[i] ^= k[i];
		}
	}
}

static void twice(uint8_t x[16])
{
	uint8_t carry = x[0] >> 7;

	for (int i = 0; i < 16; i++)
		x[i] = (uint8_t)((x[i] << 1) | (i < 15 ? x[i + 1] >> 7 : 0));
	x[15] ^= carry * 0x87;
}

void aes_cmac(const uint8_t key[16], const uint8_t *data, size_t len, uint8_t mac[16])
{
	uint8_t subkey[16] = {0};
	size_t last = len ? (len - 1) / 16 * 16 : 0;

	if (!sbox[0])
		make_sbox();
	aes_encrypt(key, subkey);
	twice(subkey);
	if (len == 0 || len % 16)
		twice(subkey);
	for (int i = 0; i < 16; i++)
		mac[i] = 0;
	for (size_t at = 0; at < last; at += 16) {
		for (int i = 0; i < 16; i++)
			mac[i] ^= data[at + i];
		aes_encrypt(key, mac);
	}
	for (size_t i = 0; i < 16; i++) {
		uint8_t byte = last + i < len ? data[last + i] : last + i == len ? 0x80 : 0;

		mac[i] ^= byte ^ subkey[i];
	}
	aes_encrypt(key, mac);
}
