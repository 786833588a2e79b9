/* Calls what handmade.S holds; with an argument, what computes itself there. */
#include "work.h"

volatile uint64_t sink;

uint64_t with_cfi(uint64_t n);
uint64_t pushes_in_loop(uint64_t n);
uint64_t without_cfi(uint64_t n);
uint64_t without_both(uint64_t n);
uint64_t aligned(uint64_t n);
uint64_t kept_in_register(uint64_t n);
uint64_t behind_array(uint64_t n);

int main(int argc, char **argv) {
    (void)argv;
    ready();
    for (;;) {
        uint64_t n = vary(24000);
        if (argc > 1) {
            sink += kept_in_register(n) + behind_array(n);
            continue;
        }
        sink += with_cfi(n) + pushes_in_loop(n) + without_cfi(n);
        sink += without_both(n) + aligned(n);
    }
}
