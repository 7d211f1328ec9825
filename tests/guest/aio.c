/* Linux's asynchronous I/O: contexts and their limits, transfers, polls that wait, eventfds that are told. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char name[] = "/dev/shm/umbel-aio-XXXXXX";

static long setup(unsigned count, aio_context_t *ctx) { return syscall(SYS_io_setup, count, ctx); }
static long destroy(aio_context_t ctx) { return syscall(SYS_io_destroy, ctx); }
static long submit(aio_context_t ctx, long count, struct iocb **list) { return syscall(SYS_io_submit, ctx, count, list); }
static long cancel(aio_context_t ctx, struct iocb *cb) { return syscall(SYS_io_cancel, ctx, cb, NULL); }
static long events(aio_context_t ctx, long min, long max, struct io_event *out, struct timespec *timeout) {
    return syscall(SYS_io_getevents, ctx, min, max, out, timeout);
}

static struct iocb *request(struct iocb *cb, int command, int fd, const void *buf, size_t len, long long offset) {
    memset(cb, 0, sizeof *cb);
    cb->aio_data = 7, cb->aio_key = 99;
    cb->aio_lio_opcode = command, cb->aio_fildes = fd;
    cb->aio_buf = (uintptr_t)buf, cb->aio_nbytes = len, cb->aio_offset = offset;
    return cb;
}

/* Submits one request; the result of its event, or -1 with errno from the submission. */
static long one(aio_context_t ctx, struct iocb *cb) {
    struct io_event event = {0};
    if (submit(ctx, 1, &cb) != 1) return -1;
    CHECK(events(ctx, 1, 1, &event, NULL) == 1);
    CHECK(event.data == 7 && event.obj == (uintptr_t)cb && event.res2 == 0 && cb->aio_key == 0);
    errno = 0;
    return event.res;
}

