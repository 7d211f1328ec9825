/* Timers of timer_create(2): signals of their own, overruns, periods shorter than it takes to handle a signal. */
#define _GNU_SOURCE
#include "check.h"
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int ticks, overrun = -2, values;
static volatile timer_t own;

static timer_t timer_of(clockid_t clock, int signo, int value) {
    struct sigevent event = {.sigev_notify = signo ? SIGEV_SIGNAL : SIGEV_NONE, .sigev_signo = signo, .sigev_value.sival_int = value};
    timer_t timer;
    CHECK(timer_create(clock, &event, &timer) == 0);
    return timer;
}

static void set(timer_t timer, long first_ns, long period_ns) {
    struct itimerspec spec = {{period_ns / 1000000000, period_ns % 1000000000}, {first_ns / 1000000000, first_ns % 1000000000}};
    CHECK(timer_settime(timer, 0, &spec, 0) == 0);
}

static void on_tick(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    ticks++;
    values |= info->si_value.sival_int;
    if (overrun == -2) {
        overrun = timer_getoverrun(own);
        set(own, 0, 0);
    }
}

static void handle(int signo) {
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(signo, &action, 0) == 0);
    ticks = values = 0;
}

/* The period is a nanosecond and began long ago: the count stops at its limit, and the program goes on. */
static void shortest_period(void) {
    handle(SIGUSR1);
    own = timer_of(CLOCK_REALTIME, SIGUSR1, 1);
    struct itimerspec spec = {{0, 1}, {0, 0}};
    clock_gettime(CLOCK_REALTIME, &spec.it_value);
    spec.it_value.tv_sec -= 3;
    CHECK(timer_settime(own, TIMER_ABSTIME, &spec, 0) == 0);
    while (!ticks) {
    }
    CHECK(overrun == INT_MAX && ticks <= 2);
    CHECK(timer_delete(own) == 0);
}

/* Blocked for 20 periods: one signal, 19 or more overruns; what is left of the period is shown all the while. */
static void overruns(void) {
    sigset_t set_of_it;
    sigemptyset(&set_of_it);
    sigaddset(&set_of_it, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set_of_it, 0);
    clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID};
    for (int i = 0; i < 2; i++) {
        timer_t timer = timer_of(clocks[i], SIGRTMIN, 5);
        set(timer, 5000000, 5000000);
        struct timespec from, now;
        clock_gettime(clocks[i], &from);
        do
            clock_gettime(clocks[i], &now);
        while ((now.tv_sec - from.tv_sec) * 1000000000L + now.tv_nsec - from.tv_nsec < 100000000);
        struct itimerspec left;
        CHECK(timer_gettime(timer, &left) == 0 && left.it_interval.tv_nsec == 5000000);
        CHECK(left.it_value.tv_sec == 0 && left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 5000000);
        siginfo_t info;
        struct timespec none = {0, 0};
        CHECK(sigtimedwait(&set_of_it, &info, &none) == SIGRTMIN);
        CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 5);
        CHECK(info.si_overrun >= 15 && timer_getoverrun(timer) == info.si_overrun);
        struct timespec second = {1, 0};
        while (sigtimedwait(&set_of_it, &info, &(struct timespec){0, 0}) > 0) {
        }
        if (i == 0)
            CHECK(sigtimedwait(&set_of_it, &info, &second) == SIGRTMIN); /* it goes on */
        CHECK(timer_delete(timer) == 0);
        while (sigtimedwait(&set_of_it, &info, &none) > 0) {
        }
    }
}

/* However late a timer of processor time is looked at, each of its periods is counted. */
static void each_period(void) {
    enum { PERIOD = 50000 };
    sigset_t set_of_it, pending;
    sigemptyset(&set_of_it);
    sigaddset(&set_of_it, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set_of_it, 0);
    timer_t timer = timer_of(CLOCK_PROCESS_CPUTIME_ID, SIGRTMIN, 5);
    set(timer, PERIOD, PERIOD);
    struct timespec from, now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    do
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now), sigpending(&pending);
    while (!sigismember(&pending, SIGRTMIN));
    siginfo_t info;
    CHECK(sigtimedwait(&set_of_it, &info, &(struct timespec){0, 0}) == SIGRTMIN);
    CHECK(info.si_overrun + 2 >= ((now.tv_sec - from.tv_sec) * 1000000000L + now.tv_nsec - from.tv_nsec) / PERIOD);
    CHECK(timer_delete(timer) == 0);
    while (sigtimedwait(&set_of_it, &info, &(struct timespec){0, 0}) > 0) {
    }
}

