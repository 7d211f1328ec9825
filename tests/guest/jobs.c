/* Job control and signal details: stops, continues, orphaned groups, alternate stacks, flags, queues. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <asm/termbits.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static volatile sig_atomic_t caught, child_code, child_status;
static void count(int signo) { caught += signo ? 1 : 0; }
static void on_child(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    child_code = info->si_code, child_status = info->si_status;
    caught++;
}

/* A wait for a stop or a continuation may return before its signal is sent. */
static int told_of(int code) {
    for (int i = 0; i < 5000 && child_code != code; i++) usleep(1000);
    return child_code == code;
}

static void stops(void) {
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &action, 0);
    pid_t child = fork();
    if (child == 0) {
        for (;;) pause();
    }
    int status;
    kill(child, SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED | WNOHANG) == 0);
    CHECK(told_of(CLD_STOPPED) && child_status == SIGSTOP);
    kill(child, SIGCONT);
    CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    CHECK(told_of(CLD_CONTINUED) && child_status == SIGCONT);
    siginfo_t info;
    kill(child, SIGSTOP);
    CHECK(waitid(P_PID, child, &info, WSTOPPED | WNOWAIT) == 0 && info.si_code == CLD_STOPPED && told_of(CLD_STOPPED));
    CHECK(waitid(P_PID, child, &info, WSTOPPED) == 0 && info.si_status == SIGSTOP);
    kill(child, SIGTERM);
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(child_code == CLD_KILLED && child_status == SIGKILL);
    action.sa_flags |= SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, 0);
    caught = 0;
    child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        _exit(3);
    }
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && caught == 0);
    kill(child, SIGCONT);
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3 && caught == 1);
    signal(SIGCHLD, SIG_DFL);
}

static void continues_cancel_stops(void) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGCONT, count);
        caught = 0;
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTSTP);
        sigprocmask(SIG_BLOCK, &set, 0);
        raise(SIGTSTP);
        sigset_t pending;
        sigpending(&pending);
        int before = sigismember(&pending, SIGTSTP);
        raise(SIGCONT);
        sigpending(&pending);
        _exit(before && !sigismember(&pending, SIGTSTP) && caught == 1 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void orphans_do_not_stop(void) {
    pid_t child = fork();
    if (child == 0) {
        setsid();
        raise(SIGTSTP);
        raise(SIGTTIN);
        _exit(5);
    }
    int status;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

static void *spin(void *counter) {
    for (;;) {
        ++*(volatile long *)counter;
        if (*(volatile long *)counter < 0) return 0;
    }
}

static void all_threads_stop(void) {
    volatile long *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, 0, spin, (void *)shared);
        CHECK(write(ends[1], "r", 1) == 1);
        for (;;) pause();
    }
    char ready;
    CHECK(read(ends[0], &ready, 1) == 1);
    kill(child, SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    long before = *shared;
    usleep(50000);
    CHECK(*shared == before);
    kill(child, SIGCONT);
    for (int i = 0; i < 5000 && *shared == before; i++) usleep(1000);
    CHECK(*shared != before);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGKILL);
    munmap((void *)shared, 4096);
    close(ends[0]), close(ends[1]);
}

static char alternate[65536] __attribute__((aligned(16)));
static volatile int on_it, depth, flags_inside;
static void look(int signo) {
    (void)signo;
    char here;
    on_it = &here >= alternate && &here < alternate + sizeof alternate;
    stack_t now;
    sigaltstack(0, &now);
    flags_inside = now.ss_flags;
    if (now.ss_flags == SS_ONSTACK) CHECK_ERRNO(sigaltstack(&now, 0), EPERM);
    if (++depth < 3) raise(SIGUSR2);
}

static void alternate_stacks(void) {
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, now;
    CHECK(sigaltstack(&stack, 0) == 0 && sigaltstack(0, &now) == 0 && now.ss_sp == alternate && now.ss_flags == 0);
    struct sigaction action = {.sa_handler = look, .sa_flags = SA_ONSTACK | SA_NODEFER};
    sigaction(SIGUSR2, &action, 0);
    depth = 0;
    raise(SIGUSR2);
    CHECK(depth == 3 && on_it && flags_inside == SS_ONSTACK);
    stack.ss_flags = (int)SS_AUTODISARM;
    CHECK(sigaltstack(&stack, 0) == 0);
    depth = 2;
    raise(SIGUSR2);
    CHECK(on_it && flags_inside == SS_DISABLE);
    CHECK(sigaltstack(0, &now) == 0 && now.ss_sp == alternate && (now.ss_flags & (int)SS_AUTODISARM));
    stack = (stack_t){.ss_sp = alternate, .ss_size = 100};
    CHECK_ERRNO(sigaltstack(&stack, 0), ENOMEM);
    stack = (stack_t){.ss_sp = alternate, .ss_size = sizeof alternate, .ss_flags = 64};
    CHECK_ERRNO(sigaltstack(&stack, 0), EINVAL);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, 0) == 0 && sigaltstack(0, &now) == 0 && now.ss_flags == SS_DISABLE);
    depth = 2;
    raise(SIGUSR2);
    CHECK(!on_it);
    int status;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGUSR1, count);
        /* A handler without a stack to run on. */
        __asm__ volatile("mov %0, %%rdi\n mov %1, %%rsi\n mov $62, %%eax\n xor %%esp, %%esp\n syscall\n hlt" ::"r"((long)getpid()),
                         "r"((long)SIGUSR1)
                         : "rdi", "rsi", "rax", "memory");
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void registers_in_the_frame(int signo, siginfo_t *info, void *argument) {
    (void)signo, (void)info;
    ucontext_t *context = argument;
    context->uc_mcontext.gregs[REG_RBX] = 0x1234;
    sigaddset(&context->uc_sigmask, SIGUSR1);
}

