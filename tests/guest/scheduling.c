/* The scheduler's calls: affinity takes effect at once, also while forking; nice values share a processor; policies. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, MOVES = 300 };

static int cpus;

static int only(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

static void *moving(void *argument) {
    unsigned seed = (unsigned)(long)argument;
    for (int i = 0; i < MOVES; i++) {
        int cpu = rand_r(&seed) % cpus;
        CHECK(only(cpu) == 0 && sched_getcpu() == cpu);
        if (i % 50 == 0) {
            pid_t child = fork();
            if (child == 0) _exit(sched_getcpu() == cpu ? 0 : 1);
            int status;
            CHECK(waitpid(child, &status, 0) == child && status == 0);
        }
    }
    return 0;
}

static void affinity(void) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, moving, (void *)(i + 1)) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], 0) == 0);
    cpu_set_t none;
    CPU_ZERO(&none);
    CHECK_ERRNO(sched_setaffinity(0, sizeof none, &none), EINVAL);
    CHECK_ERRNO(sched_getaffinity(0, 1, &none), EINVAL);
    CHECK_ERRNO(sched_setaffinity(-1, sizeof none, &none), ESRCH);
}

/* Two processes on one processor, one five steps nicer: it gets about a quarter, in half a second or as many more as it takes
 * where the host stands still for long. */
static void shares(void) {
    volatile long *work = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            if (only(0) || setpriority(PRIO_PROCESS, 0, i * 5)) _exit(1);
            for (;;) work[i * 64]++;
        }
    }
    while (work[0] == 0 || work[64] == 0) usleep(1000);
    long before[] = {work[0], work[64]};
    int more = 0;
    for (int i = 0; i < 40 && !more; i++) {
        usleep(500000);
        more = work[0] - before[0] > work[64] - before[1];
    }
    for (int i = 0; i < 2; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < 2; i++) CHECK(wait(0) > 0);
    CHECK(more);
}

static void policies(void) {
    struct sched_param parameter = {.sched_priority = 0};
    CHECK(sched_setscheduler(0, SCHED_BATCH, &parameter) == 0 && sched_getscheduler(0) == SCHED_BATCH);
    CHECK_ERRNO(sched_setscheduler(0, 77, &parameter), EINVAL);
    parameter.sched_priority = 5;
    CHECK_ERRNO(sched_setscheduler(0, SCHED_OTHER, &parameter), EINVAL);
    CHECK(sched_get_priority_max(SCHED_RR) == 99 && sched_get_priority_min(SCHED_FIFO) == 1);
    CHECK_ERRNO(sched_get_priority_max(9), EINVAL);
    CHECK(setpriority(PRIO_PROCESS, 0, 7) == 0 && getpriority(PRIO_PROCESS, 0) == 7);
    CHECK_ERRNO(setpriority(9, 0, 0), EINVAL);
    CHECK_ERRNO(getpriority(PRIO_PROCESS, 99999), ESRCH);
    CHECK(sched_yield() == 0);
}

static int set_policy(pid_t pid, int policy, int priority) {
    struct sched_param parameter = {.sched_priority = priority};
    return sched_setscheduler(pid, policy, &parameter);
}

static pid_t busy(volatile long *work) {
    pid_t child = fork();
    if (child) return child;
    if (only(0)) _exit(1);
    for (;;) ++*work;
}

/* Waits until work goes on. */
static void progress(volatile long *work) {
    for (long before = *work; *work == before;) usleep(1000);
}

/* Whether nothing of `other` goes on while `work` does, for so long that it does not get its part of each second yet. */
static int alone(volatile long *work, volatile long *other, pid_t child, int priority) {
    for (;;) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        CHECK(set_policy(child, SCHED_FIFO, priority) == 0);
        long before = *other;
        usleep(100000);
        progress(work);
        int is_alone = *other == before;
        clock_gettime(CLOCK_MONOTONIC, &to);
        if (is_alone || to.tv_sec - from.tv_sec < 1) return is_alone;
        CHECK(set_policy(child, SCHED_OTHER, 0) == 0);
        progress(other);
    }
}

