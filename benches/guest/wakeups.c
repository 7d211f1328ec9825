/* How soon who is woken runs, beside work; and whether processors are shared evenly. Usage: wakeups WORKERS SECONDS.
 * Each worker computes for a while, asks the messenger to be woken again, and waits. Prints the time from the wake-up to
 * the first instruction of the worker, us, in the median and at 99 %, rounds per second, and of as many processes that
 * only compute the least share over the greatest. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 256, SAMPLES = 1 << 16 };

static struct worker {
    atomic_int waits;
    atomic_llong woken_ns;
    long rounds;
    int samples;
    unsigned late_us[SAMPLES];
} *workers;
static int count;
static atomic_int asked, stop;

static long long nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void futex(atomic_int *word, int what, int value) {
    syscall(SYS_futex, word, what | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

static void *work(void *argument) {
    struct worker *own = argument;
    while (!stop) {
        volatile double x = 1;
        for (int i = 0; i < 20000; i++) x = x * 1.0000001 + 1e-9;
        own->waits = 1;
        asked++;
        futex(&asked, FUTEX_WAKE, 1);
        while (own->waits && !stop) futex(&own->waits, FUTEX_WAIT, 1);
        long long late = nanoseconds() - own->woken_ns;
        if (!stop) own->late_us[own->samples++ % SAMPLES] = (unsigned)(late / 1000);
        own->rounds++;
    }
    return 0;
}

static void *wake(void *unused) {
    while (!stop) {
        int seen = asked;
        for (int i = 0; i < count; i++) {
            if (!workers[i].waits) continue;
            workers[i].woken_ns = nanoseconds();
            workers[i].waits = 0;
            futex(&workers[i].waits, FUTEX_WAKE, 1);
        }
        futex(&asked, FUTEX_WAIT, seen);
    }
    return unused;
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void latency(int seconds) {
    pthread_t threads[WORKERS], messenger;
    if (pthread_create(&messenger, 0, wake, 0)) exit(1);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], 0, work, &workers[i])) exit(1);
    sleep((unsigned)seconds);
    stop = 1;
    asked++;
    futex(&asked, FUTEX_WAKE, 1);
    pthread_join(messenger, 0);
    for (int i = 0; i < count; i++) {
        workers[i].waits = 0;
        futex(&workers[i].waits, FUTEX_WAKE, 1);
        pthread_join(threads[i], 0);
    }
    unsigned *all = malloc(sizeof *all * SAMPLES * (size_t)count);
    long rounds = 0, n = 0;
    for (int i = 0; i < count; i++) {
        rounds += workers[i].rounds;
        for (int j = 0; j < workers[i].samples && j < SAMPLES; j++) all[n++] = workers[i].late_us[j];
    }
    if (n == 0) exit(1);
    qsort(all, (size_t)n, sizeof *all, by_size);
    printf("wake_p50_us %u\nwake_p99_us %u\nwake_rounds_per_s %ld\n", all[n / 2], all[n * 99 / 100], rounds / seconds);
    free(all);
}

static void balance(int seconds) {
    enum { STRIDE = 64 };
    volatile long *done = mmap(0, WORKERS * STRIDE * sizeof *done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (done == MAP_FAILED) exit(1);
    pid_t children[WORKERS];
    for (int i = 0; i < count; i++)
        if ((children[i] = fork()) == 0)
            for (;;) done[i * STRIDE]++;
    sleep((unsigned)seconds);
    for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
    long least = done[0], most = done[0];
    for (int i = 0; i < count; i++) {
        waitpid(children[i], 0, 0);
        if (done[i * STRIDE] < least) least = done[i * STRIDE];
        if (done[i * STRIDE] > most) most = done[i * STRIDE];
    }
    printf("least_over_most %.2f\n", (double)least / most);
}

int main(int argc, char **argv) {
    if (argc != 3 || (count = atoi(argv[1])) < 1 || count > WORKERS) return 2;
    workers = mmap(0, sizeof *workers * WORKERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (workers == MAP_FAILED) return 1;
    latency(atoi(argv[2]));
    fflush(stdout);
    balance(atoi(argv[2]));
    return 0;
}
