/* What sockets do with what is sent: hold it back, wait for it at close, let it through a filter; and a change of family. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#ifndef SIOCOUTQNSD
#define SIOCOUTQNSD 0x894b
#endif

typedef struct sockaddr_in6 in6;

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int connected(int to, int kind) {
    int fd = socket(AF_INET, kind, 0);
    in4 addr = own(to);
    CHECK(connect(fd, (sa *)&addr, sizeof addr) == 0);
    return fd;
}

/* A connection: ends[0] is the client's. `buffer`: of the receiver, 0 = as usual. */
static void pair(int ends[2], int buffer) {
    int server = bound(SOCK_STREAM);
    if (buffer) CHECK(setsockopt(server, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0);
    CHECK(listen(server, 5) == 0);
    ends[0] = connected(server, SOCK_STREAM);
    ends[1] = accept(server, 0, 0);
    CHECK(ends[1] >= 0);
    close(server);
}

static int on(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value);
}

static int readable(int fd, int ms) {
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, ms) == 1 && one.revents & POLLIN;
}

/* Whether what was sent with MSG_MORE, or corked, is held back; not asked any more when it goes anyway. */
static int held_back(int corked) {
    int ends[2], unsent = -1, count = -1, held;
    char buf[16];
    for (;;) {
        pair(ends, 0);
        CHECK(on(ends[0], IPPROTO_TCP, TCP_CORK, corked) == 0);
        long start = now_ms();
        CHECK(send(ends[0], "a", 1, corked ? 0 : MSG_MORE) == 1 && send(ends[0], "b", 1, corked ? 0 : MSG_MORE) == 1);
        held = recv(ends[1], buf, sizeof buf, MSG_DONTWAIT) == -1 && errno == EAGAIN;
        held &= ioctl(ends[0], SIOCOUTQNSD, &unsent) == 0 && unsent == 2 && ioctl(ends[1], FIONREAD, &count) == 0 && count == 0;
        if (now_ms() - start < 200) break;
        close(ends[0]), close(ends[1]);
    }
    CHECK(corked ? on(ends[0], IPPROTO_TCP, TCP_CORK, 0) == 0 : send(ends[0], "c", 1, 0) == 1);
    CHECK(recv(ends[1], buf, 3 - corked, MSG_WAITALL) == 3 - corked && !memcmp(buf, "abc", 3 - corked));
    close(ends[0]), close(ends[1]);
    return held;
}

static void cork(void) {
    int ends[2], unsent = -1;
    char buf[16];
    CHECK(held_back(0));
    CHECK(held_back(1));
    pair(ends, 0);
    CHECK(send(ends[0], "abc", 3, 0) == 3 && readable(ends[1], 5000) && recv(ends[1], buf, 16, 0) == 3);
    CHECK(ioctl(ends[0], SIOCOUTQNSD, &unsent) == 0 && unsent == 0);
    /* Nothing else comes: it goes after a while. */
    long start = now_ms();
    CHECK(send(ends[0], "late", 4, MSG_MORE) == 4 && readable(ends[1], 5000) && now_ms() - start >= 100);
    CHECK(recv(ends[1], buf, 16, 0) == 4);
    /* The end of the stream, and more than a segment. */
    CHECK(send(ends[0], "end", 3, MSG_MORE) == 3 && shutdown(ends[0], SHUT_WR) == 0);
    CHECK(recv(ends[1], buf, 16, 0) == 3 && recv(ends[1], buf, 16, 0) == 0);
    close(ends[0]), close(ends[1]);
    pair(ends, 0);
    static char bulk[200000];
    CHECK(send(ends[0], bulk, sizeof bulk, MSG_MORE) == sizeof bulk && readable(ends[1], 1000));
    close(ends[0]), close(ends[1]);
}

/* Fills a connection, whose receiver has a small buffer. */
static void fill(int ends[2]) {
    static char bulk[100000];
    pair(ends, 4096);
    while (send(ends[0], bulk, sizeof bulk, MSG_DONTWAIT) > 0);
    CHECK(errno == EAGAIN);
}

static void *slow_reader(void *arg) {
    static char buf[65536];
    long got, all = 0;
    usleep(200000);
    while ((got = read((int)(long)arg, buf, sizeof buf)) > 0) all += got;
    return got == 0 && all > 0 ? arg : 0;
}

static void lingering(void) {
    int ends[2];
    struct linger wait = {1, 1};
    fill(ends);
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &wait, sizeof wait) == 0);
    long start = now_ms();
    CHECK(close(ends[0]) == 0 && now_ms() - start >= 900);
    close(ends[1]);
    /* It ends as soon as all has been taken. */
    fill(ends);
    wait.l_linger = 20;
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &wait, sizeof wait) == 0);
    pthread_t thread;
    void *good = 0;
    start = now_ms();
    pthread_create(&thread, 0, slow_reader, (void *)(long)ends[1]);
    CHECK(close(ends[0]) == 0 && now_ms() - start >= 100 && now_ms() - start < 15000);
    pthread_join(thread, &good);
    CHECK(good);
    close(ends[1]);
    /* A copy of the descriptor keeps it open; nothing that is unsent, nothing to wait for. */
    pair(ends, 0);
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &wait, sizeof wait) == 0 && write(ends[0], "x", 1) == 1);
    int copy = dup(ends[0]);
    start = now_ms();
    CHECK(close(ends[0]) == 0 && write(copy, "y", 1) == 1 && close(copy) == 0 && now_ms() - start < 10000);
    close(ends[1]);
}

