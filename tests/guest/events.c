/* Events with descriptors: epoll, eventfd, signalfd, timerfd, POSIX timers, poll and select with masks. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static void count(int signo) { caught += signo ? 1 : 0; }

static void counters(void) {
    unsigned long value = 0;
    int fd = eventfd(3, EFD_NONBLOCK);
    CHECK(read(fd, &value, 8) == 8 && value == 3);
    CHECK_ERRNO(read(fd, &value, 8), EAGAIN);
    CHECK_ERRNO(read(fd, &value, 4), EINVAL);
    value = -1UL;
    CHECK_ERRNO(write(fd, &value, 8), EINVAL);
    value = -2UL;
    CHECK(write(fd, &value, 8) == 8);
    value = 1;
    CHECK_ERRNO(write(fd, &value, 8), EAGAIN);
    struct pollfd one = {fd, POLLIN | POLLOUT, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLIN);
    close(fd);
    fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    CHECK(read(fd, &value, 8) == 8 && value == 1);
    CHECK_ERRNO(read(fd, &value, 8), EAGAIN);
    close(fd);
    CHECK_ERRNO(eventfd(0, 0x40), EINVAL);
}

static void *later(void *fd) {
    usleep(20000);
    CHECK(write((long)fd, "12345678", 8) == 8);
    return 0;
}

/* What was ready each time that it was added and removed is reported once; the last one added is what counts. */
static void again(int epoll, int writable) {
    struct epoll_event in = {EPOLLOUT, {.u64 = 0}}, out[8];
    for (int i = 0; i < 100; i++) {
        in.data.u64 = i;
        CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, writable, &in) == 0);
        if (i % 2)
            CHECK(epoll_wait(epoll, out, 8, 0) == 1 && out[0].data.u64 == (unsigned)i);
        CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, writable, 0) == 0);
    }
    CHECK(epoll_wait(epoll, out, 8, 0) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, writable, &in) == 0);
    CHECK(epoll_wait(epoll, out, 8, 0) == 1 && out[0].data.u64 == 99);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, writable, 0) == 0);
}

static void epolls(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), event = eventfd(0, 0), ends[2];
    CHECK(pipe(ends) == 0);
    struct epoll_event in = {EPOLLIN, {.u64 = 0x123456789abcdefUL}}, out[4];
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &in) == 0);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &in), EEXIST);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_MOD, event, &in), ENOENT);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &in), EINVAL);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, 999, &in), EBADF);
    int file = open("/proc/self/exe", O_RDONLY);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &in), EPERM);
    close(file);
    CHECK(epoll_wait(epoll, out, 4, 0) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    CHECK(epoll_wait(epoll, out, 4, -1) == 1 && out[0].events == EPOLLIN && out[0].data.u64 == in.data.u64);
    CHECK(epoll_wait(epoll, out, 4, -1) == 1);
    in.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &in) == 0);
    CHECK(epoll_wait(epoll, out, 4, 0) == 1);
    CHECK(epoll_wait(epoll, out, 4, 0) == 0);
    CHECK(write(ends[1], "y", 1) == 1);
    CHECK(epoll_wait(epoll, out, 4, 0) == 1);
    in.events = EPOLLIN | EPOLLONESHOT;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, ends[0], &in) == 0);
    CHECK(epoll_wait(epoll, out, 4, 0) == 1);
    CHECK(epoll_wait(epoll, out, 4, 10) == 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, ends[0], 0) == 0);
    again(epoll, ends[1]);
    in.events = EPOLLIN;
    in.data.u64 = 7;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &in) == 0);
    pthread_t thread;
    pthread_create(&thread, 0, later, (void *)(long)event);
    CHECK(epoll_wait(epoll, out, 4, 5000) == 1 && out[0].data.u64 == 7);
    pthread_join(thread, 0);
    int outer = epoll_create1(0);
    CHECK(epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &in) == 0);
    CHECK(epoll_wait(outer, out, 4, 0) == 1);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, outer, &in), ELOOP);
    struct pollfd nested = {outer, POLLIN, 0};
    CHECK(poll(&nested, 1, 0) == 1);
    close(event);
    CHECK(epoll_wait(outer, out, 4, 0) == 0);
    close(ends[1]);
    in.events = 0;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &in) == 0);
    CHECK(epoll_wait(epoll, out, 4, 0) == 1 && out[0].events == EPOLLHUP);
    close(ends[0]);
    close(outer);
    close(epoll);
}

static void signals_from_descriptors(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, 0);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    struct signalfd_siginfo info[3];
    CHECK_ERRNO(read(fd, info, sizeof info), EAGAIN);
    CHECK_ERRNO(read(fd, info, 100), EINVAL);
    kill(getpid(), SIGUSR1);
    sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 42});
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLIN);
    CHECK(read(fd, info, sizeof info) == 2 * sizeof info[0]);
    CHECK(info[0].ssi_signo == SIGUSR1 && info[0].ssi_pid == (unsigned)getpid() && info[0].ssi_code == SI_USER);
    CHECK(info[1].ssi_signo == (unsigned)SIGRTMIN + 1 && info[1].ssi_int == 42 && info[1].ssi_code == SI_QUEUE);
    CHECK(poll(&one, 1, 0) == 0);
    fcntl(fd, F_SETFL, 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(20000);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    CHECK(read(fd, info, sizeof info) == sizeof info[0] && info[0].ssi_pid == (unsigned)child);
    CHECK(waitpid(child, 0, 0) == child);
    close(fd);
    sigprocmask(SIG_UNBLOCK, &set, 0);
}

