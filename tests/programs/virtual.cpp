// Virtual calls, templates, exceptions in flight and landing pads.
#include <algorithm>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "work.h"

volatile uint64_t sink;

namespace shapes {
struct Shape {
    virtual ~Shape() = default;
    virtual uint64_t area(uint64_t n) const = 0;
};
struct Circle : Shape {
    KEEP uint64_t area(uint64_t n) const override {
        uint64_t x = burn(n);
        AFTER(x);
        return x;
    }
};
template <typename Inner>
struct Twice : Shape {
    Inner inner;
    KEEP uint64_t area(uint64_t n) const override {
        const Shape *shape = &inner;
        AFTER(shape);
        uint64_t x = shape->area(n);
        AFTER(x);
        return x * 2;
    }
};
}  // namespace shapes

KEEP uint64_t dispatch(const shapes::Shape &shape, uint64_t n) {
    uint64_t x = shape.area(n);
    AFTER(x);
    return x;
}

struct Guard {
    uint64_t n;
    KEEP ~Guard() { sink += burn(n); }
};

KEEP void throws(uint64_t depth) {
    if (depth == 0) throw std::runtime_error("deep");
    throws(depth - 1);
    AFTER(depth);
}

KEEP void cleans_up(uint64_t n) {
    Guard guard{n};
    throws(5);
}

KEEP void catches(uint64_t n) {
    try {
        cleans_up(n);
    } catch (const std::exception &error) {
        sink += burn(n) + static_cast<uint64_t>(error.what()[0]);
    }
}

KEEP uint64_t through_function(const std::function<uint64_t(uint64_t)> &f, uint64_t n) {
    uint64_t x = f(n);
    AFTER(x);
    return x;
}

int main(int argc, char **) {
    std::unique_ptr<shapes::Shape> shape(new shapes::Twice<shapes::Circle>);
    volatile uint64_t n = 40000;
    std::function<uint64_t(uint64_t)> f = [&shape](uint64_t n) {
        uint64_t x = dispatch(*shape, n);
        AFTER(x);
        return x + 1;
    };
    ready();
    for (;;) {
        if (argc > 1) {
            // Nothing but exceptions in flight.
            try {
                throws(8);
            } catch (const std::exception &) {
                sink += 1;
            }
        } else {
            sink += dispatch(*shape, n);
            catches(n);
            sink += through_function(f, n);
        }
    }
}
