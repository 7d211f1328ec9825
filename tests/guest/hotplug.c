/* Virtual CPUs come and go under load, and nobody misses them. Usage: hotplug ROUNDS. As root in a machine. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORKERS 8
#define PATIENCE_S 30

/* Progress of each worker, in memory that processes share. */
static _Atomic long *progress;
static atomic_int *stop;

static int is_online(int cpu) {
    char name[64], text[4] = "";
    snprintf(name, sizeof name, "/sys/devices/system/cpu/cpu%d/online", cpu);
    int fd = open(name, O_RDONLY);
    if (fd < 0 || read(fd, text, 1) != 1) return -1;
    close(fd);
    return text[0] == '1';
}

static int set_online(int cpu, const char *text) {
    char name[64];
    snprintf(name, sizeof name, "/sys/devices/system/cpu/cpu%d/online", cpu);
    int fd = open(name, O_WRONLY);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static int online_here(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? -1 : CPU_COUNT(&set);
}

/* 0: bytes between two processes. */
static void ping_pong(void) {
    int a[2], b[2];
    if (pipe(a) || pipe(b)) exit(1);
    char byte = 0;
    if (fork() == 0) {
        while (read(a[0], &byte, 1) == 1 && write(b[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    while (!*stop && write(a[1], &byte, 1) == 1 && read(b[0], &byte, 1) == 1) progress[0]++;
}

/* 1: short sleeps: a timer that is lost ends the progress. */
static void sleeper(void) {
    struct timespec short_time = {0, 300000};
    while (!*stop) {
        nanosleep(&short_time, 0);
        progress[1]++;
    }
}

/* 2: a periodic timer, armed once. */
static void periodic(void) {
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec every = {{0, 2000000}, {0, 2000000}};
    uint64_t count;
    timerfd_settime(fd, 0, &every, 0);
    while (!*stop && read(fd, &count, sizeof count) == sizeof count) progress[2]++;
}

/* 3: processes. */
static void forker(void) {
    while (!*stop) {
        pid_t child = fork();
        if (child == 0) _exit(7);
        int status = 0;
        if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7) exit(1);
        progress[3]++;
    }
}

static void *toucher(void *page) {
    while (!*stop) {
        (*(volatile _Atomic int *)page)++;
        progress[4]++;
    }
    return 0;
}

/* 4 and 5: translations that change under a thread that uses them. */
static void mapper(void) {
    char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    pthread_create(&thread, 0, toucher, page);
    while (!*stop) {
        page[4096] = 1;
        mprotect(page + 4096, 4096, PROT_READ);
        madvise(page + 4096, 4096, MADV_DONTNEED);
        if (page[4096] != 0) exit(1);
        mprotect(page + 4096, 4096, PROT_READ | PROT_WRITE);
        progress[5]++;
    }
    pthread_join(thread, 0);
}

/* 6: bound to a virtual CPU that goes again and again. */
static void pinned(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(1, &one);
    while (!*stop) {
        /* Refused while it is not there. */
        sched_setaffinity(0, sizeof one, &one);
        for (volatile int i = 0; i < 20000; i++) {
        }
        progress[6]++;
    }
}

/* 7: signals to itself by an interval timer of CPU time. */
static void on_profile(int signal) {
    (void)signal;
    progress[7]++;
}

static void profiled(void) {
    struct itimerval every = {{0, 5000}, {0, 5000}};
    signal(SIGPROF, on_profile);
    setitimer(ITIMER_PROF, &every, 0);
    while (!*stop) {
    }
}

static void (*const workers[WORKERS])(void) = {ping_pong, sleeper, periodic, forker, 0, mapper, pinned, profiled};

/* Every worker gets on. */
static void all_get_on(void) {
    long before[WORKERS];
    for (int i = 0; i < WORKERS; i++) before[i] = progress[i];
    time_t end = time(0) + PATIENCE_S;
    for (int i = 0; i < WORKERS; i++) {
        while (progress[i] == before[i] && time(0) < end) usleep(1000);
        if (progress[i] == before[i]) {
            printf("worker %d stands still at %ld\n", i, before[i]);
            check_failures++;
        }
    }
}

static void refusals(int cpus) {
    CHECK(access("/sys/devices/system/cpu/cpu0/online", F_OK) == -1 && errno == ENOENT);
    CHECK_ERRNO(set_online(1, "2"), EINVAL);
    CHECK(set_online(1, "1\n") == 0 && is_online(1) == 1 && online_here() == cpus);
    cpu_set_t none;
    CPU_ZERO(&none);
    CPU_SET(1, &none);
    CHECK(set_online(1, "0\n") == 0 && is_online(1) == 0 && online_here() == cpus - 1);
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) == cpus - 1);
    CHECK(set_online(1, "0") == 0);
    CHECK_ERRNO(sched_setaffinity(0, sizeof none, &none), EINVAL);
    CHECK(set_online(1, "1") == 0 && online_here() == cpus);
    if (fork() == 0) {
        if (setuid(1000)) _exit(1);
        _exit(set_online(1, "0") == -1 && errno == EACCES ? 0 : 1);
    }
    int status = -1;
    CHECK(wait(&status) > 0 && status == 0);
}

/* Who may run only on one that goes may run anywhere. */
static void broken_affinity(int cpus) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpus - 1, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0 && sched_getcpu() == cpus - 1);
    CHECK(set_online(cpus - 1, "0") == 0);
    CHECK(online_here() == cpus - 1 && sched_getcpu() != cpus - 1);
    CHECK(set_online(cpus - 1, "1") == 0 && online_here() == cpus);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 10;
    int cpus = online_here();
    setvbuf(stdout, 0, _IOLBF, 0);
    progress = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    stop = (atomic_int *)(progress + WORKERS);
    refusals(cpus);
    broken_affinity(cpus);
    for (int i = 0; i < WORKERS; i++)
        if (workers[i] && fork() == 0) {
            workers[i]();
            _exit(0);
        }
    for (int round = 0; round < rounds && !check_failures; round++) {
        int cpu = 1 + round % (cpus - 1);
        CHECK(set_online(cpu, "0") == 0 && is_online(cpu) == 0 && online_here() == cpus - 1);
        if (round % 8 == 0) all_get_on();
        CHECK(set_online(cpu, "1") == 0 && is_online(cpu) == 1 && online_here() == cpus);
        if (round % 8 == 4) all_get_on();
    }
    *stop = 1;
    int status, ended = 0;
    alarm(PATIENCE_S);
    while (ended < WORKERS - 1 && wait(&status) > 0) {
        CHECK(status == 0);
        ended++;
    }
    CHECK(ended == WORKERS - 1);
    DONE();
}
