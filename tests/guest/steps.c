/* A program that steps through itself: it sets the trap flag before a system call and notes where each SIGTRAP finds it, at call
 * sites that are used for the first time, and at those that have been hot. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { TRAP_FLAG = 0x100, MOST = 32, HOT = 3000 };

static volatile int traps;
static long places[MOST];
static int codes[MOST];

/* getppid, by its number and by one in a register, with `flags` added: a hot call follows the trap flag after one instruction, or at
 * once. Each has room behind its return. */
struct call {
    const char *name;
    long (*make)(long number, long flags);
    const char *start, *end;
};

extern const char by_number[], by_number_end[], at_once[], at_once_end[], by_register[], by_register_end[];
#define SET_FLAGS "pushfq\norq %rsi, (%rsp)\npopfq\n"
#define PADDING "nopw 0(%rax,%rax,1)\n.p2align 4\n"
__asm__(".text\n.p2align 6\n.globl by_number, by_number_end, at_once, at_once_end, by_register, by_register_end\n"
        "by_number:\n" SET_FLAGS "nop\nmov $110, %eax\nsyscall\nnop\nby_number_end: ret\n" PADDING
        ".p2align 6\nat_once:\n" SET_FLAGS "mov $110, %eax\nsyscall\nnop\nat_once_end: ret\n" PADDING
        ".p2align 6\nby_register: mov %rdi, %rax\n" SET_FLAGS "syscall\nnop\nby_register_end: ret\n" PADDING ".p2align 6\n");
#define CALL(name) {#name, (long (*)(long, long))name, name, name##_end}
static const struct call calls[] = {CALL(by_number), CALL(at_once), CALL(by_register)};
static const struct call *now;

static void on_trap(int signo, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signo;
    if (info->si_addr != (void *)regs[REG_RIP])
        printf("the address differs\n");
    if (traps < MOST) {
        places[traps] = regs[REG_RIP] - (long)now->start;
        codes[traps] = info->si_code;
    }
    traps++;
    if (regs[REG_RIP] == (long)now->end || traps >= MOST)
        regs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void show(const char *what)
{
    traps = 0;
    int right = now->make(SYS_getppid, TRAP_FLAG) == getppid();
    printf("%s, %s: %s,", now->name, what, right ? "right" : "wrong");
    for (int i = 0; i < traps && i < MOST; i++)
        printf(" %ld (%d)", places[i], codes[i]);
    printf("\n");
}

static void heat(void)
{
    int right = 0;
    for (int i = 0; i < HOT; i++)
        right += now->make(SYS_getppid, 0) == getppid();
    printf("%d of %d\n", right, HOT);
}

/* Each in a process whose calls are as the first steps find them. */
static void step(const struct call *call)
{
    now = call;
    heat();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        show("hot");
        show("again");
        heat();
        show("hot again");
        exit(0);
    }
    int status = -1;
    if (waitpid(child, &status, 0) != child || status != 0)
        printf("ended with %#x\n", status);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    sigaction(SIGTRAP, &action, NULL);
    for (const struct call *call = calls; call < calls + sizeof calls / sizeof *calls; call++)
        step(call);
    return 0;
}
