/* Futexes: several words at once, the calls of the second generation, locks that the kernel hands over; sched_setattr. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct wait_word {
    uint64_t value, addr;
    uint32_t flags, reserved;
};

static uint32_t words[3];
static long waitv(struct wait_word *w, unsigned n, unsigned flags, struct timespec *t, int clock) {
    return syscall(449, w, n, flags, t, clock);
}
static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *t, uint32_t *other, uint32_t value3) {
    return syscall(SYS_futex, word, op, value, t, other, value3);
}

static void *waker(void *p) {
    usleep(50000);
    words[1] = 7;
    while (futex(&words[1], FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0) usleep(1000);
    return p;
}

static struct timespec after(int clock, long ms) {
    struct timespec t;
    clock_gettime(clock, &t);
    t.tv_nsec += ms * 1000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    return t;
}

static void several(void) {
    struct wait_word w[3];
    memset(w, 0, sizeof w);
    for (int i = 0; i < 3; i++) w[i].addr = (uintptr_t)&words[i], w[i].flags = 2 | 128;
    CHECK_ERRNO(waitv(w, 0, 0, 0, 0), EINVAL);
    CHECK_ERRNO(waitv(w, 129, 0, 0, 0), EINVAL);
    CHECK_ERRNO(waitv(w, 3, 1, 0, 0), EINVAL);
    CHECK_ERRNO(waitv(0, 3, 0, 0, 0), EINVAL);
    struct timespec t = after(CLOCK_MONOTONIC, 20);
    CHECK_ERRNO(waitv(w, 3, 0, &t, 5), EINVAL);
    w[2].flags = 1;
    CHECK_ERRNO(waitv(w, 3, 0, &t, CLOCK_MONOTONIC), EINVAL);
    w[2].flags = 2 | 128;
    w[2].value = 9;
    CHECK_ERRNO(waitv(w, 3, 0, &t, CLOCK_MONOTONIC), EAGAIN);
    w[2].value = 0;
    CHECK_ERRNO(waitv(w, 3, 0, &t, CLOCK_MONOTONIC), ETIMEDOUT);
    t = after(CLOCK_REALTIME, 10);
    CHECK_ERRNO(waitv(w, 3, 0, &t, CLOCK_REALTIME), ETIMEDOUT);
    w[1].addr = 1;
    CHECK_ERRNO(waitv(w, 3, 0, &t, CLOCK_REALTIME), EINVAL);
    w[1].addr = (uintptr_t)&words[1];
    pthread_t thread;
    pthread_create(&thread, 0, waker, 0);
    CHECK(waitv(w, 3, 0, 0, 0) == 1);
    pthread_join(thread, 0);
    CHECK(futex(&words[0], FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0); /* nothing is left behind */
    words[1] = 0;
}

