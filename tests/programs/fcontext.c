/* A coroutine on a stack that hand-written code makes and switches to. */
#include <stdlib.h>

#include "work.h"

void switch_to(void **here, void *there);
void *make_stack(void *end, void (*function)(void));

static void *main_stack, *own_stack;
volatile uint64_t sink, amount;

KEEP uint64_t on_own_stack(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void body(void) {
    for (;;) {
        sink += on_own_stack(2 * amount);
        switch_to(&own_stack, main_stack);
    }
}

KEEP uint64_t resumes(uint64_t n) {
    switch_to(&main_stack, own_stack);
    AFTER(n);
    return n;
}

int main(void) {
    char *memory = malloc(1 << 18);
    own_stack = make_stack(memory + (1 << 18), body);
    ready();
    for (;;) {
        amount = vary(25000);
        sink += resumes(1) + burn(amount);
    }
}
