/* Registrations with an epoll instance that are removed, added and changed again and again: what is waited for afterwards,
 * whoever waits, and whatever happens to descriptors and instance in between. */
#define _GNU_SOURCE
#include "check.h"
#include "cpus.h"
#include "passing.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Enough that a call site is patched. */
#define ROUNDS 3000
#define MANY 5

static int epfd, fds[MANY];
/* Seen by forked processes, too. */
static volatile int *word;

static int ctl(int op, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {events, {.u64 = data}};
    return epoll_ctl(epfd, op, fd, &event);
}

static void readd(int fd, uint32_t events, uint64_t data) {
    CHECK(ctl(EPOLL_CTL_DEL, fd, 0, 0) == 0 && ctl(EPOLL_CTL_ADD, fd, events, data) == 0);
}

static int look(struct epoll_event *found) { return epoll_wait(epfd, found, MANY, 0); }

static int is_one(uint32_t events, uint64_t data) {
    struct epoll_event found[MANY];
    return look(found) == 1 && found[0].events == events && found[0].data.u64 == data;
}

static int is_none(void) {
    struct epoll_event found[MANY];
    return look(found) == 0;
}

/* Counters that can be written to, of which nothing is wanted, after `rounds` of the calls that servers make. */
static void fill(int rounds) {
    for (int i = 0; i < MANY; i++)
        CHECK((fds[i] = eventfd(0, EFD_NONBLOCK)) >= 0 && ctl(EPOLL_CTL_ADD, fds[i], 0, 0) == 0);
    for (int i = 0; i < rounds; i++)
        readd(fds[i % MANY], i % 2 ? EPOLLIN : 0, i);
    for (int i = 0; i < MANY; i++)
        CHECK(ctl(EPOLL_CTL_MOD, fds[i], 0, 0) == 0);
}

static void begin(int rounds) {
    CHECK((epfd = epoll_create1(EPOLL_CLOEXEC)) >= 0);
    fill(rounds);
}

static void finish(void) {
    close(epfd);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
}

/* What each call says, by itself and after each other, and what is waited for then. */
static void answers(void) {
    begin(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        int fd = fds[i % MANY];
        readd(fd, EPOLLOUT, i);
        CHECK(is_one(EPOLLOUT, i));
        CHECK_ERRNO(ctl(EPOLL_CTL_ADD, fd, EPOLLOUT, 1), EEXIST);
        CHECK(ctl(EPOLL_CTL_MOD, fd, EPOLLOUT, i + 7) == 0 && is_one(EPOLLOUT, i + 7));
        CHECK(ctl(EPOLL_CTL_MOD, fd, EPOLLIN, 3) == 0 && ctl(EPOLL_CTL_MOD, fd, EPOLLOUT, 4) == 0 && is_one(EPOLLOUT, 4));
        readd(fd, EPOLLOUT, 5);
        CHECK_ERRNO(ctl(EPOLL_CTL_ADD, fd, EPOLLIN, 6), EEXIST);
        readd(fd, EPOLLIN, 5);
        readd(fd, EPOLLOUT, 0xfedcba9876543210 + i);
        CHECK(is_one(EPOLLOUT, 0xfedcba9876543210 + i));
        CHECK(ctl(EPOLL_CTL_DEL, fd, 0, 0) == 0);
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
        CHECK_ERRNO(ctl(EPOLL_CTL_MOD, fd, EPOLLOUT, 0), ENOENT);
        CHECK(is_none());
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
        CHECK(ctl(EPOLL_CTL_ADD, fd, EPOLLIN, 9) == 0 && is_none());
        CHECK_ERRNO(ctl(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLEXCLUSIVE, 0), EINVAL);
        CHECK_ERRNO(ctl(77, fd, EPOLLIN, 0), EINVAL);
        if (i % 3 == 0) {
            readd(fd, EPOLLOUT | EPOLLONESHOT, 2);
            CHECK(is_one(EPOLLOUT, 2) && is_none());
            readd(fd, EPOLLOUT | EPOLLET, 3);
            CHECK(is_one(EPOLLOUT, 3) && is_none());
            readd(fd, EPOLLOUT | EPOLLEXCLUSIVE, 4);
            CHECK(is_one(EPOLLOUT, 4));
            CHECK_ERRNO(ctl(EPOLL_CTL_MOD, fd, EPOLLOUT, 4), EINVAL);
            readd(fd, 0, 0);
        }
    }
    finish();
}

