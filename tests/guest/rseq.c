/* Restartable sequences, by the registration that the C library made. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static struct rseq *mine(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

/* Loops in a critical section until it is aborted; returns the number of rounds. */
static uint64_t stay(void) {
    uint64_t rounds = 0;
    __asm__ volatile(
        ".pushsection .data.cs, \"aw\"\n"
        ".balign 32\n"
        "77: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n"
        ".popsection\n"
        "leaq 77b(%%rip), %%rax\n"
        "movq %%rax, 8(%1)\n"
        "1: incq %0\n"
        "jmp 1b\n"
        "2:\n"
        ".pushsection .text.abort, \"ax\"\n"
        ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
        "4: jmp 3f\n"
        ".popsection\n"
        "3:\n"
        : "+r"(rounds)
        : "r"(mine())
        : "rax", "memory");
    return rounds;
}

static volatile int alarms;
static void on_alarm(int n) { alarms += n > 0; }

static void by_signal(void) {
    signal(SIGALRM, on_alarm);
    struct itimerval in = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &in, 0);
    for (int i = 0; alarms == 0; i++) stay();
    CHECK(alarms == 1 && mine()->rseq_cs == 0);
}

static void *spin(void *p) {
    for (int i = 0; i < 5; i++) stay();
    return p;
}

static void by_preemption(void) {
    cpu_set_t one, all;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(mine()->cpu_id == 0 && mine()->cpu_id_start == 0);
    pthread_t a, b;
    pthread_create(&a, 0, spin, 0);
    pthread_create(&b, 0, spin, 0);
    pthread_join(a, 0);
    pthread_join(b, 0);
    sched_setaffinity(0, sizeof all, &all);
}

static volatile long epoch, published;
static volatile int over;

/* Tells, again and again, the epoch in which its critical section began. */
static void *tells(void *p) {
    while (!over) {
        uint64_t one = 1;
        __asm__ volatile(
            ".pushsection .data.cs, \"aw\"\n"
            ".balign 32\n"
            "78: .long 0, 0\n .quad 1f, 2f - 1f, 4f\n"
            ".popsection\n"
            "leaq 78b(%%rip), %%rax\n"
            "movq %%rax, 8(%1)\n"
            "1: movq %2, %%rax\n"
            "5: movq %%rax, %3\n"
            "jmp 5b\n"
            "2:\n"
            ".pushsection .text.abort, \"ax\"\n"
            ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
            "4: jmp 3f\n"
            ".popsection\n"
            "3:\n"
            : "+r"(one)
            : "r"(mine()), "m"(epoch), "m"(published)
            : "rax", "memory");
    }
    return p;
}

/* MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ: no section that began before goes on after it. */
static void by_membarrier(void) {
    CHECK(syscall(SYS_membarrier, 256, 0, 0) == 0);
    pthread_t thread;
    published = -1;
    pthread_create(&thread, 0, tells, 0);
    for (int i = 1; i <= 200; i++) {
        while (published != epoch) sched_yield();
        epoch = i;
        CHECK(syscall(SYS_membarrier, 128, 0, 0) == 0);
        published = -1;
        while (published == -1) sched_yield();
        CHECK(published == i);
    }
    /* It may begin another section before it looks. */
    over = 1;
    while (pthread_tryjoin_np(thread, 0)) syscall(SYS_membarrier, 128, 0, 0);
}

static void registration(void) {
    CHECK(__rseq_size >= 20);
    CHECK((int)mine()->cpu_id == sched_getcpu() || (int)mine()->cpu_id >= 0);
    static struct rseq other __attribute__((aligned(32)));
    CHECK_ERRNO(syscall(SYS_rseq, &other, 32, 0, 0x53053053), EINVAL); /* another one is registered */
    CHECK_ERRNO(syscall(SYS_rseq, mine(), 32, 0, 1), EPERM);
    CHECK_ERRNO(syscall(SYS_rseq, mine(), 32, 0, 0x53053053), EBUSY);
    CHECK_ERRNO(syscall(SYS_rseq, mine(), 32, 2, 0x53053053), EINVAL);
    CHECK_ERRNO(syscall(SYS_rseq, mine(), 32, 1, 1), EPERM);
    CHECK(syscall(SYS_rseq, mine(), 32, 1, 0x53053053) == 0);
    CHECK((int)mine()->cpu_id == -1);
    CHECK_ERRNO(syscall(SYS_rseq, mine(), 32, 1, 0x53053053), EINVAL);
    CHECK_ERRNO(syscall(SYS_rseq, (char *)&other + 1, 32, 0, 0x53053053), EINVAL);
    CHECK_ERRNO(syscall(SYS_rseq, &other, 16, 0, 0x53053053), EINVAL);
    CHECK(syscall(SYS_rseq, mine(), 32, 0, 0x53053053) == 0);
    CHECK((int)mine()->cpu_id >= 0);
}

/* A section without the right signature before its abort address is a fault. */
static void bad_signature(void) {
    pid_t pid = fork();
    if (pid == 0) {
        static struct {
            uint32_t version, flags;
            uint64_t start, len, abort;
        } cs __attribute__((aligned(32)));
        cs.start = (uint64_t)(uintptr_t)bad_signature;
        cs.len = 16;
        cs.abort = (uint64_t)(uintptr_t)on_alarm;
        mine()->rseq_cs = (uintptr_t)&cs;
        for (;;) sched_yield(), raise(SIGALRM);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    registration();
    by_signal();
    by_preemption();
    by_membarrier();
    bad_signature();
    DONE();
}
