/* with_library PAGE: program and shared library call each other in turn, and sort by callback. */
#include "work.h"

uint64_t library_call(uint64_t (*callback)(int), int depth);

static int compare(const void *left, const void *right)
{
    uint64_t value = spin(5000);
    KEEP(value);
    return *(const int *)left - *(const int *)right;
}

NOINLINE static uint64_t back(int depth)
{
    if (depth > 0) {
        uint64_t value = library_call(back, depth - 1);
        KEEP(value);
        return value + 1;
    }
    int numbers[] = {5, 3, 9, 1, 7, 2, 8, 4};
    qsort(numbers, 8, sizeof numbers[0], compare);
    return (uint64_t)numbers[0] + spin(50000);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    struct page *page = open_page(argv[1]);
    page->roots[0] = stack_root();
    for (;;) {
        uint64_t value = library_call(back, 4);
        KEEP(value);
        count_unit(&page->slots[0]);
    }
}
