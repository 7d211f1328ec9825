/* Debug registers through PTRACE_POKEUSER: breakpoints, writes and accesses that stop a tracee, what they refuse. */
#define _GNU_SOURCE
#include "check.h"
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define REGISTER(n) ((void *)offsetof(struct user, u_debugreg[n]))

static volatile struct { long before, watched, after; } words = {1, 2, 3};
static volatile short half;

__attribute__((noinline)) void here(void) { __asm__ volatile("nop"); }

__attribute__((noinline)) static void work(void) {
    words.before = words.after + 1;
    here();
    words.watched = 7;
    words.after = words.watched + 1;
    here();
    half = 2;
    words.watched++;
}

static pid_t start(void) {
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        work();
        _exit(words.before == 4 && words.watched == 8 && words.after == 8 ? 7 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    return pid;
}

static void poke(pid_t pid, int n, unsigned long value) { CHECK(ptrace(PTRACE_POKEUSER, pid, REGISTER(n), value) == 0); }

static unsigned long peek(pid_t pid, int n) {
    errno = 0;
    unsigned long value = ptrace(PTRACE_PEEKUSER, pid, REGISTER(n), 0);
    CHECK(errno == 0);
    return value;
}

static unsigned long rip(pid_t pid) {
    struct user_regs_struct regs;
    CHECK(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0);
    return regs.rip;
}

/* Goes on to the next stop; returns the status register, 0 at the end. */
static unsigned long next(pid_t pid) {
    int status;
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status)) {
        CHECK(WEXITSTATUS(status) == 7);
        return 0;
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    siginfo_t info;
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_code == 4 && (unsigned long)info.si_addr == rip(pid));
    return peek(pid, 6) & 15;
}

static void refusals(void) {
    pid_t pid = start();
    CHECK(peek(pid, 6) == 0xffff0ff0 && peek(pid, 7) == 0);
    CHECK_ERRNO(ptrace(PTRACE_POKEUSER, pid, REGISTER(4), 1), EIO);
    CHECK_ERRNO(ptrace(PTRACE_POKEUSER, pid, REGISTER(0), -1L), EINVAL);
    poke(pid, 1, 0x1001);
    CHECK(peek(pid, 1) == 0x1001);
    CHECK_ERRNO(ptrace(PTRACE_POKEUSER, pid, REGISTER(7), 0xd00004), EINVAL); /* unaligned */
    CHECK_ERRNO(ptrace(PTRACE_POKEUSER, pid, REGISTER(7), 0x200004), EINVAL); /* ports */
    CHECK_ERRNO(ptrace(PTRACE_POKEUSER, pid, REGISTER(7), 0x400004), EINVAL); /* two bytes of code */
    CHECK(peek(pid, 7) == 0);
    CHECK(next(pid) == 0);
}

static void breakpoints(void) {
    pid_t pid = start();
    poke(pid, 2, (unsigned long)here);
    poke(pid, 7, 1 << 4);
    CHECK(next(pid) == 4 && rip(pid) == (unsigned long)here);
    CHECK(next(pid) == 4 && rip(pid) == (unsigned long)here);
    CHECK(next(pid) == 0);
}

static void writes(void) {
    pid_t pid = start();
    poke(pid, 0, (unsigned long)&words.watched);
    poke(pid, 3, (unsigned long)&half);
    poke(pid, 7, 1 | 1 << 6 | 0x9UL << 16 | 0x5UL << 28); /* 8 bytes, 2 bytes */
    CHECK(next(pid) == 1);
    errno = 0;
    CHECK(ptrace(PTRACE_PEEKDATA, pid, &words.watched, 0) == 7 && errno == 0);
    CHECK(next(pid) == 8 && next(pid) == 1);
    poke(pid, 7, 0);
    CHECK(next(pid) == 0);
}

static void accesses(void) {
    pid_t pid = start();
    poke(pid, 0, (unsigned long)&words.watched);
    poke(pid, 7, 1 | 0xbUL << 16);
    CHECK(next(pid) == 1 && next(pid) == 1); /* written, read */
    while (next(pid) != 0) {
    }
}

/* One that is stopped is in its tracer's hands at once: no wait is needed. */
static void attached_while_stopped(void) {
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        int status;
        if (pid == 0) {
            raise(SIGSTOP);
            _exit(3);
        }
        CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
        CHECK(ptrace(PTRACE_ATTACH, pid, 0, 0) == 0);
        poke(pid, 0, 1), poke(pid, 0, 2);
        CHECK(peek(pid, 0) == 2 && ptrace(PTRACE_DETACH, pid, 0, 0) == 0 && kill(pid, SIGCONT) == 0);
        CHECK(waitpid(pid, &status, 0) == pid && status == 3 << 8);
    }
}

/* A step says so in the status, and a breakpoint that a step arrives at is no obstacle. */
static void steps(void) {
    pid_t pid = start();
    int status;
    poke(pid, 0, (unsigned long)here);
    poke(pid, 7, 1);
    CHECK(next(pid) == 1);
    CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid && WSTOPSIG(status) == SIGTRAP);
    CHECK(rip(pid) != (unsigned long)here && peek(pid, 6) & 0x4000);
    CHECK(next(pid) == 1 && next(pid) == 0);
}

int main(void) {
    refusals();
    breakpoints();
    writes();
    accesses();
    steps();
    attached_while_stopped();
    DONE();
}
