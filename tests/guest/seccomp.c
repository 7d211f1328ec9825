/* seccomp(2): strict mode, filters and what each action does, inheritance, all threads at once, with a tracer. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static long seccomp_(unsigned op, unsigned flags, void *args) { return syscall(SYS_seccomp, op, flags, args); }

/* `action` for call `nr`, all others allowed. */
static long on_call(unsigned flags, int nr, unsigned action) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof code / sizeof *code, code};
    return seccomp_(SECCOMP_SET_MODE_FILTER, flags, &prog);
}

static int run(void (*body)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        body();
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status & ~0x80;
}

static void errors(void) {
    struct sock_filter bad[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog prog = {2, bad}, none = {0, bad}, lost = {2, (void *)8};
    CHECK_ERRNO(seccomp_(99, 0, 0), EINVAL);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_STRICT, 1, 0), EINVAL);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_FILTER, 1 << 20, &prog), EINVAL);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &prog), EINVAL);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &none), EINVAL);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_FILTER, 0, &lost), EFAULT);
    CHECK_ERRNO(seccomp_(SECCOMP_SET_MODE_FILTER, 0, 0), EFAULT);
    unsigned action = SECCOMP_RET_ERRNO, unknown = 0x12340000;
    CHECK(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0);
    CHECK_ERRNO(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &unknown), EOPNOTSUPP);
    CHECK(prctl(PR_GET_SECCOMP) == 0);
    CHECK_ERRNO(prctl(PR_SET_SECCOMP, 3, 0, 0, 0), EINVAL);
}

static void unprivileged(void) {
    CHECK(setuid(4321) == 0);
    CHECK_ERRNO(on_call(0, SYS_getpid, SECCOMP_RET_ALLOW), EACCES);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(on_call(0, SYS_getpid, SECCOMP_RET_ALLOW) == 0);
}

static void errno_action(void) {
    for (int i = 0; i < 100; i++) syscall(SYS_getpid); /* warm, so that calls come by all ways */
    CHECK(on_call(0, SYS_getpid, SECCOMP_RET_ERRNO | 42) == 0);
    for (int i = 0; i < 100; i++) CHECK_ERRNO(syscall(SYS_getpid), 42);
    CHECK(prctl(PR_GET_SECCOMP) == 2);
    CHECK(on_call(0, SYS_getpid, SECCOMP_RET_ERRNO | 0xffff) == 0);
    CHECK_ERRNO(syscall(SYS_getpid), 4095); /* of two the newer */
    CHECK(on_call(0, SYS_getuid, SECCOMP_RET_ERRNO | 0) == 0);
    CHECK(syscall(SYS_getuid) == 0);
    CHECK_ERRNO(prctl(PR_SET_SECCOMP, 1, 0, 0, 0), EINVAL);
    pid_t pid = fork();
    if (pid == 0) {
        errno = 0;
        syscall(SYS_getpid);
        _exit(errno == 4095 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    char text[4096] = "";
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f && fread(text, 1, sizeof text - 1, f) > 0);
    CHECK(strstr(text, "Seccomp:\t2\nSeccomp_filters:\t3\n") && strstr(text, "NoNewPrivs:\t1\n"));
}

static siginfo_t seen;
static void on_sys(int n, siginfo_t *info, void *context) {
    (void)n, (void)context;
    seen = *info;
}

static void trap_action(void) {
    struct sigaction a = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &a, 0);
    CHECK(on_call(0, SYS_getppid, SECCOMP_RET_TRAP | 77) == 0);
    CHECK(syscall(SYS_getppid) == SYS_getppid); /* rax as it was */
    CHECK(seen.si_signo == SIGSYS && seen.si_code == 1 && seen.si_errno == 77);
    CHECK(seen.si_syscall == SYS_getppid && seen.si_arch == AUDIT_ARCH_X86_64 && seen.si_call_addr);
    signal(SIGSYS, SIG_IGN);
    syscall(SYS_getppid);
    CHECK(!"alive after an ignored SIGSYS");
}

