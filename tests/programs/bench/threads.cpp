// threads PAGE: two threads that work below virtual calls and a recursive closure.
#include <functional>
#include <thread>

#include "work.h"

namespace {

struct Shape {
    virtual ~Shape() = default;
    virtual uint64_t area(uint64_t steps) const = 0;
};

struct Circle final : Shape {
    NOINLINE uint64_t area(uint64_t steps) const override
    {
        uint64_t value = spin(steps);
        KEEP(value);
        return value + 1;
    }
};

struct Nested final : Shape {
    const Shape *inner;
    explicit Nested(const Shape *shape) : inner(shape) {}
    NOINLINE uint64_t area(uint64_t steps) const override
    {
        uint64_t value = inner->area(steps);
        KEEP(value);
        return value + 1;
    }
};

void work(struct page *page, int index)
{
    page->roots[index] = stack_root();
    Circle circle;
    Nested once(&circle), twice(&once);
    std::function<uint64_t(int)> descend = [&](int depth) {
        uint64_t value = depth == 0 ? twice.area(200000) : descend(depth - 1);
        KEEP(value);
        return value + 1;
    };
    for (;;) {
        uint64_t value = descend(5);
        KEEP(value);
        count_unit(&page->slots[index]);
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    struct page *page = open_page(argv[1]);
    std::thread other(work, page, 0);
    work(page, 1);
    other.join();
}
