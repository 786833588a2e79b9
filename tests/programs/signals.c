/* Signal handlers, by the first argument: on top of user code (user), of a system call that waits
 * (syscall), on an alternate stack (alternate), one on top of another (nested), or of a function
 * that has no frame of its own (leaf). */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "work.h"

volatile uint64_t sink;

KEEP uint64_t handled(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void handler(int number) {
    sink += handled(200000);
    (void)number;
}

KEEP void inner_handler(int number) {
    sink += handled(200000);
    (void)number;
}

KEEP void outer_handler(int number) {
    raise(SIGUSR2);
    sink += (uint64_t)number;
}

KEEP uint64_t interrupted(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void waits(void) {
    char byte;
    int ends[2];
    if (pipe(ends)) exit(1);
    for (;;) sink += (uint64_t)read(ends[0], &byte, 1);
}

static void set(int number, void (*to)(int), int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = to;
    action.sa_flags = flags;
    if (sigaction(number, &action, 0)) exit(1);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "user";
    int alternate = !strcmp(what, "alternate"), waiting = !strcmp(what, "syscall");
    if (alternate) {
        stack_t stack;
        memset(&stack, 0, sizeof stack);
        stack.ss_size = 1 << 16;
        stack.ss_sp = malloc(stack.ss_size);
        if (sigaltstack(&stack, 0)) return 1;
    }
    if (!strcmp(what, "nested")) {
        set(SIGALRM, outer_handler, 0);
        set(SIGUSR2, inner_handler, 0);
    } else {
        set(SIGALRM, handler, alternate ? SA_ONSTACK : 0);
    }
    struct itimerval every;
    every.it_interval.tv_sec = every.it_value.tv_sec = 0;
    every.it_interval.tv_usec = every.it_value.tv_usec = 2000;
    ready();
    alarm(0);
    if (setitimer(ITIMER_REAL, &every, 0)) return 1;
    if (waiting) waits();
    for (;;) sink += interrupted(50000);
}
