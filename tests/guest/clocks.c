/* Clocks, sleeps and interval timers. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <stdlib.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int ticks;
static void tick(int n) { ticks += n > 0; }

static double at(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0 && t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void burn(double seconds) {
    for (double end = at(CLOCK_PROCESS_CPUTIME_ID) + seconds; at(CLOCK_PROCESS_CPUTIME_ID) < end;) {
    }
}

static void reading(void) {
    clockid_t all[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};
    for (int i = 0; i < 8; i++) {
        double before = at(all[i]);
        CHECK(at(all[i]) >= before);
        struct timespec resolution;
        CHECK(clock_getres(all[i], &resolution) == 0 && resolution.tv_sec == 0 && resolution.tv_nsec > 0);
    }
    double last = at(CLOCK_MONOTONIC);
    for (int i = 0; i < 200000; i++) {
        double t = at(CLOCK_MONOTONIC);
        if (t < last) {
            CHECK(t >= last);
            break;
        }
        last = t;
    }
    struct timeval v;
    CHECK(gettimeofday(&v, 0) == 0 && v.tv_sec > 1600000000 && time(0) - v.tv_sec <= 1);
    struct timespec t;
    CHECK_ERRNO(clock_gettime(99, &t), EINVAL);
}

static void sleeping(void) {
    double start = at(CLOCK_MONOTONIC);
    struct timespec wish = {0, 20000000};
    CHECK(nanosleep(&wish, 0) == 0 && at(CLOCK_MONOTONIC) - start >= 0.02);
    clock_gettime(CLOCK_MONOTONIC, &wish);
    wish.tv_sec -= 10;
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wish, 0) == 0);
    wish.tv_nsec = 1000000000;
    CHECK_ERRNO(nanosleep(&wish, 0), EINVAL);
    /* Each lasts as long as was asked; how much longer is not ours to say, but not always. */
    double shortest = 1;
    for (int i = 0; i < 20; i++) {
        struct timespec millisecond = {0, 1000000};
        start = at(CLOCK_MONOTONIC);
        nanosleep(&millisecond, 0);
        double took = at(CLOCK_MONOTONIC) - start;
        CHECK(took >= 0.001);
        if (took < shortest) shortest = took;
    }
    CHECK(shortest < 0.05);
}

static void intervals(void) {
    signal(SIGALRM, tick);
    struct itimerval every = {{0, 5000}, {0, 5000}}, now;
    double start = at(CLOCK_MONOTONIC);
    CHECK(setitimer(ITIMER_REAL, &every, 0) == 0);
    while (ticks < 10) {
    }
    CHECK(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_usec == 5000 && now.it_value.tv_usec <= 5000);
    every.it_value.tv_usec = 0;
    CHECK(setitimer(ITIMER_REAL, &every, 0) == 0 && ticks <= (at(CLOCK_MONOTONIC) - start) / 0.005);
    CHECK(alarm(100) == 0 && alarm(0) == 100);
    every.it_value.tv_usec = 2000000;
    CHECK_ERRNO(setitimer(ITIMER_REAL, &every, 0), EINVAL);
}

static void processor_time(void) {
    double start = at(CLOCK_THREAD_CPUTIME_ID), wall = at(CLOCK_MONOTONIC);
    burn(0.1);
    CHECK(at(CLOCK_THREAD_CPUTIME_ID) - start >= 0.09 && at(CLOCK_MONOTONIC) - wall >= 0.09);
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6 >= 0.09);
    struct tms times_now;
    CHECK(times(&times_now) != (clock_t)-1 && times_now.tms_utime + times_now.tms_stime >= 8);
    start = at(CLOCK_PROCESS_CPUTIME_ID);
    usleep(50000);
    CHECK(at(CLOCK_PROCESS_CPUTIME_ID) - start < 0.04); /* sleep costs nothing */
}

/* How the clock is disciplined differs between machines; what is refused does not. */
/* Time in user mode of another process, clock ticks, by /proc. */
static long shown(pid_t pid) {
    char name[64];
    long user = -1;
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *stat = fopen(name, "r");
    if (fscanf(stat, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld", &user) != 1) user = -1;
    fclose(stat);
    return user;
}

/* Whoever computes is seen to do so, although nothing interrupts it. */
static void computing(void) {
    pid_t child = fork();
    if (child == 0) {
        for (volatile long i = 0; i < 50000000000; i++);
        _exit(1);
    }
    struct timespec nap = {0, 5000000}, before, after;
    clockid_t clock;
    CHECK(clock_getcpuclockid(child, &clock) == 0 && clock_gettime(clock, &before) == 0);
    for (long first = shown(child); shown(child) < first + 5;) nanosleep(&nap, 0);
    for (long first = shown(child); shown(child) < first + 20;) nanosleep(&nap, 0);
    CHECK(clock_gettime(clock, &after) == 0 && after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9 > 0.2);
    int status;
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

static void discipline(void) {
    struct timex state = {.modes = 0};
    int is = adjtimex(&state);
    CHECK(is >= TIME_OK && is <= TIME_ERROR && (is == TIME_ERROR) == !!(state.status & STA_UNSYNC));
    CHECK(state.tick >= 9000 && state.tick <= 11000 && state.precision > 0 && state.tolerance == 500 << 16);
    CHECK(labs(state.time.tv_sec - time(0)) <= 1);
    CHECK(clock_adjtime(CLOCK_REALTIME, &state) == is);
    state.modes = ADJ_OFFSET_SS_READ;
    CHECK(adjtimex(&state) >= 0);
    state.modes = 0x8000;
    CHECK_ERRNO(adjtimex(&state), EINVAL);
    CHECK_ERRNO(adjtimex((void *)8), EFAULT);
    state.modes = 0;
    CHECK_ERRNO(clock_adjtime(CLOCK_MONOTONIC, &state), EOPNOTSUPP);
    CHECK_ERRNO(clock_adjtime(99, &state), EINVAL);
    if (fork() == 0) {
        CHECK(setresuid(65534, 65534, 65534) == 0);
        state.modes = ADJ_TICK, state.tick = 10000;
        CHECK_ERRNO(adjtimex(&state), EPERM);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(wait(&status) > 0 && status == 0);
}

/* CLOCK_BOOTTIME is what /proc/uptime counts, and the time of the boot in /proc/stat is that much ago. */
static void boot(void) {
    struct timespec before, after, now;
    double up = 0;
    long at = 0;
    char line[256];
    clock_gettime(CLOCK_BOOTTIME, &before);
    FILE *file = fopen("/proc/uptime", "r");
    CHECK(file && fscanf(file, "%lf", &up) == 1);
    fclose(file);
    clock_gettime(CLOCK_BOOTTIME, &after);
    CHECK(up >= before.tv_sec + before.tv_nsec / 1e9 - 0.02 && up <= after.tv_sec + after.tv_nsec / 1e9 + 0.02);
    file = fopen("/proc/stat", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "btime %ld", &at);
    fclose(file);
    clock_gettime(CLOCK_REALTIME, &now);
    CHECK(labs(now.tv_sec - at - (long)up) <= 2);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    reading();
    boot();
    sleeping();
    intervals();
    processor_time();
    computing();
    discipline();
    DONE();
}
