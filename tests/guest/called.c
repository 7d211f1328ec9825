/* On three virtual CPUs or more, in virtual time: who is woken while others are idle runs at once. The idle virtual CPU that is
 * called for it may be about to run a thread of its own, which was woken just then: another one must come. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 24, SPIN_US = 6000, SOON_US = 1500 };

static _Atomic int words[2], tids[2];
static _Atomic long began_us;
static cpu_set_t all, first, second;

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void compute_until(long us) {
    while (now_us() < us)
        ;
}

/* Each round both wait where the second one then idles. The first one, which does not, must be taken somewhere else. */
static void *waiter(void *number) {
    int me = (long)number;
    tids[me] = syscall(SYS_gettid);
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(sched_setaffinity(0, sizeof second, &second) == 0);
        usleep(me == 0 ? 1 : 1000);
        while (words[me] == round)
            syscall(SYS_futex, &words[me], FUTEX_WAIT_PRIVATE, round, 0);
        if (me == 0)
            began_us = now_us();
        compute_until(now_us() + SPIN_US);
    }
    return 0;
}

int main(void) {
    pthread_t threads[2];
    int late = 0;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CHECK(CPU_COUNT(&all) >= 3);
    CPU_SET(0, &first);
    CPU_SET(1, &second);
    for (long i = 0; i < 2; i++)
        CHECK(pthread_create(&threads[i], 0, waiter, (void *)i) == 0);
    CHECK(sched_setaffinity(0, sizeof first, &first) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        usleep(3 * SPIN_US);
        CHECK(sched_setaffinity(tids[0], sizeof all, &all) == 0);
        /* That called the second virtual CPU, which is idle again after this. */
        usleep(SPIN_US);
        began_us = 0;
        long woken = now_us();
        for (int i = 0; i < 2; i++) {
            words[i] = round + 1;
            syscall(SYS_futex, &words[i], FUTEX_WAKE_PRIVATE, 1);
        }
        compute_until(woken + SPIN_US);
        late += began_us == 0 || began_us - woken > SOON_US;
    }
    for (int i = 0; i < 2; i++)
        CHECK(pthread_join(threads[i], 0) == 0);
    /* One round in three calls the one that cannot come. What the host takes counts as processor time now and then. */
    if (late > 2)
        printf("late in %d of %d rounds\n", late, ROUNDS);
    else
        puts("ok");
    return 0;
}