/* Which of those that are ready comes first is decided by the order of the calls. */
static void order(void) {
    struct epoll_event found[MANY];
    begin(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        for (int j = 0; j < MANY; j++)
            readd(fds[(i + 3 * j) % MANY], EPOLLOUT, j);
        CHECK(look(found) == MANY);
        for (int j = 0; j < MANY; j++)
            CHECK(found[j].data.u64 == (uint64_t)j);
        for (int j = 0; j < MANY; j++)
            readd(fds[j], 0, 0);
    }
    finish();
}

/* Events and descriptors that are none. */
static void bad(void) {
    char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
    begin(ROUNDS);
    for (int i = 0; i < ROUNDS; i++) {
        int fd = fds[i % MANY];
        struct epoll_event *out[] = {0, (void *)8, (void *)(pages + 4096), (void *)(pages + 4096 - 4), (void *)-4096ul, (void *)(1ul << 62)};
        struct epoll_event *nowhere = out[i % 6];
        CHECK_ERRNO(epoll_ctl(epfd, EPOLL_CTL_MOD, fd, nowhere), EFAULT);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_DEL, fd, nowhere) == 0);
        CHECK_ERRNO(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, nowhere), EFAULT);
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
        /* not there yet */
        madvise(pages, 4096, MADV_DONTNEED);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_ADD, fd, (void *)(pages + i % 4000)) == 0);
        madvise(pages, 4096, MADV_DONTNEED);
        CHECK(epoll_ctl(epfd, EPOLL_CTL_MOD, fd, (void *)(pages + i % 4000)) == 0 && is_none());
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fd + 256, 0, 0), EBADF);
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, -1, 0, 0), EBADF);
        /* numbers are 32 bits wide */
        struct epoll_event event = {EPOLLOUT, {.u64 = 7}};
        CHECK(syscall(SYS_epoll_ctl, epfd | 1l << 40, EPOLL_CTL_MOD | 1l << 35, fd | 1l << 33, &event) == 0 && is_one(EPOLLOUT, 7));
        readd(fd, 0, 0);
    }
    finish();
    munmap(pages, 8192);
}

/* Descriptors and the instance go, and their numbers come back as others. */
static void replaced(void) {
    for (int i = 0; i < 60; i++) {
        begin(i ? 50 : ROUNDS);
        int fd = fds[i % MANY], copy = dup(fd);
        uint64_t one = 1;
        readd(fd, EPOLLOUT, 1);
        if (i % 2)
            CHECK(close(fd) == 0 && eventfd(1, EFD_NONBLOCK) == fd);
        else
            CHECK(dup2(fds[(i + 1) % MANY], fd) == fd);
        /* the old file is still open */
        CHECK(is_one(EPOLLOUT, 1));
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
        CHECK(ctl(EPOLL_CTL_ADD, fd, EPOLLIN, 2) == 0);
        readd(fd, EPOLLIN, 3);
        CHECK(close(copy) == 0 && write(fd, &one, 8) == 8 && is_one(EPOLLIN, 3));
        readd(fd, 0, 0);
        int other = epoll_create1(0), twin = dup(epfd);
        if (i % 3 == 0)
            CHECK(dup2(other, epfd) == epfd);
        else
            CHECK(close(epfd) == 0 && dup2(other, epfd) == epfd);
        CHECK_ERRNO(ctl(EPOLL_CTL_DEL, fds[(i + 1) % MANY], 0, 0), ENOENT);
        CHECK_ERRNO(ctl(EPOLL_CTL_MOD, fd, EPOLLIN, 0), ENOENT);
        CHECK(ctl(EPOLL_CTL_ADD, fd, EPOLLIN, 4) == 0);
        readd(fd, EPOLLIN, 5);
        CHECK(is_one(EPOLLIN, 5));
        int kept = epfd;
        epfd = twin;
        CHECK(is_none());
        CHECK(ctl(EPOLL_CTL_MOD, fd, EPOLLIN, 6) == 0 && is_one(EPOLLIN, 6));
        epfd = kept;
        close(twin), close(other);
        finish();
    }
}

