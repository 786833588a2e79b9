/* Calls what haskell.S holds, with a stack for it. */
#include "work.h"

volatile uint64_t sink;

uint64_t run(uint64_t n, uint64_t *stack);

int main(void) {
    static uint64_t stack[64];
    ready();
    for (;;) {
        sink += run(vary(24000), stack + 60);
    }
}
