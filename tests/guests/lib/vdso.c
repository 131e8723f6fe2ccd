/* SPDX-License-Identifier: MIT
 *
 * Finding __vdso_sgx_enter_enclave, in the two ways that loaders use, and calling it.
 */
#define _GNU_SOURCE
#include "loader.h"

#include <elf.h>
#include <string.h>
#include <sys/auxv.h>

void *encl_vdso;

static void *symbol(const uint8_t *bias, const Elf64_Sym *sym, uint64_t n, const char *names,
		    const char *name)
{
	for (uint64_t i = 0; i < n; i++)
		if (sym[i].st_shndx != SHN_UNDEF && !strcmp(names + sym[i].st_name, name))
			return (void *)(bias + sym[i].st_value);
	return NULL;
}

void *vdso_find(const char *name)
{
	const uint8_t *image = (const uint8_t *)getauxval(AT_SYSINFO_EHDR), *bias = image;
	const Elf64_Ehdr *ehdr = (const void *)image;
	const Elf64_Phdr *ph;
	const Elf64_Dyn *dyn = NULL;
	const Elf64_Sym *sym = NULL;
	const char *names = NULL;
	const uint32_t *hash = NULL;

	if (!image)
		return NULL;
	ph = (const void *)(image + ehdr->e_phoff);
	for (int i = ehdr->e_phnum - 1; i >= 0; i--)
		if (ph[i].p_type == PT_LOAD)
			bias = image + ph[i].p_offset - ph[i].p_vaddr;
	for (int i = 0; i < ehdr->e_phnum; i++)
		if (ph[i].p_type == PT_DYNAMIC)
			dyn = (const void *)(image + ph[i].p_offset);
	for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(bias + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_STRTAB)
			names = (const char *)(bias + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_HASH)
			hash = (const void *)(bias + dyn->d_un.d_ptr);
	}
	if (!sym || !names || !hash)
		return NULL;
	return symbol(bias, sym, hash[1], names, name); /* nchain = the number of symbols */
}

/* The Intel SDK's way: .dynsym by its section header, .dynstr by sh_link. */
void *vdso_find_by_sections(const char *name)
{
	const uint8_t *image = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *ehdr = (const void *)image;
	const Elf64_Shdr *sh;

	if (!image || !ehdr->e_shoff)
		return NULL;
	sh = (const void *)(image + ehdr->e_shoff);
	for (int i = 0; i < ehdr->e_shnum; i++) {
		if (sh[i].sh_type != SHT_DYNSYM)
			continue;
		return symbol(image, (const void *)(image + sh[i].sh_offset),
			      sh[i].sh_size / sizeof(Elf64_Sym),
			      (const char *)image + sh[sh[i].sh_link].sh_offset, name);
	}
	return NULL;
}

int encl_call(struct encl *e, int thread, struct call *c, struct sgx_enclave_run *run)
{
	if (!encl_vdso)
		encl_vdso = vdso_find("__vdso_sgx_enter_enclave");
	if (!encl_vdso)
		return -38; /* ENOSYS */
	run->tcs = e->base + e->tcs[thread];
	return encl_vdso_enter(c, EENTER, run);
}

bool encl_do(struct encl *e, int thread, struct call *c)
{
	struct sgx_enclave_run run = {0};
	int ret = encl_call(e, thread, c, &run);

	if (ret == 0 && run.function == EEXIT)
		return true;
	snprintf(e->err, sizeof(e->err), "operation %lu: vDSO %d, function %u, vector %u code %#x at %#llx",
		 c->op, ret, run.function, run.exception_vector, run.exception_error_code,
		 run.exception_addr);
	return false;
}

uint64_t encl_op(struct encl *e, enum op op, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	struct call call = {.op = op, .a = a, .b = b, .c = c, .d = d, .ret = ~0ull};

	return encl_do(e, 0, &call) ? call.ret : ~0ull;
}

int64_t encl_enclu(struct encl *e, int thread, uint64_t leaf, uint64_t page, uint64_t flags,
		   uint64_t src, struct sgx_enclave_run *run)
{
	struct call c = {.op = OP_ENCLU, .a = leaf, .b = page, .c = flags, .d = src, .ret = ~0ull};
	struct sgx_enclave_run mine = {0};

	if (!run)
		run = &mine;
	memset(run, 0, sizeof(*run));
	if (encl_call(e, thread, &c, run) || run->function != EEXIT)
		return -1;
	return (int64_t)c.ret;
}
