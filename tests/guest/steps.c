/* A program that steps through itself: it sets the trap flag before a system call and notes where each SIGTRAP finds it, at call
 * sites that are used for the first time, and at those that have been hot. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { TRAP_FLAG = 0x100, MOST = 32, HOT = 3000 };

static volatile int traps;
static long places[MOST];
static int codes[MOST];
extern char step_start[], step_end[];

static void on_trap(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signo;
    if (traps < MOST) {
        places[traps] = regs[REG_RIP] - (long)step_start;
        codes[traps] = info->si_code;
    }
    traps++;
    if (regs[REG_RIP] == (long)step_end || traps >= MOST)
        regs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static __attribute__((noinline)) long parent(long flags)
{
    long result;
    __asm__ volatile("pushfq\n"
                     "orq %1, (%%rsp)\n"
                     "popfq\n"
                     ".globl step_start\nstep_start: nop\n"
                     "mov $110, %%eax\n" /* SYS_getppid */
                     "syscall\n"
                     "nop\n"
                     ".globl step_end\nstep_end: nop\n"
                     : "=&a"(result)
                     : "r"(flags)
                     : "rcx", "r11", "memory", "cc");
    return result;
}

static void show(const char *what)
{
    traps = 0;
    int right = parent(TRAP_FLAG) == getppid();
    printf("%s: %s,", what, right ? "right" : "wrong");
    for (int i = 0; i < traps && i < MOST; i++)
        printf(" %ld (%d)", places[i], codes[i]);
    printf("\n");
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    int right = 0;
    sigaction(SIGTRAP, &action, NULL);
    for (int i = 0; i < HOT; i++)
        right += parent(0) == getppid();
    printf("%d of %d\n", right, HOT);
    show("hot");
    show("again");
    for (int i = 0; i < HOT; i++)
        right += parent(0) == getppid();
    printf("%d of %d\n", right, 2 * HOT);
    show("hot again");
    return 0;
}
