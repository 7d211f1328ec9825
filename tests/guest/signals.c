/* Signals: masks, queues, flags, alternate stacks, restarted calls, fault information, FPU state across handlers. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int count, last_value, on_stack, nested;
static volatile siginfo_t last;
static char alternate[65536];
static sigjmp_buf escape;

static void counting(int n) { count += n > 0; }

static void action(int n, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = handler;
    a.sa_flags = flags | SA_SIGINFO;
    sigemptyset(&a.sa_mask);
    CHECK(sigaction(n, &a, 0) == 0);
}

static void recording(int n, siginfo_t *info, void *context) {
    (void)context;
    last = *info;
    last_value = last_value * 10 + info->si_value.sival_int;
    char here;
    on_stack = &here >= alternate && &here < alternate + sizeof alternate;
    count += n > 0;
}

static void block(int how, int n, sigset_t *old) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, n);
    CHECK(sigprocmask(how, &set, old) == 0);
}

static void masks_and_queues(void) {
    count = 0;
    signal(SIGUSR1, counting);
    block(SIG_BLOCK, SIGUSR1, 0);
    for (int i = 0; i < 3; i++) kill(getpid(), SIGUSR1);
    CHECK(count == 0);
    sigset_t pending;
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
    block(SIG_UNBLOCK, SIGUSR1, 0);
    CHECK(count == 1); /* standard signals do not queue */
    action(SIGRTMIN + 1, recording, 0);
    action(SIGRTMIN + 2, recording, 0);
    block(SIG_BLOCK, SIGRTMIN + 1, 0);
    block(SIG_BLOCK, SIGRTMIN + 2, 0);
    count = last_value = 0;
    int numbers[] = {SIGRTMIN + 2, SIGRTMIN + 1, SIGRTMIN + 1};
    for (int i = 0; i < 3; i++) {
        union sigval v = {.sival_int = i + 1};
        CHECK(sigqueue(getpid(), numbers[i], v) == 0);
    }
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGRTMIN + 1);
    sigaddset(&both, SIGRTMIN + 2);
    CHECK(sigprocmask(SIG_UNBLOCK, &both, 0) == 0);
    CHECK(count == 3);
    printf("real-time order %d\n", last_value); /* handlers nest: the last delivered runs first */
    CHECK(last.si_code == SI_QUEUE && last.si_pid == getpid());
    CHECK_ERRNO(kill(getpid(), 65), EINVAL);
    CHECK_ERRNO(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, 0), EINVAL);
}

static void waiting(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0);
    siginfo_t info;
    struct timespec soon = {0, 5000000};
    CHECK_ERRNO(sigtimedwait(&set, &info, &soon), EAGAIN);
    kill(getpid(), SIGUSR2);
    CHECK(sigtimedwait(&set, &info, &soon) == SIGUSR2 && info.si_code == SI_USER && info.si_pid == getpid());
    signal(SIGUSR2, counting);
    count = 0;
    kill(getpid(), SIGUSR2);
    sigset_t none;
    sigemptyset(&none);
    CHECK_ERRNO(sigsuspend(&none), EINTR);
    CHECK(count == 1);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, 0) == 0);
}

static void nesting(int n, siginfo_t *info, void *context) {
    (void)info, (void)context;
    if (nested++ == 0) {
        raise(n);
        last_value = nested;
    }
}

static void flags(void) {
    nested = 0;
    action(SIGUSR1, nesting, 0);
    raise(SIGUSR1);
    CHECK(last_value == 1 && nested == 2); /* blocked while it runs, then delivered */
    nested = 0;
    action(SIGUSR1, nesting, SA_NODEFER);
    raise(SIGUSR1);
    CHECK(last_value == 2);
    action(SIGUSR1, recording, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now;
    CHECK(sigaction(SIGUSR1, 0, &now) == 0 && now.sa_handler == SIG_DFL);
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
    CHECK(sigaltstack(&stack, 0) == 0);
    action(SIGUSR1, recording, SA_ONSTACK);
    on_stack = 0;
    raise(SIGUSR1);
    CHECK(on_stack == 1);
    CHECK(sigaltstack(0, &old) == 0 && old.ss_flags == 0 && old.ss_sp == alternate);
    stack.ss_size = 100;
    CHECK_ERRNO(sigaltstack(&stack, 0), ENOMEM);
}

static volatile int *heard, *waits;
static void hearing(int n, siginfo_t *info, void *context) {
    (void)info, (void)context;
    *heard += n > 0;
}

/* A child that interrupts the call for which its parent said that it waits, and once the parent waits again, writes. */
static pid_t interrupter(int fd) {
    *heard = *waits = 0;
    pid_t child = fork(), parent = getppid();
    if (child) return child;
    while (!*waits) usleep(1000);
    until_asleep(parent, parent);
    kill(parent, SIGALRM);
    while (!*heard) usleep(1000);
    until_asleep(parent, parent);
    _exit(write(fd, "x", 1) != 1);
}

static double seconds(struct timespec t) { return t.tv_sec + t.tv_nsec / 1e9; }

static void restarts(void) {
    int ends[2], status;
    char c;
    heard = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), waits = heard + 1;
    CHECK(pipe(ends) == 0);
    for (int restart = 0; restart < 2; restart++) {
        action(SIGALRM, hearing, restart ? SA_RESTART : 0);
        fflush(stdout);
        pid_t child = interrupter(ends[1]);
        errno = 0, *waits = 1;
        long got = read(ends[0], &c, 1);
        printf("read with%s SA_RESTART: %ld %s\n", restart ? "" : "out", got, got < 0 ? strerror(errno) : "-");
        CHECK(waitpid(child, &status, 0) == child && status == 0 && *heard == 1);
        if (got < 0) CHECK(read(ends[0], &c, 1) == 1);
    }
    action(SIGALRM, hearing, SA_RESTART);
    struct timespec wish = {1000, 0}, rest = {0, 0}, from, to;
    pid_t child = interrupter(ends[1]);
    clock_gettime(CLOCK_MONOTONIC, &from);
    *waits = 1;
    CHECK_ERRNO(nanosleep(&wish, &rest), EINTR);
    clock_gettime(CLOCK_MONOTONIC, &to);
    /* The slack of the timer is counted as rest. */
    CHECK(seconds(rest) < 1000.001 && seconds(rest) + seconds(to) - seconds(from) > 999.99);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(ends[0]);
    close(ends[1]);
    munmap((void *)heard, 4096);
}

