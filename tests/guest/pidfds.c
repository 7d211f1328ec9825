/* Descriptors of processes, clone3, execveat, busy programs. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#define THREAD_FD O_EXCL

static int pidfd_open_(pid_t pid, unsigned flags) { return syscall(SYS_pidfd_open, pid, flags); }
static int pidfd_signal(int fd, int n, siginfo_t *info, unsigned flags) {
    return syscall(SYS_pidfd_send_signal, fd, n, info, flags);
}
static int pidfd_getfd_(int fd, int n, unsigned flags) { return syscall(SYS_pidfd_getfd, fd, n, flags); }
static pid_t clone3_(struct clone_args *args, size_t size) { return syscall(SYS_clone3, args, size); }

static pid_t sleeper(void) {
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) pause();
    }
    return pid;
}

static int readable(int fd, int timeout) {
    struct pollfd p = {fd, POLLIN, 0};
    return poll(&p, 1, timeout) == 1 ? p.revents : 0;
}

static void opening(void) {
    CHECK_ERRNO(pidfd_open_(0, 0), EINVAL);
    CHECK_ERRNO(pidfd_open_(-1, 0), EINVAL);
    CHECK_ERRNO(pidfd_open_(getpid(), 1), EINVAL);
    CHECK_ERRNO(pidfd_open_(32767, 0), ESRCH);
    pid_t pid = sleeper();
    int fd = pidfd_open_(pid, 0);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(readable(fd, 0) == 0);
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY);
    CHECK(read(info, text, sizeof text - 1) > 0);
    snprintf(path, sizeof path, "Pid:\t%d\n", pid);
    CHECK(strstr(text, path));
    close(info);
    CHECK_ERRNO(read(fd, text, 1), EINVAL);
    CHECK(pidfd_signal(fd, 0, 0, 0) == 0);
    CHECK_ERRNO(pidfd_signal(fd, 99, 0, 0), EINVAL);
    CHECK_ERRNO(pidfd_signal(fd, 0, 0, 99), EINVAL);
    CHECK_ERRNO(pidfd_signal(0, 0, 0, 0), EBADF);
    siginfo_t si = {0};
    si.si_signo = SIGTERM;
    CHECK_ERRNO(pidfd_signal(fd, SIGKILL, &si, 0), EINVAL);
    si.si_code = SI_USER;
    CHECK_ERRNO(pidfd_signal(fd, SIGTERM, &si, 0), EPERM);
    CHECK_ERRNO(waitid(P_PIDFD, 0, &si, WEXITED), EBADF);
    si.si_pid = 7;
    CHECK(waitid(P_PIDFD, fd, &si, WEXITED | WNOHANG) == 0 && si.si_pid == 0);
    CHECK(pidfd_signal(fd, SIGTERM, 0, 0) == 0);
    CHECK(readable(fd, 5000) == POLLIN);
    CHECK(pidfd_signal(fd, 0, 0, 0) == 0); /* a zombie */
    CHECK(waitid(P_PIDFD, fd, &si, WEXITED) == 0 && si.si_pid == pid && si.si_status == SIGTERM);
    CHECK(readable(fd, 0) == (POLLIN | POLLHUP) || readable(fd, 0) == POLLIN);
    CHECK_ERRNO(pidfd_signal(fd, 0, 0, 0), ESRCH);
    CHECK_ERRNO(waitid(P_PIDFD, fd, &si, WEXITED), ECHILD);
    close(fd);
    pid = sleeper();
    fd = pidfd_open_(pid, O_NONBLOCK);
    CHECK_ERRNO(waitid(P_PIDFD, fd, &si, WEXITED), EAGAIN);
    kill(pid, SIGKILL);
    CHECK(readable(fd, 5000) & POLLIN);
    CHECK(waitid(P_PIDFD, fd, &si, WEXITED) == 0);
    close(fd);
}

