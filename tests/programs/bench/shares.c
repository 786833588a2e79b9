/* shares PAGE: three functions that take 50, 30 and 20 % of the CPU time. Each round runs the one
 * that is furthest behind its share, for a few milliseconds whose number varies, so that it keeps
 * no step with a profiler's clock. */
#include "work.h"

NOINLINE static uint64_t half(uint64_t steps)
{
    uint64_t value = spin(steps);
    KEEP(value);
    return value + 1;
}

NOINLINE static uint64_t three_tenths(uint64_t steps)
{
    uint64_t value = spin(steps);
    KEEP(value);
    return value + 2;
}

NOINLINE static uint64_t one_fifth(uint64_t steps)
{
    uint64_t value = spin(steps);
    KEEP(value);
    return value + 3;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    struct page *page = open_page(argv[1]);
    page->roots[0] = stack_root();
    static uint64_t (*const functions[])(uint64_t) = {half, three_tenths, one_fifth};
    static const double shares[] = {0.5, 0.3, 0.2};
    uint64_t took[3] = {0, 0, 0}, random = 88172645463325252;
    for (;;) {
        double all = (double)(took[0] + took[1] + took[2]) + 1.0, furthest = -1.0;
        int next = 0;
        for (int i = 0; i < 3; i++) {
            double behind = shares[i] - (double)took[i] / all;
            if (behind > furthest) {
                furthest = behind;
                next = i;
            }
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t before = thread_cpu_nanoseconds();
        uint64_t value = functions[next](1000000 + random % 2000000);
        KEEP(value);
        took[next] += thread_cpu_nanoseconds() - before;
        page->slots[next].cpu_nanoseconds = took[next];
        page->slots[next].units = page->slots[next].units + 1;
    }
}
