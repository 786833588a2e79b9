/* Three ways from main to work, with half, three tenths and a fifth of the time:
 *   main alpha beta burn
 *   main gamma descend*12 burn
 *   main leaf */
#include "work.h"

/* Spread over two executable segments, as a program that was optimized after linking. */
#ifdef SPREAD
#define FAR __attribute__((section(".far")))
#else
#define FAR
#endif

volatile uint64_t sink;

KEEP uint64_t beta(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x + 1;
}

KEEP FAR uint64_t alpha(uint64_t n) {
    uint64_t x = beta(n);
    AFTER(x);
    return x + 2;
}

KEEP FAR uint64_t descend(unsigned depth, uint64_t n) {
    uint64_t x = depth > 1 ? descend(depth - 1, n) : burn(n);
    AFTER(x);
    return x ^ depth;
}

KEEP uint64_t gamma_(uint64_t n) {
    uint64_t x = descend(12, n);
    AFTER(x);
    return x + 3;
}

KEEP uint64_t leaf(uint64_t n) {
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        AFTER(x);
    }
    return x;
}

int main(void) {
    ready();
    for (;;) sink += alpha(50000) + gamma_(30000) + leaf(20000);
}