/* What PIDFD_GET_INFO tells, where the kernel knows it. */
static void informing(void) {
    struct {
        unsigned long mask, cgroup;
        int pid, tgid, ppid;
        unsigned ids[8];
        int code;
        unsigned more[2];
    } info = {.mask = 8};
    const unsigned long request = _IOWR(0xff, 11, info);
    pid_t pid = sleeper();
    int fd = pidfd_open_(pid, 0);
    if (ioctl(fd, request, &info) == -1 && errno == ENOTTY) {
        kill(pid, SIGKILL);
        waitpid(pid, 0, 0);
        close(fd);
        return;
    }
    CHECK(!(info.mask & 8) && (info.mask & 3) == 3 && info.pid == pid && info.tgid == pid && info.ppid == getpid());
    CHECK(info.ids[0] == getuid() && info.ids[1] == getgid() && info.ids[2] == geteuid() && info.ids[7] == getegid());
    CHECK_ERRNO(ioctl(fd, request, 0), EINVAL);
    kill(pid, SIGKILL);
    CHECK(readable(fd, 5000) & POLLIN);
    info.mask = 0;
    CHECK(ioctl(fd, request, &info) == 0 && info.pid == pid);
    waitpid(pid, 0, 0);
    info.mask = 0;
    CHECK_ERRNO(ioctl(fd, request, &info), ESRCH);
    info.mask = 8;
    CHECK(ioctl(fd, request, &info) == 0 && (info.mask & 8) && info.code == SIGKILL);
    close(fd);
}

static void getting(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(p[0]);
        for (;;) pause();
    }
    int fd = pidfd_open_(pid, 0);
    int end = p[1];
    close(p[1]);
    CHECK_ERRNO(pidfd_getfd_(fd, end, 1), EINVAL);
    CHECK_ERRNO(pidfd_getfd_(fd, 999, 0), EBADF);
    CHECK_ERRNO(pidfd_getfd_(0, end, 0), EBADF);
    int theirs = pidfd_getfd_(fd, end, 0);
    CHECK(theirs >= 0 && fcntl(theirs, F_GETFD) == FD_CLOEXEC);
    char c = 0;
    CHECK(write(theirs, "x", 1) == 1 && read(p[0], &c, 1) == 1 && c == 'x');
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    CHECK_ERRNO(pidfd_getfd_(fd, end, 0), ESRCH);
    close(fd);
    close(theirs);
    close(p[0]);
}

static void cloning(void) {
    struct clone_args a = {0};
    CHECK_ERRNO(clone3_(&a, 63), EINVAL);
    CHECK_ERRNO(clone3_(&a, 1 << 20), E2BIG);
    a.exit_signal = 65;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    a.exit_signal = SIGCHLD;
    a.stack = 4096;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    a.stack = 0;
    a.set_tid_size = 1;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    pid_t wanted = 1;
    a.set_tid = (unsigned long)&wanted;
    CHECK_ERRNO(clone3_(&a, sizeof a), EEXIST);
    wanted = 0;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    wanted = 31000;
    int fd = -1;
    a.flags = CLONE_PIDFD;
    a.pidfd = (unsigned long)&fd;
    pid_t pid = clone3_(&a, sizeof a);
    if (pid == 0) _exit(getpid() == 31000 ? 3 : 4);
    CHECK(pid == wanted && fd >= 0);
    siginfo_t si = {0};
    CHECK(waitid(P_PIDFD, fd, &si, WEXITED) == 0 && si.si_status == 3);
    close(fd);
    a.set_tid = a.set_tid_size = 0;
    a.flags = 1UL << 40;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    a.flags = CLONE_INTO_CGROUP;
    a.cgroup = 0;
    CHECK_ERRNO(clone3_(&a, sizeof a), EBADF);
    a.flags = CLONE_SIGHAND;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    a.flags = CLONE_SIGHAND | CLONE_CLEAR_SIGHAND | CLONE_VM;
    CHECK_ERRNO(clone3_(&a, sizeof a), EINVAL);
    a.flags = CLONE_PIDFD;
    a.pidfd = 8;
    CHECK_ERRNO(clone3_(&a, sizeof a), EFAULT);
    CHECK_ERRNO(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, 0, &fd, 0, 0), EINVAL);
}

static int taken;
static void take(int n) { taken = n; }
static int change(void *unused) {
    (void)unused;
    signal(SIGUSR1, take);
    signal(SIGUSR2, SIG_IGN);
    return 0;
}

