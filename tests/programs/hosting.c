/* Calls a shared library that it is linked with, which calls back. */
#include "work.h"

volatile uint64_t sink;

uint64_t plugin_work(uint64_t (*callback)(uint64_t), uint64_t n);

KEEP uint64_t called_back(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

int main(void) {
    ready();
    for (;;) sink += plugin_work(called_back, 50000);
}
