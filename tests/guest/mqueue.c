/* POSIX message queues: making, sizes, priorities, waiting, times out, notification, permissions. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NAME "/umbel-mqueue-test"

static volatile sig_atomic_t told, code, value;

static void on_message(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    told++, code = info->si_code, value = info->si_value.sival_int;
}

static void nothing(int signal) { (void)signal; }

int main(void) {
    char buf[100];
    unsigned priority;
    struct mq_attr attr = {.mq_maxmsg = 3, .mq_msgsize = 50}, seen;
    struct stat s;
    mq_unlink(NAME);
    CHECK_ERRNO(mq_open(NAME, O_RDWR), ENOENT);
    CHECK_ERRNO(mq_open("/", O_RDWR | O_CREAT, 0600, 0), ENOENT);
    CHECK_ERRNO(mq_open("/a/b", O_RDWR | O_CREAT, 0600, 0), EACCES);
    CHECK_ERRNO(mq_unlink(NAME), ENOENT);
    struct mq_attr bad = {.mq_maxmsg = 0, .mq_msgsize = 50};
    CHECK_ERRNO(mq_open(NAME, O_RDWR | O_CREAT, 0600, &bad), EINVAL);
    umask(022);
    mqd_t q = mq_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0666, &attr);
    CHECK(q >= 0 && fcntl(q, F_GETFD) == FD_CLOEXEC && fstat(q, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & 0777) == 0644);
    CHECK_ERRNO(mq_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600, &attr), EEXIST);
    CHECK(mq_getattr(q, &seen) == 0 && seen.mq_maxmsg == 3 && seen.mq_msgsize == 50 && seen.mq_curmsgs == 0 && seen.mq_flags == 0);
    struct pollfd p = {q, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLOUT);
    CHECK(mq_send(q, "low", 3, 1) == 0 && mq_send(q, "high", 4, 9) == 0 && mq_send(q, "later", 5, 9) == 0);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    struct timespec past = {1, 0}, invalid = {1, 2000000000};
    CHECK_ERRNO(mq_timedsend(q, "x", 1, 0, &past), ETIMEDOUT);
    CHECK_ERRNO(mq_timedsend(q, "x", 1, 0, &invalid), EINVAL);
    CHECK_ERRNO(mq_send(q, buf, 51, 0), EMSGSIZE);
    CHECK_ERRNO(mq_send(q, buf, 1, 32768), EINVAL);
    CHECK_ERRNO(mq_receive(q, buf, 49, 0), EMSGSIZE);
    CHECK_ERRNO(mq_send(0, buf, 1, 0), EBADF);
    CHECK_ERRNO(mq_receive(99, buf, 50, 0), EBADF);
    CHECK(mq_receive(q, buf, 50, &priority) == 4 && priority == 9 && !memcmp(buf, "high", 4));
    CHECK(mq_receive(q, buf, 50, &priority) == 5 && priority == 9 && mq_receive(q, buf, 50, &priority) == 3 && priority == 1);
    attr.mq_flags = O_NONBLOCK;
    CHECK(mq_setattr(q, &attr, &seen) == 0 && seen.mq_flags == 0 && mq_getattr(q, &seen) == 0 && seen.mq_flags == O_NONBLOCK);
    CHECK_ERRNO(mq_receive(q, buf, 50, 0), EAGAIN);
    attr.mq_flags = O_APPEND;
    CHECK_ERRNO(mq_setattr(q, &attr, 0), EINVAL);
    attr.mq_flags = 0;
    CHECK(mq_setattr(q, &attr, 0) == 0);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 20000000;
    if (soon.tv_nsec >= 1000000000) soon.tv_sec++, soon.tv_nsec -= 1000000000;
    CHECK_ERRNO(mq_timedreceive(q, buf, 50, 0, &soon), ETIMEDOUT);
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, 0);
    /* Again and again: the first may come before the call. */
    ualarm(20000, 20000);
    CHECK_ERRNO(mq_receive(q, buf, 50, 0), EINTR);
    ualarm(0, 0);
    mqd_t reader = mq_open(NAME, O_RDONLY), writer = mq_open(NAME, O_WRONLY);
    CHECK_ERRNO(mq_send(reader, "x", 1, 0), EBADF);
    CHECK_ERRNO(mq_receive(writer, buf, 50, 0), EBADF);
    pid_t child = fork();
    if (child == 0) _exit(mq_receive(reader, buf, 50, 0) != 2);
    usleep(20000);
    int status;
    CHECK(mq_send(writer, "hi", 2, 0) == 0 && waitpid(child, &status, 0) == child && status == 0);
    action.sa_sigaction = on_message, action.sa_flags = SA_SIGINFO;
    sigaction(SIGUSR1, &action, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 77};
    CHECK(mq_notify(q, &event) == 0);
    CHECK_ERRNO(mq_notify(q, &event), EBUSY);
    CHECK(mq_send(q, "1", 1, 0) == 0 && told == 1 && code == SI_MESGQ && value == 77);
    CHECK(mq_send(q, "2", 1, 0) == 0 && told == 1 && mq_notify(q, &event) == 0 && mq_notify(q, 0) == 0);
    /* Whichever descriptor of the queue its process closes, the registration goes. */
    CHECK(mq_notify(q, &event) == 0 && mq_close(mq_open(NAME, O_RDONLY)) == 0 && mq_notify(q, &event) == 0);
    CHECK(mq_notify(q, 0) == 0 && mq_notify(q, &event) == 0 && mq_notify(q, 0) == 0);
    event.sigev_signo = 65;
    CHECK_ERRNO(mq_notify(q, &event), EINVAL);
    fflush(stdout);
    if (geteuid() == 0) {
        child = fork();
        if (child == 0) {
            CHECK(setgid(1000) == 0 && setuid(1000) == 0);
            CHECK_ERRNO(mq_open(NAME, O_RDWR), EACCES);
            CHECK(mq_open(NAME, O_RDONLY) >= 0);
            CHECK_ERRNO(mq_unlink(NAME), EACCES);
            attr.mq_maxmsg = 1000;
            CHECK_ERRNO(mq_open("/umbel-other", O_RDWR | O_CREAT, 0600, &attr), EINVAL);
            fflush(stdout);
            _exit(check_failures != 0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        child = fork();
        if (child == 0) { /* a namespace has queues of its own */
            CHECK(unshare(CLONE_NEWIPC) == 0);
            CHECK_ERRNO(mq_open(NAME, O_RDWR), ENOENT);
            CHECK(mq_open(NAME, O_RDWR | O_CREAT | O_EXCL, 0600, 0) >= 0 && mq_unlink(NAME) == 0 && mq_receive(q, buf, 50, 0) == 1);
            fflush(stdout);
            _exit(check_failures != 0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0 && mq_send(q, "3", 1, 0) == 0);
    }
    CHECK(mq_unlink(NAME) == 0 && mq_receive(q, buf, 50, 0) == 1);
    CHECK_ERRNO(mq_open(NAME, O_RDWR), ENOENT);
    CHECK(mq_close(q) == 0 && mq_close(reader) == 0 && mq_close(writer) == 0);
    DONE();
}
