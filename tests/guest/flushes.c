/* Who computes on another processor learns at once that a page is gone, and /proc/interrupts counts that there. */
#define _GNU_SOURCE
#include "check.h"
#include "cpus.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROUNDS = 200, PAGE = 4096 };

static atomic_long looks;
static atomic_int over;
static volatile char *page;

static void *look(void *unused) {
    stay_on(1);
    while (!over) {
        (void)*page;
        looks++;
    }
    return unused;
}

/* What the line of this name says of processor 1; -1 = nothing. */
static long counted(const char *name) {
    char line[1 << 16];
    long zeroth = -1, count = -1;
    FILE *file = fopen("/proc/interrupts", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *start = line + strspn(line, " ");
        if (!strncmp(start, name, strlen(name)) && sscanf(start + strlen(name), "%ld %ld", &zeroth, &count) < 2)
            count = -1;
    }
    if (file)
        fclose(file);
    return count;
}

/* Until the other thread has looked at the page again. */
static void let_look(void) {
    long before = looks;
    while (looks < before + 2)
        sched_yield();
}

static void shootdowns(void) {
    pthread_t other;
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    *page = 1;
    stay_on(0);
    CHECK(pthread_create(&other, NULL, look, NULL) == 0);
    let_look();
    long before = counted("TLB:");
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(mprotect((void *)page, PAGE, round % 2 ? PROT_READ | PROT_WRITE : PROT_READ) == 0);
        let_look();
    }
    long after = counted("TLB:");
    over = 1;
    CHECK(pthread_join(other, NULL) == 0);
    /* Every other round takes something away, and the other thread may be anywhere when it does. */
    CHECK(before >= 0 && after - before >= ROUNDS / 4);
    if (after - before < ROUNDS / 4)
        printf("%ld, then %ld\n", before, after);
}

int main(void) {
    CHECK(counted("no such line:") == -1);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
        shootdowns();
    DONE();
}
