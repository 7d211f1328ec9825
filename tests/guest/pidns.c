/* PID namespaces: numbers inside and outside, the init of one and its end, /proc of one. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NS_GET_USERNS 0xb701
#define NS_GET_PARENT 0xb702
#define NS_GET_NSTYPE 0xb703

static pid_t clone_with(unsigned long flags) { return syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0); }

/* Runs `body` as the init of a new namespace; returns its wait status. */
static int as_init(void (*body)(void)) {
    fflush(stdout);
    pid_t pid = clone_with(CLONE_NEWPID);
    if (pid == 0) end_after(body);
    int status = -1;
    CHECK(pid > 1 && waitpid(pid, &status, 0) == pid);
    return status;
}

/* The init of a new namespace that does nothing but wait. */
static pid_t idle_init(void) {
    pid_t pid = clone_with(CLONE_NEWPID);
    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

static void pass(int fd) { CHECK(write(fd, "x", 1) == 1); }
static void await(int fd) {
    char c;
    CHECK(read(fd, &c, 1) == 1);
}

static void numbers(void) {
    CHECK(getpid() == 1 && getppid() == 0 && syscall(SYS_gettid) == 1);
    CHECK(getpgid(0) == 0 && getsid(0) == 0);
    CHECK(setsid() == 1 && getpgid(0) == 1 && getsid(0) == 1);
    pid_t child = fork();
    if (child == 0)
        _exit(getpid() == 2 && getppid() == 1 && getpgid(0) == 1 && getsid(0) == 1 ? 7 : 8);
    CHECK(child == 2);
    siginfo_t info;
    CHECK(waitid(P_PID, 2, &info, WEXITED) == 0 && info.si_pid == 2 && info.si_status == 7);
    CHECK_ERRNO(waitpid(2, 0, 0), ECHILD);
    CHECK_ERRNO(kill(77, 0), ESRCH);
    CHECK_ERRNO(kill(-77, 0), ESRCH);
    CHECK_ERRNO(kill(-1, 0), ESRCH);
    int tids[2] = {0, 0};
    child = syscall(SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, 0, &tids[0], &tids[1], 0);
    if (child == 0)
        _exit(tids[1] != getpid());
    int status = -1;
    CHECK(waitpid(child, &status, 0) == 3 && status == 0 && tids[0] == 3);
}

static volatile pid_t sender = -1;
static void note(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    sender = info->si_pid;
}

static void unkillable(void) {
    kill(1, SIGTERM);
    kill(1, SIGKILL);
    kill(1, SIGSTOP);
    raise(SIGINT);
    pid_t child = fork();
    if (child == 0) {
        kill(1, SIGKILL);
        kill(1, SIGUSR2);
        kill(1, SIGSTOP);
        struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
        sigaction(SIGUSR1, &action, 0);
        sigset_t set;
        sigemptyset(&set), sigaddset(&set, SIGUSR1);
        sigprocmask(SIG_BLOCK, &set, 0);
        kill(2, SIGUSR1);
        sigprocmask(SIG_UNBLOCK, &set, 0);
        _exit(sender == 2 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == 2 && status == 0);
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGUSR1, &action, 0) == 0 && kill(1, SIGUSR1) == 0 && sender == 1);
}

