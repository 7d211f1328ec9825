/* ptrace(2): attach, stops, registers, memory, steps, breakpoints, events, signals, group stops, waits. */
#define _GNU_SOURCE
#include "check.h"
#include "cpus.h"
#include "bereaved.h"
#include <elf.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile long word = 1;

static int status_of(pid_t pid) {
    int status = -1;
    if (waitpid(pid, &status, __WALL) != pid) printf("waitpid of the tracee: %s\n", strerror(errno)), check_failures++;
    return status;
}

static int STOPPED(int s, int n) { return WIFSTOPPED(s) && s >> 8 == n; }
static int EVENT(int s, int e) { return s >> 8 == (SIGTRAP | e << 8); }

/* A child that asks to be traced and stops itself, then runs `body`. */
static pid_t traced(void (*body)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0)) _exit(99);
        raise(SIGSTOP);
        body();
        _exit(7);
    }
    CHECK(STOPPED(status_of(pid), SIGSTOP));
    return pid;
}

static void nothing(void) {}
static void work(void) { word = 5; }
__attribute__((noinline)) void trap_here(void) { __asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop; nop"); }
static void call_it(void) { trap_here(); }

static void refusals(void) {
    pid_t pid = traced(nothing);
    CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM);
    CHECK_ERRNO(ptrace(PTRACE_ATTACH, getpid(), 0, 0), EPERM);
    CHECK_ERRNO(ptrace(PTRACE_CONT, 32766, 0, 0), ESRCH);
    CHECK_ERRNO(ptrace(PTRACE_CONT, getppid(), 0, 0), ESRCH);
    CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 99), EIO);
    CHECK_ERRNO(ptrace(PTRACE_SETOPTIONS, pid, 0, 0x4000), EINVAL);
    CHECK_ERRNO(ptrace(PTRACE_INTERRUPT, pid, 0, 0), EIO);
    CHECK_ERRNO(ptrace(PTRACE_LISTEN, pid, 0, 0), EIO);
    CHECK_ERRNO(ptrace(PTRACE_PEEKDATA, pid, 8, 0), EIO);
    CHECK_ERRNO(ptrace(PTRACE_POKEDATA, pid, 8, 0), EIO);
    CHECK_ERRNO(ptrace(PTRACE_PEEKUSER, pid, 3, 0), EIO);
    CHECK_ERRNO(ptrace(PTRACE_PEEKUSER, pid, 4096, 0), EIO);
    CHECK_ERRNO(ptrace(0x7777, pid, 0, 0), EIO);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    CHECK(status_of(pid) == 7 << 8);
    CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
}

static void memory_and_registers(void) {
    pid_t pid = traced(work);
    siginfo_t si;
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si) == 0 && si.si_signo == SIGSTOP && si.si_pid == pid);
    errno = 0;
    CHECK(ptrace(PTRACE_PEEKDATA, pid, &word, 0) == 1 && errno == 0);
    CHECK(ptrace(PTRACE_POKEDATA, pid, &word, 77) == 0 && ptrace(PTRACE_PEEKDATA, pid, &word, 0) == 77);
    CHECK(word == 1);
    struct user_regs_struct regs, again;
    CHECK(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0);
    CHECK(regs.cs == 0x33 && regs.ss == 0x2b && regs.fs_base == (unsigned long)__builtin_thread_pointer());
    CHECK((unsigned long)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, regs.rip), 0) == regs.rip);
    regs.r15 = 0x1234567890;
    CHECK(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
    CHECK(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.r14), 42) == 0);
    struct iovec iov = {&again, sizeof again};
    CHECK(ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &iov) == 0 && iov.iov_len == sizeof again);
    CHECK(again.r15 == 0x1234567890 && again.r14 == 42 && again.rip == regs.rip);
    struct user_fpregs_struct fp;
    CHECK(ptrace(PTRACE_GETFPREGS, pid, 0, &fp) == 0);
    CHECK((fp.mxcsr & 0x1f80) == 0x1f80);
    fp.xmm_space[4] = 0xabcdef;
    CHECK(ptrace(PTRACE_SETFPREGS, pid, 0, &fp) == 0);
    static char big[16384];
    struct iovec x = {big, sizeof big};
    CHECK(ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &x) == 0 && x.iov_len >= 576 && x.iov_len < sizeof big);
    unsigned long xcr0;
    memcpy(&xcr0, big + 464, 8);
    CHECK((xcr0 & 3) == 3);
    unsigned value;
    memcpy(&value, big + 160 + 16, 4);
    CHECK(value == 0xabcdef);
    CHECK(ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &x) == 0);
    CHECK_ERRNO(ptrace(PTRACE_GETREGSET, pid, 0x999, &x), EINVAL);
    char path[64];
    long got = 0;
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    FILE *f = fopen(path, "r+");
    CHECK(f && fseek(f, (long)&word, SEEK_SET) == 0 && fread(&got, sizeof got, 1, f) == 1 && got == 77);
    fclose(f);
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    char text[4096] = "", want[64];
    f = fopen(path, "r");
    CHECK(f && fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    snprintf(want, sizeof want, "TracerPid:\t%d\n", getpid());
    CHECK(strstr(text, want) && strstr(text, "State:\tt (tracing stop)"));
    /* Nothing of the stop's signal is left when it is not passed on. */
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 7 << 8);
}

