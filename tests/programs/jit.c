/* Code made at run time, named by a perf map: main calls it through `enters`, it calls back. With
 * an argument there is no map. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "work.h"

volatile uint64_t sink;

KEEP uint64_t called_back(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP uint64_t enters(uint64_t (*code)(uint64_t), uint64_t n) {
    uint64_t x = code(n);
    AFTER(x);
    return x;
}

int main(int argc, char **argv) {
    (void)argv;
    uint64_t target = (uint64_t)called_back;
    /* push %rbp; mov %rsp,%rbp; movabs $target,%rax; call *%rax; pop %rbp; ret */
    unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0,    0,
                            0,    0,    0,    0,    0xff, 0xd0, 0x5d, 0xc3};
    memcpy(code + 6, &target, 8);
    unsigned char *memory = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memcpy(memory + 64, code, sizeof code);
    if (argc == 1) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
        FILE *map = fopen(path, "wx");
        if (!map) return 1;
        /* An old entry of the same place, which a later one replaces. */
        fprintf(map, "%lx 100 old;name\n", (unsigned long)memory);
        fprintf(map, "%lx %zx made at run time\n", (unsigned long)memory + 64, sizeof code);
        fclose(map);
    }
    ready();
    for (;;) sink += enters((uint64_t(*)(uint64_t))(memory + 64), 50000);
}