static void escaping(int n, siginfo_t *info, void *context) {
    (void)context;
    last = *info;
    siglongjmp(escape, n);
}

static void faults(void) {
    int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++) action(numbers[i], escaping, SA_NODEFER);
    char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int n;
    if (!(n = sigsetjmp(escape, 1))) *(volatile char *)page = 1;
    CHECK(n == SIGSEGV && last.si_code == SEGV_ACCERR && last.si_addr == page);
    munmap(page, 4096);
    if (!(n = sigsetjmp(escape, 1))) (void)*(volatile char *)page;
    CHECK(n == SIGSEGV && last.si_code == SEGV_MAPERR && last.si_addr == page);
    if (!(n = sigsetjmp(escape, 1))) __asm__ volatile("ud2");
    CHECK(n == SIGILL && last.si_code == ILL_ILLOPN);
    volatile int zero = 0, one = 1;
    if (!(n = sigsetjmp(escape, 1))) one = one / zero;
    CHECK(n == SIGFPE && last.si_code == FPE_INTDIV);
    if (!(n = sigsetjmp(escape, 1))) __asm__ volatile("int3");
    CHECK(n == SIGTRAP);
    if (!(n = sigsetjmp(escape, 1))) *(volatile char *)0x4000000000000000ul = 1;
    CHECK(n == SIGSEGV && last.si_code == SI_KERNEL);
    if (!(n = sigsetjmp(escape, 1))) __asm__ volatile("hlt");
    CHECK(n == SIGSEGV && last.si_code == SI_KERNEL);
}

static void clobbering(int n) {
    long x = n;
    __asm__ volatile("movq %0, %%xmm0; movq %0, %%xmm7; movq %0, %%xmm15; fninit" ::"r"(x) : "xmm0", "xmm7", "xmm15");
    count++;
}

static void floating_point_survives(void) {
    signal(SIGUSR1, clobbering);
    long a = 0x1122334455667788, b = 0, c = 0;
    unsigned short control = 0x27f, after = 0;
    long pid = getpid(), number = SIGUSR1;
    __asm__ volatile("fldcw %3; movq %2, %%xmm7; movq %2, %%xmm15; mov $62, %%eax; syscall; movq %%xmm7, %0; movq %%xmm15, %1; fnstcw %4; fninit"
                     : "=&r"(b), "=&r"(c)
                     : "r"(a), "m"(control), "m"(after), "D"(pid), "S"(number)
                     : "rax", "rcx", "r11", "xmm7", "xmm15", "memory");
    CHECK(b == a && c == a && after == control);
}

static void context_can_be_changed(int n, siginfo_t *info, void *context) {
    (void)n, (void)info;
    ucontext_t *u = context;
    u->uc_mcontext.gregs[REG_RIP] += 2; /* over the ud2 */
    u->uc_mcontext.gregs[REG_RBX] = 4242;
}

static void contexts(void) {
    action(SIGILL, context_can_be_changed, 0);
    long value = 1;
    __asm__ volatile("ud2" : "+b"(value)::"memory");
    CHECK(value == 4242);
}

static void *thread_target(void *unused) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    int n = 0;
    CHECK(sigwait(&set, &n) == 0 && n == SIGUSR2);
    return unused;
}

static void to_threads(void) {
    block(SIG_BLOCK, SIGUSR2, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, 0, thread_target, 0) == 0);
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    CHECK(pthread_join(thread, 0) == 0);
    block(SIG_UNBLOCK, SIGUSR2, 0);
}

static void children(void) {
    action(SIGCHLD, recording, SA_RESTART);
    count = 0;
    pid_t child = fork();
    if (child == 0) _exit(12);
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(count == 1 && last.si_pid == child && last.si_status == 12 && last.si_code == CLD_EXITED);
    signal(SIGCHLD, SIG_IGN);
    child = fork();
    if (child == 0) _exit(0);
    CHECK_ERRNO(waitpid(child, &status, 0), ECHILD);
    signal(SIGCHLD, SIG_DFL);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    masks_and_queues();
    waiting();
    flags();
    restarts();
    faults();
    floating_point_survives();
    contexts();
    to_threads();
    children();
    DONE();
}
