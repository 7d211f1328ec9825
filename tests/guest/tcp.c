/* TCP over loopback: names, backlog, refusal, half closing, resets, readiness, options; IPv4, IPv6 and mapped addresses. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct sockaddr sa;
typedef struct sockaddr_in in4;
typedef struct sockaddr_in6 in6;

static in4 loopback(int port) {
    return (in4){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int port_of(int fd) {
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    CHECK(getsockname(fd, (sa *)&addr, &len) == 0);
    return ntohs(((in4 *)&addr)->sin_port);
}

static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) == 0 ? value : -errno;
}

static int listener(int backlog) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    in4 addr = loopback(0);
    CHECK(fd >= 0 && bind(fd, (sa *)&addr, sizeof addr) == 0 && listen(fd, backlog) == 0);
    return fd;
}

/* A connection: ends[0] is the client's, ends[1] the server's. */
static void pair(int ends[2]) {
    int server = listener(5);
    in4 addr = loopback(port_of(server));
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(ends[0], (sa *)&addr, sizeof addr) == 0);
    ends[1] = accept(server, 0, 0);
    CHECK(ends[1] >= 0);
    close(server);
}

static int events(int fd, int wanted) {
    struct pollfd one = {fd, wanted, 0};
    poll(&one, 1, 0);
    return one.revents;
}

static void names(void) {
    in4 addr = loopback(0), got;
    socklen_t len = sizeof got;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP), other = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(getsockname(fd, (sa *)&got, &len) == 0 && len == 16 && got.sin_port == 0 && got.sin_addr.s_addr == 0);
    CHECK_ERRNO(getpeername(fd, (sa *)&got, &len), ENOTCONN);
    CHECK_ERRNO(bind(fd, (sa *)&addr, 15), EINVAL);
    addr.sin_addr.s_addr = htonl(0x08080808);
    CHECK_ERRNO(bind(fd, (sa *)&addr, sizeof addr), EADDRNOTAVAIL);
    addr = loopback(0);
    addr.sin_family = AF_INET6;
    CHECK_ERRNO(bind(fd, (sa *)&addr, sizeof addr), EAFNOSUPPORT);
    addr = loopback(0);
    CHECK(bind(fd, (sa *)&addr, sizeof addr) == 0 && port_of(fd) >= 1024);
    CHECK_ERRNO(bind(fd, (sa *)&addr, sizeof addr), EINVAL);
    addr = loopback(port_of(fd));
    CHECK_ERRNO(bind(other, (sa *)&addr, sizeof addr), EADDRINUSE);
    addr.sin_addr.s_addr = 0;
    CHECK_ERRNO(bind(other, (sa *)&addr, sizeof addr), EADDRINUSE);
    addr = loopback(port_of(fd));
    addr.sin_addr.s_addr = htonl(0x7f000002);
    CHECK(bind(other, (sa *)&addr, sizeof addr) == 0);
    CHECK_ERRNO(accept(fd, 0, 0), EINVAL);
    char byte;
    CHECK_ERRNO(recv(fd, &byte, 1, 0), ENOTCONN);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERRNO(send(fd, "x", 1, 0), EPIPE);
    CHECK_ERRNO(shutdown(fd, SHUT_WR), ENOTCONN);
    CHECK(events(fd, POLLIN | POLLOUT) == (POLLOUT | POLLHUP));
    CHECK_ERRNO(socket(AF_INET, SOCK_SEQPACKET, 0), ESOCKTNOSUPPORT);
    CHECK_ERRNO(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
    CHECK_ERRNO(socket(AF_INET, SOCK_STREAM, 9999), EINVAL);
    CHECK_ERRNO(socket(AF_INET, SOCK_RAW, 0), EPROTONOSUPPORT);
    int two[2];
    CHECK_ERRNO(socketpair(AF_INET, SOCK_STREAM, 0, two), EOPNOTSUPP);
    close(fd), close(other);
}

