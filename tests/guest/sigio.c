/* Signals for input and output: O_ASYNC, F_SETOWN, F_SETOWN_EX, F_SETSIG. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static volatile int count, last_fd, last_code, last_signo;
static volatile long last_band;
static void note(int signo, siginfo_t *info, void *context) {
    (void)context;
    count++;
    last_signo = signo, last_fd = info->si_fd, last_code = info->si_code, last_band = info->si_band;
}

static void handle(int signo) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK(sigaction(signo, &action, 0) == 0);
}

static int arrived(void) {
    for (int i = 0; i < 2000 && count == 0; i++)
        usleep(1000);
    return count > 0;
}

static void set_async(int fd) {
    CHECK(fcntl(fd, F_SETOWN, getpid()) == 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
    count = 0;
}

static void plain(int in, int out) {
    char text[8];
    set_async(in);
    CHECK(write(out, "x", 1) == 1 && arrived() && last_signo == SIGIO && last_code == SI_KERNEL);
    CHECK(read(in, text, 8) == 1);
    CHECK(fcntl(in, F_SETFL, fcntl(in, F_GETFL) & ~O_ASYNC) == 0);
    count = 0;
    CHECK(write(out, "x", 1) == 1 && read(in, text, 8) == 1);
    usleep(10000);
    CHECK(count == 0);
}

static void reasons(int in, int out) {
    char text[8];
    int signo = SIGRTMIN + 3;
    handle(signo);
    CHECK(fcntl(in, F_SETSIG, signo) == 0 && fcntl(in, F_GETSIG) == signo);
    set_async(in);
    CHECK(write(out, "y", 1) == 1 && arrived());
    CHECK(last_signo == signo && last_fd == in && last_code == POLL_IN && (last_band & 1));
    CHECK(read(in, text, 8) == 1);
    count = 0;
    int on = 0;
    CHECK(ioctl(in, FIOASYNC, &on) == 0 && !(fcntl(in, F_GETFL) & O_ASYNC));
    CHECK(write(out, "y", 1) == 1 && read(in, text, 8) == 1 && count == 0);
    on = 1;
    CHECK(ioctl(in, FIOASYNC, &on) == 0 && write(out, "y", 1) == 1 && arrived() && read(in, text, 8) == 1);
    on = 0;
    CHECK(ioctl(in, FIOASYNC, &on) == 0 && fcntl(in, F_SETSIG, 0) == 0);
}

static void pipes(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    plain(ends[0], ends[1]);
    reasons(ends[0], ends[1]);
    /* Room in a pipe that was full. */
    char page[4096] = {0};
    CHECK(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(ends[1], page, sizeof page) > 0)
        ;
    CHECK(fcntl(ends[1], F_SETSIG, SIGRTMIN + 3) == 0);
    set_async(ends[1]);
    CHECK(read(ends[0], page, sizeof page) == sizeof page && arrived() && last_code == POLL_OUT && last_fd == ends[1]);
    close(ends[0]), close(ends[1]);
}

static void sockets(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    plain(pair[0], pair[1]);
    reasons(pair[0], pair[1]);
    close(pair[0]), close(pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    plain(pair[0], pair[1]);
    close(pair[0]), close(pair[1]);
}

static void terminals(void) {
    int master, slave;
    CHECK(openpty(&master, &slave, 0, 0, 0) == 0);
    struct termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    reasons(slave, master);
    close(slave), close(master);
}

/* One thread, and one group. */
static volatile pid_t told;
static void who(int signo) { (void)signo, told = syscall(SYS_gettid); }
static void *waits(void *out) {
    *(pid_t *)out = syscall(SYS_gettid);
    for (int i = 0; i < 2000 && !told; i++)
        usleep(1000);
    return 0;
}

static void owners(void) {
    int ends[2];
    char c;
    volatile pid_t tid = 0;
    pthread_t thread;
    CHECK(pipe(ends) == 0);
    signal(SIGUSR1, who);
    CHECK(pthread_create(&thread, 0, waits, (void *)&tid) == 0);
    while (!tid)
        usleep(1000);
    struct f_owner_ex owner = {F_OWNER_TID, tid}, got = {0, 0};
    CHECK(fcntl(ends[0], F_SETOWN_EX, &owner) == 0 && fcntl(ends[0], F_GETOWN_EX, &got) == 0);
    CHECK(got.type == F_OWNER_TID && got.pid == tid && fcntl(ends[0], F_SETSIG, SIGUSR1) == 0);
    CHECK(fcntl(ends[0], F_SETFL, O_ASYNC) == 0 && write(ends[1], "x", 1) == 1);
    pthread_join(thread, 0);
    CHECK(told == tid && read(ends[0], &c, 1) == 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        signal(SIGUSR1, SIG_DFL);
        fcntl(ends[0], F_SETOWN, -getpid());
        CHECK(write(ends[1], "x", 1) == 1);
        for (;;)
            pause();
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
    close(ends[0]), close(ends[1]);
}

/* Real-time signals that find no room leave a SIGIO. */
static void overflow(void) {
    int ends[2], signo = SIGRTMIN + 4;
    sigset_t set;
    struct rlimit limit = {0, 0};
    CHECK(pipe(ends) == 0 && fcntl(ends[0], F_SETSIG, signo) == 0);
    sigemptyset(&set), sigaddset(&set, signo), sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, 0);
    set_async(ends[0]);
    CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    struct timespec second = {2, 0};
    siginfo_t info;
    CHECK(sigtimedwait(&set, &info, &second) == SIGIO);
}

int main(void) {
    handle(SIGIO);
    pipes();
    sockets();
    terminals();
    owners();
    overflow();
    DONE();
}
