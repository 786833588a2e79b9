/* Waits of known kinds in known functions: `waits MODE [FOLDER|NUMBER]`. The program measures each
 * wait itself: the time from before the call to behind it, less the CPU time that the thread used
 * meanwhile. At the end it says `FUNCTION OFF-CPU WALL` in microseconds for each function that waited,
 * all its threads and children taken together. The modes `park` and `crowd` wait until they are killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>

#include "work.h"

#define ROUNDS 20
#define MILLISECOND 1000000L

static void fail(const char *what) {
    perror(what);
    _exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

struct moment {
    uint64_t wall, cpu;
};

static struct moment now(void) {
    struct moment now = {clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_THREAD_CPUTIME_ID)};
    return now;
}

/* What is said at the end; shared with children. */
struct total {
    const char *name;
    _Atomic uint64_t off_cpu, wall;
};
static struct total *totals;
enum { FIRST, SECOND, THIRD, TOTALS };

/* All pages that `add` and `now` touch are there before threads can fault on them at once, and wait
 * for each other in that. */
static void begin_totals(void) {
    int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE;
    totals = mmap(0, 4096, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (totals == MAP_FAILED) fail("mmap");
    now();
}

static void add(int which, const char *name, struct moment began) {
    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - began.cpu;
    uint64_t wall = clock_ns(CLOCK_MONOTONIC) - began.wall;
    totals[which].name = name;
    totals[which].off_cpu += wall - cpu;
    totals[which].wall += wall;
}

static void say_totals(void) {
    for (int i = 0; i < TOTALS; i++)
        if (totals[i].name)
            printf("%s %lu %lu\n", totals[i].name, (unsigned long)(totals[i].off_cpu / 1000),
                   (unsigned long)(totals[i].wall / 1000));
    fflush(stdout);
}

static void nap(long ns) {
    struct timespec left = {ns / 1000000000, ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {}
}

/* --- sleep ------------------------------------------------------------------------------------ */

KEEP void naps(void) {
    struct moment began = now();
    nap(20 * MILLISECOND);
    add(FIRST, "naps", began);
}

KEEP void dozes(void) {
    struct moment began = now();
    nap(5 * MILLISECOND);
    add(SECOND, "dozes", began);
}

KEEP void sleeps(void) {
    for (int i = 0; i < ROUNDS; i++) {
        naps();
        dozes();
    }
}

/* --- far above the stack pointer ------------------------------------------------------------------- */

/* What tells the two ways here apart lies above a frame of 16 KiB. */
KEEP void rests_in_room(void) {
    volatile char room[16 << 10];
    room[0] = 1;
    nap(2 * MILLISECOND);
    (void)room[0];
}

KEEP void goes_one_way(void) {
    struct moment began = now();
    rests_in_room();
    add(FIRST, "goes_one_way", began);
}

KEEP void goes_another_way(void) {
    struct moment began = now();
    rests_in_room();
    add(SECOND, "goes_another_way", began);
}

static void rooms(void) {
    /* Until the program's unwind rows are there, its stacks are told apart by what is near. */
    nap(200 * MILLISECOND);
    for (int i = 0; i < 10 * ROUNDS; i++) {
        if (i % 10 < 6) goes_one_way();
        else goes_another_way();
    }
}

/* --- futex: a convoy of threads, and a condition variable --------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int generation, taken;

KEEP void takes_turn(void) {
    struct moment began = now();
    pthread_mutex_lock(&lock);
    add(FIRST, "takes_turn", began);
}

KEEP void holds_lock(void) {
    struct moment began = now();
    nap(5 * MILLISECOND);
    add(SECOND, "holds_lock", began);
}

KEEP void *convoy(void *unused) {
    for (int i = 0; i < ROUNDS; i++) {
        takes_turn();
        holds_lock();
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

KEEP void awaits_change(int seen) {
    struct moment began = now();
    while (generation == seen) pthread_cond_wait(&changed, &lock);
    add(FIRST, "awaits_change", began);
}

KEEP void *consumer(void *unused) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < ROUNDS; i++) {
        awaits_change(i);
        taken = i + 1;
    }
    pthread_mutex_unlock(&lock);
    return unused;
}

KEEP void rests(void) {
    struct moment began = now();
    nap(10 * MILLISECOND);
    add(SECOND, "rests", began);
}

KEEP void produces(void) {
    for (int i = 0; i < ROUNDS; i++) {
        rests();
        pthread_mutex_lock(&lock);
        generation = i + 1;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
        while (__atomic_load_n(&taken, __ATOMIC_ACQUIRE) <= i) sched_yield();
    }
}

static void with_threads(int n, void *(*body)(void *), void (*meanwhile)(void)) {
    pthread_t threads[n];
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], 0, body, 0)) fail("pthread_create");
    if (meanwhile) meanwhile();
    /* Joining is a wait, too, and no part of the truth. */
    for (int i = 0; i < n; i++) pthread_join(threads[i], 0);
}

/* --- descriptors -------------------------------------------------------------------------------- */

static void feed(int fd) {
    for (int i = 0; i < ROUNDS; i++) {
        nap(10 * MILLISECOND);
        if (write(fd, "x", 1) != 1) fail("write");
    }
    _exit(0);
}

KEEP void reads_pipe(int fd) {
    char byte;
    struct moment began = now();
    if (read(fd, &byte, 1) != 1) fail("read");
    add(FIRST, "reads_pipe", began);
}

KEEP void receives(int fd) {
    char byte;
    struct moment began = now();
    if (recv(fd, &byte, 1, 0) != 1) fail("recv");
    add(FIRST, "receives", began);
}

static void from_child(int *ends, void (*take)(int)) {
    pid_t child = fork();
    if (child == 0) feed(ends[1]);
    for (int i = 0; i < ROUNDS; i++) take(ends[0]);
    waitpid(child, 0, 0);
}

KEEP void polls(int epoll, int timer) {
    struct epoll_event event;
    uint64_t expired;
    struct moment began = now();
    if (epoll_wait(epoll, &event, 1, -1) != 1) fail("epoll_wait");
    add(FIRST, "polls", began);
    if (read(timer, &expired, sizeof expired) < 0) fail("read");
}

static void event_loop(void) {
    int epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
    struct itimerspec every = {{0, 10 * MILLISECOND}, {0, 10 * MILLISECOND}};
    timerfd_settime(timer, 0, &every, 0);
    for (int i = 0; i < ROUNDS; i++) polls(epoll, timer);
}

/* --- disk --------------------------------------------------------------------------------------- */

#define FILE_SIZE (32 << 20)

static int make_file(const char *folder, size_t size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/waits-%d", folder, getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) fail(path);
    unlink(path);
    static char block[1 << 20];
    memset(block, 1, sizeof block);
    for (size_t at = 0; at < size; at += sizeof block)
        if (write(fd, block, sizeof block) != sizeof block) fail("write");
    return fd;
}

KEEP void syncs(int fd) {
    struct moment began = now();
    if (fsync(fd)) fail("fsync");
    add(FIRST, "syncs", began);
}

static void durable_writes(const char *folder) {
    int fd = make_file(folder, 0);
    for (int i = 0; i < 20 * ROUNDS; i++) {
        if (write(fd, "a record", 8) != 8) fail("write");
        syncs(fd);
    }
}

KEEP void touches_page(volatile char *page) {
    struct moment began = now();
    (void)*page;
    add(FIRST, "touches_page", began);
}

static void page_faults(const char *folder) {
    int fd = make_file(folder, FILE_SIZE);
    fsync(fd);
    char *memory = mmap(0, FILE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) fail("mmap");
    madvise(memory, FILE_SIZE, MADV_RANDOM);
    for (int round = 0; round < 4; round++) {
        madvise(memory, FILE_SIZE, MADV_DONTNEED);
        posix_fadvise(fd, 0, FILE_SIZE, POSIX_FADV_DONTNEED);
        for (size_t at = 0; at < FILE_SIZE; at += 64 << 10) touches_page(memory + at);
    }
}

/* --- processes ---------------------------------------------------------------------------------- */

KEEP void awaits_child(pid_t child) {
    struct moment began = now();
    waitpid(child, 0, 0);
    add(FIRST, "awaits_child", began);
}

KEEP void child_naps(long ns) {
    struct moment began = now();
    nap(ns);
    add(SECOND, "child_naps", began);
}

KEEP void thread_naps(void) {
    struct moment began = now();
    nap(10 * MILLISECOND);
    add(THIRD, "thread_naps", began);
}

static void children(long ns) {
    pid_t child = fork();
    if (child == 0) {
        child_naps(ns);
        _exit(0);
    }
    awaits_child(child);
}

static void *short_life(void *unused) {
    thread_naps();
    return unused;
}

static void lives(void) {
    for (int i = 0; i < 5 * ROUNDS; i++) {
        with_threads(4, short_life, 0);
        children(5 * MILLISECOND);
    }
}

KEEP void stops_itself(void) {
    struct moment began = now();
    raise(SIGSTOP);
    add(FIRST, "stops_itself", began);
}

static void stops(void) {
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        for (int i = 0; i < 5; i++) {
            nap(100 * MILLISECOND);
            kill(self, SIGCONT);
        }
        _exit(0);
    }
    for (int i = 0; i < 5; i++) stops_itself();
    waitpid(child, 0, 0);
}

