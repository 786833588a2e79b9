/* Kinds of calls, one chosen by the first argument. Built at -O2 and above. */
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "work.h"

volatile uint64_t sink;

/* Tail calls: only the last of them is on the stack. */
KEEP uint64_t tail_last(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x + 1;
}
KEEP uint64_t tail_middle(uint64_t n) { return tail_last(n ^ 1); }
KEEP uint64_t tail_first(uint64_t n) { return tail_middle(n ^ 2); }

/* A call that does not return is the last instruction of its caller: the return address lies in
 * whatever function follows. */
static jmp_buf back;
KEEP _Noreturn void never_returns(uint64_t n) {
    sink += burn(n);
    longjmp(back, 1);
}
KEEP void ends_in_call(uint64_t n) {
    sink += n;
    never_returns(n);
}
KEEP uint64_t next_function(uint64_t n) { return n * 3; }
KEEP void jumps(uint64_t n) {
    if (!setjmp(back)) ends_in_call(n);
    sink += next_function(n);
}

/* Callbacks through libc. */
KEEP int compare(const void *a, const void *b) {
    uint64_t x = burn(2000);
    AFTER(x);
    return (int)(*(const unsigned char *)a - *(const unsigned char *)b);
}
KEEP void sorts(void) {
    unsigned char bytes[64];
    for (unsigned i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 37);
    qsort(bytes, sizeof bytes, 1, compare);
    sink += bytes[0];
}

/* Frames of unknown size. */
KEEP uint64_t uses(volatile char *memory, uint64_t n) {
    memory[0] = 1;
    uint64_t x = burn(n);
    AFTER(x);
    return x + (uint64_t)memory[0];
}
KEEP uint64_t allocates(unsigned size, uint64_t n) {
    volatile char *memory = alloca(size);
    memory[size - 1] = 2;
    uint64_t x = uses(memory, n);
    AFTER(x);
    return x + (uint64_t)memory[size - 1];
}

/* A stack aligned beyond what the ABI asks for. */
KEEP uint64_t realigns(uint64_t n) {
    _Alignas(256) volatile char memory[512];
    memory[511] = 3;
    uint64_t x = uses(memory, n);
    AFTER(x);
    return x + (uint64_t)memory[511];
}
KEEP uint64_t realigns_and_allocates(unsigned size, uint64_t n) {
    _Alignas(128) volatile char memory[128];
    memory[7] = 4;
    uint64_t x = allocates(size, n);
    x += uses(memory, n);
    AFTER(x);
    return x;
}

/* The prologue stands behind the test, and many registers are saved. */
KEEP uint64_t shrink_wrapped(uint64_t n, uint64_t m) {
    if (n == 0) return m;
    uint64_t a = burn(n), b = burn(n + 1), c = burn(n + 2), d = burn(n + 3), e = burn(n + 4);
    AFTER(a);
    AFTER(b);
    AFTER(c);
    AFTER(d);
    AFTER(e);
    return a ^ b ^ c ^ d ^ e ^ m;
}

/* More arguments than registers: pushed before the call. */
KEEP uint64_t many(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f,
                   uint64_t g, uint64_t h, uint64_t i, uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x + a + b + c + d + e + f + g + h + i;
}
KEEP uint64_t pushes(uint64_t n) {
    uint64_t x = many(1, 2, 3, 4, 5, 6, n, n + 1, n + 2, n);
    AFTER(x);
    return x;
}

/* Unlikely code in a part of the function that lies elsewhere. */
KEEP __attribute__((cold)) uint64_t unlikely(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}
KEEP uint64_t splits(uint64_t n) {
    uint64_t x = n;
    if (__builtin_expect(n > 10, 0)) {
        x += unlikely(n);
        x ^= unlikely(n + 1);
        AFTER(x);
    }
    return x * 3;
}

/* An indirect function: resolved when the program is loaded. */
KEEP uint64_t chosen(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}
static uint64_t (*resolve(void))(uint64_t) { return chosen; }
uint64_t indirect(uint64_t n) __attribute__((ifunc("resolve")));
KEEP uint64_t calls_indirect(uint64_t n) {
    uint64_t x = indirect(n);
    AFTER(x);
    return x;
}

/* The vDSO. */
KEEP void asks_time(void) {
    struct timespec now;
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        sink += (uint64_t)now.tv_nsec;
    }
}

/* Functions that libc chooses by CPU, in a frame that saves registers. */
KEEP void copies(void) {
    static char from[1 << 20], to[1 << 20];
    memcpy(to, from, sizeof to);
    memset(from, to[5], sizeof from);
    sink += (uint64_t)to[9];
}

KEEP uint64_t deeper(unsigned depth, uint64_t n) {
    volatile char memory[48];
    memory[depth % 48] = 1;
    uint64_t x = depth > 1 ? deeper(depth - 1, n) : burn(n);
    AFTER(x);
    return x + (uint64_t)memory[depth % 48];
}

int main(int argc, char **argv) {
    static const char *const kinds[] = {"tail", "noreturn", "qsort", "alloca", "realign", "both",
                                        "shrink", "push", "cold", "ifunc", "vdso", "copy", "deep"};
    if (argc < 2) return 2;
    unsigned kind = 0, depth = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
    while (kind < 13 && strcmp(kinds[kind], argv[1])) kind++;
    volatile uint64_t n = 50000;
    ready();
    for (;;) {
        switch (kind) {
        case 0: sink += tail_first(n); break;
        case 1: jumps(n); break;
        case 2: sorts(); break;
        case 3: sink += allocates(100 + (unsigned)(sink % 900), n); break;
        case 4: sink += realigns(n); break;
        case 5: sink += realigns_and_allocates(200, n); break;
        case 6: sink += shrink_wrapped(n, sink); break;
        case 7: sink += pushes(n); break;
        case 8: sink += splits(n); break;
        case 9: sink += calls_indirect(n); break;
        case 10: asks_time(); break;
        case 11: copies(); break;
        case 12: sink += deeper(depth, n * (1 + depth / 10)); break;
        default: return 2;
        }
    }
}
