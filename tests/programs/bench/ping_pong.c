/* ping_pong PAGE CPU: two processes that hand a byte to and fro through two pipes, on one CPU. A
 * unit is a round trip: two switches at the least. */
#define _GNU_SOURCE
#include "work.h"

#include <sched.h>
#include <sys/prctl.h>
#include <signal.h>

static void hand_over(int from, int to)
{
    char byte;
    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
        exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    struct page *page = open_page(argv[1]);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(atoi(argv[2]), &one);
    sched_setaffinity(0, sizeof one, &one);
    int there[2], back[2];
    if (pipe(there) || pipe(back))
        return 1;
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            hand_over(there[0], back[1]);
    }
    if (write(there[1], "x", 1) != 1)
        return 1;
    for (;;) {
        hand_over(back[0], there[1]);
        page->slots[0].units = page->slots[0].units + 1;
    }
}