/* ---- others who have the instance, and see at once what is registered: nothing is called in between ---- */

static void step(int value) { *word = value; }

static void await(int value) {
    while (*word != value) {
    }
}

static void change(int round) {
    readd(fds[1], 0, round);
    if (round % 2)
        readd(fds[0], EPOLLOUT, round);
    else
        CHECK(ctl(EPOLL_CTL_MOD, fds[0], 0, 0) == 0);
}

static int shows(int round) { return round % 2 ? is_one(EPOLLOUT, round) : is_none(); }

enum { STEPS = 12 };

/* Who looks sees each change without delay. */
static void lookers(void) {
    for (int i = 1; i <= STEPS; i++) {
        step(2 * i);
        while (*word != 2 * i + 1)
            sched_yield();
        CHECK(shows(i));
    }
}

static void changers(void) {
    for (int i = 1; i <= STEPS; i++) {
        await(2 * i);
        change(i);
        step(2 * i + 1);
    }
}

static void *changing_thread(void *arg) {
    stay_on(1);
    changers();
    return arg;
}

static void *looking_thread(void *arg) {
    stay_on(1);
    lookers();
    return arg;
}

static void threads(void) {
    for (int i = 0; i < 4; i++) {
        begin(ROUNDS);
        step(0);
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, i % 2 ? looking_thread : changing_thread, 0) == 0);
        i % 2 ? changers() : lookers();
        pthread_join(thread, 0);
        finish();
    }
}

/* The end of a child: what it found is told. */
static void leave(void) {
    fflush(stdout);
    _exit(check_failures != 0);
}

static void end(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* A process that was forked has the instance, too. */
static void children(void) {
    for (int i = 0; i < 4; i++) {
        begin(ROUNDS);
        step(0);
        pid_t child = fork();
        if (child == 0)
            stay_on(1);
        if ((child == 0) == i % 2)
            lookers();
        else
            changers();
        if (child == 0)
            leave();
        end(child);
        /* alone again */
        for (int j = 0; j < ROUNDS; j++)
            readd(fds[j % MANY], j % 2 ? 0 : EPOLLIN, j);
        readd(fds[2], EPOLLOUT, 6);
        CHECK(ctl(EPOLL_CTL_MOD, fds[0], 0, 0) == 0 && is_one(EPOLLOUT, 6));
        finish();
    }
}

/* It is sent to another one, or taken away from the one that uses it. */
static void passed(int taken) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    step(0);
    pid_t child = fork();
    if (child == 0) {
        stay_on(1);
        begin(ROUNDS);
        if (!taken)
            give(pair[1], epfd);
        readd(fds[0], EPOLLIN, 0);
        *(word + 1) = epfd;
        step(1);
        changers();
        await(1000);
        leave();
    }
    await(1);
    if (taken) {
        int pidfd = syscall(SYS_pidfd_open, child, 0);
        CHECK((epfd = syscall(SYS_pidfd_getfd, pidfd, *(word + 1), 0)) >= 0);
        close(pidfd);
    } else {
        epfd = take(pair[0]);
    }
    lookers();
    step(1000);
    end(child);
    close(epfd), close(pair[0]), close(pair[1]);
}

