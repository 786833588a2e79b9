/* A shared library: calls back into its caller. `NAME` is its function's name. */
#include <stdint.h>

#ifndef NAME
#define NAME plugin_work
#endif

extern uint64_t burn(uint64_t n);

static __attribute__((noinline)) uint64_t inside(uint64_t (*callback)(uint64_t), uint64_t n) {
    uint64_t x = callback(n);
    __asm__ volatile("" : "+r"(x));
    return x + 1;
}

uint64_t NAME(uint64_t (*callback)(uint64_t), uint64_t n) {
    uint64_t x = inside(callback, n);
    __asm__ volatile("" : "+r"(x));
    return x + 2;
}
