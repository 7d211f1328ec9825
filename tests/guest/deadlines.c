/* SCHED_DEADLINE: what is refused and admitted, run time that is rationed, deadlines that go before priorities. Run as root
 * where nobody else has been promised anything, with two processors or more. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE = 6, RESET = 1, RECLAIM = 2, OVERRUN = 4, KEEP_POLICY = 8, KEEP_PARAMS = 16, MS = 1000000 };

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static int ask(uint64_t runtime, uint64_t deadline, uint64_t period, uint64_t flags) {
    struct attr attr = {sizeof attr, DEADLINE, flags, 0, 0, runtime, deadline, period};
    return (int)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int normal(void) {
    struct sched_param none = {0};
    return sched_setscheduler(0, SCHED_OTHER, &none);
}

static double now(int clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void budgets(void) {
    CHECK_ERRNO(ask(1023, 10 * MS, 0, 0), EINVAL);
    CHECK_ERRNO(ask(10 * MS + 1, 10 * MS, 0, 0), EINVAL);
    CHECK_ERRNO(ask(MS, 10 * MS, 9 * MS, 0), EINVAL);
    CHECK_ERRNO(ask(MS, 0, 10 * MS, 0), EINVAL);
    CHECK_ERRNO(ask(MS, 1ull << 63, 0, 0), EINVAL);
    CHECK_ERRNO(ask(1024, 90000, 0, 0), EINVAL);
    CHECK_ERRNO(ask(MS, 4194304001ull, 0, 0), EINVAL);
    CHECK_ERRNO(ask(MS, 10 * MS, 0, 1 << 10), EINVAL);
    struct attr attr = {.size = sizeof attr, .policy = DEADLINE, .priority = 1, .runtime = MS, .deadline = 10 * MS};
    CHECK_ERRNO(syscall(SYS_sched_setattr, 0, &attr, 0), EINVAL);
    struct sched_param none = {0};
    CHECK_ERRNO(sched_setscheduler(0, DEADLINE, &none), EINVAL);
}

static void promised(void) {
    struct attr attr = {0};
    struct timespec interval;
    struct sched_param none = {0};
    cpu_set_t all, one;
    CHECK(ask(5 * MS, 10 * MS, 0, OVERRUN | RECLAIM) == 0 && sched_getscheduler(0) == DEADLINE);
    CHECK(syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 && attr.size == sizeof attr && attr.policy == DEADLINE);
    CHECK(attr.flags == (OVERRUN | RECLAIM) && attr.runtime == 5 * MS && attr.deadline == 10 * MS && attr.period == 10 * MS);
    CHECK(sched_rr_get_interval(0, &interval) == 0 && interval.tv_sec == 0 && interval.tv_nsec == 0);
    CHECK_ERRNO(sched_setparam(0, &none), EINVAL);
    CHECK_ERRNO(fork(), EAGAIN);
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    CHECK_ERRNO(sched_setaffinity(0, sizeof one, &one), EBUSY);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
    attr.policy = SCHED_OTHER, attr.flags = KEEP_POLICY | RESET, attr.runtime = 4 * MS;
    CHECK(syscall(SYS_sched_setattr, 0, &attr, 0) == 0 && syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0);
    CHECK(attr.policy == DEADLINE && attr.flags == 0 && attr.runtime == 4 * MS);
    CHECK(ask(4 * MS, 10 * MS, 0, RESET) == 0 && syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 && attr.flags == RESET);
    attr.flags = KEEP_PARAMS | RESET, attr.runtime = 3 * MS;
    CHECK(syscall(SYS_sched_setattr, 0, &attr, 0) == 0 && syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0);
    CHECK(attr.flags == RESET && attr.runtime == 4 * MS);
    int status = -1;
    pid_t child = fork();
    if (child == 0) _exit(sched_getscheduler(0) == SCHED_OTHER && normal() == 0 ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child && status == 0 && normal() == 0);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK_ERRNO(ask(MS, 10 * MS, 0, 0), EPERM);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
    child = fork();
    if (child == 0) {
        CHECK(ask(MS, 10 * MS, 0, 0) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK_ERRNO(ask(MS, 10 * MS, 0, 0), EPERM);
        CHECK_ERRNO(ask(100, 10 * MS, 0, 0), EINVAL);
        CHECK(normal() == 0);
        CHECK_ERRNO(ask(MS, 10 * MS, 0, 0), EPERM);
        _exit(check_failures != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static int set_limit(const char *value) {
    int fd = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY), length = (int)strlen(value);
    int result = write(fd, value, length) == length ? 0 : -1, saved = errno;
    close(fd), errno = saved;
    return result;
}

/* All processors together promise 95 % of themselves; what a process had is free when it ends. */
static void bandwidth(void) {
    int processors = (int)sysconf(_SC_NPROCESSORS_ONLN), ready[2], held[16] = {0}, status;
    char byte;
    CHECK(pipe(ready) == 0 && processors <= 16);
    for (int i = 0; i < processors; i++)
        if ((held[i] = fork()) == 0) {
            byte = ask(85 * MS, 100 * MS, 0, 0) == 0;
            _exit(write(ready[1], &byte, 1) != 1 || pause());
        }
    for (int i = 0; i < processors; i++) CHECK(read(ready[0], &byte, 1) == 1 && byte == 1);
    CHECK_ERRNO(ask(20 * MS * processors, 100 * MS, 0, 0), EBUSY);
    CHECK_ERRNO(set_limit("800000"), EBUSY);
    CHECK_ERRNO(set_limit("1000001"), EINVAL);
    CHECK_ERRNO(set_limit("-2"), EINVAL);
    CHECK(ask(4 * MS * processors, 100 * MS, 0, 0) == 0 && normal() == 0);
    CHECK(set_limit("-1") == 0 && ask(20 * MS * processors, 100 * MS, 0, 0) == 0 && normal() == 0 && set_limit("950000") == 0);
    for (int i = 0; i < processors; i++) CHECK(kill(held[i], SIGKILL) == 0 && waitpid(held[i], &status, 0) == held[i]);
    /* Linux takes it back when the period would have been over. */
    usleep(200000);
    CHECK(ask(20 * MS * processors, 100 * MS, 0, 0) == 0 && normal() == 0);
    close(ready[0]), close(ready[1]);
}

