/* K processes that compute for a while and hand the processor on. Usage: switcher K MICROSECONDS SECONDS */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static long long nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int processes = atoi(argv[1]);
    long long burst = atoll(argv[2]) * 1000, end = nanoseconds() + atoll(argv[3]) * 1000000000ll;
    for (int i = 1; i < processes; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            break;
        }
    while (nanoseconds() < end) {
        for (long long until = nanoseconds() + burst; nanoseconds() < until;) {
        }
        sched_yield();
    }
    return 0;
}
