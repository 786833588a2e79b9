// Threads that wait in known ways: one in a pipe, since before any recording and for ever; one that
// sleeps 20 ms again and again; one that runs all the time. The first thread waits for a signal.
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

__attribute__((noinline)) static void wait_in_pipe(void) {
    int ends[2];
    char byte;
    if (pipe(ends) == 0 && read(ends[0], &byte, 1) == 1) {
        puts("never");
    }
}

__attribute__((noinline)) static void sleep_often(void) {
    struct timespec time = {.tv_nsec = 20 * 1000 * 1000};
    for (;;) {
        nanosleep(&time, NULL);
    }
}

__attribute__((noinline)) static void run_always(void) {
    for (;;) {
        __asm__ volatile("");
    }
}

static void *piped(void *nothing) {
    wait_in_pipe();
    return nothing;
}

static void *sleeps(void *nothing) {
    sleep_often();
    return nothing;
}

static void *runs(void *nothing) {
    run_always();
    return nothing;
}

int main(void) {
    pthread_t threads[3];
    pthread_create(&threads[0], NULL, piped, NULL);
    pthread_create(&threads[1], NULL, sleeps, NULL);
    pthread_create(&threads[2], NULL, runs, NULL);
    usleep(100 * 1000);
    puts("ready");
    fflush(stdout);
    pause();
    return 0;
}