static void timers_with_descriptors(void) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    unsigned long ticks = 0;
    CHECK_ERRNO(read(fd, &ticks, 8), EAGAIN);
    struct itimerspec spec = {{0, 5000000}, {0, 5000000}}, now;
    CHECK(timerfd_settime(fd, 0, &spec, 0) == 0);
    CHECK(timerfd_gettime(fd, &now) == 0 && now.it_interval.tv_nsec == 5000000 && now.it_value.tv_nsec > 0);
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 5000) == 1);
    usleep(30000);
    CHECK(read(fd, &ticks, 8) == 8 && ticks >= 5 && ticks < 1000);
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    spec = (struct itimerspec){{0, 0}, at};
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, 0) == 0);
    CHECK(poll(&one, 1, 5000) == 1 && read(fd, &ticks, 8) == 8 && ticks == 1);
    CHECK(timerfd_gettime(fd, &now) == 0 && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
    CHECK_ERRNO(timerfd_create(77, 0), EINVAL);
    CHECK_ERRNO(timerfd_gettime(0, &now), EINVAL);
    close(fd);
}

static volatile int timer_value;
static void on_timer(int signo, siginfo_t *info, void *context) {
    (void)signo, (void)context;
    if (info->si_code == SI_TIMER) timer_value = info->si_value.sival_int;
    caught++;
}

static void timers_with_signals(void) {
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77};
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec spec = {{0, 2000000}, {0, 2000000}}, now;
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    caught = 0;
    CHECK(timer_settime(timer, 0, &spec, 0) == 0);
    usleep(40000);
    CHECK(caught == 0);
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_code == SI_TIMER && info.si_value.sival_int == 77);
    CHECK(info.si_overrun >= 10 && timer_getoverrun(timer) == info.si_overrun);
    sigprocmask(SIG_SETMASK, &old, 0);
    while (caught < 3) pause();
    CHECK(timer_value == 77);
    spec = (struct itimerspec){{0, 0}, {0, 0}};
    CHECK(timer_settime(timer, 0, &spec, &now) == 0 && now.it_interval.tv_nsec == 2000000);
    CHECK(timer_gettime(timer, &now) == 0 && now.it_value.tv_nsec == 0);
    CHECK(timer_delete(timer) == 0);
    struct itimerval virtual = {{0, 0}, {0, 20000}};
    signal(SIGVTALRM, count);
    caught = 0;
    CHECK(setitimer(ITIMER_VIRTUAL, &virtual, 0) == 0);
    clock_t start = clock();
    while (!caught && clock() - start < 5 * CLOCKS_PER_SEC) {}
    CHECK(caught == 1);
}

static void masks_of_one_call(void) {
    signal(SIGUSR1, count);
    sigset_t block, none;
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigprocmask(SIG_BLOCK, &block, 0);
    kill(getpid(), SIGUSR1);
    caught = 0;
    struct timespec second = {1, 0};
    CHECK_ERRNO(ppoll(0, 0, &second, &none), EINTR);
    CHECK(caught == 1);
    kill(getpid(), SIGUSR1);
    CHECK_ERRNO(pselect(0, 0, 0, 0, &second, &none), EINTR);
    CHECK(caught == 2);
    kill(getpid(), SIGUSR1);
    int epoll = epoll_create1(0);
    struct epoll_event out;
    CHECK_ERRNO(epoll_pwait(epoll, &out, 1, 1000, &none), EINTR);
    CHECK(caught == 3);
    kill(getpid(), SIGUSR1);
    int ready = eventfd(1, 0);
    struct pollfd one = {ready, POLLIN, 0};
    CHECK(ppoll(&one, 1, &second, &block) == 1 && caught == 3);
    sigset_t now;
    sigprocmask(SIG_SETMASK, 0, &now);
    CHECK(sigismember(&now, SIGUSR1) && !sigismember(&now, SIGUSR2));
    CHECK_ERRNO(sigsuspend(&none), EINTR);
    CHECK(caught == 4);
    close(ready);
    close(epoll);
    sigprocmask(SIG_UNBLOCK, &block, 0);
}

static void selecting(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    fd_set reads, writes;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    FD_SET(ends[0], &reads), FD_SET(ends[1], &writes);
    struct timeval soon = {0, 10000};
    CHECK(select(ends[1] + 1, &reads, &writes, 0, &soon) == 1);
    CHECK(!FD_ISSET(ends[0], &reads) && FD_ISSET(ends[1], &writes));
    FD_SET(ends[0], &reads);
    soon = (struct timeval){0, 10000};
    CHECK(select(ends[0] + 1, &reads, 0, 0, &soon) == 0 && !FD_ISSET(ends[0], &reads));
    CHECK(soon.tv_sec == 0 && soon.tv_usec == 0);
    CHECK(write(ends[1], "z", 1) == 1);
    FD_SET(ends[0], &reads);
    CHECK(select(ends[0] + 1, &reads, 0, 0, 0) == 1 && FD_ISSET(ends[0], &reads));
    close(ends[1]);
    FD_ZERO(&writes);
    FD_SET(ends[1], &writes);
    CHECK_ERRNO(select(ends[1] + 1, 0, &writes, 0, 0), EBADF);
    CHECK_ERRNO(select(-1, 0, 0, 0, 0), EINVAL);
    close(ends[0]);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    counters();
    epolls();
    signals_from_descriptors();
    timers_with_descriptors();
    timers_with_signals();
    masks_of_one_call();
    selecting();
    DONE();
}
