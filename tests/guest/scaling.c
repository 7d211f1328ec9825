/* Workloads for `umbel scale`: the same work whatever the number of processors, divided among as many as there are.
 * scaling KIND UNITS [SHARE]: a unit is about 3 us of computing; SHARE is the per cent that the lock is held.
 * The rounds of `lock` are long: in virtual time a lock in user memory is held for longer than a quantum or not at all. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long units, cpus, share = 10;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t start;
static struct timespec from;

static void compute(long n) {
    for (volatile long i = 0; i < n * 6000; i++)
        ;
}

static long part(long i) { return units * (i + 1) / cpus - units * i / cpus; }

/* Processes that have nothing in common. */
static void processes(void (*body)(long)) {
    for (long i = 0; i < cpus; i++)
        if (fork() == 0) {
            body(i);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
}

static void *(*thread)(void *);

static void *after_start(void *i) {
    pthread_barrier_wait(&start);
    return thread(i);
}

/* The time begins when all are there. */
static void threads(void *(*body)(void *)) {
    pthread_t ids[256];
    thread = body;
    pthread_barrier_init(&start, NULL, cpus + 1);
    for (long i = 0; i < cpus; i++)
        if (pthread_create(&ids[i], NULL, after_start, (void *)i))
            exit(1);
    clock_gettime(CLOCK_MONOTONIC, &from);
    pthread_barrier_wait(&start);
    for (long i = 0; i < cpus; i++)
        pthread_join(ids[i], NULL);
}

static void *thread_body(void *i) {
    compute(part((long)i));
    return NULL;
}

/* Rounds of 20000 units, of which `share` are done under the lock. */
static void *lock_body(void *i) {
    for (long n = part((long)i); n > 0; n -= 20000) {
        long round = n < 20000 ? n : 20000, held = round * share / 100;
        compute(round - held);
        pthread_mutex_lock(&mutex);
        compute(held);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

/* Touches 16 pages a unit, and gives them back in steps. */
static void *fault_body(void *i) {
    long step = 256 * 4096;
    char *memory = mmap(NULL, step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long n = part((long)i); n > 0; n -= 16) {
        for (long at = 0; at < step; at += 4096)
            memory[at] = 1;
        madvise(memory, step, MADV_DONTNEED);
    }
    return NULL;
}

/* Opens and closes one file, by its own descriptor table. */
static void open_body(long i) {
    for (long n = part(i) * 2; n > 0; n--) {
        FILE *file = fopen("/etc/passwd", "r");
        if (file)
            fclose(file);
    }
}

static void compute_body(long i) { compute(part(i)); }

static void touch_body(long i) { fault_body((void *)i); }

/* One computes and writes, the other reads and computes. */
static void pair(void) {
    static char block[4096];
    int ends[2];
    if (pipe(ends))
        exit(1);
    if (fork() == 0) {
        close(ends[1]);
        while (read(ends[0], block, sizeof block) > 0)
            compute(10);
        _exit(0);
    }
    close(ends[0]);
    for (long n = units / 20; n > 0; n--) {
        compute(10);
        if (write(ends[1], block, sizeof block) < 0)
            exit(1);
    }
    close(ends[1]);
    wait(NULL);
}

static long used_us(int whose) {
    struct rusage used;
    getrusage(whose, &used);
    return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    units = atol(argv[2]);
    if (argc > 3)
        share = atol(argv[3]);
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct timespec to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (!strcmp(argv[1], "processes"))
        processes(compute_body);
    else if (!strcmp(argv[1], "threads"))
        threads(thread_body);
    else if (!strcmp(argv[1], "pair"))
        pair();
    else if (!strcmp(argv[1], "lock"))
        threads(lock_body);
    else if (!strcmp(argv[1], "faults"))
        threads(fault_body);
    else if (!strcmp(argv[1], "touching"))
        processes(touch_body);
    else if (!strcmp(argv[1], "opens"))
        processes(open_body);
    else
        return 2;
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%ld us, %ld us of processor time\n", (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000,
           used_us(RUSAGE_SELF) + used_us(RUSAGE_CHILDREN));
    return 0;
}
