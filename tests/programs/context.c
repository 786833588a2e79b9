/* A coroutine on a stack of its own, made by makecontext, or (BY_HAND) by what fcontext.S holds. */
#include <stdlib.h>
#include <ucontext.h>

#include "work.h"

#ifdef BY_HAND
void switch_to(void **here, void *there);
void *make_stack(void *end, void (*function)(void));

static void *main_context, *coroutine;
#define SWITCH(here, there) switch_to(&(here), there)
#else
static ucontext_t main_context, coroutine;
#define SWITCH(here, there) swapcontext(&(here), &(there))
#endif
volatile uint64_t sink, amount;

KEEP uint64_t on_own_stack(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void body(void) {
    for (;;) {
        sink += on_own_stack(2 * amount);
        SWITCH(coroutine, main_context);
    }
}

KEEP uint64_t resumes(uint64_t n) {
    SWITCH(main_context, coroutine);
    AFTER(n);
    return n;
}

int main(void) {
    const size_t size = 1 << 18;
    char *stack = malloc(size);
#ifdef BY_HAND
    coroutine = make_stack(stack + size, body);
#else
    getcontext(&coroutine);
    coroutine.uc_stack.ss_size = size;
    coroutine.uc_stack.ss_sp = stack;
    coroutine.uc_link = &main_context;
    makecontext(&coroutine, body, 0);
#endif
    ready();
    for (;;) {
        amount = vary(25000);
        sink += resumes(1) + burn(amount);
    }
}
