/* seccomp_unotify(2): calls of one process that another answers, lets through, gives descriptors to; and how either ends. */
#define _GNU_SOURCE
#include "check.h"
#include "passing.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long seccomp_(unsigned op, unsigned flags, void *args) { return syscall(SYS_seccomp, op, flags, args); }

/* A filter that notifies of getppid and of dup3. */
static int listener(unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof code / sizeof *code, code};
    return seccomp_(SECCOMP_SET_MODE_FILTER, flags, &prog);
}

/* Forks: the child has a listener, gives it away and runs `body`, which gives its status. Returns the listener. */
static int start(pid_t *pid, unsigned flags, int (*body)(void)) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    *pid = fork();
    if (*pid == 0) {
        check_failures = 0;
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        int fd = listener(SECCOMP_FILTER_FLAG_NEW_LISTENER | flags);
        CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
        give(pair[0], fd);
        close(fd), close(pair[0]), close(pair[1]);
        _exit(body() + check_failures);
    }
    int fd = take(pair[1]);
    close(pair[0]), close(pair[1]);
    return fd;
}

static int ended(pid_t pid) {
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static struct seccomp_notif next(int fd) {
    struct seccomp_notif call = {0};
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
    return call;
}

static int answer(int fd, unsigned long id, long value, int error, unsigned flags) {
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};
    return ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

static int events(int fd, int ms) {
    struct pollfd one = {fd, POLLIN | POLLOUT, 0};
    return poll(&one, 1, ms) == 1 ? one.revents : 0;
}

static pid_t parent;

static int three_calls(void) {
    int good = syscall(SYS_getppid) == 12345;
    errno = 0;
    good += syscall(SYS_getppid) == -1 && errno == ENOTTY;
    good += syscall(SYS_getppid) == parent;
    return good == 3 ? 7 : 1;
}

static void answers(void) {
    pid_t pid;
    struct seccomp_notif call, dirty = {.pid = 1};
    int fd = start(&pid, 0, three_calls);
    CHECK(events(fd, 5000) == POLLIN);
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &dirty), EINVAL);
    call = next(fd);
    CHECK(call.pid == (unsigned)pid && call.data.nr == SYS_getppid && call.data.arch == 0xc000003e && call.flags == 0);
    CHECK(events(fd, 0) == POLLOUT && ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &call.id) == 0);
    unsigned long other = call.id + 77;
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &other), ENOENT);
    CHECK_ERRNO(answer(fd, other, 0, 0, 0), ENOENT);
    CHECK_ERRNO(answer(fd, call.id, 0, 0, 8), EINVAL);
    CHECK_ERRNO(answer(fd, call.id, 1, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE), EINVAL);
    CHECK(answer(fd, call.id, 12345, 0, 0) == 0);
    call = next(fd);
    CHECK(answer(fd, call.id, 0, -ENOTTY, 0) == 0);
    call = next(fd);
    CHECK(answer(fd, call.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) == 0);
    CHECK(ended(pid) == 7 << 8 && events(fd, 5000) & POLLHUP);
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &(struct seccomp_notif){0}), ENOENT);
    CHECK_ERRNO(ioctl(fd, 0x1234, 0), EINVAL);
    close(fd);
}

static int one_call(void) { return syscall(SYS_getppid) == 5 ? 7 : 1; }

static int calls_twice(void) {
    pid_t child = fork();
    if (!child) _exit(one_call());
    int status = 0, own = one_call();
    return waitpid(child, &status, 0) == child && status == 7 << 8 ? own : 2;
}

/* Of two calls that wait only the one that was received can be answered; ids follow each other. */
static void not_received(void) {
    pid_t pid;
    int fd = start(&pid, 0, calls_twice);
    struct seccomp_notif first = next(fd);
    struct pollfd more = {fd, POLLIN, 0};
    CHECK(poll(&more, 1, 5000) == 1);
    CHECK_ERRNO(answer(fd, first.id + 1, 5, 0, 0), EINPROGRESS);
    unsigned long second = next(fd).id;
    CHECK(second == first.id + 1);
    CHECK(answer(fd, second, 5, 0, 0) == 0 && answer(fd, first.id, 5, 0, 0) == 0);
    CHECK(ended(pid) == 7 << 8);
    close(fd);
}

