/* Calls that a program handles itself: PR_SET_SYSCALL_USER_DISPATCH. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <ucontext.h>

enum { OFF, EXCLUSIVE, INCLUSIVE, ALLOW = 0, BLOCK };
enum { PTRACE_SET_DISPATCH = 0x4210, PTRACE_GET_DISPATCH };

static volatile char selector;
static volatile siginfo_t last;
static volatile int signals;

/* A call made here, and nowhere else; `after_call` is behind its instruction. */
long call(long nr, long arg);
extern char call_end[], after_call[];
__asm__(".text\n.globl call\ncall:\n mov %rdi, %rax\n mov %rsi, %rdi\n syscall\n.globl after_call\nafter_call:\n ret\n"
        ".globl call_end\ncall_end:\n");

static void on_sigsys(int signo, siginfo_t *info, void *context) {
    (void)signo;
    selector = ALLOW;
    signals++;
    last = *info;
    ucontext_t *at = context;
    /* The call's number is where it was, and nothing was done. */
    CHECK(at->uc_mcontext.gregs[REG_RAX] == info->si_syscall);
    at->uc_mcontext.gregs[REG_RAX] = 4711;
}

static int set(unsigned long mode, uintptr_t start, unsigned long len, volatile char *byte) {
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, mode, start, len, byte);
}

/* What the call says while calls are blocked. */
static long blocked(long nr) {
    selector = BLOCK;
    long result = call(nr, 0);
    selector = ALLOW;
    return result;
}

static void taken(void) {
    long parent = getppid();
    /* Often enough to have become a fast way by then. */
    for (int i = 0; i < 5000; i++)
        CHECK(call(SYS_getppid, 0) == parent && call(SYS_getpid, 0) == getpid());
    CHECK(set(EXCLUSIVE, 0, 0, &selector) == 0);
    for (int i = 1; i <= 100; i++) {
        CHECK(blocked(i % 2 ? SYS_getppid : SYS_getpid) == 4711 && signals == i);
        CHECK(last.si_signo == SIGSYS && last.si_code == 2 && last.si_errno == 0 && last.si_call_addr == after_call);
        CHECK(last.si_syscall == (i % 2 ? SYS_getppid : SYS_getpid) && last.si_arch == 0xc000003e);
    }
    CHECK(blocked(999999) == 4711 && last.si_syscall == 999999);
    CHECK(call(SYS_getppid, 0) == parent);
    /* Inside the range calls are made, whatever the byte says; or only there they are not. */
    uintptr_t start = (uintptr_t)call;
    int before = signals;
    CHECK(set(EXCLUSIVE, start, (uintptr_t)call_end - start, &selector) == 0);
    CHECK(blocked(SYS_getppid) == parent && signals == before);
    /* Since Linux 6.17. */
    if (set(INCLUSIVE, start, (uintptr_t)call_end - start, &selector) == 0) {
        CHECK(blocked(SYS_getppid) == 4711 && signals == before + 1);
        selector = BLOCK;
        CHECK(getppid() == parent && signals == before + 1);
        selector = ALLOW;
    } else CHECK(errno == EINVAL);
    CHECK(set(OFF, 0, 0, NULL) == 0);
    CHECK(blocked(SYS_getppid) == parent && blocked(SYS_getpid) == getpid());
}

static void not_inherited(char *self) {
    CHECK(set(EXCLUSIVE, 0, 0, &selector) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int before = signals;
        CHECK(blocked(SYS_getpid) == getpid() && signals == before);
        /* The range allows the call that puts the new program in place; the new one makes all. */
        uintptr_t start = (uintptr_t)execve & ~0xffful;
        CHECK(set(EXCLUSIVE, start, 0x2000, &selector) == 0);
        selector = BLOCK;
        execl(self, self, "--child", NULL);
        _exit(1);
    }
    CHECK(set(OFF, 0, 0, NULL) == 0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void deadly(void) {
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) {
            char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            set(EXCLUSIVE, 0, 0, page);
            if (i == 0) *page = 2;
            if (i == 1) munmap(page, 4096);
            if (i == 2) {
                /* Ignored or not. */
                signal(SIGSYS, SIG_IGN);
                *page = BLOCK;
            }
            call(SYS_getppid, 0);
            *page = ALLOW;
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == (i == 1 ? SIGSEGV : SIGSYS));
    }
}

static void refused(void) {
    CHECK_ERRNO(set(OFF, 1, 0, NULL), EINVAL);
    CHECK_ERRNO(set(OFF, 0, 1, NULL), EINVAL);
    CHECK_ERRNO(set(OFF, 0, 0, &selector), EINVAL);
    CHECK_ERRNO(set(EXCLUSIVE, 1, 0, &selector), EINVAL);
    CHECK_ERRNO(set(EXCLUSIVE, 1, -1ul, &selector), EINVAL);
    CHECK_ERRNO(set(EXCLUSIVE, 0, 0, (char *)-4096l), EFAULT);
    CHECK_ERRNO(set(4, 0, 0, NULL), EINVAL);
    CHECK_ERRNO(set(1ul << 32, 0, 0, NULL), EINVAL);
    CHECK(blocked(SYS_getppid) == getppid());
}

/* Without the library's list of requests, which may be older. */
static long configure(int request, pid_t pid, unsigned long size, void *config) {
    return syscall(SYS_ptrace, request, pid, size, config);
}

static void traced(void) {
    pid_t child = fork();
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        CHECK(blocked(SYS_getppid) == 4711);
        _exit(check_failures != 0);
    }
    int status;
    uint64_t config[4] = {9, 9, 9, 9};
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK_ERRNO(configure(PTRACE_GET_DISPATCH, child, 31, config), EINVAL);
    CHECK(configure(PTRACE_GET_DISPATCH, child, sizeof config, config) == 0 && !(config[0] | config[1] | config[2] | config[3]));
    uint64_t other[4] = {EXCLUSIVE, (uintptr_t)&selector, 0, 0};
    CHECK_ERRNO(configure(PTRACE_SET_DISPATCH, child, 33, other), EINVAL);
    CHECK(configure(PTRACE_SET_DISPATCH, child, sizeof other, other) == 0);
    CHECK(configure(PTRACE_GET_DISPATCH, child, sizeof config, config) == 0 && memcmp(config, other, sizeof config) == 0);
    CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSYS);
    CHECK(ptrace(PTRACE_CONT, child, 0, SIGSYS) == 0 && waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv) {
    if (argc > 1) return blocked(SYS_getpid) != getpid();
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    refused();
    in_child(taken);
    not_inherited(argv[0]);
    deadly();
    traced();
    DONE();
}