static void frames_can_be_changed(void) {
    struct sigaction action = {.sa_sigaction = registers_in_the_frame, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR2, &action, 0);
    long rbx, pid = getpid();
    __asm__ volatile("mov $62, %%eax\n syscall\n mov %%rbx, %0" : "=r"(rbx) : "D"(pid), "S"((long)SIGUSR2) : "rax", "rbx", "rcx", "r11", "memory");
    CHECK(rbx == 0x1234);
    sigset_t now;
    sigprocmask(SIG_SETMASK, 0, &now);
    CHECK(sigismember(&now, SIGUSR1));
    sigemptyset(&now);
    sigprocmask(SIG_SETMASK, &now, 0);
}

static void queues(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 2);
    sigaddset(&set, SIGRTMIN + 3);
    sigprocmask(SIG_BLOCK, &set, 0);
    for (int i = 0; i < 3; i++) {
        CHECK(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = i}) == 0);
        CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 10 + i}) == 0);
    }
    siginfo_t info;
    for (int i = 0; i < 3; i++) CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 2 && info.si_value.sival_int == 10 + i);
    for (int i = 0; i < 3; i++) CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 3 && info.si_value.sival_int == i);
    struct timespec soon = {0, 5000000};
    CHECK_ERRNO(sigtimedwait(&set, &info, &soon), EAGAIN);
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), 0, &info) == 0);
    info.si_code = SI_USER;
    pid_t child = fork();
    if (child == 0) {
        for (;;) pause();
    }
    CHECK_ERRNO(syscall(SYS_rt_sigqueueinfo, child, SIGUSR1, &info), EPERM);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    CHECK_ERRNO(kill(child, 0), ESRCH);
    CHECK_ERRNO(kill(getpid(), 65), EINVAL);
    CHECK_ERRNO(syscall(SYS_tgkill, getpid(), -1, 0), EINVAL);
    sigprocmask(SIG_UNBLOCK, &set, 0);
}

static void *take_signal(void *set) {
    siginfo_t info;
    return (void *)(long)sigwaitinfo(set, &info);
}

static void threads_share_what_is_pending(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, 0);
    pthread_t thread;
    void *result;
    pthread_create(&thread, 0, take_signal, &set);
    usleep(20000);
    kill(getpid(), SIGUSR1);
    CHECK(pthread_join(thread, &result) == 0 && result == (void *)(long)SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &set, 0);
}

static void children_without_zombies(void) {
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, 0);
    pid_t child = fork();
    if (child == 0) _exit(0);
    CHECK_ERRNO(waitpid(child, 0, 0), ECHILD);
    signal(SIGCHLD, SIG_DFL);
}

/* The settings of a terminal in System V's form. */
static void old_terminal_settings(void) {
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    struct termio old;
    struct termios new, before;
    CHECK(fd >= 0 && ioctl(fd, TCGETS, &before) == 0 && ioctl(fd, TCGETA, &old) == 0);
    CHECK(old.c_iflag == (before.c_iflag & 0xffff) && old.c_lflag == (before.c_lflag & 0xffff) && old.c_cc[0] == 3);
    old.c_cc[1] = 'q', old.c_lflag &= ~ECHO;
    CHECK(ioctl(fd, TCSETAW, &old) == 0 && ioctl(fd, TCGETS, &new) == 0);
    CHECK(new.c_cc[1] == 'q' && new.c_lflag == (before.c_lflag & ~(unsigned)ECHO) && new.c_cc[9] == before.c_cc[9]);
    old.c_cc[1] = 'r';
    CHECK(ioctl(fd, TCSETA, &old) == 0 && ioctl(fd, TCSETAF, &old) == 0);
    CHECK_ERRNO(ioctl(fd, TCGETA, (void *)8), EFAULT);
    CHECK_ERRNO(ioctl(fd, TCSETA, (void *)8), EFAULT);
    close(fd);
}

int main(void) {
    old_terminal_settings();
    setvbuf(stdout, 0, _IOLBF, 0);
    stops();
    continues_cancel_stops();
    orphans_do_not_stop();
    all_threads_stop();
    alternate_stacks();
    frames_can_be_changed();
    queues();
    threads_share_what_is_pending();
    children_without_zombies();
    DONE();
}
