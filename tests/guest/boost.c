/* Priority inheritance: who has a lock runs with the priority of who waits for it, through chains of locks. */
#define _GNU_SOURCE
#include "check.h"
#include "priority.h"
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LOW = 1, MIDDLE = 2, HOG = 20, HIGH = 30, MAIN = 50 };

static pthread_mutex_t first, second;
static volatile int held, chained, hogged, before_hog, release;
static volatile pid_t low_tid;

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void spin(long ms) {
    for (long end = now_ms() + ms; now_ms() < end;)
        ;
}

static void start(pthread_t *thread, void *(*body)(void *), int priority) {
    pthread_attr_t attr;
    struct sched_param param = {priority};
    pthread_attr_init(&attr);
    pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
    pthread_attr_setschedparam(&attr, &param);
    CHECK(pthread_create(thread, &attr, body, 0) == 0);
}

static void *low(void *unused) {
    (void)unused;
    low_tid = syscall(SYS_gettid);
    CHECK(pthread_mutex_lock(&first) == 0);
    held = 1;
    /* Until main lets it go on: it sleeps, so that others run. */
    while (!release)
        usleep(1000);
    spin(30);
    CHECK(pthread_mutex_unlock(&first) == 0);
    CHECK(shown_priority(low_tid) == LOW);
    return 0;
}

static void *middle(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(&second) == 0);
    chained = 1;
    CHECK(pthread_mutex_lock(&first) == 0);
    CHECK(pthread_mutex_unlock(&first) == 0 && pthread_mutex_unlock(&second) == 0);
    return 0;
}

static void *hog(void *unused) {
    (void)unused;
    spin(500);
    hogged = 1;
    return 0;
}

static pthread_mutex_t *wanted;
static void *high(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(wanted) == 0);
    before_hog = !hogged;
    CHECK(pthread_mutex_unlock(wanted) == 0);
    return 0;
}

static void *hasty(void *unused) {
    (void)unused;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 600000000;
    if (until.tv_nsec >= 1000000000)
        until.tv_sec++, until.tv_nsec -= 1000000000;
    CHECK(pthread_mutex_timedlock(&first, &until) == ETIMEDOUT);
    return 0;
}

static void wait_for(volatile int *flag) {
    while (!*flag)
        usleep(1000);
}

static void race(int chain) {
    pthread_t threads[4];
    held = chained = hogged = before_hog = release = 0;
    start(&threads[0], low, LOW);
    wait_for(&held);
    wanted = chain ? &second : &first;
    if (chain) {
        start(&threads[3], middle, MIDDLE);
        wait_for(&chained);
    }
    start(&threads[1], high, HIGH);
    while (shown_priority(low_tid) != HIGH) usleep(1000);
    start(&threads[2], hog, HOG);
    release = 1;
    for (int i = 0; i < 3 + chain; i++)
        pthread_join(threads[i], 0);
    CHECK(before_hog);
}

static void giving_up(void) {
    pthread_t threads[2];
    held = release = 0;
    start(&threads[0], low, LOW);
    wait_for(&held);
    CHECK(shown_priority(low_tid) == LOW);
    start(&threads[1], hasty, HIGH);
    while (shown_priority(low_tid) != HIGH) usleep(1000);
    pthread_join(threads[1], 0);
    CHECK(shown_priority(low_tid) == LOW);
    release = 1;
    pthread_join(threads[0], 0);
}

int main(void) {
    cpu_set_t one;
    struct sched_param param = {MAIN};
    pthread_mutexattr_t attr;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    if (sched_setscheduler(0, SCHED_FIFO, &param) != 0) {
        printf("not permitted\n");
        return 0;
    }
    pthread_mutexattr_init(&attr);
    CHECK(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&first, &attr) == 0 && pthread_mutex_init(&second, &attr) == 0);
    race(0);
    race(1);
    giving_up();
    DONE();
}