/* A change of policy counts at once, for who runs and for who waits. */
static void changes(void) {
    volatile long *work = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(only(0) == 0);
    if (set_policy(0, SCHED_FIFO, 90)) return;
    /* Two who would share, beside one who waits for nobody. */
    pid_t first = busy(&work[0]), second = busy(&work[64]);
    CHECK(set_policy(first, SCHED_OTHER, 0) == 0 && set_policy(second, SCHED_OTHER, 0) == 0);
    usleep(50000);
    CHECK(alone(&work[0], &work[64], first, 5));
    /* One waits now for whoever has the higher priority. */
    CHECK(alone(&work[64], &work[0], second, 6));
    CHECK(set_policy(second, SCHED_OTHER, 0) == 0 && set_policy(first, SCHED_OTHER, 0) == 0);
    progress(&work[0]), progress(&work[64]);
    CHECK(kill(first, SIGKILL) == 0 && kill(second, SIGKILL) == 0 && wait(0) > 0 && wait(0) > 0);
    /* The nice value is kept for when it counts again, and can be set meanwhile. */
    int nice = getpriority(PRIO_PROCESS, 0);
    CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(set_policy(0, SCHED_OTHER, 0) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(set_policy(0, SCHED_FIFO, 1) == 0 && sched_getscheduler(0) == SCHED_FIFO && getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(set_policy(0, SCHED_OTHER | SCHED_RESET_ON_FORK, 0) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
    CHECK(set_policy(0, SCHED_OTHER, 0) == 0 && setpriority(PRIO_PROCESS, 0, nice) == 0);
}

/* Who never sleeps leaves the others a part of each second, whatever its priority: they can end it. */
static void left_to_others(void) {
    long runtime_us = -1;
    FILE *f = fopen("/proc/sys/kernel/sched_rt_runtime_us", "r");
    if (!f || fscanf(f, "%ld", &runtime_us) != 1) runtime_us = -1;
    if (f) fclose(f);
    volatile long *work = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(only(0) == 0);
    pid_t child = busy(work);
    if (runtime_us > 0 && runtime_us < 1000000 && set_policy(child, SCHED_FIFO, 99) == 0)
        /* More than one part. */
        for (clock_t from = clock(); clock() - from < CLOCKS_PER_SEC / 10;) {
        }
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, 0, 0) == child);
}

static int short_sleeps(unsigned long slack_ns) {
    struct timespec asked = {0, 1000}, from, to;
    int count = 0;
    CHECK(prctl(PR_SET_TIMERSLACK, slack_ns) == 0);
    for (int i = 0; i < 300; i++) {
        clock_gettime(CLOCK_MONOTONIC, &from);
        nanosleep(&asked, 0);
        clock_gettime(CLOCK_MONOTONIC, &to);
        count += (to.tv_sec - from.tv_sec) * 1000000000L + to.tv_nsec - from.tv_nsec < 400000;
    }
    return count;
}

/* A sleep may last longer by the thread's slack while somebody else runs. */
static void slack(void) {
    volatile long *work = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(only(0) == 0);
    pid_t other = busy(work);
    while (*work == 0) sched_yield();
    int exact = short_sleeps(1), late = short_sleeps(500000);
    CHECK(exact > late);
    CHECK(kill(other, SIGKILL) == 0 && wait(0) > 0 && prctl(PR_SET_TIMERSLACK, 0) == 0);
}

/* A process that has ended is asked about until it has been waited for. */
static void ended(void) {
    struct sched_param param = {7};
    siginfo_t info;
    pid_t child = fork();
    if (child == 0) _exit(set_policy(0, SCHED_BATCH, 0) != 0);
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK(sched_getscheduler(child) == SCHED_BATCH && sched_getparam(child, &param) == 0 && param.sched_priority == 0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_ERRNO(sched_getscheduler(child), ESRCH);
}

int main(void) {
    cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    affinity();
    ended();
    shares();
    changes();
    left_to_others();
    slack();
    policies();
    DONE();
}
