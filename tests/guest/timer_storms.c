/* Timers that expire faster than they can be served: whoever does not take what they tell is not held up, and nobody else is. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int *heard;

static long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* Computes; a program that gets no time never comes back from here. */
static void compute(void) {
    for (volatile long i = 0; i < 20000000; i++) {
    }
}

static int timer_of(long period_ns, int flags) {
    int fd = timerfd_create(CLOCK_MONOTONIC, flags);
    struct itimerspec spec = {{0, period_ns}, {0, period_ns}};
    CHECK(fd >= 0 && timerfd_settime(fd, 0, &spec, 0) == 0);
    return fd;
}

/* Nobody reads them. */
static void unread(void) {
    int fds[5];
    long earliest = now_ns();
    for (int i = 0; i < 5; i++) fds[i] = timer_of(1, TFD_NONBLOCK);
    long from = now_ns();
    compute();
    uint64_t count = 0;
    struct itimerspec left;
    for (int i = 0; i < 5; i++) {
        CHECK(timerfd_gettime(fds[i], &left) == 0 && left.it_interval.tv_nsec == 1);
        long before = now_ns();
        CHECK(read(fds[i], &count, 8) == 8 && (long)count >= before - from - 1000000 && (long)count <= now_ns() - earliest + 1000000);
        close(fds[i]);
    }
}

/* Each period is counted, however many pass between two looks. */
static void read_in_a_loop(void) {
    long earliest = now_ns();
    int fd = timer_of(1, 0);
    long from = now_ns(), sum = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t count = 0;
        CHECK(read(fd, &count, 8) == 8 && count > 0);
        sum += count;
    }
    long to = now_ns();
    CHECK(sum <= to - earliest + 1000000 && sum >= to - from - 100000000);
    close(fd);
}

/* Who waits hears of it once for each look. */
static void once_for_each_look(void) {
    int fd = timer_of(1000000, TFD_NONBLOCK), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    uint64_t count;
    for (int i = 0; i < 3; i++) {
        CHECK(epoll_wait(epoll, &event, 1, 5000) == 1);
        CHECK(epoll_wait(epoll, &event, 1, 20) == 0);
        CHECK(read(fd, &count, 8) == 8 && count >= 19);
    }
    close(epoll);
    close(fd);
}

static void set_alarm(void) {
    struct itimerval spec = {{0, 1}, {0, 1}};
    CHECK(setitimer(ITIMER_REAL, &spec, 0) == 0);
}

static void ignored_alarm(void) {
    signal(SIGALRM, SIG_IGN);
    set_alarm();
    compute();
    struct itimerval none = {0};
    CHECK(setitimer(ITIMER_REAL, &none, 0) == 0);
    signal(SIGALRM, SIG_DFL);
}

static void hear(int signo) {
    (void)signo;
    ++*heard;
}

static void of_setitimer(void) {
    signal(SIGALRM, hear);
    set_alarm();
}

static void of_timer_create(void) {
    signal(SIGRTMIN, hear);
    for (int i = 0; i < 20; i++) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
        struct itimerspec spec = {{0, 1}, {0, 1}};
        timer_t timer;
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &spec, 0)) _exit(1);
    }
}

/* A process that may do nothing but take signals: another on its CPU computes, and can end it. */
static void beside(void (*storm)(void)) {
    *heard = 0;
    pid_t child = fork();
    if (child == 0) {
        storm();
        for (;;) {
        }
    }
    while (*heard < 3) sched_yield();
    compute();
    int status = 0;
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGKILL);
}

int main(void) {
    cpu_set_t first, all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&first);
    for (int cpu = 0; cpu < CPU_SETSIZE && !CPU_COUNT(&first); cpu++)
        if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &first);
    CHECK(sched_setaffinity(0, sizeof first, &first) == 0);
    heard = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unread();
    read_in_a_loop();
    once_for_each_look();
    ignored_alarm();
    beside(of_setitimer);
    beside(of_timer_create);
    DONE();
}