/* --- exec in the midst of a wait ------------------------------------------------------------------ */

KEEP void waits_for_ever(void) {
    for (;;) pause();
}

static void *forever(void *unused) {
    waits_for_ever();
    return unused;
}

KEEP void sleeps_before_exec(void) { nap(200 * MILLISECOND); }

static void execs(char *self) {
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        pthread_create(&thread, 0, forever, 0);
    }
    sleeps_before_exec();
    execl(self, "waits", "sleep", (char *)0);
    fail("execl");
}

/* --- waiting for a CPU ---------------------------------------------------------------------------- */

static atomic_int spinning = 1;

KEEP void *spins(void *nice) {
    /* Of the thread itself: `who` 0 is the calling thread. */
    setpriority(PRIO_PROCESS, 0, (int)(long)nice);
    struct moment began = now();
    while (spinning) burn(10000);
    add(FIRST, "spins", began);
    return 0;
}

static void starves(int n) {
    pthread_t threads[n];
    for (long i = 0; i < n; i++)
        if (pthread_create(&threads[i], 0, spins, (void *)(i % 3 * 2))) fail("pthread_create");
    nap(1000 * MILLISECOND);
    spinning = 0;
    for (int i = 0; i < n; i++) pthread_join(threads[i], 0);
}

/* --- until it is killed --------------------------------------------------------------------------- */

