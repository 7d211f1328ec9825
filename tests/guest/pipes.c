/* Pipes, socket pairs, poll and select. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char block[1 << 17];

static long milliseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void basics(void) {
    int p[2], n;
    char text[8] = "";
    CHECK(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK_ERRNO(read(p[0], text, 1), EAGAIN);
    CHECK(write(p[1], "hello", 5) == 5 && ioctl(p[0], FIONREAD, &n) == 0 && n == 5);
    CHECK(read(p[0], text, 3) == 3 && !strcmp(text, "hel") && read(p[0], text, 8) == 2);
    CHECK_ERRNO(write(p[0], "x", 1), EBADF);
    CHECK_ERRNO(read(p[1], text, 1), EBADF);
    CHECK_ERRNO(lseek(p[0], 0, SEEK_SET), ESPIPE);
    CHECK(fcntl(p[0], F_GETPIPE_SZ) == 65536);
    long filled = 0, got;
    while ((got = write(p[1], block, 4096)) > 0) filled += got;
    CHECK(errno == EAGAIN && filled == 65536);
    CHECK(read(p[0], block, 100) == 100);
    CHECK_ERRNO(write(p[1], block, 4096), EAGAIN); /* up to PIPE_BUF bytes go in whole or not at all */
    struct stat s;
    CHECK(fstat(p[0], &s) == 0 && S_ISFIFO(s.st_mode));
    close(p[1]);
    while ((got = read(p[0], block, sizeof block)) > 0) filled -= got;
    CHECK(got == 0 && filled == 100);
    close(p[0]);
    CHECK_ERRNO(pipe2(p, 0x40000000), EINVAL);
}

static void broken(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    close(p[0]);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
    signal(SIGPIPE, SIG_DFL);
    pid_t child = fork();
    if (child == 0) _exit(write(p[1], "x", 1) == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
    close(p[1]);
}

static void large(void) {
    int p[2];
    CHECK(pipe(p) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(p[0]);
        for (int i = 0; i < 40; i++) {
            memset(block, 'a' + i % 26, sizeof block);
            CHECK(write(p[1], block, sizeof block) == sizeof block);
        }
        _exit(check_failures);
    }
    close(p[1]);
    long total = 0, got, wrong = 0;
    while ((got = read(p[0], block, 9973)) > 0)
        for (long i = 0; i < got; i++, total++) wrong += block[i] != 'a' + (total / (long)sizeof block) % 26;
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0 && total == 40 * (long)sizeof block && wrong == 0);
    close(p[0]);
}

static void named(void) {
    char name[64];
    sprintf(name, "/tmp/umbel-fifo-%d", getpid());
    CHECK(mkfifo(name, 0600) == 0);
    pid_t child = fork();
    if (child == 0) {
        int w = open(name, O_WRONLY);
        _exit(write(w, "through a name", 14) != 14);
    }
    int r = open(name, O_RDONLY), status;
    char text[32] = "";
    CHECK(read(r, text, 31) == 14 && !strcmp(text, "through a name") && read(r, text, 31) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0 && close(r) == 0 && unlink(name) == 0);
}

/* What nobody read goes with the last end; the next one who opens a FIFO finds it empty, as large as a new one. */
static void left_in_fifo(void) {
    char name[64], buf[4096] = "left";
    snprintf(name, sizeof name, "/tmp/umbel-left-%d", getpid());
    CHECK(mkfifo(name, 0600) == 0);
    for (int i = 0; i < 20; i++) { /* more than fits */
        int fd = open(name, O_RDWR | O_NONBLOCK), left = -1;
        CHECK(ioctl(fd, FIONREAD, &left) == 0 && left == 0);
        CHECK(write(fd, buf, sizeof buf) == sizeof buf && close(fd) == 0);
    }
    int one = open(name, O_RDWR | O_NONBLOCK), two = open(name, O_RDONLY | O_NONBLOCK), left = -1;
    CHECK(fcntl(one, F_SETPIPE_SZ, 4096) == 4096 && write(one, "kept", 4) == 4 && close(one) == 0);
    CHECK(ioctl(two, FIONREAD, &left) == 0 && left == 4 && close(two) == 0);
    one = open(name, O_RDWR);
    CHECK(fcntl(one, F_GETPIPE_SZ) > 4096 && ioctl(one, FIONREAD, &left) == 0 && left == 0);
    CHECK(close(one) == 0 && unlink(name) == 0);
}

