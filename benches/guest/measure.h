/* Timing of named operations: what the measuring programs beside this file share. */
#pragma once
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 5
#define ROUND_NS 60e6

/* One operation; it is run `batch` times between two looks at the clock. */
struct op {
    const char *name;
    void (*run)(void);
    int batch;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

/* Prints "NAME NANOSECONDS", the best of several rounds. */
static void measure(const struct op *op) {
    double best = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now(), end;
        long n = 0;
        do {
            for (int i = 0; i < op->batch; i++) op->run();
            n += op->batch;
            end = now();
        } while (end - start < ROUND_NS);
        if ((end - start) / n < best) best = (end - start) / n;
    }
    printf("%s %.1f\n", op->name, best);
    fflush(stdout);
}

/* Whether the command line asks for an operation: it names it, or nothing. */
static int wanted(const char *name, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) return 1;
    return argc < 2;
}