static void contexts(void) {
    aio_context_t ctx = 0, second = 0, bad = 1;
    CHECK_ERRNO(setup(1, NULL), EFAULT);
    CHECK_ERRNO(setup(1, &bad), EINVAL);
    CHECK_ERRNO(setup(0, &ctx), EINVAL);
    CHECK_ERRNO(setup(-1, &ctx), EINVAL);
    CHECK_ERRNO(setup(1000000000, &ctx), EINVAL);
    CHECK_ERRNO(setup(4000000, &ctx), EAGAIN);
    CHECK(setup(10, &ctx) == 0 && setup(10, &second) == 0 && ctx && second && ctx != second);
    CHECK_ERRNO(destroy(ctx + 1), EINVAL);
    CHECK_ERRNO(destroy(0), EINVAL);
    CHECK(destroy(second) == 0);
    CHECK_ERRNO(destroy(second), EINVAL);
    struct io_event event;
    struct timespec none = {0}, soon = {0, 20000000};
    CHECK_ERRNO(events(0, 0, 1, &event, &none), EINVAL);
    CHECK_ERRNO(events(ctx, 2, 1, &event, &none), EINVAL);
    CHECK_ERRNO(events(ctx, -1, 1, &event, &none), EINVAL);
    CHECK_ERRNO(events(ctx, 1, 1, &event, (void *)8), EFAULT);
    CHECK(events(ctx, 1, 1, &event, &none) == 0 && events(ctx, 1, 1, &event, &soon) == 0 && events(ctx, 0, 1, &event, 0) == 0);
    CHECK_ERRNO(submit(0, 1, NULL), EINVAL);
    CHECK_ERRNO(submit(ctx, -1, NULL), EINVAL);
    CHECK_ERRNO(submit(ctx, 1, (void *)8), EFAULT);
    struct iocb *nothing = NULL;
    CHECK_ERRNO(submit(ctx, 1, &nothing), EFAULT);
    CHECK(submit(ctx, 0, NULL) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        /* A child has no contexts. */
        CHECK_ERRNO(destroy(ctx), EINVAL);
        CHECK_ERRNO(events(ctx, 0, 1, &event, &none), EINVAL);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(destroy(ctx) == 0);
}

static void transfers(int fd) {
    aio_context_t ctx = 0;
    struct iocb cb;
    char buf[64] = {0};
    CHECK(setup(4, &ctx) == 0);
    CHECK(one(ctx, request(&cb, IOCB_CMD_PWRITE, fd, "0123456789", 10, 0)) == 10);
    CHECK(one(ctx, request(&cb, IOCB_CMD_PREAD, fd, buf, 4, 3)) == 4 && !memcmp(buf, "3456", 4));
    CHECK(one(ctx, request(&cb, IOCB_CMD_PREAD, fd, buf, 4, 100)) == 0);
    CHECK(lseek(fd, 0, SEEK_CUR) == 0);
    struct iovec pieces[2] = {{buf, 2}, {buf + 32, 3}};
    CHECK(one(ctx, request(&cb, IOCB_CMD_PREADV, fd, pieces, 2, 1)) == 5 && !memcmp(buf, "12", 2) && !memcmp(buf + 32, "345", 3));
    CHECK(one(ctx, request(&cb, IOCB_CMD_PWRITEV, fd, pieces, 2, 10)) == 5);
    CHECK(one(ctx, request(&cb, IOCB_CMD_FSYNC, fd, 0, 0, 0)) == 0 && one(ctx, request(&cb, IOCB_CMD_FDSYNC, fd, 0, 0, 0)) == 0);
    CHECK(one(ctx, request(&cb, IOCB_CMD_PREAD, fd, (void *)8, 4, 0)) == -EFAULT);
    request(&cb, IOCB_CMD_PWRITE, fd, "ab", 2, 0)->aio_rw_flags = RWF_APPEND;
    CHECK(one(ctx, &cb) == 2 && lseek(fd, 0, SEEK_END) == 17);
    /* What a submission refuses. */
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_FSYNC, fd, 0, 1, 0)), EINVAL);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_NOOP, fd, 0, 0, 0)), EINVAL);
    CHECK_ERRNO(one(ctx, request(&cb, 9, fd, 0, 0, 0)), EINVAL);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREAD, -1, buf, 4, 0)), EBADF);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREAD, fd, buf, 4, -1)), EINVAL);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREAD, fd, (void *)-1L, 4, 0)), EFAULT);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREADV, fd, (void *)8, 2, 0)), EFAULT);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREADV, fd, pieces, 5000, 0)), EINVAL);
    request(&cb, IOCB_CMD_PREAD, fd, buf, 4, 0)->aio_rw_flags = 0x40000;
    CHECK_ERRNO(one(ctx, &cb), EOPNOTSUPP);
    request(&cb, IOCB_CMD_PREAD, fd, buf, 4, 0)->aio_reserved2 = 1;
    CHECK_ERRNO(one(ctx, &cb), EINVAL);
    int reader = open(name, O_RDONLY), place = open(name, O_PATH), directory = open("/dev/shm", O_RDONLY);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PWRITE, reader, buf, 4, 0)), EBADF);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREAD, place, buf, 4, 0)), EBADF);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_PREAD, directory, buf, 4, 0)), EINVAL);
    close(reader), close(place), close(directory);
    /* Pipes have no position. */
    int ends[2];
    CHECK(pipe(ends) == 0 && one(ctx, request(&cb, IOCB_CMD_PWRITE, ends[1], "pipe", 4, 77)) == 4);
    CHECK(one(ctx, request(&cb, IOCB_CMD_PREAD, ends[0], buf, 9, 5)) == 4);
    request(&cb, IOCB_CMD_PREAD, ends[0], buf, 4, 0)->aio_rw_flags = RWF_NOWAIT;
    CHECK(one(ctx, &cb) == -EAGAIN);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_FSYNC, ends[0], 0, 0, 0)), EINVAL);
    close(ends[0]), close(ends[1]);
    /* Several at once, up to the first that is wrong; the rest is not begun. */
    struct iocb cbs[4], *list[4];
    for (int i = 0; i < 4; i++) list[i] = request(&cbs[i], IOCB_CMD_PREAD, i == 2 ? -1 : fd, buf, i + 1, 0);
    CHECK(submit(ctx, 4, list) == 2);
    struct io_event out[4];
    struct timespec none = {0};
    CHECK(events(ctx, 1, 4, out, &none) == 2 && out[0].res == 1 && out[1].res == 2 && out[1].obj == (uintptr_t)&cbs[1]);
    /* An event that cannot be written stays. */
    CHECK(submit(ctx, 1, list) == 1);
    CHECK_ERRNO(events(ctx, 1, 1, (void *)8, NULL), EFAULT);
    CHECK(events(ctx, 1, 1, out, NULL) == 1);
    /* As many as the context has places for. */
    struct iocb *many = request(&cb, IOCB_CMD_PREAD, fd, buf, 1, 0);
    long held = 0;
    while (held < 100000 && submit(ctx, 1, &many) == 1) held++;
    CHECK(errno == EAGAIN && held >= 4 && held < 100000);
    CHECK(events(ctx, 1, 1, out, NULL) == 1);
    CHECK(submit(ctx, 1, &many) == 1);
    CHECK(destroy(ctx) == 0);
}