static void breakpoints(void) {
    pid_t pid = traced(call_it);
    unsigned long at = (unsigned long)trap_here;
    long text = ptrace(PTRACE_PEEKTEXT, pid, at, 0);
    CHECK(ptrace(PTRACE_POKETEXT, pid, at, (text & ~0xffL) | 0xcc) == 0);
    CHECK(*(unsigned char *)trap_here != 0xcc);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGTRAP));
    struct user_regs_struct regs;
    siginfo_t si;
    ptrace(PTRACE_GETREGS, pid, 0, &regs);
    CHECK(regs.rip == at + 1);
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si) == 0 && si.si_code == SI_KERNEL);
    CHECK(ptrace(PTRACE_POKETEXT, pid, at, text) == 0);
    regs.rip = at;
    CHECK(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
    for (int i = 0; i < 8; i++) {
        unsigned long before = regs.rip;
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGTRAP));
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        CHECK(regs.rip != before && (regs.eflags & 0x100) == 0);
        CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si) == 0 && (si.si_code == TRAP_TRACE || si.si_code == TRAP_BRKPT));
    }
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 7 << 8);
}

static void handler(int signo) { word = signo; }
static void handle_it(void) {
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
}

/* A step that delivers a signal ends before the handler's first instruction, which the next step executes. */
static void step_into_a_handler(void) {
    pid_t pid = traced(handle_it);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGUSR1));
    struct user_regs_struct regs;
    CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, SIGUSR1) == 0 && STOPPED(status_of(pid), SIGTRAP));
    CHECK(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0 && regs.rip == (unsigned long)handler && regs.rdi == SIGUSR1);
    CHECK(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGTRAP));
    CHECK(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0 && regs.rip > (unsigned long)handler);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 7 << 8);
}

static void three_calls(void) {
    syscall(SYS_getpid);
    syscall(SYS_close, -1);
    syscall(SYS_gettid);
}