/* It is in an instance that another process has, before or after anything is registered with it. */
static void inside(int empty) {
    int outer = epoll_create1(0);
    step(0);
    pid_t child = fork();
    if (child == 0) {
        stay_on(1);
        epfd = outer;
        await(1);
        for (int i = 1; i <= STEPS; i++) {
            step(2 * i);
            await(2 * i + 1);
            CHECK(i % 2 ? is_one(EPOLLIN, 1) : is_none());
        }
        leave();
    }
    if (empty)
        CHECK((epfd = epoll_create1(0)) >= 0);
    else
        begin(ROUNDS);
    int inner = epfd;
    epfd = outer;
    CHECK(ctl(EPOLL_CTL_ADD, inner, EPOLLIN, 1) == 0);
    epfd = inner;
    if (empty)
        fill(ROUNDS);
    step(1);
    changers();
    end(child);
    close(outer);
    finish();
}

/* The name of an instance cannot be opened; the inode that all such share on Linux is root's. */
static void named(void) {
    char name[64];
    int error = geteuid() == 0 ? ENXIO : EACCES;
    begin(0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", epfd);
    CHECK_ERRNO(open(name, O_RDWR), error);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fds[0]);
    CHECK_ERRNO(open(name, O_RDONLY), error);
    finish();
}

/* An instance in another one is waited for with that. */
static void nested(void) {
    begin(ROUNDS);
    int inner = epfd, outer = epoll_create1(0);
    for (int i = 0; i < ROUNDS; i++) {
        epfd = outer;
        if (i == 0)
            CHECK(ctl(EPOLL_CTL_ADD, inner, EPOLLIN, 1) == 0);
        else
            readd(inner, EPOLLIN, 1);
        epfd = inner;
        change(i);
        epfd = outer;
        CHECK(i % 2 ? is_one(EPOLLIN, 1) : is_none());
        struct pollfd wanted = {inner, POLLIN, 0};
        CHECK(poll(&wanted, 1, 0) == i % 2);
    }
    close(outer);
    epfd = inner;
    finish();
}

static volatile sig_atomic_t ticks;

/* Sees an instance whose registrations are whole, whatever it interrupted. */
static void tick(int number) {
    (void)number;
    int saved = errno;
    struct epoll_event found[MANY];
    int count = look(found);
    CHECK(count == 0 || count == 1);
    for (int i = 0; i < count; i++)
        CHECK(found[i].events == EPOLLOUT && found[i].data.u32 == ~(uint32_t)(found[i].data.u64 >> 32));
    ticks++;
    errno = saved;
}

/* A signal between any two instructions loses nothing and does nothing twice. */
static void interrupted(void) {
    begin(ROUNDS);
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval often = {{0, 200}, {0, 200}};
    setitimer(ITIMER_REAL, &often, 0);
    for (uint64_t i = 0; ticks < 300; i++) {
        uint64_t data = (i & 0xffffffff) << 32 | (~i & 0xffffffff);
        for (int j = 0; j < 20; j++) {
            int fd = fds[j % MANY];
            CHECK(ctl(EPOLL_CTL_DEL, fd, 0, 0) == 0);
            CHECK(ctl(EPOLL_CTL_ADD, fd, EPOLLOUT, data) == 0);
            CHECK(ctl(EPOLL_CTL_MOD, fd, 0, 0) == 0);
        }
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, 0);
    finish();
}

/* Another program starts with what was registered last. */
static void again(const char *self) {
    begin(ROUNDS);
    fcntl(epfd, F_SETFD, 0);
    char name[16], data[16];
    snprintf(name, sizeof name, "%d", epfd);
    snprintf(data, sizeof data, "%d", 4711);
    readd(fds[3], EPOLLOUT, 4711);
    execl(self, self, name, data, (char *)0);
    _exit(1);
}

int main(int argc, char **argv) {
    if (argc == 3) {
        epfd = atoi(argv[1]);
        CHECK(is_one(EPOLLOUT, atoi(argv[2])));
        DONE();
    }
    word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cpu_set_t all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    answers();
    order();
    bad();
    replaced();
    stay_on(0);
    threads();
    children();
    passed(0);
    passed(1);
    inside(0);
    inside(1);
    sched_setaffinity(0, sizeof all, &all);
    named();
    nested();
    interrupted();
    if (!check_failures)
        again(argv[0]);
    DONE();
}