static void streams(void) {
    int ends[2], count;
    char buf[64];
    pair(ends);
    in4 a, b;
    socklen_t len = sizeof a;
    CHECK(getsockname(ends[0], (sa *)&a, &len) == 0 && getpeername(ends[1], (sa *)&b, &len) == 0);
    CHECK(a.sin_port == b.sin_port && a.sin_addr.s_addr == b.sin_addr.s_addr && a.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(write(ends[0], "hello ", 6) == 6 && send(ends[0], "world", 5, MSG_MORE) == 5);
    CHECK(setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, 4) == 0);
    CHECK(recv(ends[1], buf, 11, MSG_PEEK | MSG_WAITALL) == 11 && recv(ends[1], buf, 3, 0) == 3 && !memcmp(buf, "hel", 3));
    CHECK(ioctl(ends[1], FIONREAD, &count) == 0 && count == 8);
    CHECK(recv(ends[1], 0, 3, MSG_TRUNC) == 3);
    CHECK(read(ends[1], buf, sizeof buf) == 5 && !memcmp(buf, "world", 5));
    CHECK_ERRNO(recv(ends[1], buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    CHECK_ERRNO(recv(ends[1], buf, sizeof buf, MSG_OOB), EINVAL);
    CHECK_ERRNO(recv(ends[1], buf, sizeof buf, MSG_ERRQUEUE), EAGAIN);
    CHECK(events(ends[1], POLLIN | POLLOUT | POLLRDHUP) == POLLOUT);
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    CHECK(events(ends[1], POLLIN | POLLOUT | POLLRDHUP) == (POLLIN | POLLOUT | POLLRDHUP));
    CHECK(read(ends[1], buf, 1) == 0 && write(ends[1], "late", 4) == 4 && read(ends[0], buf, 9) == 4);
    CHECK_ERRNO(write(ends[0], "x", 1), EPIPE);
    CHECK(shutdown(ends[1], SHUT_WR) == 0 && read(ends[0], buf, 1) == 0);
    CHECK(events(ends[0], POLLIN | POLLOUT) == (POLLIN | POLLOUT | POLLHUP));
    CHECK_ERRNO(getpeername(ends[0], (sa *)&a, &len), ENOTCONN);
    close(ends[0]), close(ends[1]);
}

static void resets(void) {
    int ends[2];
    char buf[8];
    pair(ends);
    CHECK(write(ends[0], "unread", 6) == 6);
    close(ends[1]);
    CHECK(events(ends[0], POLLIN) == (POLLIN | POLLERR | POLLHUP));
    CHECK_ERRNO(read(ends[0], buf, 1), ECONNRESET);
    CHECK(read(ends[0], buf, 1) == 0);
    CHECK_ERRNO(write(ends[0], "x", 1), EPIPE);
    close(ends[0]);
    pair(ends);
    CHECK(write(ends[1], "rest", 4) == 4);
    close(ends[1]);
    CHECK(write(ends[0], "lost", 4) == 4);
    CHECK_ERRNO(write(ends[0], "x", 1), EPIPE);
    CHECK(read(ends[0], buf, 8) == 4 && read(ends[0], buf, 8) == 0);
    close(ends[0]);
    pair(ends);
    struct linger now = {1, 0};
    CHECK(setsockopt(ends[1], SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    close(ends[1]);
    CHECK(option(ends[0], SOL_SOCKET, SO_ERROR) == ECONNRESET && option(ends[0], SOL_SOCKET, SO_ERROR) == 0);
    close(ends[0]);
    /* A listener that goes resets whom it has not accepted. */
    int server = listener(5), client = socket(AF_INET, SOCK_STREAM, 0);
    in4 addr = loopback(port_of(server));
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0);
    close(server);
    CHECK_ERRNO(read(client, buf, 1), ECONNRESET);
    close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_ERRNO(connect(client, (sa *)&addr, sizeof addr), ECONNREFUSED);
    CHECK_ERRNO(connect(client, (sa *)&addr, sizeof addr), ECONNREFUSED);
    close(client);
}

static void nonblocking(void) {
    int server = listener(0), clients[3];
    in4 addr = loopback(port_of(server));
    fcntl(server, F_SETFL, O_NONBLOCK);
    CHECK_ERRNO(accept(server, 0, 0), EAGAIN);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_ERRNO(connect(fd, (sa *)&addr, sizeof addr), EINPROGRESS);
    struct pollfd one = {fd, POLLOUT, 0};
    CHECK(poll(&one, 1, 1000) == 1 && one.revents == POLLOUT && option(fd, SOL_SOCKET, SO_ERROR) == 0);
    CHECK(connect(fd, (sa *)&addr, sizeof addr) == 0);
    CHECK_ERRNO(connect(fd, (sa *)&addr, sizeof addr), EISCONN);
    one = (struct pollfd){server, POLLIN, 0};
    CHECK(poll(&one, 1, 1000) == 1);
    /* The backlog is full: who comes waits until there is room. */
    for (int i = 0; i < 2; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        CHECK_ERRNO(connect(clients[i], (sa *)&addr, sizeof addr), EINPROGRESS);
    }
    CHECK_ERRNO(connect(clients[1], (sa *)&addr, sizeof addr), EALREADY);
    CHECK(events(clients[1], POLLOUT | POLLIN) == 0);
    CHECK_ERRNO(send(clients[1], "x", 1, 0), EAGAIN);
    close(fd), close(clients[0]), close(clients[1]), close(server);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_ERRNO(connect(fd, (sa *)&addr, sizeof addr), EINPROGRESS);
    one = (struct pollfd){fd, POLLOUT, 0};
    CHECK(poll(&one, 1, 1000) == 1 && (one.revents & (POLLERR | POLLHUP)) == (POLLERR | POLLHUP));
    CHECK(option(fd, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
    close(fd);
}

static void *drain(void *arg) {
    static char buf[65536];
    long total = 0, count;
    while ((count = read((long)arg, buf, sizeof buf)) > 0) {
        for (long i = 0; i < count; i++)
            if (buf[i] != (char)((total + i) * 7 % 251)) return (void *)-1L;
        total += count;
    }
    return (void *)total;
}

static void bulk(void) {
    enum { SIZE = 4 << 20 };
    int ends[2];
    pair(ends);
    char *data = malloc(SIZE);
    for (long i = 0; i < SIZE; i++) data[i] = i * 7 % 251;
    pthread_t thread;
    void *got;
    pthread_create(&thread, 0, drain, (void *)(long)ends[1]);
    CHECK(send(ends[0], data, SIZE, 0) == SIZE);
    close(ends[0]);
    pthread_join(thread, &got);
    CHECK((long)got == SIZE);
    close(ends[1]);
    /* Without a reader a sender gets as far as the buffers. */
    pair(ends);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    long total = 0, count;
    while ((count = write(ends[0], data, SIZE)) > 0) total += count;
    CHECK(errno == EAGAIN && total > 65536 && events(ends[0], POLLOUT) == 0);
    pthread_create(&thread, 0, drain, (void *)(long)ends[1]);
    struct pollfd one = {ends[0], POLLOUT, 0};
    CHECK(poll(&one, 1, 5000) == 1 && one.revents == POLLOUT);
    struct timeval brief = {0, 20000};
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief) == 0);
    fcntl(ends[0], F_SETFL, 0);
    CHECK_ERRNO(read(ends[0], data, 1), EAGAIN);
    close(ends[0]);
    pthread_join(thread, &got);
    close(ends[1]);
    free(data);
}

static void version6(void) {
    int server = socket(AF_INET6, SOCK_STREAM, 0), client = socket(AF_INET6, SOCK_STREAM, 0), fd = -1;
    in6 any = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any}, peer, to;
    socklen_t len = sizeof peer;
    CHECK(option(server, IPPROTO_IPV6, IPV6_V6ONLY) == 0);
    CHECK(bind(server, (sa *)&any, sizeof any) == 0 && listen(server, 5) == 0);
    CHECK_ERRNO(setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, 4), EINVAL);
    to = (in6){.sin6_family = AF_INET6, .sin6_port = htons(port_of(server)), .sin6_addr = in6addr_loopback};
    CHECK(connect(client, (sa *)&to, sizeof to) == 0 && (fd = accept(server, (sa *)&peer, &len)) >= 0);
    CHECK(len == 28 && peer.sin6_family == AF_INET6 && !memcmp(&peer.sin6_addr, &in6addr_loopback, 16));
    close(fd), close(client);
    /* An IPv4 client of it is shown mapped. */
    client = socket(AF_INET, SOCK_STREAM, 0);
    in4 addr = loopback(port_of(server));
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0 && (fd = accept(server, (sa *)&peer, &len)) >= 0);
    char text[64];
    CHECK(inet_ntop(AF_INET6, &peer.sin6_addr, text, sizeof text) && !strcmp(text, "::ffff:127.0.0.1"));
    close(fd), close(client);
    client = socket(AF_INET6, SOCK_STREAM, 0);
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &to.sin6_addr);
    CHECK(connect(client, (sa *)&to, sizeof to) == 0 && (fd = accept(server, 0, 0)) >= 0);
    close(fd), close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_ERRNO(bind(client, (sa *)&addr, sizeof addr), EADDRINUSE);
    close(client), close(server);
    server = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(setsockopt(server, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, 4) == 0);
    CHECK(bind(server, (sa *)&any, sizeof any) == 0 && listen(server, 5) == 0);
    addr = loopback(port_of(server));
    client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_ERRNO(connect(client, (sa *)&addr, sizeof addr), ECONNREFUSED);
    close(client), close(server);
}

