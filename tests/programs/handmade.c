/* Calls what handmade.S holds. */
#include "work.h"

volatile uint64_t sink;

uint64_t with_cfi(uint64_t n);
uint64_t pushes_in_loop(uint64_t n);
uint64_t without_cfi(uint64_t n);
uint64_t without_both(uint64_t n);
uint64_t aligned(uint64_t n);

int main(void) {
    ready();
    for (;;) {
        uint64_t n = vary(24000);
        sink += with_cfi(n) + pushes_in_loop(n) + without_cfi(n);
        sink += without_both(n) + aligned(n);
    }
}
