/* Code made at run time: main calls it through `enters`, it calls back. It is named by a perf map,
 * or as the argument says: by a jitdump (dump), or not at all (none). With `frameless` it keeps no
 * frame pointer, and has none that can be used; with `frameless wait` what it calls waits, too. With
 * `reuse MILLISECONDS` other code is made at the same place again and again, as a jitdump tells, which
 * is gone in the end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

volatile uint64_t sink;

KEEP uint64_t called_back(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP uint64_t called_to_wait(uint64_t n) {
    usleep(1000);
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP uint64_t called_otherwise(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP uint64_t enters(uint64_t (*code)(uint64_t), uint64_t n) {
    uint64_t x = code(n);
    AFTER(x);
    return x;
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* One JIT_CODE_LOAD record, as the kernel's jitdump-specification.txt has it. */
static void load(FILE *dump, uint64_t at, const unsigned char *code, uint64_t size, uint64_t index,
                 const char *name) {
    struct {
        uint32_t id, total_size;
        uint64_t timestamp;
        uint32_t pid, tid;
        uint64_t vma, code_addr, code_size, code_index;
    } record = {0, (uint32_t)(56 + strlen(name) + 1 + size), now(), (uint32_t)getpid(),
                (uint32_t)getpid(), at, at, size, index};
    fwrite(&record, 56, 1, dump);
    fwrite(name, strlen(name) + 1, 1, dump);
    fwrite(code, size, 1, dump);
}

static FILE *make_dump(char *path) {
    sprintf(path, "/tmp/jit-%d.dump", getpid());
    FILE *dump = fopen(path, "w+x");
    if (!dump) exit(1);
    struct {
        uint32_t magic, version, total_size, machine, padding, pid;
        uint64_t timestamp, flags;
    } header = {0x4a695444, 1, 40, 62, 0, (uint32_t)getpid(), now(), 0};
    fwrite(&header, 40, 1, dump);
    fflush(dump);
    /* What tells a profiler of the file. */
    void *marker = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(dump), 0);
    if (marker == MAP_FAILED) exit(1);
    return dump;
}

static void write_dump(uint64_t at, const unsigned char *code, uint64_t size) {
    char path[64];
    FILE *dump = make_dump(path);
    load(dump, at, code, size, 1, "dumped too early");
    load(dump, at, code, size, 2, "dumped at run time");
    fflush(dump);
}

/* Every 20 ms other code at `at`. */
KEEP void reuse(unsigned char *at, const unsigned char *code, uint64_t size, uint64_t duration) {
    char path[64];
    FILE *dump = make_dump(path);
    uint64_t (*const targets[])(uint64_t) = {called_back, called_otherwise};
    const char *const names[] = {"made to call back", "made to call otherwise"};
    ready();
    uint64_t end = now() + duration * 1000000;
    for (uint64_t i = 0; now() < end; i++) {
        load(dump, (uint64_t)at, code, size, i, names[i % 2]);
        fflush(dump);
        memcpy(at, code, size);
        memcpy(at + 6, &targets[i % 2], 8);
        for (uint64_t until = now() + 20000000; now() < until;) {
            sink += enters((uint64_t(*)(uint64_t))at, 50000);
        }
    }
    unlink(path);
    exit(0);
}

int main(int argc, char **argv) {
    int waits = argc > 2 && !strcmp(argv[2], "wait");
    uint64_t target = (uint64_t)(waits ? called_to_wait : called_back);
    /* push %rbp; mov %rsp,%rbp; movabs $target,%rax; call *%rax; pop %rbp; ret */
    unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xb8, 0, 0, 0,    0,
                            0,    0,    0,    0,    0xff, 0xd0, 0x5d, 0xc3};
    memcpy(code + 6, &target, 8);
    unsigned char *memory = mmap(0, 8192, PROT_READ | PROT_WRITE | PROT_EXEC,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memcpy(memory + 64, code, sizeof code);
    /* push %rbp; mov $1,%ebp; sub $32,%rsp; movabs $target,%rax; call *%rax; add $32,%rsp; pop %rbp;
     * ret */
    unsigned char frameless[] = {0x55, 0xbd, 1, 0, 0, 0, 0x48, 0x83, 0xec, 32,   0x48, 0xb8, 0,    0, 0,
                                 0,    0,    0, 0, 0, 0xff, 0xd0, 0x48, 0x83, 0xc4, 32,   0x5d, 0xc3};
    memcpy(frameless + 12, &target, 8);
    if (argc > 1 && !strcmp(argv[1], "frameless")) {
        memcpy(memory + 64, frameless, sizeof frameless);
    }
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
    if (argc > 1 && !strcmp(argv[1], "dump")) {
        write_dump((uint64_t)memory + 64, code, sizeof code);
    }
    if (argc > 2 && !strcmp(argv[1], "reuse")) {
        reuse(memory + 64, code, sizeof code, strtoull(argv[2], 0, 10));
    }
    ready();
    for (;;) sink += enters((uint64_t(*)(uint64_t))(memory + 64), 50000);
}
