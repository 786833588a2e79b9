/* A chain of inlined calls below a function that is not. */
#include "work.h"

volatile uint64_t sink;

static inline __attribute__((always_inline)) uint64_t inner(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x + 1;
}

static inline __attribute__((always_inline)) uint64_t outer(uint64_t n) {
    uint64_t x = inner(n);
    AFTER(x);
    return x + 2;
}

KEEP uint64_t calls(uint64_t n) {
    uint64_t x = outer(n);
    AFTER(x);
    return x + 3;
}

int main(void) {
    ready();
    for (;;) sink += calls(50000);
}
