/* The shared library of `with_library`: calls back into the program. */
#include "work.h"

uint64_t library_call(uint64_t (*callback)(int), int depth);

NOINLINE static uint64_t inside(uint64_t (*callback)(int), int depth)
{
    uint64_t value = callback(depth);
    KEEP(value);
    return value + 1;
}

uint64_t library_call(uint64_t (*callback)(int), int depth)
{
    uint64_t value = inside(callback, depth);
    KEEP(value);
    return value + 1;
}