static void system_calls(void) {
    pid_t pid = traced(three_calls);
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    int seen = 0, status;
    for (int entry = 1;; entry ^= 1) {
        CHECK(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
        status = status_of(pid);
        if (!WIFSTOPPED(status)) break;
        CHECK(STOPPED(status, SIGTRAP | 0x80));
        struct user_regs_struct regs;
        ptrace(PTRACE_GETREGS, pid, 0, &regs);
        struct __ptrace_syscall_info info;
        long size = ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
        unsigned long message;
        CHECK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message) == 0 && message == (entry ? 1 : 2));
        if (entry) {
            CHECK(size == 80 && info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == regs.orig_rax);
            CHECK((long)regs.rax == -ENOSYS);
            if (regs.orig_rax == SYS_gettid) {
                /* Not made at all: the result is the tracer's. */
                regs.orig_rax = -1;
                regs.rax = 4711;
                CHECK(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
            } else if (regs.orig_rax == SYS_exit_group) {
                CHECK(regs.rdi == 7);
                regs.rdi = 9;
                CHECK(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
            }
        } else {
            CHECK(size == 33 && info.op == PTRACE_SYSCALL_INFO_EXIT);
            if (seen == 1) CHECK((long)regs.rax == pid);
            if (seen == 2) CHECK((long)regs.rax == -EBADF && info.exit.is_error);
            if (seen == 3) CHECK(regs.rax == 4711);
        }
        seen += entry;
    }
    CHECK(seen == 4 && status == 9 << 8);
}

static volatile int handled;
static void handle(int n) { handled = n; }
static void signals_body(void) {
    signal(SIGUSR1, handle);
    signal(SIGUSR2, SIG_IGN);
    raise(SIGUSR1);
    if (handled) _exit(1);
    raise(SIGUSR2);
    if (handled != SIGUSR1) _exit(2);
    raise(SIGTERM);
    _exit(3);
}

static void signals(void) {
    pid_t pid = traced(signals_body);
    siginfo_t si;
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGUSR1));
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0); /* swallowed */
    CHECK(STOPPED(status_of(pid), SIGUSR2));    /* though ignored */
    CHECK(ptrace(PTRACE_CONT, pid, 0, SIGUSR1) == 0); /* another one */
    CHECK(STOPPED(status_of(pid), SIGTERM));
    CHECK(waitid(P_PID, pid, &si, WSTOPPED | WNOHANG) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, 0, SIGTERM) == 0);
    int status = status_of(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static volatile int queued;
static void queue_some(void) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval v = {.sival_int = 1};
    sigqueue(getpid(), SIGRTMIN + 1, v);
    v.sival_int = 2, sigqueue(getpid(), SIGRTMIN, v);
    v.sival_int = 3, sigqueue(getpid(), SIGRTMIN + 1, v);
    kill(getpid(), SIGUSR1);
    syscall(SYS_tgkill, getpid(), getpid(), SIGUSR2);
    queued = 1;
    __asm__ volatile("int3");
    _exit(7);
}

/* What is pending is shown in the order in which it came, the process's and the thread's. */
static void pending(void) {
    pid_t pid = traced(queue_some);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && STOPPED(status_of(pid), SIGTRAP));
    CHECK(ptrace(PTRACE_PEEKDATA, pid, &queued, 0) << 32 >> 32 == 1);
    siginfo_t si[8];
    struct __ptrace_peeksiginfo_args args = {.off = 0, .flags = PTRACE_PEEKSIGINFO_SHARED, .nr = 8};
    CHECK(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si) == 4);
    for (int i = 0; i < 3; i++) CHECK(si[i].si_value.sival_int == i + 1 && si[i].si_code == SI_QUEUE);
    CHECK(si[0].si_signo == SIGRTMIN + 1 && si[1].si_signo == SIGRTMIN && si[3].si_signo == SIGUSR1);
    args.off = 2, args.nr = 1;
    CHECK(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si) == 1 && si[0].si_value.sival_int == 3);
    args.off = 4, args.nr = 8;
    CHECK(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si) == 0);
    args.off = 0, args.flags = 0;
    CHECK(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si) == 1);
    CHECK(si[0].si_signo == SIGUSR2 && si[0].si_code == SI_TKILL && si[0].si_pid == pid);
    CHECK_ERRNO(ptrace(PTRACE_PEEKSIGINFO, pid, &args, (void *)8), EFAULT);
    CHECK_ERRNO(ptrace(PTRACE_PEEKSIGINFO, pid, (void *)8, si), EFAULT);
    args.flags = 2;
    CHECK_ERRNO(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si), EINVAL);
    args.flags = 0, args.nr = -1;
    CHECK_ERRNO(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si), EINVAL);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 7 << 8);
    CHECK_ERRNO(ptrace(PTRACE_PEEKSIGINFO, pid, &args, si), ESRCH);
}

