/* What the benchmark's C and C++ programs share: units of work, and a page of a file that tells
 * the benchmark how many were done and what CPU time they took.
 *
 * The page: 8 slots of (units, CPU nanoseconds), then 8 addresses that are roots of stacks. */
#ifndef WORK_H
#define WORK_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <unwind.h>

#define SLOTS 8
#define NOINLINE __attribute__((noinline, noclone))
/* The compiler must have the value, so that it cannot turn calls into jumps or drop them. */
#define KEEP(value) __asm__ volatile("" : "+r"(value))

#ifdef __clang__
#undef NOINLINE
#define NOINLINE __attribute__((noinline))
#endif

struct slot {
    volatile uint64_t units;
    volatile uint64_t cpu_nanoseconds;
};

struct page {
    struct slot slots[SLOTS];
    volatile uint64_t roots[SLOTS];
};

static inline struct page *open_page(const char *path)
{
    int fd = open(path, O_RDWR);
    void *page = fd < 0 ? MAP_FAILED
                        : mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    return (struct page *)page;
}

static inline uint64_t thread_cpu_nanoseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* A unit is done; the slot is this thread's. */
static inline void count_unit(struct slot *slot)
{
    slot->cpu_nanoseconds = thread_cpu_nanoseconds();
    slot->units = slot->units + 1;
}

/* Work that uses no memory: one step is a few cycles and depends on the step before. */
static inline uint64_t spin(uint64_t steps)
{
    uint64_t value = steps | 1;
    while (steps-- > 0) {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    return value;
}

static inline _Unwind_Reason_Code keep_last(struct _Unwind_Context *context, void *last)
{
    if (_Unwind_GetIP(context) != 0)
        *(uint64_t *)last = _Unwind_GetIP(context);
    return _URC_NO_REASON;
}

/* Where this thread's stack begins, as the compiler's own unwinder sees it. */
static inline uint64_t stack_root(void)
{
    uint64_t last = 0;
    _Unwind_Backtrace(keep_last, &last);
    return last;
}

#endif
