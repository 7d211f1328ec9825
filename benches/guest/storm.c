/* Keeps processors busy in one way for a while. Usage: storm KIND PROCESSES SECONDS; prints "KIND ROUNDS-PER-SECOND".
 * compute: nothing but arithmetic. calls: system calls. switches: processes in pairs that hand a byte to and fro.
 * futex: the same by a futex. yields: processes that give way all the time. faults: pages that are touched and given back.
 * lock: calls that all need one lock of the kernel's. opens: files of one directory. mix: one of each in turn. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long *rounds;
static double end;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void compute(long *done) {
    volatile double x = 1;
    while (seconds() < end) {
        for (int i = 0; i < 100000; i++) x = x * 1.0000001 + 1e-9;
        ++*done;
    }
}

static void calls(long *done) {
    while (seconds() < end)
        for (int i = 0; i < 1000; i++, ++*done) syscall(SYS_getppid);
}

static void yields(long *done) {
    while (seconds() < end)
        for (int i = 0; i < 100; i++, ++*done) sched_yield();
}

static void faults(long *done) {
    enum { LENGTH = 64 << 12 };
    char *area = mmap(0, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) exit(1);
    while (seconds() < end) {
        for (int i = 0; i < LENGTH; i += 4096, ++*done) area[i] = 1;
        madvise(area, LENGTH, MADV_DONTNEED);
    }
}

static void switches(long *done) {
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back)) exit(1);
    if (fork() == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    while (seconds() < end)
        for (int i = 0; i < 100; i++, ++*done)
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) exit(1);
}

/* The table of all processes. */
static void lock(long *done) {
    while (seconds() < end)
        for (int i = 0; i < 1000; i++, ++*done) getpgid(getppid());
}

static void opens(long *done) {
    char name[64];
    snprintf(name, sizeof name, "/tmp/storm.%d", getpid());
    while (seconds() < end)
        for (int i = 0; i < 100; i++, ++*done) {
            int fd = open(name, O_RDWR | O_CREAT, 0600);
            if (fd < 0) exit(1);
            close(fd);
        }
    unlink(name);
}

static void await(int *word, int value) {
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) syscall(SYS_futex, word, FUTEX_WAIT, !value, 0, 0, 0);
}

static void turn(int *word, int value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
}

static void futex(long *done) {
    int *word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (word == MAP_FAILED) exit(1);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            await(word, 1);
            turn(word, 0);
        }
    }
    while (seconds() < end)
        for (int i = 0; i < 100; i++, ++*done) {
            turn(word, 1);
            await(word, 0);
        }
}

static const struct {
    const char *name;
    void (*run)(long *);
} kinds[] = {{"compute", compute}, {"calls", calls},   {"switches", switches}, {"yields", yields},
             {"faults", faults},   {"futex", futex},   {"lock", lock},         {"opens", opens}};
enum { KINDS = sizeof kinds / sizeof *kinds };

int main(int argc, char **argv) {
    int processes = argc == 4 ? atoi(argv[2]) : 0, kind = -1, mixed = argc == 4 && strcmp(argv[1], "mix") == 0;
    for (int i = 0; i < KINDS; i++)
        if (argc == 4 && strcmp(argv[1], kinds[i].name) == 0) kind = i;
    if (processes < 1 || processes > 512 || (kind < 0 && !mixed)) return 2;
    rounds = mmap(0, (size_t)processes * 64 * sizeof *rounds, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (rounds == MAP_FAILED) return 1;
    double start = seconds();
    end = start + atof(argv[3]);
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            kinds[mixed ? i % KINDS : kind].run((long *)&rounds[i * 64]);
            _exit(0);
        }
    long sum = 0;
    while (wait(0) > 0) {
    }
    for (int i = 0; i < processes; i++) sum += rounds[i * 64];
    printf("%s %.1f\n", argv[1], sum / (seconds() - start));
    return 0;
}