KEEP void parks(void) {
    for (;;) pause();
}

static void *parked(void *name) {
    pthread_setname_np(pthread_self(), name);
    parks();
    return 0;
}

static void *busy(void *name) {
    pthread_setname_np(pthread_self(), name);
    for (;;) burn(10000);
    return 0;
}

static void *between(void *name) {
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        burn(1000000);
        nap(MILLISECOND);
    }
    return 0;
}

static void start(void *(*body)(void *), const char *name) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    if (pthread_create(&thread, &attributes, body, (void *)name)) fail("pthread_create");
    pthread_attr_destroy(&attributes);
}

static void park(void) {
    start(parked, "parked");
    start(busy, "busy");
    start(between, "between");
    nap(50 * MILLISECOND);
    ready();
    parks();
}

static void crowd(int n) {
    for (int i = 0; i < n; i++) start(parked, "crowd");
    nap(200 * MILLISECOND);
    ready();
    parks();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "", *more = argc > 2 ? argv[2] : ".";
    int ends[2];
    alarm(120);
    begin_totals();
    if (!strcmp(mode, "sleep")) sleeps();
    else if (!strcmp(mode, "room")) rooms();
    else if (!strcmp(mode, "mutex")) with_threads(4, convoy, 0);
    else if (!strcmp(mode, "condition")) with_threads(1, consumer, produces);
    else if (!strcmp(mode, "pipe") && !pipe(ends)) from_child(ends, reads_pipe);
    else if (!strcmp(mode, "socket") && !socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        from_child(ends, receives);
    else if (!strcmp(mode, "epoll")) event_loop();
    else if (!strcmp(mode, "fsync")) durable_writes(more);
    else if (!strcmp(mode, "fault")) page_faults(more);
    else if (!strcmp(mode, "waitpid")) children(200 * MILLISECOND);
    else if (!strcmp(mode, "lives")) lives();
    else if (!strcmp(mode, "stop")) stops();
    else if (!strcmp(mode, "exec")) execs("/proc/self/exe");
    else if (!strcmp(mode, "starve")) starves(atoi(more));
    else if (!strcmp(mode, "park")) park();
    else if (!strcmp(mode, "crowd")) crowd(atoi(more));
    else return 2;
    say_totals();
}
