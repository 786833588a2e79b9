/* A coroutine on a stack of its own, made by makecontext. */
#include <stdlib.h>
#include <ucontext.h>

#include "work.h"

static ucontext_t main_context, coroutine;
volatile uint64_t sink;

KEEP uint64_t on_own_stack(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void body(void) {
    for (;;) {
        sink += on_own_stack(50000);
        swapcontext(&coroutine, &main_context);
    }
}

KEEP uint64_t resumes(uint64_t n) {
    swapcontext(&main_context, &coroutine);
    AFTER(n);
    return n;
}

int main(void) {
    getcontext(&coroutine);
    coroutine.uc_stack.ss_size = 1 << 18;
    coroutine.uc_stack.ss_sp = malloc(1 << 18);
    coroutine.uc_link = &main_context;
    makecontext(&coroutine, body, 0);
    ready();
    for (;;) sink += resumes(1) + burn(25000);
}