static void second_generation(void) {
    struct timespec t = after(CLOCK_MONOTONIC, 10);
    CHECK_ERRNO(syscall(455, words, 1UL, 1UL, 2 | 128, 0, 0), EAGAIN);
    CHECK_ERRNO(syscall(455, words, 0UL, 0UL, 2 | 128, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(455, words, 0UL, 1UL, 2 | 128, &t, CLOCK_MONOTONIC), ETIMEDOUT);
    CHECK(syscall(454, words, 1UL, 1, 2 | 128) == 0);
    CHECK_ERRNO(syscall(454, words, 0UL, 1, 2 | 128), EINVAL);
    CHECK_ERRNO(syscall(454, words, 1UL, 1, 128), EINVAL);
    struct wait_word w[2] = {{0, (uintptr_t)&words[0], 2 | 128, 0}, {0, (uintptr_t)&words[1], 2 | 128, 0}};
    CHECK(syscall(456, w, 0, 1, 1) == 0);
    w[0].value = 1;
    CHECK_ERRNO(syscall(456, w, 0, 1, 1), EAGAIN);
    CHECK_ERRNO(syscall(456, w, 1, 1, 1), EINVAL);
}

static uint32_t lock;
static volatile int order, got;
static void *locker(void *p) {
    CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    got = ++order;
    CHECK((lock & FUTEX_TID_MASK) == (uint32_t)gettid());
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    return p;
}

/* Ends with the lock once the first thread waits for the last time, or at least goes on. */
static volatile int may_die;
static void *dies(void *p) {
    CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    while (!may_die) usleep(1000);
    until_asleep(getpid(), getpid());
    return p;
}

static void handed_over(void) {
    CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0 && lock == (uint32_t)gettid());
    CHECK_ERRNO(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), EDEADLK);
    CHECK_ERRNO(futex(&lock, FUTEX_TRYLOCK_PI_PRIVATE, 0, 0, 0, 0), EDEADLK);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], 0, locker, 0);
    while (!(lock & FUTEX_WAITERS)) usleep(1000);
    usleep(20000);
    CHECK(got == 0);
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
    CHECK(order == 3 && lock == 0);
    CHECK_ERRNO(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0), EPERM);
    CHECK(futex(&lock, FUTEX_TRYLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    CHECK(futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    lock = 32760; /* nobody */
    CHECK_ERRNO(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), ESRCH);
    lock = may_die = 0;
    pthread_create(&threads[0], 0, dies, 0);
    while (!*(volatile uint32_t *)&lock) usleep(1000);
    struct timespec t = after(CLOCK_REALTIME, 10);
    CHECK_ERRNO(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, &t, 0, 0), ETIMEDOUT);
    t = after(CLOCK_MONOTONIC, 5);
    CHECK_ERRNO(futex(&lock, 13 | FUTEX_PRIVATE_FLAG, 0, &t, 0, 0), ETIMEDOUT);
    may_die = 1;
    CHECK(futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    CHECK((lock & FUTEX_TID_MASK) == (uint32_t)gettid() && lock & FUTEX_OWNER_DIED);
    pthread_join(threads[0], 0);
    lock = 0;
}

static uint32_t first, second;
static void *crosswise(void *p) {
    CHECK(futex(&second, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    CHECK(futex(&first, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0); /* waits */
    CHECK(futex(&first, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    CHECK(futex(&second, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    return p;
}

/* Who holds the one and wants the other, while the other's owner waits for the one, would wait for ever. */
static void in_a_circle(void) {
    pthread_t thread;
    CHECK(futex(&first, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    pthread_create(&thread, 0, crosswise, 0);
    while (!(*(volatile uint32_t *)&first & FUTEX_WAITERS)) usleep(1000);
    struct timespec t = after(CLOCK_REALTIME, 900);
    CHECK_ERRNO(futex(&second, FUTEX_LOCK_PI_PRIVATE, 0, &t, 0, 0), EDEADLK);
    CHECK(futex(&first, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    pthread_join(thread, 0);
    CHECK(first == 0 && second == 0);
}

struct sleeper {
    uint32_t *word, *lock;
    int priority, timeout_ms;
    volatile int tid;
    volatile int place;
    long result;
    int error;
    pthread_t thread;
};
static volatile int places;

static void *sleeps(void *p) {
    struct sleeper *own = p;
    struct sched_param param = {.sched_priority = own->priority};
    if (own->priority) CHECK(pthread_setschedparam(pthread_self(), SCHED_FIFO, &param) == 0);
    struct timespec t = after(CLOCK_MONOTONIC, own->timeout_ms);
    own->tid = gettid();
    if (own->lock)
        own->result = futex(own->word, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, own->timeout_ms ? &t : 0, own->lock, 0);
    else
        own->result = futex(own->word, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
    own->error = own->result < 0 ? errno : 0;
    own->place = __atomic_add_fetch(&places, 1, __ATOMIC_SEQ_CST);
    if (own->lock && own->result == 0) {
        CHECK((*own->lock & FUTEX_TID_MASK) == (uint32_t)gettid());
        CHECK(futex(own->lock, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    }
    return p;
}

static void start(struct sleeper *s, uint32_t *word, uint32_t *lock, int priority, int timeout_ms) {
    *s = (struct sleeper){.word = word, .lock = lock, .priority = priority, .timeout_ms = timeout_ms};
    CHECK(pthread_create(&s->thread, 0, sleeps, s) == 0);
    while (!s->tid) usleep(1000);
    until_asleep(getpid(), s->tid);
}

/* A wake-up goes to the waiter of the highest real-time priority, and among equals to the first. */
static void by_priority(void) {
    static uint32_t word;
    static const int priorities[] = {0, 5, 0, 9, 5}, expected[] = {4, 2, 5, 1, 3};
    struct sleeper s[5];
    places = 0;
    for (int i = 0; i < 5; i++) start(&s[i], &word, 0, priorities[i], 0);
    for (int i = 1; i <= 5; i++) {
        CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 1);
        while (places < i) usleep(1000);
    }
    for (int i = 0; i < 5; i++) {
        pthread_join(s[i].thread, 0);
        CHECK(s[i].place == expected[i] && s[i].result == 0);
    }
}

#define MOVE(word, lock, wakes, moves, value) futex(word, FUTEX_CMP_REQUEUE_PI_PRIVATE, wakes, (void *)(long)(moves), lock, value)

static uint32_t cond, to, elsewhere;
static void nobody_to_move(void) {
    struct timespec t = after(CLOCK_MONOTONIC, 10);
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, &cond, 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 1, &t, &to, 0), EAGAIN);
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, (uint32_t *)8, 0), ETIMEDOUT); /* looked at only when moved */
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, (uint32_t *)((char *)&to + 1), 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &t, &to, 0), ETIMEDOUT);
    t = after(CLOCK_REALTIME, 10);
    CHECK_ERRNO(futex(&cond, FUTEX_WAIT_REQUEUE_PI_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &t, &to, 0), ETIMEDOUT);
    CHECK_ERRNO(MOVE(&cond, &cond, 1, 1, 0), EINVAL);
    CHECK_ERRNO(MOVE(&cond, &to, 0, 1, 0), EINVAL);
    CHECK_ERRNO(MOVE(&cond, &to, 2, 1, 0), EINVAL);
    CHECK_ERRNO(MOVE(&cond, &to, 1, -1, 0), EINVAL);
    CHECK_ERRNO(MOVE(&cond, &to, 1, 1, 1), EAGAIN);
    CHECK_ERRNO(MOVE(&cond, (uint32_t *)8, 1, 1, 0), EFAULT);
    CHECK(MOVE(&cond, &to, 1, INT_MAX, 0) == 0 && to == 0);
}

static void moved_to_a_lock(void) {
    struct sleeper s[4];
    /* A free lock: the first has it at once. */
    for (int i = 0; i < 3; i++) start(&s[i], &cond, &to, 0, 0);
    CHECK(MOVE(&cond, &to, 1, INT_MAX, 0) == 3);
    for (int i = 0; i < 3; i++) {
        pthread_join(s[i].thread, 0);
        CHECK(s[i].result == 0);
    }
    CHECK(to == 0);
    /* One that is taken: as many as were asked for, and they get it in turn, the highest first. */
    CHECK(futex(&to, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    places = 0;
    for (int i = 0; i < 4; i++) start(&s[i], &cond, &to, i == 2 ? 7 : 0, 0);
    CHECK(MOVE(&cond, &to, 1, 1, 0) == 2);
    CHECK(to == (FUTEX_WAITERS | (uint32_t)gettid()));
    CHECK_ERRNO(futex(&to, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0), EINVAL);
    CHECK(MOVE(&cond, &to, 1, 0, 0) == 1);
    CHECK(MOVE(&cond, &to, 1, 5, 0) == 1);
    usleep(10000);
    CHECK(places == 0);
    CHECK(futex(&to, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(s[i].thread, 0);
        CHECK(s[i].result == 0);
    }
    CHECK(places == 4 && s[2].place == 1 && to == 0);
}

/* Who waits for a lock is woken by nothing else; who waits otherwise is not moved to one. */
static void mismatched(void) {
    struct sleeper s;
    start(&s, &cond, &to, 0, 0);
    CHECK_ERRNO(futex(&cond, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1, &to, 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &to, 0), EINVAL);
    CHECK_ERRNO(MOVE(&cond, &elsewhere, 1, 1, 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), EINVAL);
    to = s.tid;
    CHECK_ERRNO(MOVE(&cond, &to, 1, 0, 0), EDEADLK); /* it has the lock that it is to wait for */
    to = 32760;                                      /* nobody */
    CHECK_ERRNO(MOVE(&cond, &to, 1, 0, 0), ESRCH);
    to = 0;
    CHECK(MOVE(&cond, &to, 1, 0, 0) == 1);
    pthread_join(s.thread, 0);
    CHECK(s.result == 0 && to == 0);
    start(&s, &cond, 0, 0, 0);
    CHECK_ERRNO(MOVE(&cond, &to, 1, 1, 0), EINVAL);
    CHECK_ERRNO(futex(&cond, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0), EINVAL);
    CHECK(futex(&cond, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 1);
    pthread_join(s.thread, 0);
    CHECK(s.result == 0);
}

static volatile int signals;
static void count_signal(int signo) {
    (void)signo;
    signals++;
}

static void ends_of_a_move(void) {
    struct sleeper s;
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &action, 0) == 0);
    CHECK(futex(&to, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0) == 0);
    /* Before the move a signal starts the wait anew, after it it ends it. */
    start(&s, &cond, &to, 0, 0);
    pthread_kill(s.thread, SIGUSR1);
    while (signals < 1) usleep(1000);
    until_asleep(getpid(), s.tid);
    CHECK(s.place == 0);
    CHECK(MOVE(&cond, &to, 1, 0, 0) == 1);
    pthread_kill(s.thread, SIGUSR1);
    pthread_join(s.thread, 0);
    CHECK(s.result == -1 && s.error == EAGAIN && signals == 2);
    /* The time goes on after the move. */
    start(&s, &cond, &to, 0, 300);
    long moved = MOVE(&cond, &to, 1, 0, 0);
    pthread_join(s.thread, 0);
    CHECK(s.result == -1 && s.error == ETIMEDOUT && (moved == 1 || moved == 0));
    CHECK(futex(&to, FUTEX_UNLOCK_PI_PRIVATE, 0, 0, 0, 0) == 0 && to == 0);
    /* The owner ends. */
    pthread_t owner;
    may_die = 0;
    start(&s, &cond, &lock, 0, 0);
    pthread_create(&owner, 0, dies, 0);
    while (!*(volatile uint32_t *)&lock) usleep(1000);
    CHECK(MOVE(&cond, &lock, 1, 0, 0) == 1);
    may_die = 1;
    pthread_join(owner, 0);
    pthread_join(s.thread, 0);
    CHECK(s.result == 0);
    lock = 0;
}

static pthread_mutex_t robust;
static void *leaves(void *p) {
    pthread_mutex_lock(&robust);
    return p;
}
static int counter;
static void *counts(void *p) {
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(p);
        counter++;
        pthread_mutex_unlock(p);
    }
    return 0;
}

static void mutexes(void) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    CHECK(pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT) == 0);
    pthread_mutex_t plain;
    CHECK(pthread_mutex_init(&plain, &a) == 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, counts, &plain);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    CHECK(counter == 8000);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    CHECK(pthread_mutex_init(&robust, &a) == 0);
    pthread_create(&threads[0], 0, leaves, 0);
    pthread_join(threads[0], 0);
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
    CHECK(pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);
}

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t min, max;
};

static void attributes(void) {
    struct attr a = {0}, b;
    CHECK_ERRNO(syscall(SYS_sched_getattr, 0, 0, sizeof a, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_getattr, 0, &a, 40, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_getattr, 0, &a, sizeof a, 1), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_getattr, -1, &a, sizeof a, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_getattr, 32766, &a, sizeof a, 0), ESRCH);
    CHECK(syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0 && a.size >= 48 && a.policy == SCHED_OTHER && a.nice == getpriority(PRIO_PROCESS, 0));
    a.size = sizeof a;
    a.runtime = 0;
    a.policy = SCHED_BATCH;
    a.nice = 19;
    a.flags = 0;
    CHECK(syscall(SYS_sched_setattr, 0, &a, 0) == 0);
    CHECK(syscall(SYS_sched_getattr, 0, &b, sizeof b, 0) == 0 && b.policy == SCHED_BATCH && b.nice == 19);
    a.policy = SCHED_FIFO;
    a.priority = 0;
    CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &a, 0), EINVAL);
    a.priority = 10;
    a.flags = 1;
    CHECK(syscall(SYS_sched_setattr, 0, &a, 0) == 0);
    CHECK(syscall(SYS_sched_getattr, 0, &b, sizeof b, 0) == 0 && b.policy == SCHED_FIFO && b.priority == 10 && b.flags == 1);
    a.policy = SCHED_OTHER;
    a.priority = 0;
    a.flags = 0;
    a.size = 20;
    CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &a, 0), E2BIG);
    CHECK(a.size >= 48);
    a.size = sizeof a;
    CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &a, 1), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_setattr, 0, 0, 0), EINVAL);
    CHECK(syscall(SYS_sched_setattr, 0, &a, 0) == 0);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    several();
    second_generation();
    handed_over();
    in_a_circle();
    mutexes();
    by_priority();
    nobody_to_move();
    moved_to_a_lock();
    mismatched();
    ends_of_a_move();
    attributes();
    DONE();
}