static void polling(void) {
    int p[2], q[2];
    CHECK(pipe(p) == 0 && pipe(q) == 0);
    struct pollfd fds[3] = {{p[0], POLLIN, 0}, {q[1], POLLOUT, 0}, {-1, POLLIN, 0}};
    CHECK(poll(fds, 1, 0) == 0 && fds[0].revents == 0);
    CHECK(poll(fds, 3, 1000) == 1 && fds[1].revents == POLLOUT && fds[2].revents == 0);
    long before = milliseconds();
    CHECK(poll(fds, 1, 30) == 0 && milliseconds() - before >= 29);
    pid_t child = fork();
    if (child == 0) {
        usleep(20000);
        _exit(write(p[1], "x", 1) != 1);
    }
    CHECK(poll(fds, 1, 5000) == 1 && fds[0].revents == POLLIN);
    CHECK(waitpid(child, 0, 0) == child);
    close(p[1]);
    CHECK(poll(fds, 1, -1) == 1 && fds[0].revents == (POLLIN | POLLHUP));
    fds[0].fd = 777;
    CHECK(poll(fds, 1, 0) == 1 && fds[0].revents == POLLNVAL);
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(p[0], &readable);
    FD_SET(q[0], &readable);
    FD_SET(q[1], &writable);
    struct timeval second = {1, 0};
    CHECK(select(64, &readable, &writable, 0, &second) == 2 && FD_ISSET(p[0], &readable) && !FD_ISSET(q[0], &readable) && FD_ISSET(q[1], &writable));
    FD_ZERO(&readable);
    FD_SET(50, &readable);
    CHECK_ERRNO(select(51, &readable, 0, 0, &second), EBADF);
    struct timespec soon = {0, 1000000};
    CHECK(ppoll(0, 0, &soon, 0) == 0);
    close(p[0]), close(q[0]), close(q[1]);
}

/* A pipe's ends are places that can be opened, for either direction, with flags of their own; what else has no name is not. */
static void opened_again(void) {
    int p[2], ends[2];
    char name[64], byte = 0;
    struct stat st;
    CHECK(pipe(p) == 0 && fstat(p[0], &st) == 0 && st.st_uid == geteuid() && st.st_gid == getegid());
    CHECK(labs(st.st_mtime - time(0)) < 1000);
    snprintf(name, sizeof name, "/proc/self/fd/%d", p[0]);
    int both = open(name, O_RDWR), in = open(name, O_WRONLY | O_NONBLOCK), out = open(name, O_RDONLY | O_NONBLOCK);
    CHECK(both >= 0 && in >= 0 && out >= 0);
    CHECK((fcntl(p[0], F_GETFL) & O_NONBLOCK) == 0 && (fcntl(out, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == (O_NONBLOCK | O_RDONLY));
    CHECK_ERRNO(read(out, &byte, 1), EAGAIN);
    CHECK(write(in, "1", 1) == 1 && read(both, &byte, 1) == 1 && byte == '1');
    CHECK(write(both, "2", 1) == 1 && read(p[0], &byte, 1) == 1 && byte == '2');
    char shown[64] = "", wanted[64] = "";
    CHECK(readlink(name, wanted, sizeof wanted - 1) > 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", both);
    CHECK(readlink(name, shown, sizeof shown - 1) > 0 && !strcmp(shown, wanted));
    /* Whoever writes is counted, however he came to it. */
    close(p[1]), close(in);
    CHECK_ERRNO(read(out, &byte, 1), EAGAIN);
    close(both);
    CHECK(read(out, &byte, 1) == 0);
    close(out);
    snprintf(name, sizeof name, "/proc/self/fd/%d", p[0]);
    CHECK((in = open(name, O_WRONLY)) >= 0 && write(in, "3", 1) == 1 && read(p[0], &byte, 1) == 1 && byte == '3');
    close(p[0]);
    /* No open of it waits for anybody, or misses him. */
    snprintf(name, sizeof name, "/proc/self/fd/%d", in);
    CHECK((out = open(name, O_WRONLY | O_NONBLOCK)) >= 0 && (both = open(name, O_WRONLY)) >= 0);
    close(in), close(out), close(both);
    int event = eventfd(0, 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", event);
    CHECK_ERRNO(open(name, O_RDWR), geteuid() == 0 ? ENXIO : EACCES);
    snprintf(name, sizeof name, "/proc/self/fd/%d", ends[0]);
    CHECK_ERRNO(open(name, O_RDWR), ENXIO);
    close(event), close(ends[0]), close(ends[1]);
    if (geteuid() != 0) return;
    /* It belongs to whoever made it. */
    pid_t child = fork();
    if (child == 0) {
        CHECK(pipe(p) == 0 && setresuid(12345, 12345, 12345) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
        snprintf(name, sizeof name, "/proc/self/fd/%d", p[0]);
        CHECK_ERRNO(open(name, O_RDONLY), EACCES);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    basics();
    broken();
    large();
    named();
    left_in_fifo();
    polling();
    opened_again();
    DONE();
}