static void sharing(void) {
    static char stack[65536];
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_DFL);
    int status;
    pid_t pid = clone(change, stack + sizeof stack, CLONE_VM | CLONE_SIGHAND | SIGCHLD, 0);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHECK(taken == SIGUSR1);
    signal(SIGUSR2, SIG_DFL);
    signal(SIGUSR1, SIG_DFL);
    pid = clone(change, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    struct sigaction action;
    CHECK(sigaction(SIGUSR1, 0, &action) == 0 && action.sa_handler == SIG_DFL);
    /* Without a signal only __WCLONE sees it. */
    pid = clone(change, stack + sizeof stack, CLONE_VM, 0);
    CHECK_ERRNO(waitpid(pid, &status, 0), ECHILD);
    CHECK(waitpid(pid, &status, __WCLONE) == pid);
}

static volatile int leave;
static void *park(void *p) {
    *(pid_t *)p = gettid();
    while (!leave) usleep(1000);
    return 0;
}

static void threads(void) {
    volatile pid_t tid = 0;
    pthread_t t;
    pthread_create(&t, 0, park, (void *)&tid);
    while (!tid) usleep(1000);
    errno = 0;
    CHECK(pidfd_open_(tid, 0) == -1);
    int fd = pidfd_open_(tid, THREAD_FD);
    CHECK(fd >= 0);
    leave = 1;
    CHECK(readable(fd, 5000) & POLLIN);
    pthread_join(t, 0);
    CHECK_ERRNO(pidfd_signal(fd, 0, 0, 0), ESRCH);
    close(fd);
}

static void busy(void) {
    char path[] = "/tmp/busyXXXXXX";
    int out = mkstemp(path), in = open("/bin/sleep", O_RDONLY);
    char buffer[65536];
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) CHECK(write(out, buffer, n) == n);
    fchmod(out, 0755);
    char *args[] = {path, "100", 0};
    CHECK_ERRNO(execv(path, args), ETXTBSY);
    close(out);
    int ready[2];
    CHECK(pipe2(ready, O_CLOEXEC) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        execv(path, args);
        _exit(1);
    }
    close(ready[1]);
    CHECK(read(ready[0], buffer, 1) == 0);
    close(ready[0]);
    CHECK_ERRNO(open(path, O_WRONLY), ETXTBSY);
    CHECK_ERRNO(open(path, O_RDWR | O_TRUNC), ETXTBSY);
    CHECK_ERRNO(truncate(path, 0), ETXTBSY);
    CHECK((out = open(path, O_RDONLY)) >= 0);
    close(out);
    kill(pid, SIGKILL);
    siginfo_t si;
    CHECK(waitid(P_PID, pid, &si, WEXITED | WNOWAIT) == 0);
    CHECK((out = open(path, O_WRONLY)) >= 0);
    close(out);
    waitpid(pid, 0, 0);
    unlink(path);
    close(in);
}

