/* Threads: creation, joining, mutexes, condition variables, thread-local data, signals to a process of many threads. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 20000 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static long counter, turn;
static __thread long local = 5;

static void *adding(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    local += (long)argument;
    return (void *)(local + 1);
}

static void mutexes(void) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, adding, (void *)i) == 0);
    for (long i = 0; i < THREADS; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0 && (long)result == 6 + i);
    }
    CHECK(counter == THREADS * ROUNDS && local == 5);
}

static void *in_turn(void *argument) {
    long me = (long)argument;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&mutex);
        while (turn % THREADS != me) pthread_cond_wait(&condition, &mutex);
        turn++;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    pthread_barrier_wait(&barrier);
    return 0;
}

static void conditions(void) {
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&barrier, 0, THREADS + 1) == 0);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, in_turn, (void *)i) == 0);
    pthread_barrier_wait(&barrier);
    CHECK(turn == THREADS * 200);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], 0) == 0);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 3000000;
    if (soon.tv_nsec >= 1000000000) soon.tv_nsec -= 1000000000, soon.tv_sec++;
    pthread_mutex_lock(&mutex);
    CHECK(pthread_cond_timedwait(&condition, &mutex, &soon) == ETIMEDOUT);
    pthread_mutex_unlock(&mutex);
}

static sem_t items;
static void *posting(void *unused) {
    for (int i = 0; i < 1000; i++) sem_post(&items);
    return unused;
}

static void semaphores(void) {
    pthread_t thread;
    CHECK(sem_init(&items, 0, 0) == 0);
    CHECK(pthread_create(&thread, 0, posting, 0) == 0);
    for (int i = 0; i < 1000; i++) CHECK(sem_wait(&items) == 0);
    CHECK(pthread_join(thread, 0) == 0);
    CHECK_ERRNO(sem_trywait(&items), EAGAIN);
}

static void *identity(void *unused) {
    CHECK(getpid() != gettid() && syscall(SYS_tgkill, getpid(), gettid(), 0) == 0);
    return unused;
}

static void identities(void) {
    pthread_t thread;
    CHECK(getpid() == gettid());
    CHECK(pthread_create(&thread, 0, identity, 0) == 0 && pthread_join(thread, 0) == 0);
}

static void *sleeping(void *unused) {
    for (;;) pause();
    return unused;
}

static void a_process_dies_with_all_its_threads(void) {
    for (int how = 0; how < 3; how++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t threads[4];
            for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, sleeping, 0);
            if (how == 0) _exit(3);
            if (how == 1) kill(getpid(), SIGKILL);
            execl("/bin/true", "true", (char *)0);
            _exit(99);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(how == 1 ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == (how ? 0 : 3));
    }
}

static void *quitting(void *unused) {
    usleep(5000);
    return unused;
}

static void the_first_thread_may_leave_first(void) {
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, 0, quitting, 0);
        pthread_exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void futexes(void) {
    static int word = 1;
    struct timespec soon = {0, 2000000};
    CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT, 2, 0, 0, 0), EAGAIN);
    CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &soon, 0, 0), ETIMEDOUT);
    CHECK_ERRNO(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAIT, 1, 0, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_futex, 8, FUTEX_WAIT, 1, 0, 0, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 1, 0, 0, 0), EINVAL);
    CHECK(syscall(SYS_futex, &word, FUTEX_WAKE, 10, 0, 0, 0) == 0);
}

static void *short_lived(void *argument) { return argument; }

static void many(void) {
    for (long i = 0; i < 300; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, 0, short_lived, (void *)i) == 0);
        CHECK(pthread_join(thread, &result) == 0 && (long)result == i);
    }
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    mutexes();
    conditions();
    semaphores();
    identities();
    a_process_dies_with_all_its_threads();
    the_first_thread_may_leave_first();
    futexes();
    many();
    DONE();
}