static void killed_from_outside(void) {
    int status = -1;
    pid_t pid = idle_init();
    CHECK(kill(pid, SIGTERM) == 0 && kill(pid, SIGSTOP) == 0);
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    CHECK(kill(pid, SIGCONT) == 0 && kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void faulting_init(void) { *(volatile int *)0 = 1; }

/* Children of a process that ends go to the namespace's init, not to that of the machine. */
static void adoption(void) {
    int end[2];
    CHECK(pipe(end) == 0);
    if (fork() == 0) {
        if (fork() == 0) {
            while (getppid() != 1)
                usleep(1000);
            pass(end[1]);
            _exit(3);
        }
        _exit(0);
    }
    await(end[0]);
    int status, ends = 0;
    while (wait(&status) > 0)
        ends += WEXITSTATUS(status);
    CHECK(ends == 3);
}

/* The end of an init is the end of all, however deep. */
static int fate[2];
static void dying(void) {
    close(fate[0]);
    int ready[2];
    CHECK(pipe(ready) == 0);
    for (int i = 0; i < 3; i++)
        if (fork() == 0) {
            signal(SIGTERM, SIG_IGN);
            if (i == 2)
                unshare(CLONE_NEWPID);
            if (fork() == 0 && i < 2)
                setsid();
            pass(ready[1]);
            for (;;)
                pause();
        }
    for (int i = 0; i < 6; i++)
        await(ready[0]);
}

static void end_of_all(void) {
    CHECK(pipe(fate) == 0);
    CHECK(as_init(dying) == 0);
    close(fate[1]);
    char c;
    /* Everybody who had the other end is gone by now. */
    struct pollfd look = {fate[0], POLLIN, 0};
    CHECK(poll(&look, 1, 0) == 1 && read(fate[0], &c, 1) == 0);
    close(fate[0]);
}

static void closed(void) {
    int from[2], to[2];
    CHECK(pipe(from) == 0 && pipe(to) == 0);
    pid_t helper = fork();
    if (helper == 0) {
        CHECK(unshare(CLONE_NEWPID) == 0);
        char link[64];
        CHECK_ERRNO(readlink("/proc/self/ns/pid_for_children", link, sizeof link), ENOENT);
        pid_t init = fork();
        if (init == 0)
            _exit(getpid() == 1 ? 0 : 1);
        int status = -1;
        CHECK(waitpid(init, &status, 0) == init && status == 0);
        CHECK_ERRNO(fork(), ENOMEM);
        CHECK_ERRNO(syscall(SYS_clone, CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, 0, 0, 0, 0), EINVAL);
        CHECK_ERRNO(unshare(CLONE_NEWPID), EINVAL);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(helper, &status, 0) == helper && status == 0);
    close(from[0]), close(from[1]), close(to[0]), close(to[1]);
}

static void enter(void) {
    pid_t init = idle_init();
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", init);
    struct stat before, after, children;
    CHECK(stat("/proc/self/ns/pid", &before) == 0 && before.st_ino == 4026531836UL);
    CHECK(stat(path, &children) == 0 && children.st_ino != before.st_ino);
    fflush(stdout);
    pid_t helper = fork();
    if (helper == 0) {
        int fd = open(path, O_RDONLY), own = open("/proc/self/ns/pid", O_RDONLY);
        CHECK(ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWPID);
        int parent = ioctl(fd, NS_GET_PARENT), owner = ioctl(fd, NS_GET_USERNS);
        struct stat st;
        CHECK(parent >= 0 && fstat(parent, &st) == 0 && st.st_ino == before.st_ino);
        CHECK(owner >= 0 && ioctl(owner, NS_GET_NSTYPE) == CLONE_NEWUSER);
        CHECK(setns(fd, CLONE_NEWPID) == 0);
        CHECK(stat("/proc/self/ns/pid", &after) == 0 && after.st_ino == before.st_ino);
        CHECK(stat("/proc/self/ns/pid_for_children", &after) == 0 && after.st_ino == children.st_ino);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            CHECK(getpid() == 2 && getppid() == 0);
            CHECK_ERRNO(setns(own, CLONE_NEWPID), EINVAL);
            CHECK_ERRNO(ioctl(fd, NS_GET_PARENT), EPERM);
            CHECK(kill(1, SIGKILL) == 0);
            fflush(stdout);
            _exit(check_failures);
        }
        int status = -1;
        CHECK(child > 2 && waitpid(child, &status, 0) == child && status == 0);
        CHECK(kill(init, 0) == 0);
        CHECK(setns(own, 0) == 0);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(helper, &status, 0) == helper && status == 0);
    CHECK(kill(init, SIGKILL) == 0 && waitpid(init, &status, 0) == init);
}

/* Who sent it, as the receiver sees it. */
static int sockets[2];
static struct ucred receive_from(int fd) {
    char data, control[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec part = {&data, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct ucred who = {-1, -1, -1};
    CHECK(recvmsg(fd, &message, 0) == 1);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_CREDENTIALS)
        memcpy(&who, CMSG_DATA(head), sizeof who);
    return who;
}

static void talk(void) {
    struct ucred who = receive_from(sockets[1]);
    CHECK(who.pid == 0);
    CHECK(write(sockets[1], "y", 1) == 1);
    who = (struct ucred){0};
    socklen_t len = sizeof who;
    CHECK(getsockopt(sockets[1], SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid == 0);
    int own[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, own) == 0);
    CHECK(getsockopt(own[0], SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.pid == 1);
    CHECK(fcntl(own[0], F_SETOWN, 1) == 0 && fcntl(own[0], F_GETOWN) == 1);
    int one = 1;
    setsockopt(own[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    CHECK(write(own[1], "z", 1) == 1 && receive_from(own[0]).pid == 1);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = memfd_create("lock", 0);
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == 1);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void credentials(void) {
    int one = 1;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
    setsockopt(sockets[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    setsockopt(sockets[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    CHECK(write(sockets[0], "x", 1) == 1);
    fflush(stdout);
    pid_t pid = clone_with(CLONE_NEWPID);
    if (pid == 0) {
        check_failures = 0;
        talk();
        fflush(stdout);
        _exit(check_failures);
    }
    CHECK(receive_from(sockets[0]).pid == pid);
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    close(sockets[0]), close(sockets[1]);
}

/* clone3's set_tid gives numbers from the inside out. */
static void chosen(void) {
    pid_t tids[2] = {1, 23456};
    struct clone_args args = {.flags = CLONE_NEWPID, .exit_signal = SIGCHLD, .set_tid = (unsigned long)tids, .set_tid_size = 2};
    fflush(stdout);
    pid_t pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        check_failures = 0;
        pid_t own[1] = {42};
        struct clone_args inner = {.exit_signal = SIGCHLD, .set_tid = (unsigned long)own, .set_tid_size = 1};
        CHECK(getpid() == 1);
        pid_t child = syscall(SYS_clone3, &inner, sizeof inner);
        if (child == 0)
            _exit(getpid() != 42);
        int status = -1;
        CHECK(child == 42 && waitpid(42, &status, 0) == 42 && status == 0);
        own[0] = 1;
        CHECK_ERRNO(syscall(SYS_clone3, &inner, sizeof inner), EEXIST);
        child = fork();
        if (child == 0)
            _exit(getpid() != 2);
        CHECK(child == 2 && waitpid(2, &status, 0) == 2 && status == 0);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(pid == 23456 && waitpid(pid, &status, 0) == pid && status == 0);
    tids[0] = 2;
    CHECK_ERRNO(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    args.set_tid_size = 3;
    CHECK_ERRNO(syscall(SYS_clone3, &args, sizeof args), EINVAL);
}

static void *second(void *unused) {
    (void)unused;
    return (void *)(syscall(SYS_gettid));
}

static void field(const char *path, const char *name, char *out, size_t len) {
    char line[256];
    FILE *file = fopen(path, "r");
    out[0] = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            snprintf(out, len, "%s", line + strlen(name));
    if (file)
        fclose(file);
}

static void own_proc(void) {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    char text[256];
    CHECK(readlink("/proc/self", text, sizeof text) > 1);
    CHECK(mount("proc", "/proc", "proc", 0, 0) == 0);
    memset(text, 0, sizeof text);
    CHECK(readlink("/proc/self", text, sizeof text) == 1 && text[0] == '1');
    memset(text, 0, sizeof text);
    CHECK(readlink("/proc/thread-self", text, sizeof text) > 0 && strcmp(text, "1/task/1") == 0);
    pthread_t thread;
    void *tid = 0;
    CHECK(pthread_create(&thread, 0, second, 0) == 0 && pthread_join(thread, &tid) == 0 && (long)tid == 2);
    pid_t child = clone_with(CLONE_NEWPID);
    if (child == 0)
        for (;;)
            pause();
    CHECK(child == 3);
    field("/proc/3/status", "NSpid:", text, sizeof text);
    CHECK(strcmp(text, "\t3\t1\n") == 0);
    field("/proc/3/status", "PPid:", text, sizeof text);
    CHECK(strcmp(text, "\t1\n") == 0);
    field("/proc/1/status", "PPid:", text, sizeof text);
    CHECK(strcmp(text, "\t0\n") == 0);
    field("/proc/1/status", "NStgid:", text, sizeof text);
    CHECK(strcmp(text, "\t1\n") == 0);
    int pid = 0, parent = -1, group = -1;
    FILE *stat = fopen("/proc/1/stat", "r");
    CHECK(stat && fscanf(stat, "%d (%*[^)]) %*c %d %d", &pid, &parent, &group) == 3 && pid == 1 && parent == 0 && group == 0);
    if (stat)
        fclose(stat);
    CHECK(access("/proc/4", F_OK) == -1 && access("/proc/1/task/1/stat", F_OK) == 0);
    int fd = syscall(SYS_pidfd_open, 3, 0);
    snprintf(text, sizeof text, "/proc/self/fdinfo/%d", fd);
    char ids[64];
    field(text, "NSpid:", ids, sizeof ids);
    CHECK(strcmp(ids, "\t3\t1\n") == 0);
    CHECK(syscall(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0) == 0);
    int status = -1;
    CHECK(waitpid(3, &status, 0) == 3 && WIFSIGNALED(status));
    CHECK(umount("/proc") == 0);
}

static void rebooting(void) {
    if (fork() == 0)
        reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}

static void powering_off(void) { reboot(RB_POWER_OFF); }

static void wrong_reboot(void) { CHECK_ERRNO(reboot(RB_ENABLE_CAD), EINVAL); }

/* A tracer hears the numbers of its own namespace. */
static void tracing(void) {
    int status = -1;
    unsigned long message = 0;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        pid_t inner = fork();
        if (inner == 0)
            _exit(0);
        waitpid(inner, 0, 0);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == 2 && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_SETOPTIONS, 2, 0, PTRACE_O_TRACEFORK) == 0 && ptrace(PTRACE_CONT, 2, 0, 0) == 0);
    CHECK(waitpid(2, &status, 0) == 2 && status >> 8 == (SIGTRAP | PTRACE_EVENT_FORK << 8));
    CHECK(ptrace(PTRACE_GETEVENTMSG, 2, 0, &message) == 0 && message == 3);
    CHECK(waitpid(3, &status, __WALL) == 3 && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_DETACH, 3, 0, 0) == 0 && ptrace(PTRACE_DETACH, 2, 0, 0) == 0);
    CHECK(waitpid(2, &status, 0) == 2 && status == 0);
}

static void mutexes(void) {
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t *mutex = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutex_init(mutex, &attr);
    CHECK(pthread_mutex_lock(mutex) == 0);
    pid_t child = fork();
    if (child == 0)
        _exit(pthread_mutex_lock(mutex) == 0 ? 0 : 1);
    usleep(20000);
    CHECK(pthread_mutex_unlock(mutex) == 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD);
}

/* The C library knows its thread's number only after a fork of its own. */
static void forked_mutexes(void) {
    pid_t child = fork();
    if (child == 0) {
        mutexes();
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void nest(int depth) {
    if (depth == 0)
        return;
    pid_t pid = clone_with(CLONE_NEWPID);
    if (pid == 0) {
        CHECK(getpid() == 1);
        nest(depth - 1);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void nested(void) { nest(3); }

int main(void) {
    CHECK(as_init(numbers) == 0);
    CHECK(as_init(unkillable) == 0);
    CHECK(as_init(adoption) == 0);
    CHECK(as_init(tracing) == 0);
    CHECK(as_init(forked_mutexes) == 0);
    CHECK(as_init(nested) == 0);
    CHECK(as_init(own_proc) == 0);
    CHECK(as_init(wrong_reboot) == 0);
    CHECK(WTERMSIG(as_init(faulting_init)) == SIGSEGV);
    CHECK(WTERMSIG(as_init(rebooting)) == SIGHUP);
    CHECK(WTERMSIG(as_init(powering_off)) == SIGINT);
    killed_from_outside();
    end_of_all();
    closed();
    enter();
    credentials();
    chosen();
    CHECK_ERRNO(clone_with(CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM), EINVAL);
    DONE();
}