/* A tracer finds the restartable sequence that the C library registered. */
static void sequence(void) {
    pid_t pid = traced(nothing);
    struct { uint64_t addr; uint32_t size, signature, flags, pad; } conf = {0};
    CHECK(ptrace(0x420f, pid, sizeof conf, &conf) == sizeof conf);
    CHECK(conf.addr == (uint64_t)__builtin_thread_pointer() + __rseq_offset);
    CHECK(conf.size >= 32 && conf.signature == RSEQ_SIG && conf.flags == 0);
    CHECK(ptrace(0x420f, pid, 4, &conf) == sizeof conf);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 7 << 8);
}

static void fork_exec(void) {
    pid_t pid = fork();
    if (pid == 0) {
        char *args[] = {"true", 0};
        execv("/bin/true", args);
    }
    waitpid(pid, 0, 0);
}

static void events(void) {
    pid_t pid = traced(fork_exec), child = 0;
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0,
                 PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT) == 0);
    ptrace(PTRACE_CONT, pid, 0, 0);
    int status = status_of(pid);
    CHECK(EVENT(status, PTRACE_EVENT_FORK));
    unsigned long message = 0;
    CHECK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message) == 0 && message > 0);
    child = message;
    CHECK(STOPPED(status_of(child), SIGSTOP));
    ptrace(PTRACE_CONT, pid, 0, 0);
    ptrace(PTRACE_CONT, child, 0, 0);
    CHECK(EVENT(status_of(child), PTRACE_EVENT_EXEC));
    ptrace(PTRACE_CONT, child, 0, 0);
    CHECK(EVENT(status_of(child), PTRACE_EVENT_EXIT));
    CHECK(ptrace(PTRACE_GETEVENTMSG, child, 0, &message) == 0 && message == 0);
    ptrace(PTRACE_CONT, child, 0, 0);
    CHECK(status_of(child) == 0); /* the tracer's first, then the parent's */
    CHECK(STOPPED(status_of(pid), SIGCHLD));
    ptrace(PTRACE_CONT, pid, 0, SIGCHLD);
    CHECK(EVENT(status_of(pid), PTRACE_EVENT_EXIT));
    CHECK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message) == 0 && message == 7 << 8);
    ptrace(PTRACE_CONT, pid, 0, 0);
    CHECK(status_of(pid) == 7 << 8);
}

static void exec_trap(void) {
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        char *args[] = {"true", 0};
        execv("/bin/true", args);
        _exit(1);
    }
    CHECK(STOPPED(status_of(pid), SIGTRAP));
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && status_of(pid) == 0);
}

static void *thread_body(void *p) { return p; }
static void with_thread(void) {
    pthread_t t;
    pthread_create(&t, 0, thread_body, 0);
    pthread_join(t, 0);
}

static void threads(void) {
    pid_t pid = traced(with_thread);
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE) == 0);
    ptrace(PTRACE_CONT, pid, 0, 0);
    CHECK(EVENT(status_of(pid), PTRACE_EVENT_CLONE));
    unsigned long tid = 0;
    ptrace(PTRACE_GETEVENTMSG, pid, 0, &tid);
    CHECK(tid != (unsigned long)pid && STOPPED(status_of(tid), SIGSTOP));
    ptrace(PTRACE_CONT, tid, 0, 0);
    CHECK(status_of(tid) == 0); /* a thread's end is seen by its tracer */
    ptrace(PTRACE_CONT, pid, 0, 0);
    CHECK(status_of(pid) == 7 << 8);
}

static void spin(void) {
    for (;;) word++;
}