static void reuse(void) {
    int a = listener(5), b = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    in4 addr = loopback(port_of(a));
    CHECK(setsockopt(b, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 && option(b, SOL_SOCKET, SO_REUSEADDR) == 1);
    CHECK_ERRNO(bind(b, (sa *)&addr, sizeof addr), EADDRINUSE);
    /* The server's end closes first: its port is in TIME_WAIT. */
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0);
    close(accept(a, 0, 0)), close(client), close(a);
    a = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_ERRNO(bind(a, (sa *)&addr, sizeof addr), EADDRINUSE);
    close(a), close(b);
    a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
    addr = loopback(0);
    CHECK(setsockopt(a, SOL_SOCKET, SO_REUSEPORT, &on, 4) == 0 && setsockopt(b, SOL_SOCKET, SO_REUSEPORT, &on, 4) == 0);
    CHECK(bind(a, (sa *)&addr, sizeof addr) == 0);
    addr = loopback(port_of(a));
    CHECK(bind(b, (sa *)&addr, sizeof addr) == 0 && listen(a, 64) == 0 && listen(b, 64) == 0);
    int clients[40], of_a = 0, of_b = 0, fd;
    fcntl(a, F_SETFL, O_NONBLOCK), fcntl(b, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 40; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(connect(clients[i], (sa *)&addr, sizeof addr) == 0);
    }
    while ((fd = accept(a, 0, 0)) >= 0) of_a++, close(fd);
    while ((fd = accept(b, 0, 0)) >= 0) of_b++, close(fd);
    CHECK(of_a + of_b == 40 && of_a > 0 && of_b > 0);
    for (int i = 0; i < 40; i++) close(clients[i]);
    close(a), close(b);
}

