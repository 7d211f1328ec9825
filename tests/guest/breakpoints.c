/* Breakpoints on hot system calls: a program that writes them into its own text, by way of its protection or of /proc/self/mem, and
 * a tracer's. Each traps where it stands, and what it replaced works afterwards. And nobody who is interrupted in a hot call is
 * ever found outside of the program's text. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { HOT = 2000, PAGE = 4096, INT3 = 0xcc };

/* getpgrp by its number, and any call by one in a register: each on a page of its own, with room behind the return. */
extern unsigned char by_number[], by_number_call[], by_register[], by_register_call[], texts_end[];
__asm__(".text\n.p2align 12\n"
        ".globl by_number, by_number_call, by_register, by_register_call, texts_end\n"
        "nop\nby_number: mov $111, %eax\nby_number_call: syscall\nret\n.p2align 6, 0xcc\n"
        ".p2align 12\nby_register: mov %rdi, %rax\nby_register_call: syscall\nret\n"
        "nopw 0(%rax,%rax,1)\n.p2align 4\n.p2align 12\ntexts_end:\n");

static const unsigned char wanted_number[] = {0xb8, 111, 0, 0, 0, 0x0f, 0x05, 0xc3};
static const unsigned char wanted_register[] = {0x48, 0x89, 0xf8, 0x0f, 0x05, 0xc3};

struct site {
    unsigned char *start, *call;
    const unsigned char *wanted;
    size_t len;
};

static const struct site sites[] = {
    {by_number, by_number_call, wanted_number, sizeof wanted_number},
    {by_register, by_register_call, wanted_register, sizeof wanted_register},
};

static int run(const struct site *site, int times)
{
    int right = 0;
    for (int i = 0; i < times; i++)
        right += ((long (*)(long))site->start)(SYS_getpgrp) == getpgrp();
    return right == times;
}

static volatile long trap_at, traps;
static unsigned char *volatile trapped;
static unsigned char saved;

/* Puts back what the breakpoint replaced and goes on with it. */
static void on_trap(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signo;
    traps++;
    trap_at = regs[REG_RIP] - (long)trapped;
    CHECK(info->si_code == SI_KERNEL);
    *trapped = saved;
    regs[REG_RIP] = (long)trapped;
}