static void attaching(void) {
    pid_t pid = fork();
    if (pid == 0) spin();
    CHECK(ptrace(PTRACE_ATTACH, pid, 0, 0) == 0);
    CHECK(STOPPED(status_of(pid), SIGSTOP));
    CHECK(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
    CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
    CHECK(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    CHECK_ERRNO(ptrace(PTRACE_GETREGS, pid, 0, &word), ESRCH); /* it runs */
    CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    CHECK(EVENT(status_of(pid), PTRACE_EVENT_STOP));
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    /* Group stop of a seized tracee. */
    kill(pid, SIGSTOP);
    CHECK(STOPPED(status_of(pid), SIGSTOP));
    CHECK(ptrace(PTRACE_CONT, pid, 0, SIGSTOP) == 0);
    CHECK(STOPPED(status_of(pid), SIGSTOP | PTRACE_EVENT_STOP << 8));
    CHECK(ptrace(PTRACE_LISTEN, pid, 0, 0) == 0);
    CHECK_ERRNO(ptrace(PTRACE_CONT, pid, 0, 0), ESRCH);
    kill(pid, SIGCONT);
    CHECK(EVENT(status_of(pid), PTRACE_EVENT_STOP));
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    CHECK(STOPPED(status_of(pid), SIGCONT));
    CHECK(ptrace(PTRACE_DETACH, pid, 0, SIGSTOP) == 0);
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && STOPPED(status, SIGSTOP));
    /* One that is stopped already. */
    CHECK(ptrace(PTRACE_SEIZE, pid, 0, 0) == 0);
    CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    CHECK(STOPPED(status_of(pid), SIGSTOP | PTRACE_EVENT_STOP << 8));
    kill(pid, SIGKILL);
    status = status_of(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Tracees of a tracer that ends go on, or die if it said so. */
static void tracer_ends(void) {
    for (int kills = 0; kills < 2; kills++) {
        pid_t pid = fork();
        if (pid == 0) spin();
        pid_t tracer = fork();
        if (tracer == 0) {
            if (ptrace(PTRACE_SEIZE, pid, 0, kills ? PTRACE_O_EXITKILL : 0)) _exit(1);
            _exit(0);
        }
        CHECK(status_of(tracer) == 0);
        if (!kills) {
            usleep(20000);
            CHECK(waitpid(pid, 0, WNOHANG) == 0);
            kill(pid, SIGKILL);
        }
        int status = status_of(pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
}

/* Whose child a tracer has waited for finds the end together with its signal, however soon it asks. */
static void signal_before_end(void) {
    ask_from_one_processor();
    for (int i = 0; i < 300; i++) {
        int ready[2];
        char c;
        CHECK(pipe(ready) == 0);
        pid_t pid = fork();
        if (pid == 0) spin();
        pid_t tracer = fork();
        if (tracer == 0) {
            stay_on(1);
            if (ptrace(PTRACE_SEIZE, pid, 0, 0) || write(ready[1], "x", 1) != 1 || waitpid(pid, 0, 0) != pid) _exit(1);
            for (;;) pause();
        }
        CHECK(read(ready[0], &c, 1) == 1 && kill(pid, SIGKILL) == 0);
        finds_end_with_signal(pid);
        CHECK(kill(tracer, SIGKILL) == 0 && WIFSIGNALED(status_of(tracer)) && close(ready[0]) == 0 && close(ready[1]) == 0);
        takes_signal();
    }
    ask_no_more();
}

static void permissions(void) {
    pid_t pid = fork();
    if (pid == 0) spin();
    pid_t other = fork();
    if (other == 0) {
        if (setgid(1234) || setuid(1234)) _exit(5);
        CHECK_ERRNO(ptrace(PTRACE_SEIZE, pid, 0, 0), EPERM);
        CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM);
        _exit(check_failures);
    }
    CHECK(status_of(other) == 0);
    kill(pid, SIGKILL);
    status_of(pid);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    refusals();
    memory_and_registers();
    breakpoints();
    step_into_a_handler();
    system_calls();
    signals();
    pending();
    sequence();
    events();
    exec_trap();
    threads();
    attaching();
    tracer_ends();
    signal_before_end();
    permissions();
    DONE();
}