static void options(void) {
    int ends[2];
    pair(ends);
    CHECK(option(ends[0], SOL_SOCKET, SO_TYPE) == SOCK_STREAM && option(ends[0], SOL_SOCKET, SO_DOMAIN) == AF_INET);
    CHECK(option(ends[0], SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP && option(ends[0], SOL_SOCKET, SO_ACCEPTCONN) == 0);
    CHECK(option(ends[0], SOL_SOCKET, SO_KEEPALIVE) == 0 && option(ends[0], IPPROTO_TCP, TCP_KEEPIDLE) == 7200);
    CHECK(setsockopt(ends[0], IPPROTO_TCP, TCP_KEEPIDLE, &(int){60}, 4) == 0 && option(ends[0], IPPROTO_TCP, TCP_KEEPIDLE) == 60);
    CHECK_ERRNO(setsockopt(ends[0], IPPROTO_TCP, TCP_KEEPCNT, &(int){0}, 4), EINVAL);
    CHECK_ERRNO(setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, 3), EINVAL);
    CHECK_ERRNO(setsockopt(ends[0], SOL_SOCKET, SO_RCVBUF, &(int){1}, 2), EINVAL);
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_RCVBUF, &(int){20000}, 4) == 0 && option(ends[0], SOL_SOCKET, SO_RCVBUF) == 40000);
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, 4) == 0 && option(ends[0], SOL_SOCKET, SO_SNDBUF) == 4608);
    CHECK(option(ends[0], SOL_SOCKET, 9999) == -ENOPROTOOPT && option(ends[0], IPPROTO_TCP, 9999) == -ENOPROTOOPT);
    CHECK(option(ends[0], SOL_SOCKET, SO_PEERCRED) != -ENOPROTOOPT);
    struct timeval bad = {0, 2000000};
    CHECK_ERRNO(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof bad), EDOM);
    struct tcp_info info;
    socklen_t len = sizeof info;
    CHECK(getsockopt(ends[0], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_ESTABLISHED);
    shutdown(ends[0], SHUT_WR);
    CHECK(getsockopt(ends[0], IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
    CHECK(info.tcpi_state == TCP_FIN_WAIT2 || info.tcpi_state == TCP_FIN_WAIT1);
    CHECK(getsockopt(ends[1], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_CLOSE_WAIT);
    int mark = -1;
    CHECK(ioctl(ends[0], SIOCATMARK, &mark) == 0 && mark == 0);
    close(ends[0]), close(ends[1]);
}

static void waiting(void) {
    int ends[2], epoll = epoll_create1(0);
    char buf[8];
    pair(ends);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = 7}, got;
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0);
    CHECK(epoll_wait(epoll, &got, 1, 0) == 1 && got.events == EPOLLOUT);
    CHECK(epoll_wait(epoll, &got, 1, 0) == 0);
    CHECK(write(ends[1], "ab", 2) == 2 && epoll_wait(epoll, &got, 1, 1000) == 1 && got.events == (EPOLLIN | EPOLLOUT));
    CHECK(read(ends[0], buf, 1) == 1 && epoll_wait(epoll, &got, 1, 0) == 0);
    CHECK(shutdown(ends[1], SHUT_WR) == 0 && epoll_wait(epoll, &got, 1, 1000) == 1);
    CHECK(got.events == (EPOLLIN | EPOLLOUT | EPOLLRDHUP));
    close(ends[0]), close(ends[1]), close(epoll);
    /* A reader that waits, in another process. */
    pair(ends);
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], buf, 8) == 4 && write(ends[0], "pong", 4) == 4 ? 0 : 1);
    }
    close(ends[0]);
    usleep(20000);
    int status;
    CHECK(write(ends[1], "ping", 4) == 4 && recv(ends[1], buf, 4, MSG_WAITALL) == 4 && read(ends[1], buf, 1) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(ends[1]);
    pair(ends);
    int file = memfd_create("file", 0);
    CHECK(write(file, "0123456789", 10) == 10);
    off_t at = 2;
    CHECK(sendfile(ends[0], file, &at, 5) == 5 && at == 7 && read(ends[1], buf, 8) == 5 && !memcmp(buf, "23456", 5));
    int pipes[2];
    CHECK(pipe(pipes) == 0 && write(pipes[1], "spliced", 7) == 7);
    CHECK(splice(pipes[0], 0, ends[0], 0, 7, 0) == 7 && splice(ends[1], 0, pipes[1], 0, 99, 0) == 7);
    CHECK(read(pipes[0], buf, 8) == 7 && !memcmp(buf, "spliced", 7));
    close(file), close(pipes[0]), close(pipes[1]), close(ends[0]), close(ends[1]);
}

int main(void) {
    names();
    streams();
    resets();
    nonblocking();
    bulk();
    version6();
    reuse();
    options();
    waiting();
    DONE();
}
