/* What the programs beside this file share: finding a symbol in a mapped object as a
 * loader does, by DT_HASH or by the section headers, and mapping the image. */
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                            \
	do {                                                                        \
		if (!(condition)) {                                                 \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			exit(1);                                                    \
		}                                                                   \
	} while (0)

/* The hash function of the System V ABI ("Hash Table Section"). */
static unsigned sysv_hash(const char *name)
{
	unsigned h = 0, g;

	for (; *name; name++) {
		h = (h << 4) + (unsigned char)*name;
		g = h & 0xf0000000;
		h ^= g >> 24;
		h &= ~g;
	}
	return h;
}

static void *by_hash(const char *base, const char *wanted)
{
	const Elf64_Ehdr *ehdr = (const void *)base;
	const Elf64_Phdr *phdr = (const void *)(base + ehdr->e_phoff);
	const Elf64_Dyn *dyn = NULL;
	const Elf64_Sym *sym = NULL;
	const uint32_t *hash = NULL;
	const char *str = NULL;
	int loads = 0;

	for (int i = 0; i < ehdr->e_phnum; i++) {
		if (phdr[i].p_type == PT_DYNAMIC)
			dyn = (const void *)(base + phdr[i].p_offset);
		loads += phdr[i].p_type == PT_LOAD;
	}
	CHECK(dyn && loads == 1);
	for (; dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_HASH)
			hash = (const void *)(base + dyn->d_un.d_ptr);
		if (dyn->d_tag == DT_STRTAB)
			str = base + dyn->d_un.d_ptr;
		if (dyn->d_tag == DT_SYMTAB)
			sym = (const void *)(base + dyn->d_un.d_ptr);
	}
	CHECK(hash && str && sym);
	for (uint32_t i = hash[2 + sysv_hash(wanted) % hash[0]]; i; i = hash[2 + hash[0] + i])
		if (!strcmp(str + sym[i].st_name, wanted) && sym[i].st_shndx != SHN_UNDEF)
			return (void *)(base + sym[i].st_value);
	return NULL;
}

static void *by_sections(const char *base, const char *wanted)
{
	const Elf64_Ehdr *ehdr = (const void *)base;
	const Elf64_Shdr *shdr = (const void *)(base + ehdr->e_shoff);

	for (int i = 0; i < ehdr->e_shnum; i++) {
		if (shdr[i].sh_type != SHT_DYNSYM)
			continue;
		const Elf64_Sym *sym = (const void *)(base + shdr[i].sh_offset);
		const char *str = base + shdr[shdr[i].sh_link].sh_offset;
		for (unsigned j = 1; j < shdr[i].sh_size / sizeof(*sym); j++)
			if (!strcmp(str + sym[j].st_name, wanted))
				return (void *)(base + sym[j].st_value);
	}
	return NULL;
}

/* Map the image as the supervisor does: anonymous memory, code without W. */
static char *map_image(const char *path, size_t size)
{
	char *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open(path, O_RDONLY);
	struct stat st;

	CHECK(base != MAP_FAILED && fd >= 0 && !fstat(fd, &st) && (size_t)st.st_size < size);
	CHECK(read(fd, base, st.st_size) == st.st_size);
	close(fd);
	return base;
}

static void all(int fd, void *buffer, size_t length, int writing)
{
	for (size_t done = 0; done < length;) {
		ssize_t n = writing ? write(fd, (char *)buffer + done, length - done)
				    : read(fd, (char *)buffer + done, length - done);
		CHECK(n > 0);
		done += n;
	}
}

/* The end of the mapping of process `pid` that begins at `start`. */
static uint64_t end_of_mapping(int pid, uint64_t start)
{
	char name[64], line[512];
	unsigned long from, to;

	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	FILE *maps = fopen(name, "r");
	CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && from == start) {
			fclose(maps);
			return to;
		}
	CHECK(!"the vDSO is mapped");
	return 0;
}