static void size_limit(int fd) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        aio_context_t ctx = 0;
        struct iocb cb;
        struct rlimit limit = {20, 20};
        signal(SIGXFSZ, SIG_IGN);
        CHECK(setup(1, &ctx) == 0 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
        CHECK(one(ctx, request(&cb, IOCB_CMD_PWRITE, fd, "0123456789", 10, 15)) == 5);
        CHECK(one(ctx, request(&cb, IOCB_CMD_PWRITE, fd, "0123456789", 10, 20)) == -EFBIG);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void notices(int fd) {
    aio_context_t ctx = 0;
    struct iocb cb;
    char buf[8];
    uint64_t count = 0;
    int event = eventfd(0, EFD_NONBLOCK);
    CHECK(setup(4, &ctx) == 0);
    request(&cb, IOCB_CMD_PREAD, fd, buf, 4, 0)->aio_flags = IOCB_FLAG_RESFD;
    cb.aio_resfd = fd;
    CHECK_ERRNO(one(ctx, &cb), EINVAL);
    cb.aio_resfd = -1;
    CHECK_ERRNO(one(ctx, &cb), EBADF);
    cb.aio_resfd = event;
    CHECK(one(ctx, &cb) == 4 && one(ctx, &cb) == 4 && read(event, &count, 8) == 8 && count == 2);
    /* A counter that is full overflows, and says so. */
    count = UINT64_MAX - 1;
    CHECK(write(event, &count, 8) == 8 && one(ctx, &cb) == 4);
    struct pollfd p = {event, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) == 1 && p.revents == (POLLIN | POLLERR));
    CHECK_ERRNO(write(event, &count, 8), EAGAIN);
    CHECK(read(event, &count, 8) == 8 && count == UINT64_MAX);
    CHECK(destroy(ctx) == 0);
    close(event);
}

static void *write_later(void *fd) {
    usleep(30000);
    CHECK(write(*(int *)fd, "x", 1) == 1);
    return NULL;
}

