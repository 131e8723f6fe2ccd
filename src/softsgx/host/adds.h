/* SPDX-License-Identifier: MIT
 *
 * What the code in a process (adds.S) and the tracer's (series.c) share: the pages that were added, behind
 * a page that tells which the next ones are. host/adds.py reads in the object where what is.
 *
 * STATE: how many were added (bits 0-31), and how many may be (32-63), both as many as some calls add:
 * none may once it is closed. FD: of the device. OFFSET: in the enclave, of the first one. FLAGS: of the
 * call; LENGTH: of it, in bytes. SOURCE, LAST: where what is added may come from, and how far from there
 * the last call's begins. SECINFO: its 64 bytes. KEPT: the thread's registers meanwhile: RDI, RSI, R8, R9,
 * R10, RSP, the flags in AX.
 */
#ifndef SOFTSGX_ADDS_H
#define SOFTSGX_ADDS_H

#define ADDS_STATE	0
#define ADDS_FD		8
#define ADDS_OFFSET	16
#define ADDS_FLAGS	24
#define ADDS_SOURCE	32
#define ADDS_LAST	40
#define ADDS_LENGTH	48
#define ADDS_SECINFO	64
#define ADDS_KEPT	128
#define ADDS_STACK	256
#define ADDS_PAGES	4096
#define ADDS_MOST	256

#endif
