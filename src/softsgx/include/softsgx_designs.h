/* SPDX-License-Identifier: MIT
 *
 * The ioctls of the SGX interfaces that were proposed from May 2019 on and never shipped, as softsgx
 * offers them: `softsgx include` prints this directory, for -I. Another design than the one that
 * is named answers -ENOTTY. Offsets are in bytes from the enclave's base, addresses are the
 * caller's own; both are page-aligned. Masks are of 1 (read), 2 (write), 4 (execute).
 */
#ifndef SOFTSGX_DESIGNS_H
#define SOFTSGX_DESIGNS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define SOFTSGX_MAGIC 0xA4

/*
 * EADD of a range: safe-to-execute, source-vma, segments, ioc-mprotect, maxperm, allowed-prot,
 * sigstruct-proxy, execute-intent, ema, fsm.
 * As SGX_IOC_ENCLAVE_ADD_PAGES; segment is the mask of the segment that the pages join (segments),
 * maxperm and prot what they may be mapped with at most (maxperm; allowed-prot, fsm:model=flags),
 * allow SGX_ALLOW_WRITE of pages that may ever be mapped W (sigstruct-proxy), intent
 * SGX_EXECUTE_INTENT of pages that are meant to be executed (execute-intent); 0 elsewhere.
 * After INIT it is EAUG: src and flags are 0, the pages are zeroed and pending until the enclave
 * accepts them, and SECINFO says what they are meant for.
 * count: bytes done.
 * EBUSY a page is there already; EFAULT, EINVAL, EIO as ADD_PAGES; EINVAL SECINFO beyond segment.
 */
struct sgx_add_region {
	__u64 src;
	__u64 offset;
	__u64 length;
	__u64 secinfo;
	__u64 flags; /* 1: measure */
	__u64 count;
	union {
		__u64 segment;
		__u64 maxperm;
		__u64 prot;
		__u64 allow;
		__u64 intent;
	};
};
#define SGX_ALLOW_WRITE 2
#define SGX_EXECUTE_INTENT 4

/*
 * mprotect for enclaves: ioc-mprotect.
 * ENOMEM a page or a mapping of this enclave is missing; EACCES beyond VM_MAY* of a page, or the
 * LSM. Mappings before the one that is refused stay changed, as with mprotect.
 */
struct sgx_mprotect {
	__u64 addr;
	__u64 length;
	__u64 prot;
};

/*
 * Add VM_MAY* bits to pages: ioc-mprotect. All of the range or nothing.
 * EINVAL a bad range or mask; ENOMEM a page is missing.
 */
struct sgx_extend_permissions {
	__u64 offset;
	__u64 length;
	__u64 permissions;
};

/*
 * Put pages of a segment into mappings of the enclave: segments.
 * ENOENT no such segment; ENOMEM a page or a mapping of this enclave is missing; EACCES a page of
 * another segment, prot beyond the segment, or the LSM.
 */
struct sgx_map_segment {
	__u64 addr;
	__u64 length;
	__u64 segment;
	__u64 prot;
};

/*
 * An fd of a segment, which can be mapped with MAP_SHARED | MAP_FIXED: segments.
 * Returns the fd. flags: O_CLOEXEC or 0. ENOENT no such segment.
 */
struct sgx_segment_fd {
	__u64 segment;
	__u64 flags;
};

/*
 * ECREATE with the enclave's SIGSTRUCT, in the place of SGX_IOC_ENCLAVE_CREATE: sigstruct-proxy (but
 * for mail=24-may). The file that it lies in stands for the enclave from here on; INIT has no
 * argument then (its sigstruct is 0). EINVAL, EIO, EFAULT as CREATE; EINVAL it lies in no file and has to.
 */
struct sgx_enclave_create_sigstruct {
	__u64 src;
	__u64 sigstruct;
};

#define SGX_IOC_ADD_REGION _IOWR(SOFTSGX_MAGIC, 0x20, struct sgx_add_region)
#define SGX_IOC_MPROTECT _IOW(SOFTSGX_MAGIC, 0x21, struct sgx_mprotect)
#define SGX_IOC_MAP_REGION SGX_IOC_MPROTECT /* the seed's other name */
#define SGX_IOC_EXTEND_PERMISSIONS _IOW(SOFTSGX_MAGIC, 0x22, struct sgx_extend_permissions)
#define SGX_IOC_MAP_SEGMENT _IOW(SOFTSGX_MAGIC, 0x23, struct sgx_map_segment)
#define SGX_IOC_SEGMENT_FD _IOW(SOFTSGX_MAGIC, 0x24, struct sgx_segment_fd)
#define SGX_IOC_ENCLAVE_CREATE_SIGSTRUCT _IOW(SOFTSGX_MAGIC, 0x25, struct sgx_enclave_create_sigstruct)

/*
 * v20, the driver as posted in April 2019: CREATE and INIT are as in <asm/sgx.h>, 0x03 is
 * SET_ATTRIBUTE with an fd of /dev/sgx/provision, and pages are added one at a time. addr is
 * absolute; bit i of mrmask measures the i-th 256 bytes.
 */
struct sgx_enclave_add_page_v20 {
	__u64 addr;
	__u64 src;
	__u64 secinfo;
	__u16 mrmask;
} __attribute__((__packed__));

#define SGX_IOC_ENCLAVE_ADD_PAGE_V20 _IOW(SOFTSGX_MAGIC, 0x01, struct sgx_enclave_add_page_v20)

/*
 * sgx2-v2, "x86/sgx and selftests/sgx: Support SGX2" V2 (7 February 2022): permissions and types are
 * those of a SECINFO, which says nothing else. RELAX: what EMODPE has made of pages is told to the
 * kernel, whose mappings and page tables keep to it. Two numbers are another ioctl's in what was
 * merged (0x06 MODIFY_TYPES, 0x07 REMOVE_PAGES), so two names have a suffix here.
 * EPERM beyond the page's maximum; EFAULT no page; EINVAL no regular page, or a bad argument.
 */
struct sgx_enclave_relax_perm {
	__u64 offset;
	__u64 length;
	__u64 secinfo;
	__u64 count;
};

struct sgx_enclave_restrict_perm {
	__u64 offset;
	__u64 length;
	__u64 secinfo;
	__u64 result;
	__u64 count;
};

struct sgx_enclave_modt {
	__u64 offset;
	__u64 length;
	__u64 secinfo;
	__u64 result;
	__u64 count;
};

struct sgx_enclave_remove_pages_v2 {
	__u64 offset;
	__u64 length;
	__u64 count;
};

#define SGX_IOC_ENCLAVE_RELAX_PERMISSIONS _IOWR(SOFTSGX_MAGIC, 0x05, struct sgx_enclave_relax_perm)
#define SGX_IOC_ENCLAVE_RESTRICT_PERMISSIONS_V2 \
	_IOWR(SOFTSGX_MAGIC, 0x06, struct sgx_enclave_restrict_perm)
#define SGX_IOC_ENCLAVE_MODIFY_TYPE _IOWR(SOFTSGX_MAGIC, 0x07, struct sgx_enclave_modt)
#define SGX_IOC_ENCLAVE_REMOVE_PAGES_V2 \
	_IOWR(SOFTSGX_MAGIC, 0x08, struct sgx_enclave_remove_pages_v2)

#endif
