#define _GNU_SOURCE // dl_iterate_phdr
#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

// Reading the headers of a library maps them and their neighbours, so all are read before any segment is given up.
enum { MOST_SEGMENTS = 8 };

static int forget_segments(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  const uintptr_t page = sysconf(_SC_PAGESIZE);
  uintptr_t start[MOST_SEGMENTS], end[MOST_SEGMENTS];
  int n = 0;
  for (int i = 0; i < info->dlpi_phnum && n < MOST_SEGMENTS; i++) {
    const ElfW(Phdr) *p = &info->dlpi_phdr[i];
    if (p->p_type != PT_LOAD || p->p_flags & PF_W) continue;
    start[n] = (info->dlpi_addr + p->p_vaddr + page - 1) & ~(page - 1);
    end[n] = (info->dlpi_addr + p->p_vaddr + p->p_memsz) & ~(page - 1);
    if (start[n] < end[n]) n++;
  }
  for (int i = 0; i < n; i++) madvise((void *)start[i], end[i] - start[i], MADV_DONTNEED);
  return 0;
}

void ph_forget_code(void) { dl_iterate_phdr(forget_segments, 0); }
