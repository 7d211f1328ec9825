/* Probes of idle connections: answered while the device is up; unanswered they end it. In a namespace of its own, and as root only. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* The number of a name of TcpExt in /proc/net/netstat. */
static long count(const char *name) {
    static char names[8192], values[8192];
    FILE *in = fopen("/proc/net/netstat", "r");
    long found = -1;
    CHECK(in && fgets(names, sizeof names, in) && fgets(values, sizeof values, in));
    char *of_names, *of_values, *title = strtok_r(names, " \n", &of_names), *value = strtok_r(values, " \n", &of_values);
    while ((title = strtok_r(0, " \n", &of_names)) && (value = strtok_r(0, " \n", &of_values)))
        if (!strcmp(title, name)) found = atol(value);
    fclose(in);
    return found;
}

static void device(int up) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = up ? IFF_UP : 0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

static void set(int fd, int level, int name, int value) { CHECK(setsockopt(fd, level, name, &value, sizeof value) == 0); }

static void probing(int fd, int idle, int interval, int probes) {
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* The error that a socket comes to have, within half a minute. */
static int error_of(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    int error = -1;
    socklen_t len = sizeof error;
    CHECK(poll(&one, 1, 30000) == 1 && (one.revents & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP));
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    return error;
}

int main(void) {
    alarm(120);
    if (geteuid() != 0 || unshare(CLONE_NEWNET) != 0) DONE();
    device(1);
    int server = bound(SOCK_STREAM), clients[4], fds[4];
    in4 addr = own(server);
    char byte;
    /* What a listener says holds for what it accepts. */
    probing(server, 1, 1, 2);
    CHECK(listen(server, 5) == 0);
    for (int i = 0; i < 4; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (i == 0) probing(clients[i], 1, 1, 2);
        CHECK(connect(clients[i], (sa *)&addr, sizeof addr) == 0 && (fds[i] = accept(server, 0, 0)) >= 0);
        if (i > 0) set(fds[i], SOL_SOCKET, SO_KEEPALIVE, 0);
    }
    /* By time instead of by number; and not at all. */
    probing(clients[1], 1, 1, 100);
    set(clients[1], IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
    probing(clients[2], 1000, 1, 1);
    for (int tries = 0; tries < 1000 && count("TCPKeepAlive") < 3; tries++) usleep(10000);
    CHECK(count("TCPKeepAlive") >= 3 && count("TCPAbortOnTimeout") == 0);
    for (int i = 0; i < 4; i++) {
        CHECK(write(clients[i], "x", 1) == 1 && read(fds[i], &byte, 1) == 1);
        CHECK(write(fds[i], "y", 1) == 1 && read(clients[i], &byte, 1) == 1);
    }
    double begin = now();
    device(0);
    CHECK(error_of(clients[0]) == ETIMEDOUT && now() - begin > 1.9);
    CHECK(error_of(clients[1]) == ETIMEDOUT && now() - begin > 1.4);
    CHECK(error_of(fds[0]) == ETIMEDOUT);
    CHECK(count("TCPAbortOnTimeout") == 3);
    CHECK(read(clients[0], &byte, 1) == 0);
    CHECK_ERRNO(send(clients[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    for (int i = 2; i < 4; i++) {
        struct pollfd one = {clients[i], POLLIN, 0};
        CHECK(poll(&one, 1, 0) == 0);
    }
    /* The others go on when the device does. */
    device(1);
    CHECK(write(clients[2], "z", 1) == 1 && read(fds[2], &byte, 1) == 1 && byte == 'z');
    /* The far end, which does not probe, learns it when it sends. */
    CHECK(write(fds[1], "x", 1) == 1 && error_of(fds[1]) == ECONNRESET);
    for (int i = 0; i < 4; i++) close(clients[i]), close(fds[i]);
    DONE();
}
