/* What --stats is to count: a known number of each thing. With an address, lies about what is counted there, on two CPUs. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 20000

#define PAGES 4000

static char *area;
static int ready[2], done_with[2];

static void on_cpu(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

/* Has all pages mapped, sleeps while they go, and looks at what is there then. */
static void *sleeper(void *unused) {
    char c = 0;
    (void)unused;
    on_cpu(1);
    for (int i = 0; i < PAGES; i++) area[4096l * i] = 1;
    CHECK(write(ready[1], &c, 1) == 1 && read(done_with[0], &c, 1) == 1);
    for (int i = 0; i < PAGES; i += 2) CHECK(area[4096l * i] == 0 && area[4096l * (i + 1)] == 1);
    return 0;
}

static void *liar(void *at) {
    for (int i = 0; i < 1000; i++) {
        ((volatile uint64_t *)at)[0] = ~0ul;
        ((volatile uint64_t *)at)[1] = ~0ul;
        getpgid(0);
    }
    return 0;
}

static void calls(void) {
    pid_t own = getpid();
    for (int i = 0; i < ROUNDS; i++) CHECK(getpid() == own);
    int fd = open("/", O_RDONLY);
    for (int i = 0; i < ROUNDS; i++) CHECK(fcntl(fd, F_GETFL) >= 0);
    close(fd);
    struct timespec now;
    for (int i = 0; i < ROUNDS; i++) CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    for (int i = 0; i < ROUNDS; i++) getpgid(0);
    CHECK(syscall(400) == -1 && errno == ENOSYS);
    CHECK(syscall(123456) == -1 && errno == ENOSYS);
}

/* Pages that another thread has mapped, too, go one by one while it sleeps. */
static void mappings(void) {
    pthread_t thread;
    char c = 0;
    on_cpu(0);
    area = mmap(0, 4096l * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pipe(ready) == 0 && pipe(done_with) == 0 && pthread_create(&thread, 0, sleeper, 0) == 0);
    CHECK(read(ready[0], &c, 1) == 1);
    usleep(10000);
    for (int i = 0; i < PAGES; i += 2) CHECK(madvise(area + 4096l * i, 4096, MADV_DONTNEED) == 0);
    CHECK(write(done_with[1], &c, 1) == 1 && pthread_join(thread, 0) == 0);
}

static void processes(void) {
    for (int i = 0; i < 20; i++) {
        int p[2], status;
        char c = 0;
        CHECK(pipe(p) == 0);
        pid_t child = fork();
        if (child == 0) _exit(write(p[1], &c, 1) != 1);
        CHECK(read(p[0], &c, 1) == 1 && waitpid(child, &status, 0) == child && status == 0);
        close(p[0]), close(p[1]);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) {
        void *at = (void *)strtoul(argv[1], 0, 16);
        pthread_t other;
        CHECK(pthread_create(&other, 0, liar, at) == 0);
        liar(at);
        CHECK(pthread_join(other, 0) == 0);
    } else {
        calls();
        mappings();
        processes();
    }
    DONE();
}
