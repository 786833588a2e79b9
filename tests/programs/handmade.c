/* Calls what handmade.S holds. */
#include "work.h"

volatile uint64_t sink;

uint64_t with_cfi(uint64_t n);
uint64_t pushes_in_loop(uint64_t n);
uint64_t without_cfi(uint64_t n);

int main(void) {
    ready();
    for (;;) sink += with_cfi(40000) + pushes_in_loop(40000) + without_cfi(40000);
}