static void polls(void) {
    aio_context_t ctx = 0;
    struct iocb cb, *list = &cb;
    struct io_event event;
    struct timespec none = {0}, later = {10, 0};
    int ends[2], notice = eventfd(0, 0);
    uint64_t count = 0;
    char c;
    CHECK(setup(4, &ctx) == 0 && pipe(ends) == 0);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_POLL, ends[0], (void *)(long)POLLIN, 1, 0)), EINVAL);
    CHECK_ERRNO(one(ctx, request(&cb, IOCB_CMD_POLL, ends[0], (void *)0x10001L, 0, 0)), EINVAL);
    CHECK(one(ctx, request(&cb, IOCB_CMD_POLL, ends[1], (void *)(long)POLLOUT, 0, 0)) == POLLOUT);
    /* Nothing there: it waits until there is, and tells the eventfd. */
    request(&cb, IOCB_CMD_POLL, ends[0], (void *)(long)POLLIN, 0, 0)->aio_flags = IOCB_FLAG_RESFD;
    cb.aio_resfd = notice;
    CHECK(submit(ctx, 1, &list) == 1 && events(ctx, 1, 1, &event, &none) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, write_later, &ends[1]);
    CHECK(read(notice, &count, 8) == 8 && count == 1);
    CHECK(events(ctx, 1, 1, &event, &later) == 1 && (event.res & POLLIN) && event.obj == (uintptr_t)&cb);
    pthread_join(thread, NULL);
    CHECK(read(ends[0], &c, 1) == 1);
    /* A waiter in io_getevents is woken. */
    request(&cb, IOCB_CMD_POLL, ends[0], (void *)(long)POLLIN, 0, 0);
    CHECK(submit(ctx, 1, &list) == 1);
    pthread_create(&thread, NULL, write_later, &ends[1]);
    CHECK(events(ctx, 1, 1, &event, &later) == 1 && (event.res & POLLIN));
    pthread_join(thread, NULL);
    CHECK(read(ends[0], &c, 1) == 1);
    /* Cancelled: its event comes, empty. */
    CHECK_ERRNO(cancel(ctx, &cb), EINVAL);
    CHECK_ERRNO(cancel(ctx, NULL), EFAULT);
    CHECK(submit(ctx, 1, &list) == 1);
    CHECK_ERRNO(cancel(0, &cb), EINVAL);
    cb.aio_key = 1;
    CHECK_ERRNO(cancel(ctx, &cb), EINVAL);
    cb.aio_key = 0;
    CHECK_ERRNO(cancel(ctx, &cb), EINPROGRESS);
    CHECK(events(ctx, 1, 1, &event, &later) == 1 && event.res == 0 && event.obj == (uintptr_t)&cb);
    CHECK_ERRNO(cancel(ctx, &cb), EINVAL);
    /* A hang-up is told unasked; a request that waits does not hold back the end of its context, or of the process. */
    CHECK(submit(ctx, 1, &list) == 1 && close(ends[1]) == 0);
    CHECK(events(ctx, 1, 1, &event, &later) == 1 && event.res == POLLHUP);
    close(ends[0]);
    CHECK(pipe(ends) == 0);
    cb.aio_fildes = ends[0];
    CHECK(submit(ctx, 1, &list) == 1 && destroy(ctx) == 0);
    ctx = 0;
    CHECK(setup(1, &ctx) == 0 && submit(ctx, 1, &list) == 1);
}

static void on_alarm(int number) { (void)number; }

static void *destroy_later(void *ctx) {
    usleep(30000);
    CHECK(destroy(*(aio_context_t *)ctx) == 0);
    return NULL;
}

static void waits(void) {
    aio_context_t ctx = 0;
    struct io_event event;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK(setup(1, &ctx) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
    /* Again and again: the first may come before the call. */
    ualarm(30000, 30000);
    CHECK_ERRNO(events(ctx, 1, 1, &event, NULL), EINTR);
    /* The mask holds for the call. */
    sigset_t all, none;
    sigfillset(&all), sigemptyset(&none);
    CHECK(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
    struct { const sigset_t *mask; size_t size; } open = {&none, 8}, wrong = {&none, 4};
    CHECK_ERRNO(syscall(SYS_io_pgetevents, ctx, 1, 1, &event, NULL, &open), EINTR);
    ualarm(0, 0);
    CHECK_ERRNO(syscall(SYS_io_pgetevents, ctx, 1, 1, &event, NULL, &wrong), EINVAL);
    CHECK_ERRNO(syscall(SYS_io_pgetevents, ctx, 1, 1, &event, NULL, (void *)8), EFAULT);
    CHECK(sigprocmask(SIG_UNBLOCK, &all, NULL) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, destroy_later, &ctx);
    CHECK_ERRNO(events(ctx, 1, 1, &event, NULL), EINVAL);
    pthread_join(thread, NULL);
}

int main(void) {
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    contexts();
    transfers(fd);
    size_limit(fd);
    notices(fd);
    waits();
    polls();
    unlink(name);
    DONE();
}
