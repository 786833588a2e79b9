/* What the C and C++ programs of the live tests share: work of a known amount, and functions that
 * stay functions at every level of optimization. A program says on standard output when its steady
 * state begins, and ends by itself when nobody ends it. */
#ifndef WORK_H
#define WORK_H

#include <stdint.h>
#include <unistd.h>

#if defined(__clang__)
#define KEEP __attribute__((noinline, used))
#else
#define KEEP __attribute__((noipa, used))
#endif

/* Work after a call, so that the call cannot become a jump. */
#define AFTER(value) __asm__ volatile("" : "+r"(value))

#ifdef __cplusplus
extern "C" {
#endif

/* Runs in time proportional to `n`, without calls. */
KEEP uint64_t burn(uint64_t n);

#ifndef NO_BURN
uint64_t burn(uint64_t n) {
    uint64_t x = n;
    for (uint64_t i = 0; i < n; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        AFTER(x);
    }
    return x;
}
#endif

#ifdef __cplusplus
}
#endif

/* The steady state begins. */
static inline void ready(void) {
    alarm(120);
    if (write(1, "ready\n", 6) != 6) _exit(9);
}

#endif
