/* recursion PAGE DEPTH: works at the end of DEPTH nested calls. */
#include "work.h"

NOINLINE static uint64_t leaf(void)
{
    return spin(200000);
}

NOINLINE static uint64_t descend(int depth)
{
    uint64_t value = depth <= 1 ? leaf() : descend(depth - 1);
    KEEP(value);
    return value + 1;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    struct page *page = open_page(argv[1]);
    page->roots[0] = stack_root();
    int depth = atoi(argv[2]);
    for (;;) {
        uint64_t value = descend(depth);
        KEEP(value);
        count_unit(&page->slots[0]);
    }
}