static unsigned char *page_of(const unsigned char *at)
{
    return (unsigned char *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
}

static void break_own_text(const struct site *site, unsigned char *at)
{
    CHECK(run(site, HOT));
    CHECK(mprotect(page_of(at), PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    CHECK(memcmp(site->start, site->wanted, site->len) == 0);
    traps = 0;
    trapped = at;
    saved = *at;
    *at = INT3;
    CHECK(run(site, 1) && traps == 1 && trap_at == 1);
    CHECK(mprotect(page_of(at), PAGE, PROT_READ | PROT_EXEC) == 0);
    CHECK(run(site, HOT) && memcmp(site->start, site->wanted, site->len) == 0);
}

/* As a child, whose text nobody has touched before. */
static void in_child(void (*body)(const struct site *, unsigned char *), const struct site *site, unsigned char *at)
{
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        body(site, at);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static int mem = -1;

static void poke(unsigned char *at, unsigned char byte)
{
    CHECK(pwrite(mem, &byte, 1, (long)at) == 1);
}

/* As above, but the handler cannot write. */
static void on_trap_poke(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signo, (void)info;
    traps++;
    trap_at = regs[REG_RIP] - (long)trapped;
    poke(trapped, saved);
    regs[REG_RIP] = (long)trapped;
}

static void poke_own_text(const struct site *site, unsigned char *at)
{
    struct sigaction action = {.sa_sigaction = on_trap_poke, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    mem = open("/proc/self/mem", O_RDWR);
    CHECK(run(site, HOT));
    traps = 0;
    trapped = at;
    CHECK(pread(mem, &saved, 1, (long)at) == 1 && saved == site->wanted[at - site->start]);
    poke(at, INT3);
    CHECK(run(site, 1) && traps == 1 && trap_at == 1);
    CHECK(run(site, HOT) && memcmp(site->start, site->wanted, site->len) == 0);
}

enum { RUNNERS = 2, RACES = 4, ROUNDS = 3 };

static struct runner {
    const struct site *site;
    volatile long calls, traps;
} runners[RUNNERS];
static __thread struct runner *self;
static volatile int over, astray;

/* The breakpoint may still be there: then it traps again. */
static void on_trap_again(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signo, (void)info;
    if (regs[REG_RIP] != (long)trapped + 1)
        astray = 1;
    self->traps++;
    regs[REG_RIP] = (long)trapped;
}

static void *keep_running(void *runner)
{
    for (self = runner; !over; self->calls++)
        if (!run(self->site, 1))
            astray = 2;
    return NULL;
}

static void until_more(volatile long *count)
{
    for (long before = *count; *count == before;)
        sched_yield();
}

/* Threads run a hot call while a breakpoint is written into it and taken out again: wherever they are on their way, each traps
 * there and nowhere else, and goes on when the breakpoint is gone. */
static void race(const struct site *site, unsigned char *at)
{
    struct sigaction action = {.sa_sigaction = on_trap_again, .sa_flags = SA_SIGINFO};
    pthread_t threads[RUNNERS];
    sigaction(SIGTRAP, &action, NULL);
    mem = open("/proc/self/mem", O_RDWR);
    trapped = at;
    CHECK(run(site, HOT));
    for (int i = 0; i < RUNNERS; i++) {
        runners[i].site = site;
        CHECK(pthread_create(&threads[i], NULL, keep_running, &runners[i]) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < RUNNERS; i++)
            until_more(&runners[i].calls);
        poke(at, INT3);
        for (int i = 0; i < RUNNERS; i++)
            until_more(&runners[i].traps);
        poke(at, site->wanted[at - site->start]);
    }
    over = 1;
    for (int i = 0; i < RUNNERS; i++)
        pthread_join(threads[i], NULL);
    CHECK(astray == 0 && memcmp(site->start, site->wanted, site->len) == 0);
}

/* Something else is put where the jump of a patched call leads to, if there is one. */
static void map_where_it_jumps(const struct site *site, unsigned char *at)
{
    (void)at;
    CHECK(run(site, HOT));
    unsigned char *jump = site->call[0] == 0xeb ? site->call + 2 + site->call[1] : site->start;
    int32_t distance = 0;
    memcpy(&distance, jump + 1, 4);
    uintptr_t target = jump[0] == 0xe9 ? (uintptr_t)jump + 5 + distance : 0x10000000;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    char *page = mmap(page_of((unsigned char *)target), PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(page == (char *)page_of((unsigned char *)target) && page[target % PAGE] == 0);
    memset(page, INT3, PAGE);
    CHECK(run(site, HOT) && memcmp(site->start, site->wanted, site->len) == 0);
}

static int in_texts(unsigned long rip)
{
    extern char __executable_start[], etext[];
    return rip >= (unsigned long)__executable_start && rip < (unsigned long)etext;
}

static volatile int alarms, strangers;

static void on_alarm(int signo, siginfo_t *info, void *context)
{
    unsigned long rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    (void)signo, (void)info;
    alarms++;
    strangers += !in_texts(rip);
}

/* Timers find a thread at its hot calls, not on the way from them. */
static void be_interrupted(const struct site *site, unsigned char *at)
{
    struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    (void)at;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    while (alarms < 200)
        ((long (*)(long))site->start)(SYS_getpgrp);
    setitimer(ITIMER_REAL, &never, NULL);
    CHECK(strangers == 0);
}

static void wait_for_stop(pid_t child, int signo)
{
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == signo);
}

/* A debugger comes while the call is hot, breaks at it, steps over it and goes. */
static void debug(const struct site *site, unsigned char *at)
{
    volatile int *go = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct user_regs_struct regs = {0};
    pid_t child = fork();
    if (child == 0) {
        int right = 1;
        for (*go = 1; *go == 1;)
            right &= run(site, 1);
        _exit(!right || !run(site, HOT));
    }
    while (*go == 0)
        usleep(1000);
    usleep(2000);
    CHECK(ptrace(PTRACE_ATTACH, child, 0, 0) == 0);
    wait_for_stop(child, SIGSTOP);
    CHECK(ptrace(PTRACE_GETREGS, child, 0, &regs) == 0 && in_texts(regs.rip));
    long word = ptrace(PTRACE_PEEKTEXT, child, at, 0);
    CHECK((word & 0xff) == site->wanted[at - site->start]);
    CHECK(ptrace(PTRACE_POKETEXT, child, at, (word & ~0xffl) | INT3) == 0);
    for (int i = 0; i < 3; i++) {
        CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
        wait_for_stop(child, SIGTRAP);
        CHECK(ptrace(PTRACE_GETREGS, child, 0, &regs) == 0 && regs.rip == (unsigned long)at + 1);
        CHECK(ptrace(PTRACE_POKETEXT, child, at, word) == 0);
        regs.rip--;
        CHECK(ptrace(PTRACE_SETREGS, child, 0, &regs) == 0);
        CHECK(ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0);
        wait_for_stop(child, SIGTRAP);
        CHECK(ptrace(PTRACE_GETREGS, child, 0, &regs) == 0 && in_texts(regs.rip) && regs.rip > (unsigned long)at);
        CHECK(ptrace(PTRACE_POKETEXT, child, at, (word & ~0xffl) | INT3) == 0);
    }
    CHECK(ptrace(PTRACE_POKETEXT, child, at, word) == 0);
    *go = 2;
    CHECK(ptrace(PTRACE_DETACH, child, 0, 0) == 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    for (const struct site *site = sites; site < sites + 2; site++) {
        CHECK(run(site, HOT));
        in_child(be_interrupted, site, site->call);
        in_child(map_where_it_jumps, site, site->call);
        for (unsigned char *at = site->start; at <= site->call; at += site->call - site->start) {
            in_child(break_own_text, site, at);
            in_child(poke_own_text, site, at);
            in_child(debug, site, at);
            for (int i = 0; i < RACES; i++)
                in_child(race, site, at);
        }
    }
    DONE();
}
