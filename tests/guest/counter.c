/* In virtual time: the time-stamp counter passes with the clocks, over a sleep that takes the host no time. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <time.h>
#include <x86intrin.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(void) {
    unsigned cpu = 99;
    unsigned long long first = __rdtsc(), second = __rdtscp(&cpu);
    CHECK(second > first && cpu < 2);
    double from = now();
    first = __rdtsc();
    struct timespec time = {100, 0};
    CHECK(nanosleep(&time, NULL) == 0);
    second = __rdtsc();
    double to = now(), rate = (second - first) / (to - from);
    CHECK(to - from >= 100 && to - from < 101);
    /* The same rate over a time of computing. */
    from = now();
    first = __rdtsc();
    for (volatile long i = 0; i < 30000000; i++)
        ;
    second = __rdtsc();
    to = now();
    double ratio = (second - first) / (to - from) / rate;
    CHECK(ratio > 0.99 && ratio < 1.01);
    DONE();
}
