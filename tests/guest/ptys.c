/* Packet mode of pseudo-terminals, flushing from either end, and what a master may ask. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int master, terminal;

static void open_pair(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY);
    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(terminal >= 0);
}

static void close_pair(void) { close(terminal), close(master); }

static void raw(void) {
    struct termios settings;
    CHECK(tcgetattr(terminal, &settings) == 0);
    cfmakeraw(&settings);
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0);
}

/* What poll(2) says of the master within five seconds. */
static int events(int wanted) {
    struct pollfd one = {master, wanted, 0};
    return poll(&one, 1, 5000) == 1 ? one.revents & wanted : 0;
}

/* The master is told this, and only this. */
static void told(int status) {
    char buf[8] = "";
    CHECK(events(POLLIN | POLLPRI) == (POLLIN | POLLPRI));
    int count = read(master, buf, sizeof buf);
    if (count != 1 || buf[0] != status) printf("told %#x, not %#x (%d bytes)\n", buf[0], status, count);
    CHECK(count == 1 && buf[0] == status);
}

static void mode(int on) { CHECK(ioctl(master, TIOCPKT, &on) == 0); }

static void packets(void) {
    open_pair();
    struct termios settings;
    int is = -1;
    char buf[16] = "";
    CHECK(tcgetattr(terminal, &settings) == 0 && !(settings.c_cflag & HUPCL));
    CHECK_ERRNO(ioctl(terminal, TIOCPKT, &(int){1}), ENOTTY);
    CHECK(ioctl(master, TIOCGPKT, &is) == 0 && is == 0);
    mode(1);
    CHECK(ioctl(master, TIOCGPKT, &is) == 0 && is == 1);
    CHECK(write(terminal, "one\n", 4) == 4 && events(POLLIN | POLLPRI) == POLLIN);
    CHECK(read(master, buf, sizeof buf) == 6 && !memcmp(buf, "\0one\r\n", 6));
    CHECK(write(terminal, "xy", 2) == 2 && events(POLLIN) == POLLIN);
    CHECK(read(master, buf, 2) == 2 && !memcmp(buf, "\0x", 2) && read(master, buf, 8) == 2 && !memcmp(buf, "\0y", 2));
    /* What happens comes before what was written. */
    CHECK(tcflush(terminal, TCIFLUSH) == 0);
    told(TIOCPKT_FLUSHREAD);
    CHECK(tcflush(terminal, TCOFLUSH) == 0);
    told(TIOCPKT_FLUSHWRITE);
    CHECK(tcflush(terminal, TCIOFLUSH) == 0);
    told(TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE);
    CHECK(tcflow(terminal, TCOOFF) == 0);
    told(TIOCPKT_STOP);
    CHECK(tcflow(terminal, TCOON) == 0);
    told(TIOCPKT_START);
    CHECK(tcflow(terminal, TCOOFF) == 0 && tcflow(terminal, TCOON) == 0);
    told(TIOCPKT_START);
    settings.c_iflag &= ~IXON;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0);
    told(TIOCPKT_NOSTOP);
    settings.c_iflag |= IXON;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0);
    told(TIOCPKT_DOSTOP);
    /* The master's own flushes are no news to it, and what happened before the mode is none either. */
    CHECK(tcflush(master, TCIOFLUSH) == 0);
    mode(0);
    CHECK(tcflush(terminal, TCIFLUSH) == 0);
    mode(1);
    struct pollfd one = {master, POLLIN | POLLPRI, 0};
    CHECK(poll(&one, 1, 0) == 0);
    mode(0);
    CHECK(write(terminal, "z", 1) == 1 && events(POLLIN) == POLLIN && read(master, buf, 8) == 1 && buf[0] == 'z');
    close_pair();
}

/* Keys stop output and interrupt it: the master is told. */
static void keys(void) {
    open_pair();
    struct termios settings;
    CHECK(tcgetattr(terminal, &settings) == 0);
    settings.c_lflag &= ~ECHO;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0);
    mode(1);
    CHECK(write(master, "\x13", 1) == 1);
    told(TIOCPKT_STOP);
    CHECK(write(master, "\x11", 1) == 1);
    told(TIOCPKT_START);
    /* Both directions are flushed, one after the other. */
    char all = 0, one;
    CHECK(write(master, "\x03", 1) == 1);
    while (all != (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE) && events(POLLPRI) && read(master, &one, 1) == 1) all |= one;
    CHECK(all == (TIOCPKT_FLUSHREAD | TIOCPKT_FLUSHWRITE));
    close_pair();
}

static void *write_one(void *fd) {
    CHECK(write(*(int *)fd, "w", 1) == 1);
    return 0;
}

/* A writer for whom there is no room goes on when the other end drops what it has not read. */
static void flushing(int from, int at) {
    pthread_t writer;
    char buf[512];
    memset(buf, 'x', sizeof buf);
    raw();
    CHECK(fcntl(from, F_SETFL, O_RDWR | O_NONBLOCK) == 0);
    for (int tries = 0; tries < 20; tries++) {
        while (write(from, buf, sizeof buf) > 0);
        usleep(1000);
    }
    CHECK(errno == EAGAIN && fcntl(from, F_SETFL, O_RDWR) == 0);
    pthread_create(&writer, 0, write_one, &from);
    usleep(50000);
    CHECK(tcflush(at, TCIFLUSH) == 0);
    pthread_join(writer, 0);
}

static void of_both_ends(void) {
    open_pair(), flushing(terminal, master), close_pair();
    open_pair(), flushing(master, terminal), close_pair();
    open_pair();
    CHECK_ERRNO(ioctl(master, TCFLSH, 42), EINVAL);
    int status, child = fork();
    if (child == 0) {
        CHECK(setsid() > 0 && ioctl(master, TIOCSCTTY, 0) == 0 && tcgetpgrp(terminal) == getpid());
        _exit(check_failures);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close_pair();
}

static int waiting(void) {
    int count = -1;
    CHECK(ioctl(terminal, FIONREAD, &count) == 0);
    return count;
}

/* Whoever is at the other end makes the lines: reads take what there is, though the mode is canonical. */
static void lines_made_elsewhere(void) {
    struct termios settings;
    struct pollfd one = {0, POLLIN, 0};
    char buf[16];
    open_pair();
    one.fd = terminal;
    CHECK(tcgetattr(terminal, &settings) == 0);
    settings.c_lflag = EXTPROC | ICANON;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0);
    CHECK(write(master, "ab\003", 3) == 3 && poll(&one, 1, 5000) == 1 && waiting() == 3);
    CHECK(read(terminal, buf, 1) == 1 && buf[0] == 'a' && waiting() == 2);
    settings.c_lflag = ICANON;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0 && waiting() == 2); /* now it is a line */
    CHECK(read(terminal, buf, sizeof buf) == 2 && !memcmp(buf, "b\003", 2));
    CHECK(write(master, "no line", 7) == 7 && poll(&one, 1, 0) == 0 && waiting() == 0);
    settings.c_lflag = EXTPROC | ICANON;
    CHECK(tcsetattr(terminal, TCSANOW, &settings) == 0 && poll(&one, 1, 5000) == 1 && waiting() == 7);
    CHECK(read(terminal, buf, sizeof buf) == 7);
    close_pair();
}

int main(void) {
    alarm(60);
    packets();
    keys();
    of_both_ends();
    lines_made_elsewhere();
    DONE();
}
