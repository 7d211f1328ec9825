/* Threads map, unmap, protect and fork while others read and write the same addresses.
 *
 * Every word written says whose region it belongs to. A freed page that is seen again through an old mapping shows
 * another owner's word; a page that changes after mprotect took the write permission away, or in a child after fork,
 * was reached through a translation that should be gone. Usage: torture_memory [SECONDS]; ends as soon as it sees that. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OWNERS = 3, SNOOPERS = 2, PAGES = 48, PAGE = 4096 };
#define REGION(owner) ((char *)0x200000000000ul + (owner) * 0x1000000ul)
#define OWNER_OF(word) ((word) >> 56)

static volatile int stop;
static long wrong, rounds, snoops;
static __thread sigjmp_buf escape;
static __thread int armed;

static void on_fault(int n) {
    if (!armed) {
        signal(n, SIG_DFL);
        return;
    }
    siglongjmp(escape, n);
}

static void report(const char *what, long owner, uint64_t word) {
    if (__atomic_add_fetch(&wrong, 1, __ATOMIC_SEQ_CST) < 10) printf("%s: region %ld shows %016lx\n", what, owner, word);
}

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed;
}

/* Reads, and sometimes writes, one word of a region that may vanish at any time. */
static void snoop(long owner, uint64_t *seed) {
    volatile uint64_t *word = (volatile uint64_t *)(REGION(owner) + next(seed) % PAGES * PAGE) + next(seed) % 512;
    int write = next(seed) % 4 == 0;
    armed = 1;
    if (!sigsetjmp(escape, 1)) {
        uint64_t seen = *word;
        if (seen && OWNER_OF(seen) != (uint64_t)owner + 1) report("stale mapping", owner, seen);
        if (write) *word = (uint64_t)(owner + 1) << 56 | 0xabcdef;
    }
    armed = 0;
    __atomic_add_fetch(&snoops, 1, __ATOMIC_RELAXED);
}

static void *snooper(void *argument) {
    uint64_t seed = 123456789 + (long)argument * 977;
    while (!stop) snoop(next(&seed) % OWNERS, &seed);
    return 0;
}

static void check_own(long owner, const char *when) {
    for (int p = 0; p < PAGES; p++) {
        volatile uint64_t *words = (volatile uint64_t *)(REGION(owner) + p * PAGE);
        for (int i = 0; i < 512; i += 37)
            if (words[i] && OWNER_OF(words[i]) != (uint64_t)owner + 1) report(when, owner, words[i]);
    }
}

/* What was given back is zero, or what a snooper wrote since. */
static void check_discarded(long owner, int pages) {
    for (int p = 0; p < pages; p++) {
        volatile uint64_t *words = (volatile uint64_t *)(REGION(owner) + p * PAGE);
        for (int i = 0; i < 512; i += 5) {
            uint64_t seen = words[i];
            if (seen && (seen & 0xffffff) != 0xabcdef) report("discarded page", owner, seen);
        }
    }
}

/* After the write permission is gone no snooper may change a word. */
static void check_frozen(long owner) {
    static const struct timespec moment = {0, 50000};
    uint64_t before[PAGES];
    if (mprotect(REGION(owner), PAGES * PAGE, PROT_READ)) report("mprotect", owner, errno);
    for (int p = 0; p < PAGES; p++) before[p] = ((volatile uint64_t *)(REGION(owner) + p * PAGE))[p];
    nanosleep(&moment, 0);
    for (int p = 0; p < PAGES; p++)
        if (((volatile uint64_t *)(REGION(owner) + p * PAGE))[p] != before[p]) report("written after mprotect", owner, before[p]);
    if (mprotect(REGION(owner), PAGES * PAGE, PROT_READ | PROT_WRITE)) report("mprotect", owner, errno);
}

static void check_child(long owner) {
    pid_t child = fork();
    if (child == 0) {
        uint64_t before[PAGES];
        int changed = 0;
        for (int p = 0; p < PAGES; p++) before[p] = ((volatile uint64_t *)(REGION(owner) + p * PAGE))[7];
        for (int turn = 0; turn < 20; turn++)
            for (int p = 0; p < PAGES; p++) changed |= ((volatile uint64_t *)(REGION(owner) + p * PAGE))[7] != before[p];
        for (int p = 0; p < PAGES; p++) ((volatile uint64_t *)(REGION(owner) + p * PAGE))[7] = 0x7700000000000000ul;
        _exit(changed);
    }
    int status = -1;
    if (child < 0 || waitpid(child, &status, 0) != child || status) report("child", owner, status);
}

static void *mapper(void *argument) {
    long owner = (long)argument;
    uint64_t seed = 987654321 + owner * 31;
    for (uint64_t generation = 1; !stop; generation++) {
        char *m = mmap(REGION(owner), PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (m != REGION(owner)) report("mmap", owner, errno);
        check_own(owner, "fresh page");
        for (int p = 0; p < PAGES; p++)
            for (int i = 0; i < 512; i += 5) ((volatile uint64_t *)(m + p * PAGE))[i] = (uint64_t)(owner + 1) << 56 | generation;
        check_own(owner, "own page");
        if (generation % 4 == 0) check_frozen(owner);
        if (generation % 16 == 0) check_child(owner);
        int from = next(&seed) % PAGES;
        switch (next(&seed) % 3) {
        case 0: munmap(m + from * PAGE, (PAGES - from) * PAGE); break;
        case 1:
            madvise(m, (from + 1) * PAGE, MADV_DONTNEED);
            check_discarded(owner, from + 1);
            break;
        default: munmap(m, PAGES * PAGE);
        }
        __atomic_add_fetch(&rounds, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

static time_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 2;
    setvbuf(stdout, 0, _IOLBF, 0);
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    pthread_t threads[OWNERS + SNOOPERS];
    for (long i = 0; i < OWNERS; i++) CHECK(pthread_create(&threads[i], 0, mapper, (void *)i) == 0);
    for (long i = 0; i < SNOOPERS; i++) CHECK(pthread_create(&threads[OWNERS + i], 0, snooper, (void *)i) == 0);
    /* By the clock: where processors are scarce each sleep is longer than asked for. */
    struct timespec tenth = {0, 100000000};
    time_t end = now() + seconds;
    while (now() < end && !__atomic_load_n(&wrong, __ATOMIC_RELAXED)) nanosleep(&tenth, 0);
    stop = 1;
    for (int i = 0; i < OWNERS + SNOOPERS; i++) CHECK(pthread_join(threads[i], 0) == 0);
    CHECK(wrong == 0 && rounds > 0 && snoops > 0);
    DONE();
}