static void exec_by_descriptor(void) {
    char *args[] = {"true", 0}, *none[] = {0};
    int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);
    CHECK_ERRNO(syscall(SYS_execveat, fd, "", args, none, 0), ENOENT);
    CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, "/bin/true", args, none, 0x40), EINVAL);
    CHECK_ERRNO(syscall(SYS_execveat, 99, "x", args, none, 0), EBADF);
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        syscall(SYS_execveat, fd, "", args, none, AT_EMPTY_PATH);
        _exit(9);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    close(fd);
    char path[] = "/tmp/scriptXXXXXX";
    fd = mkstemp(path);
    CHECK(write(fd, "#!/bin/true\n", 12) == 12);
    fchmod(fd, 0755);
    close(fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK_ERRNO(syscall(SYS_execveat, fd, "", args, none, AT_EMPTY_PATH), ENOENT);
    fcntl(fd, F_SETFD, 0);
    pid = fork();
    if (pid == 0) {
        syscall(SYS_execveat, fd, "", args, none, AT_EMPTY_PATH);
        _exit(9);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    close(fd);
    unlink(path);
    CHECK(symlink("/bin/true", "/tmp/truelink") == 0);
    CHECK_ERRNO(syscall(SYS_execveat, AT_FDCWD, "/tmp/truelink", args, none, AT_SYMLINK_NOFOLLOW), ELOOP);
    unlink("/tmp/truelink");
}

static int kcmp_(pid_t a, pid_t b, int kind, unsigned long x, unsigned long y) {
    return syscall(SYS_kcmp, a, b, kind, x, y);
}

static void comparing(void) {
    pid_t pid = sleeper();
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int two = dup(0), other = open("/dev/null", O_RDONLY), dir = open(path, O_RDONLY | O_DIRECTORY);
    CHECK(kcmp_(getpid(), pid, 0, 0, 0) == 0 && kcmp_(getpid(), getpid(), 0, 0, two) == 0);
    CHECK(kcmp_(getpid(), getpid(), 0, 0, other) + kcmp_(getpid(), getpid(), 0, other, 0) == 3);
    CHECK(kcmp_(getpid(), pid, 1, 0, 0) > 0 && kcmp_(getpid(), pid, 2, 0, 0) > 0 && kcmp_(getpid(), pid, 4, 0, 0) > 0);
    CHECK_ERRNO(kcmp_(getpid(), pid, 0, 999, 0), EBADF);
    CHECK_ERRNO(kcmp_(getpid(), pid, 99, 0, 0), EINVAL);
    CHECK_ERRNO(kcmp_(getpid(), 32766, 1, 0, 0), ESRCH);
    CHECK(pidfd_signal(dir, SIGKILL, 0, 0) == 0); /* a descriptor of /proc/PID serves as well */
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WTERMSIG(status) == SIGKILL);
    close(two), close(other), close(dir);
}

static void pending_limit(void) {
    pid_t pid = fork();
    if (pid) {
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        return;
    }
    CHECK(setuid(4321) == 0);
    struct rlimit limit = {3, 3};
    CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, 0);
    union sigval value = {0};
    for (int i = 0; i < 3; i++) CHECK(sigqueue(getpid(), SIGRTMIN, value) == 0);
    CHECK_ERRNO(sigqueue(getpid(), SIGRTMIN, value), EAGAIN);
    pid_t other = fork(); /* the limit is the user's */
    if (other == 0) {
        CHECK_ERRNO(sigqueue(getpid(), SIGRTMIN, value), EAGAIN);
        CHECK(kill(getpid(), SIGRTMIN + 1) == 0);
        CHECK(kill(getpid(), SIGUSR1) == 0);
        _exit(check_failures);
    }
    int status;
    CHECK(waitpid(other, &status, 0) == other && status == 0);
    siginfo_t si;
    CHECK(sigwaitinfo(&set, &si) >= 0);
    while (sigwaitinfo(&set, &si) == SIGCHLD) {}
    CHECK(sigqueue(getpid(), SIGRTMIN, value) == 0);
    _exit(check_failures);
}

/* The namespaces of a process, by its pidfd: those that /proc shows. */
static void namespaces(void) {
    static const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(unshare(CLONE_NEWUTS) == 0 || geteuid() != 0);
        raise(SIGSTOP);
        _exit(check_failures);
    }
    int status, fd = syscall(SYS_pidfd_open, pid, 0);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        struct stat by_name, by_fd;
        snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, names[i]);
        CHECK_ERRNO(ioctl(fd, _IO(0xff, i + 1), 1), EINVAL);
        int ns = ioctl(fd, _IO(0xff, i + 1), 0);
        CHECK(ns >= 0 && fstat(ns, &by_fd) == 0 && stat(path, &by_name) == 0 && by_fd.st_ino == by_name.st_ino);
        CHECK(fcntl(ns, F_GETFD) == FD_CLOEXEC);
        close(ns);
    }
    kill(pid, SIGCONT);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK_ERRNO(ioctl(fd, _IO(0xff, 1), 0), ESRCH);
    close(fd);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    opening();
    informing();
    getting();
    cloning();
    sharing();
    threads();
    busy();
    exec_by_descriptor();
    comparing();
    pending_limit();
    namespaces();
    DONE();
}
