/* A process whose only thread has the name `even` while even_work() runs, and `odd` else. */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "work.h"

volatile uint64_t sink;

KEEP void even_work(void) {
    for (int i = 0; i < 40; i++) sink += burn(vary(100000));
}

KEEP void odd_work(void) {
    for (int i = 0; i < 40; i++) sink += burn(vary(100000));
}

int main(void) {
    for (unsigned round = 0;; round++) {
        prctl(PR_SET_NAME, round % 2 ? "odd" : "even");
        if (round == 2) ready();
        round % 2 ? odd_work() : even_work();
    }
}
