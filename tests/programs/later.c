/* Starts a thread that works for some 20 ms, over and over. */
#include <pthread.h>

#include "work.h"

volatile uint64_t sink;

KEEP void *start(void *argument) {
    for (int i = 0; i < 100; i++) sink += burn(200000);
    return argument;
}

int main(void) {
    ready();
    for (;;) {
        pthread_t thread;
        if (pthread_create(&thread, 0, start, 0) || pthread_join(thread, 0)) return 1;
    }
}