/* Two timers with one signal, a standard one: both are heard, though neither was taken before the other came. */
static void same_signal(void) {
    handle(SIGUSR2);
    sigset_t set_of_it;
    sigemptyset(&set_of_it);
    sigaddset(&set_of_it, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set_of_it, 0);
    timer_t one = timer_of(CLOCK_MONOTONIC, SIGUSR2, 1), two = timer_of(CLOCK_MONOTONIC, SIGUSR2, 2);
    set(one, 1000000, 0);
    set(two, 1000000, 0);
    usleep(30000);
    sigprocmask(SIG_UNBLOCK, &set_of_it, 0);
    CHECK(ticks == 2 && values == 3);
    timer_delete(one);
    timer_delete(two);
}

/* While its signal is ignored a timer runs on, unheard; also one whose signal was pending when that began. */
static void ignored(void) {
    sigset_t set_of_it;
    sigemptyset(&set_of_it);
    sigaddset(&set_of_it, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set_of_it, 0);
    timer_t timer = timer_of(CLOCK_MONOTONIC, SIGUSR2, 1);
    set(timer, 1000000, 1000000);
    usleep(20000);
    signal(SIGUSR2, SIG_IGN);
    sigprocmask(SIG_UNBLOCK, &set_of_it, 0);
    usleep(20000);
    handle(SIGUSR2);
    overrun = 0;
    for (int i = 0; i < 1000 && !ticks; i++)
        usleep(1000);
    CHECK(ticks > 0 && values == 1);
    CHECK(timer_delete(timer) == 0);
}

static void silent(void) {
    timer_t timer = timer_of(CLOCK_MONOTONIC, 0, 0);
    set(timer, 1, 3000000);
    struct itimerspec left;
    for (int i = 0; i < 5; i++) {
        CHECK(timer_gettime(timer, &left) == 0 && left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 3000000);
        usleep(2000);
    }
    set(timer, 1, 0);
    usleep(1000);
    CHECK(timer_gettime(timer, &left) == 0 && left.it_value.tv_nsec == 0);
    CHECK(timer_delete(timer) == 0);
}

/* Ids go up and do not come back at once; each timer counts as a signal that is queued. */
static void ids_and_limit(void) {
    int id = -1, next = -1;
    CHECK(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, &id) == 0 && id == 0);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    CHECK(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, &next) == 0 && next == 1);
    struct rlimit old, none = {0, 0};
    CHECK(getrlimit(RLIMIT_SIGPENDING, &old) == 0);
    none.rlim_max = old.rlim_max;
    CHECK(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
    CHECK_ERRNO(syscall(SYS_timer_create, CLOCK_MONOTONIC, 0, &id), EAGAIN);
    /* What only looks like a timer's signal is limited, too. */
    siginfo_t info = {.si_code = SI_TIMER};
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, 40);
    sigprocmask(SIG_BLOCK, &signals, &before);
    CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), 40, &info), EAGAIN);
    CHECK(setrlimit(RLIMIT_SIGPENDING, &old) == 0);
    info.si_value.sival_int = 7;
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), 40, &info) == 0);
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), 40, &info) == 0);
    for (int i = 0; i < 2; i++) CHECK(sigwaitinfo(&signals, &info) == 40 && info.si_code == SI_TIMER && info.si_value.sival_int == 7);
    CHECK(syscall(SYS_timer_delete, next) == 0);
    sigprocmask(SIG_SETMASK, &before, 0);
}

/* Many timers of one signal: each is heard of once, and those that are taken away are not. */
static void many(void) {
    static timer_t timers[300];
    static int heard[300];
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGRTMIN + 5);
    sigprocmask(SIG_BLOCK, &signals, &before);
    for (int i = 0; i < 300; i++) timers[i] = timer_of(CLOCK_MONOTONIC, SIGRTMIN + 5, i);
    for (int i = 299; i >= 0; i--) set(timers[i], 1 + i * 1000, 0);
    for (int i = 0; i < 200; i++) {
        siginfo_t info = {0};
        CHECK(sigwaitinfo(&signals, &info) == SIGRTMIN + 5);
        CHECK(info.si_value.sival_int >= 0 && info.si_value.sival_int < 300 && heard[info.si_value.sival_int]++ == 0);
    }
    for (int i = 0; i < 300; i++) {
        set(timers[i], i % 3 ? 0 : 3600000000000, 0);
        if (i % 2) CHECK(timer_delete(timers[i]) == 0);
    }
    for (int i = 0; i < 300; i++)
        if (i % 2 == 0) CHECK(timer_delete(timers[i]) == 0);
    struct timespec none = {0, 0};
    while (sigtimedwait(&signals, 0, &none) > 0) {}
    sigprocmask(SIG_SETMASK, &before, 0);
}

int main(void) {
    ids_and_limit();
    many();
    shortest_period();
    overruns();
    each_period();
    same_signal();
    ignored();
    silent();
    DONE();
}