static void kill_action(void) {
    on_call(0, SYS_getppid, SECCOMP_RET_KILL_PROCESS);
    syscall(SYS_getppid);
}

static void strongest(void) {
    on_call(0, SYS_getppid, SECCOMP_RET_KILL_PROCESS);
    on_call(0, SYS_getppid, SECCOMP_RET_ERRNO | 1);
    syscall(SYS_getppid);
}

static void strict(void) {
    CHECK(write(1, "", 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    syscall(SYS_write, 1, "", 0);
    syscall(SYS_exit, 3);
}

static void strict_breach(void) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    syscall(SYS_getpid);
}

static void *killed_thread(void *p) {
    syscall(SYS_getppid);
    return p;
}

static void kill_thread_action(void) {
    CHECK(on_call(0, SYS_getppid, SECCOMP_RET_KILL_THREAD) == 0);
    pthread_t t;
    void *result = &t;
    pthread_create(&t, 0, killed_thread, 0);
    usleep(100000);
    (void)result;
    CHECK(syscall(SYS_getuid) >= 0);
}

static pthread_barrier_t barrier;
static void *waits(void *own_filter) {
    if (own_filter) CHECK(on_call(0, SYS_getuid, SECCOMP_RET_ERRNO | 9) == 0);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    errno = 0;
    syscall(SYS_getppid);
    return (void *)(long)errno;
}

static void all_threads(void) {
    pthread_barrier_init(&barrier, 0, 2);
    pthread_t t;
    void *result;
    pthread_create(&t, 0, waits, 0);
    pthread_barrier_wait(&barrier);
    CHECK(on_call(SECCOMP_FILTER_FLAG_TSYNC, SYS_getppid, SECCOMP_RET_ERRNO | 5) == 0);
    pthread_barrier_wait(&barrier);
    pthread_join(t, &result);
    CHECK((long)result == 5);
    pthread_create(&t, 0, waits, (void *)1);
    pthread_barrier_wait(&barrier);
    CHECK(on_call(SECCOMP_FILTER_FLAG_TSYNC, SYS_getppid, SECCOMP_RET_ERRNO | 6) > 0);
    CHECK_ERRNO(on_call(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, SYS_getppid, SECCOMP_RET_ALLOW), ESRCH);
    pthread_barrier_wait(&barrier);
    pthread_join(t, &result);
    CHECK((long)result == 5);
}

static void traced(void) {
    CHECK(on_call(0, SYS_getppid, SECCOMP_RET_TRACE | 33) == 0);
    CHECK_ERRNO(syscall(SYS_getppid), ENOSYS);
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        long first = syscall(SYS_getppid), second = syscall(SYS_getppid);
        _exit(first == getpid() && second == 99 ? 0 : 1);
    }
    int status;
    struct user_regs_struct regs;
    unsigned long message = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid);
        CHECK(status >> 8 == (SIGTRAP | PTRACE_EVENT_SECCOMP << 8));
        CHECK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message) == 0 && message == 33);
        CHECK(ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0 && regs.orig_rax == SYS_getppid);
        regs.orig_rax = i == 0 ? SYS_getpid : -1;
        regs.rax = 99;
        CHECK(ptrace(PTRACE_SETREGS, pid, 0, &regs) == 0);
    }
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void execs(void) {
    CHECK(on_call(0, SYS_uname, SECCOMP_RET_ERRNO | 1) == 0);
    execl("/bin/sh", "sh", "-c", "uname >/dev/null 2>&1 && exit 1; exit 0", (char *)0);
    _exit(9);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    errors();
    pid_t pid = fork();
    if (pid == 0) {
        unprivileged();
        _exit(check_failures);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(run(errno_action) == 0);
    CHECK(run(trap_action) == SIGSYS);
    CHECK(run(kill_action) == SIGSYS);
    CHECK(run(strongest) == SIGSYS);
    CHECK(run(strict) == 3 << 8);
    CHECK(run(strict_breach) == SIGKILL);
    CHECK(run(kill_thread_action) == 0);
    CHECK(run(all_threads) == 0);
    CHECK(run(traced) == 0);
    CHECK(run(execs) == 0);
    DONE();
}