static volatile sig_atomic_t overruns;
static void on_overrun(int signal) {
    (void)signal;
    overruns++;
}

/* Run time is rationed: whatever it uses is paid by rest. */
static void rations(void) {
    CHECK(ask(2 * MS, 20 * MS, 0, OVERRUN) == 0);
    enum { JOBS = 10 };
    double start = 0, before = 0, used[JOBS];
    for (int job = 0; job < JOBS; job++) {
        int seen = overruns;
        while (overruns == seen) {
        }
        /* Linux does not count what the first runs while it is being admitted. */
        if (job == 0) start = now(CLOCK_MONOTONIC), before = now(CLOCK_THREAD_CPUTIME_ID);
        used[job] = now(CLOCK_THREAD_CPUTIME_ID) - before;
    }
    /* What a job used too much is paid by the time the next but one begins. */
    CHECK(now(CLOCK_MONOTONIC) - start >= used[JOBS - 3] * 10 - 0.15);
    /* Each yield ends a job. */
    start = now(CLOCK_MONOTONIC);
    for (int i = 0; i < 10; i++) sched_yield();
    CHECK(now(CLOCK_MONOTONIC) - start > 0.17);
    CHECK(normal() == 0);
}

/* Who has a deadline runs, whatever else there is. */
static void urgency(void) {
    int processors = (int)sysconf(_SC_NPROCESSORS_ONLN), hogs[16];
    struct sched_param most = {99};
    CHECK(ask(5 * MS, 20 * MS, 0, RESET) == 0);
    for (int i = 0; i < processors && i < 16; i++)
        if ((hogs[i] = fork()) == 0)
            for (sched_setscheduler(0, SCHED_FIFO, &most);;) {
            }
    for (int i = 0; i < 20; i++) usleep(5000);
    for (int i = 0; i < processors && i < 16; i++) CHECK(kill(hogs[i], SIGKILL) == 0);
    for (int i = 0; i < processors && i < 16; i++) CHECK(waitpid(hogs[i], 0, 0) == hogs[i]);
    CHECK(normal() == 0);
}

int main(void) {
    signal(SIGXCPU, on_overrun);
    budgets();
    promised();
    bandwidth();
    rations();
    urgency();
    DONE();
}
