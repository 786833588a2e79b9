/* Nearly all the time in the kernel: reading (read), page faults (fault), failing calls (open). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "work.h"

volatile uint64_t sink;

KEEP void reads(int file) {
    static char buffer[1 << 20];
    sink += (uint64_t)read(file, buffer, sizeof buffer);
}

KEEP void touches(void) {
    size_t size = 8 << 20;
    char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(1);
    for (size_t i = 0; i < size; i += 4096) ((volatile char *)memory)[i] = 1;
    munmap(memory, size);
}

KEEP void opens(void) {
    for (int i = 0; i < 100; i++) sink += (uint64_t)open("/nonexistent/file", O_RDONLY);
}

KEEP void loops(int argc, char **argv) {
    int file = open("/dev/zero", O_RDONLY);
    int kind = argc > 1 ? argv[1][0] : 'r';
    ready();
    for (;;) {
        if (kind == 'r') reads(file);
        else if (kind == 'f') touches();
        else opens();
    }
}

int main(int argc, char **argv) { loops(argc, argv); }
