/* Do N threads of one process, and N processes, run at the same time? Fixed work each; prints the speed-up over one.
 * Usage: parallel [N]; prints "threads X" and "processes X". */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile double sink;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *work(void *unused) {
    double x = 1;
    for (long i = 0; i < 150000000L; i++) x = x * 1.0000001 + 1e-9;
    sink = x;
    return unused;
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 2;
    if (n < 1 || n > 64) return 2;
    pthread_t threads[64];
    double start = seconds();
    work(0);
    double one = seconds() - start;

    start = seconds();
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], 0, work, 0)) return 1;
    for (int i = 0; i < n; i++) pthread_join(threads[i], 0);
    printf("threads %.2f\n", n * one / (seconds() - start));

    start = seconds();
    for (int i = 0; i < n; i++)
        if (fork() == 0) {
            work(0);
            _exit(0);
        }
    while (wait(0) > 0) {
    }
    printf("processes %.2f\n", n * one / (seconds() - start));
    return 0;
}
