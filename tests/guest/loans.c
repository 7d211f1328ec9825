/* Who has a lock for which a thread with a deadline waits runs before all priorities, for as long as it has it. Run as root where
 * nobody else has been promised anything. */
#define _GNU_SOURCE
#include "check.h"
#include "priority.h"
#include "cpus.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LOW = 1, MOST = 99, MS = 1000000, SHOWN = 100 };

static pthread_mutex_t lock;
static volatile int held, released, hogged, before_hog;
static volatile pid_t holder_tid;

static long ms(int clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000 + now.tv_nsec / MS;
}

static void spin(int clock, long time) {
    for (long end = ms(clock) + time; ms(clock) < end;)
        ;
}

static void *holder(void *unused) {
    struct sched_param param = {LOW};
    holder_tid = syscall(SYS_gettid);
    stay_on(0);
    CHECK(sched_setscheduler(0, SCHED_FIFO, &param) == 0 && pthread_mutex_lock(&lock) == 0);
    held = 1;
    while (!released)
        usleep(1000);
    /* Far more than the run time of the one that waits. */
    spin(CLOCK_THREAD_CPUTIME_ID, 60);
    before_hog = !hogged;
    CHECK(sched_getscheduler(0) == SCHED_FIFO && pthread_mutex_unlock(&lock) == 0);
    CHECK(shown_priority(holder_tid) == LOW);
    return unused;
}

static void *waiter(void *unused) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {sizeof attr, 6, 0, 0, 0, 5 * MS, 50 * MS, 50 * MS};
    CHECK(syscall(SYS_sched_setattr, 0, &attr, 0) == 0);
    CHECK(pthread_mutex_lock(&lock) == 0 && pthread_mutex_unlock(&lock) == 0);
    return unused;
}

static void *hog(void *unused) {
    struct sched_param param = {MOST};
    stay_on(0);
    CHECK(sched_setscheduler(0, SCHED_FIFO, &param) == 0);
    released = 1;
    spin(CLOCK_MONOTONIC, 500);
    hogged = 1;
    return unused;
}

int main(void) {
    pthread_t threads[3];
    pthread_mutexattr_t attr;
    CHECK(pthread_mutexattr_init(&attr) == 0 && pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&lock, &attr) == 0);
    CHECK(pthread_create(&threads[0], NULL, holder, NULL) == 0);
    while (!held)
        usleep(1000);
    CHECK(shown_priority(holder_tid) == LOW);
    CHECK(pthread_create(&threads[1], NULL, waiter, NULL) == 0);
    for (int i = 0; i < 5000 && shown_priority(holder_tid) != SHOWN; i++)
        usleep(1000);
    CHECK(shown_priority(holder_tid) == SHOWN);
    CHECK(pthread_create(&threads[2], NULL, hog, NULL) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(before_hog);
    DONE();
}