static void deferring(void) {
    int server = bound(SOCK_STREAM), value = 0, fd;
    socklen_t len = sizeof value;
    CHECK(on(server, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5) == 0);
    CHECK(getsockopt(server, IPPROTO_TCP, TCP_DEFER_ACCEPT, &value, &len) == 0 && value == 7);
    CHECK(listen(server, 5) == 0 && fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    int client = connected(server, SOCK_STREAM);
    CHECK_ERRNO(accept(server, 0, 0), EAGAIN);
    CHECK(!readable(server, 50) && write(client, "hi", 2) == 2 && readable(server, 2000));
    char buf[4];
    CHECK((fd = accept(server, 0, 0)) >= 0 && read(fd, buf, 4) == 2);
    close(client), close(fd);
    client = connected(server, SOCK_STREAM);
    CHECK(!readable(server, 50) && shutdown(client, SHUT_WR) == 0 && readable(server, 2000));
    CHECK((fd = accept(server, 0, 0)) >= 0 && read(fd, buf, 4) == 0);
    close(client), close(fd), close(server);
}

static int attach(int fd, int count, struct sock_filter *code) {
    struct sock_fprog program = {count, code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

static void filters(void) {
    int to = bound(SOCK_DGRAM), from = connected(to, SOCK_DGRAM);
    char buf[32];
    /* The first byte after the header of UDP decides; of what passes 12 bytes are left, with the header. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 12),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    CHECK_ERRNO(on(to, SOL_SOCKET, SO_DETACH_FILTER, 0), ENOENT);
    CHECK_ERRNO(attach(to, 0, code), EINVAL);
    CHECK_ERRNO(attach(to, 2, code), EINVAL);
    CHECK_ERRNO(attach(to, 4, 0), EINVAL);
    CHECK(attach(to, 4, code) == 0);
    CHECK(send(from, "no", 2, 0) == 2 && send(from, "yes, indeed", 11, 0) == 11 && send(from, "", 0, 0) == 0);
    CHECK(recv(to, buf, sizeof buf, 0) == 4 && !memcmp(buf, "yes,", 4));
    CHECK_ERRNO(recv(to, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    struct sock_filter got[8];
    socklen_t len = 0;
    CHECK(getsockopt(to, SOL_SOCKET, SO_GET_FILTER, 0, &len) == 0 && len == 4);
    len = 8;
    CHECK(getsockopt(to, SOL_SOCKET, SO_GET_FILTER, got, &len) == 0 && len == 4 && !memcmp(got, code, sizeof code));
    len = 3;
    CHECK_ERRNO(getsockopt(to, SOL_SOCKET, SO_GET_FILTER, got, &len), EINVAL);
    CHECK(on(to, SOL_SOCKET, SO_LOCK_FILTER, 1) == 0);
    CHECK_ERRNO(on(to, SOL_SOCKET, SO_LOCK_FILTER, 0), EPERM);
    CHECK_ERRNO(on(to, SOL_SOCKET, SO_DETACH_FILTER, 0), EPERM);
    CHECK_ERRNO(attach(to, 4, code), EPERM);
    close(to), close(from);
    /* Lengths, ancillary places and arithmetic. */
    to = bound(SOCK_DGRAM), from = connected(to, SOCK_DGRAM);
    struct sock_filter sums[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 10),
        BPF_STMT(BPF_MISC | BPF_TAX, 0),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x800, 0, 3),
        BPF_STMT(BPF_MISC | BPF_TXA, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    CHECK(attach(to, 9, sums) == 0);
    CHECK(send(from, "1234", 4, 0) == 4 && send(from, "12345", 5, 0) == 5 && send(from, "1234567890abcde", 15, 0) == 15);
    CHECK(recv(to, buf, sizeof buf, 0) == 5 && recv(to, buf, sizeof buf, 0) == 15);
    CHECK_ERRNO(recv(to, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    CHECK(on(to, SOL_SOCKET, SO_DETACH_FILTER, 0) == 0 && send(from, "z", 1, 0) == 1 && recv(to, buf, 8, 0) == 1);
    close(to), close(from);
}

static void family(void) {
    int server = socket(AF_INET6, SOCK_STREAM, 0), value = 0;
    in6 any = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any}, got;
    CHECK(bind(server, (sa *)&any, sizeof any) == 0 && listen(server, 5) == 0);
    socklen_t len = sizeof got;
    CHECK(getsockname(server, (sa *)&got, &len) == 0);
    CHECK_ERRNO(on(server, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), ENOTCONN);
    in4 addr = {.sin_family = AF_INET, .sin_port = got.sin6_port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, name;
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0);
    CHECK_ERRNO(on(client, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), ENOPROTOOPT);
    int fd = accept(server, 0, 0);
    len = sizeof value;
    CHECK(getsockopt(fd, IPPROTO_IPV6, IPV6_ADDRFORM, &value, &len) == 0 && value == AF_INET6);
    CHECK_ERRNO(on(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET6), EINVAL);
    CHECK(on(fd, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET) == 0);
    len = sizeof name;
    CHECK(getpeername(fd, (sa *)&name, &len) == 0 && len == 16 && name.sin_family == AF_INET);
    len = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &len) == 0 && value == AF_INET);
    CHECK(write(fd, "x", 1) == 1 && read(client, &value, 4) == 1);
    close(client), close(fd);
    /* One of IPv6 proper stays so. */
    client = socket(AF_INET6, SOCK_STREAM, 0);
    got.sin6_addr = in6addr_loopback;
    CHECK(connect(client, (sa *)&got, sizeof got) == 0);
    CHECK_ERRNO(on(client, IPPROTO_IPV6, IPV6_ADDRFORM, AF_INET), EADDRNOTAVAIL);
    close(client), close(server);
}

int main(void) {
    cork();
    lingering();
    deferring();
    filters();
    family();
    DONE();
}
