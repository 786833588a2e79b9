/* measure RESULT COMMAND ARGS...: runs a command, hands SIGINT and SIGTERM on to it, and writes
 * what it and its children took to RESULT: wait status, CPU microseconds, peak KiB of memory.
 *
 * A process of its own, because a child's peak includes that of the process which started it. */
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile pid_t child;

static void hand_on(int signal)
{
    if (child > 0)
        kill(child, signal);
}

static long long microseconds(struct timeval time)
{
    return (long long)time.tv_sec * 1000000 + time.tv_usec;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    child = fork();
    if (child == 0) {
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    struct sigaction action = {.sa_handler = hand_on, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int status = 0;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) < 0) {
        perror("measure");
        return 1;
    }
    FILE *result = fopen(argv[1], "w");
    if (!result) {
        perror(argv[1]);
        return 1;
    }
    fprintf(result, "%d %lld %ld\n", status,
            microseconds(usage.ru_utime) + microseconds(usage.ru_stime), usage.ru_maxrss);
    return fclose(result) != 0;
}
