/* SPDX-License-Identifier: MIT -- the enclave and the signing key, inside every guest */
	.section .rodata
	.globl	enclave_image, enclave_image_end, sign_key, sign_key_end
	.balign	4096
enclave_image:
	.incbin	"enclave.bin"
enclave_image_end:
sign_key:
	.incbin	"key.pem"
sign_key_end:
	.section .note.GNU-stack, "", @progbits