static int uses_file(void) {
    char text[8] = "";
    int a = syscall(SYS_dup3, 0, 0, 0), b = syscall(SYS_dup3, 0, 0, 0);
    if (a != 50 || b < 3 || b == 50) return 1;
    return pread(a, text, 8, 0) == 5 && !strcmp(text, "given") && pread(b, text, 8, 0) == 5 && fcntl(b, F_GETFD) ? 0 : 2;
}

static void descriptors(void) {
    pid_t pid;
    int fd = start(&pid, 0, uses_file), file = memfd_create("given", 0);
    CHECK(write(file, "given", 5) == 5);
    struct seccomp_notif call = next(fd);
    struct seccomp_notif_addfd add = {.id = call.id, .srcfd = file, .newfd = 50};
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
    add.flags = SECCOMP_ADDFD_FLAG_SETFD | 64;
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
    add.flags = SECCOMP_ADDFD_FLAG_SETFD, add.newfd_flags = O_NONBLOCK;
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
    add.newfd_flags = 0, add.srcfd = 999;
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EBADF);
    add.srcfd = file, add.id++;
    CHECK_ERRNO(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), ENOENT);
    add.id = call.id;
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add) == 50 && answer(fd, call.id, 50, 0, 0) == 0);
    call = next(fd);
    add = (struct seccomp_notif_addfd){.id = call.id, .flags = SECCOMP_ADDFD_FLAG_SEND, .srcfd = file, .newfd_flags = O_CLOEXEC};
    CHECK(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add) >= 3);
    CHECK(ended(pid) == 0);
    close(file), close(fd);
}

static volatile int handled;
static void handler(int signo) { handled = signo; }

static int interrupted(void) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, 0);
    errno = 0;
    long first = syscall(SYS_getppid);
    if (first != -1 || errno != EINTR || handled != SIGUSR1) return 1;
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, 0);
    return syscall(SYS_getppid) == 9 ? 0 : 2;
}

static int patient(void) {
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, 0);
    return syscall(SYS_getppid) == 8 && handled == SIGUSR1 ? 0 : 1;
}

static void signals(void) {
    pid_t pid;
    int fd = start(&pid, 0, interrupted);
    struct seccomp_notif call = next(fd), again;
    CHECK(kill(pid, SIGUSR1) == 0);
    again = next(fd);
    CHECK(again.id != call.id);
    CHECK_ERRNO(answer(fd, call.id, 1, 0, 0), ENOENT);
    CHECK(kill(pid, SIGUSR1) == 0);
    call = next(fd);
    CHECK(call.id != again.id && answer(fd, call.id, 9, 0, 0) == 0 && ended(pid) == 0);
    close(fd);
    /* Once taken, the call waits for its answer. */
    fd = start(&pid, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, patient);
    call = next(fd);
    CHECK(kill(pid, SIGUSR1) == 0);
    usleep(50000);
    CHECK(answer(fd, call.id, 8, 0, 0) == 0 && ended(pid) == 0);
    close(fd);
    fd = start(&pid, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, patient);
    call = next(fd);
    CHECK(kill(pid, SIGKILL) == 0 && ended(pid) == SIGKILL);
    CHECK_ERRNO(answer(fd, call.id, 8, 0, 0), ENOENT);
    close(fd);
}

static int forsaken(void) {
    errno = 0;
    int good = syscall(SYS_getppid) == -1 && errno == ENOSYS;
    errno = 0;
    return good && syscall(SYS_getppid) == -1 && errno == ENOSYS ? 0 : 1;
}

static int second_listener(void) {
    CHECK_ERRNO(listener(SECCOMP_FILTER_FLAG_NEW_LISTENER), EBUSY);
    CHECK_ERRNO(listener(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC), EINVAL);
    CHECK_ERRNO(listener(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV), EINVAL);
    return 0;
}

static void ends(void) {
    pid_t pid;
    int fd = start(&pid, 0, forsaken);
    CHECK(events(fd, 5000) == POLLIN);
    close(fd);
    CHECK(ended(pid) == 0);
    fd = start(&pid, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, second_listener);
    CHECK(ended(pid) == 0);
    close(fd);
    unsigned action = SECCOMP_RET_USER_NOTIF;
    struct seccomp_notif_sizes sizes = {0};
    CHECK(seccomp_(SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0 && seccomp_(SECCOMP_GET_NOTIF_SIZES, 0, &sizes) == 0);
    CHECK(sizes.seccomp_notif == 80 && sizes.seccomp_notif_resp == 24 && sizes.seccomp_data == 64);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    parent = getpid();
    answers();
    not_received();
    descriptors();
    signals();
    ends();
    DONE();
}
