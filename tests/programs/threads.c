/* Threads named t4, t20, t60 and t120, each as many frames deep below its start. With an argument
 * the main thread ends first and the others go on. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>

#include "work.h"

volatile uint64_t sinks[4];

KEEP uint64_t descend(unsigned depth, uint64_t n) {
    uint64_t x = depth > 1 ? descend(depth - 1, n) : burn(n);
    AFTER(x);
    return x + depth;
}

KEEP void *start(void *argument) {
    unsigned depth = *(unsigned *)argument;
    char name[16];
    snprintf(name, sizeof name, "t%u", depth);
    pthread_setname_np(pthread_self(), name);
    for (;;) sinks[depth % 4] += descend(depth, 200000);
}

int main(int argc, char **argv) {
    (void)argv;
    static unsigned depths[] = {4, 20, 60, 120};
    for (unsigned i = 0; i < 4; i++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, start, &depths[i])) return 1;
    }
    usleep(50000);
    ready();
    if (argc > 1) pthread_exit(0);
    for (;;) pause();
}
