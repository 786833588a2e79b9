/* Programs that change while they are recorded, by the first argument:
 *   dlopen LIB           loads a library half a second after the start and works in it
 *   swap LIB LIB         works in one library, unloads it, works in the other, over and over
 *   exec PROGRAM [ARG]   works for half a second, then becomes another program
 *   fork                 a child that works without exec beside its parent
 *   vm                   a child that shares the memory (CLONE_VM without CLONE_THREAD)
 *   short PROGRAM        runs a program of some milliseconds over and over
 *   work MILLISECONDS    works for so long, then ends with status 7
 *   go                   works once standard input is closed */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "work.h"

volatile uint64_t sink;
typedef uint64_t work_in(uint64_t (*callback)(uint64_t), uint64_t n);

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

KEEP uint64_t called_back(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP uint64_t before(uint64_t n) {
    uint64_t x = burn(n);
    AFTER(x);
    return x;
}

KEEP void works_for(double seconds) {
    for (double end = now() + seconds; now() < end;) sink += before(100000);
}

KEEP void in_library(work_in *work) {
    sink += work(called_back, 100000);
}

static void *library(const char *path, work_in **work, const char *name) {
    void *handle = dlopen(path, RTLD_NOW);
    if (!handle) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    *work = (work_in *)dlsym(handle, name);
    if (!*work) exit(1);
    return handle;
}

KEEP void loads(char **argv) {
    work_in *work;
    works_for(0.5);
    library(argv[2], &work, "plugin_work");
    for (;;) in_library(work);
}

KEEP void swaps(char **argv) {
    static const char *names[] = {"first_work", "second_work"};
    for (unsigned i = 0;; i ^= 1) {
        work_in *work;
        void *handle = library(argv[2 + i], &work, names[i]);
        for (double end = now() + 0.1; now() < end;) in_library(work);
        dlclose(handle);
    }
}

KEEP void in_child(void) {
    for (;;) sink += before(100000);
}

KEEP int child(void *unused) {
    (void)unused;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    in_child();
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    const char *what = argv[1];
    if (!strcmp(what, "work")) {
        works_for(atof(argv[2]) / 1e3);
        return 7;
    }
    ready();
    if (!strcmp(what, "dlopen")) loads(argv);
    if (!strcmp(what, "swap")) swaps(argv);
    if (!strcmp(what, "exec")) {
        works_for(0.5);
        execv(argv[2], argv + 2);
        return 1;
    }
    if (!strcmp(what, "fork")) {
        works_for(0.3);
        if (!fork()) child(0);
        for (;;) works_for(1);
    }
    if (!strcmp(what, "vm")) {
        works_for(0.3);
        char *stack = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (clone(child, stack + (1 << 20), CLONE_VM | SIGCHLD, 0) < 0) return 1;
        for (;;) works_for(1);
    }
    if (!strcmp(what, "short")) {
        for (;;) {
            pid_t pid = fork();
            if (!pid) {
                execl(argv[2], argv[2], "work", "5", (char *)0);
                _exit(1);
            }
            waitpid(pid, 0, 0);
        }
    }
    if (!strcmp(what, "go")) {
        char byte;
        while (read(0, &byte, 1) > 0) {}
        for (;;) works_for(1);
    }
    return 2;
}
