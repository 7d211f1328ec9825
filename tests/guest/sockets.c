/* Sockets of AF_UNIX: pairs, names, streams, datagrams, descriptors in messages. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void pairs(void) {
    int ends[2];
    char buf[64];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK(write(ends[0], "hello ", 6) == 6 && write(ends[0], "world", 5) == 5);
    int waiting;
    CHECK(ioctl(ends[1], FIONREAD, &waiting) == 0 && waiting == 11);
    CHECK(recv(ends[1], buf, 5, MSG_PEEK) == 5 && !memcmp(buf, "hello", 5));
    CHECK(read(ends[1], buf, sizeof buf) == 11 && !memcmp(buf, "hello world", 11));
    CHECK_ERRNO(recv(ends[1], buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    struct pollfd one = {ends[1], POLLIN | POLLOUT, 0};
    CHECK(poll(&one, 1, 0) == 1 && one.revents == POLLOUT);
    CHECK(shutdown(ends[0], SHUT_WR) == 0);
    CHECK(read(ends[1], buf, sizeof buf) == 0);
    CHECK(write(ends[1], "back", 4) == 4 && read(ends[0], buf, 4) == 4);
    signal(SIGPIPE, SIG_IGN);
    CHECK_ERRNO(write(ends[0], "x", 1), EPIPE);
    close(ends[0]);
    CHECK(poll(&one, 1, 0) == 1 && (one.revents & (POLLIN | POLLHUP)) == (POLLIN | POLLHUP));
    CHECK_ERRNO(send(ends[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    close(ends[1]);
    struct stat stat;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0 && fstat(ends[0], &stat) == 0 && S_ISSOCK(stat.st_mode));
    CHECK(write(ends[0], "one", 3) == 3 && write(ends[0], "three", 5) == 5);
    CHECK(read(ends[1], buf, 2) == 2 && read(ends[1], buf, sizeof buf) == 5);
    int type, len = sizeof type;
    CHECK(getsockopt(ends[0], SOL_SOCKET, SO_TYPE, &type, (socklen_t *)&len) == 0 && type == SOCK_SEQPACKET);
    struct ucred who;
    len = sizeof who;
    CHECK(getsockopt(ends[0], SOL_SOCKET, SO_PEERCRED, &who, (socklen_t *)&len) == 0 && who.pid == getpid());
    close(ends[0]), close(ends[1]);
    CHECK_ERRNO(socket(AF_UNIX, 77, 0), EINVAL);
    CHECK_ERRNO(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_ERRNO(send(0, "x", 1, 0), ENOTSOCK);
}

static socklen_t named(struct sockaddr_un *addr, const char *name) {
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(addr->sun_path + (*name == '@'), name + (*name == '@'));
    return offsetof(struct sockaddr_un, sun_path) + strlen(name) + (*name != '@');
}

static void *serve(void *listener) {
    struct sockaddr_un from;
    socklen_t len = sizeof from;
    char buf[16];
    int fd = accept4((long)listener, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);
    CHECK(fd >= 0 && len == 2);
    CHECK(read(fd, buf, sizeof buf) == 4 && write(fd, "pong", 4) == 4);
    close(fd);
    return 0;
}

static void streams(const char *name) {
    struct sockaddr_un addr, got;
    socklen_t len = named(&addr, name), got_len = sizeof got;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERRNO(listen(listener, 1), EINVAL);
    CHECK(bind(listener, (struct sockaddr *)&addr, len) == 0);
    CHECK_ERRNO(connect(client, (struct sockaddr *)&addr, len), ECONNREFUSED);
    CHECK(listen(listener, 4) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&got, &got_len) == 0 && got_len == len && !memcmp(&got, &addr, len));
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERRNO(bind(other, (struct sockaddr *)&addr, len), EADDRINUSE);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    CHECK_ERRNO(accept(listener, 0, 0), EAGAIN);
    fcntl(listener, F_SETFL, 0);
    pthread_t thread;
    pthread_create(&thread, 0, serve, (void *)(long)listener);
    char buf[16];
    CHECK_ERRNO(write(client, "x", 1), ENOTCONN);
    CHECK(connect(client, (struct sockaddr *)&addr, len) == 0);
    CHECK_ERRNO(connect(client, (struct sockaddr *)&addr, len), EISCONN);
    CHECK(write(client, "ping", 4) == 4 && recv(client, buf, 4, MSG_WAITALL) == 4 && !memcmp(buf, "pong", 4));
    got_len = sizeof got;
    CHECK(getpeername(client, (struct sockaddr *)&got, &got_len) == 0 && got_len == len);
    CHECK(read(client, buf, 1) == 0);
    pthread_join(thread, 0);
    close(client), close(listener), close(other);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERRNO(connect(client, (struct sockaddr *)&addr, len), ECONNREFUSED);
    close(client);
    if (*name != '@') CHECK(unlink(name) == 0);
}

static void datagrams(void) {
    struct sockaddr_un addr, from;
    socklen_t len = named(&addr, "@umbel-datagrams"), from_len = sizeof from;
    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0);
    char buf[16];
    CHECK(bind(a, (struct sockaddr *)&addr, len) == 0);
    CHECK(sendto(b, "first", 5, 0, (struct sockaddr *)&addr, len) == 5);
    CHECK(recvfrom(a, buf, 3, MSG_TRUNC, (struct sockaddr *)&from, &from_len) == 5 && from_len == 0);
    CHECK_ERRNO(send(b, "x", 1, 0), ENOTCONN);
    CHECK(connect(b, (struct sockaddr *)&addr, len) == 0 && send(b, "", 0, 0) == 0 && read(a, buf, 16) == 0);
    close(a);
    CHECK_ERRNO(send(b, "x", 1, 0), ECONNREFUSED);
    close(b);
}

static void descriptors_travel(void) {
    int ends[2], inner[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && pipe(inner) == 0);
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'd';
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &inner[1], sizeof(int));
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    close(inner[1]);
    CHECK(write(ends[0], "rest", 4) == 4);
    pid_t child = fork();
    if (child == 0) {
        char room[16];
        piece = (struct iovec){room, sizeof room};
        memset(control, 0, sizeof control);
        message.msg_controllen = sizeof control;
        int fd, ok = recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) == 1 && room[0] == 'd';
        head = CMSG_FIRSTHDR(&message);
        ok = ok && head && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof(int));
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
        ok = ok && fcntl(fd, F_GETFD) == FD_CLOEXEC && write(fd, "through", 7) == 7;
        _exit(ok ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    char buf[16];
    CHECK(read(inner[0], buf, sizeof buf) == 7);
    close(ends[0]), close(ends[1]);
    CHECK(read(inner[0], buf, sizeof buf) == 0);
    close(inner[0]);
}

static void *flood(void *fd) {
    static char block[100000];
    for (int i = 0; i < 20; i++) CHECK(write((long)fd, block, sizeof block) == sizeof block);
    shutdown((long)fd, SHUT_WR);
    return 0;
}

static void much(void) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pthread_t thread;
    pthread_create(&thread, 0, flood, (void *)(long)ends[0]);
    static char buf[7777];
    long total = 0, got;
    while ((got = read(ends[1], buf, sizeof buf)) > 0) total += got;
    CHECK(got == 0 && total == 2000000);
    pthread_join(thread, 0);
    close(ends[0]), close(ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    struct timeval soon = {0, 20000};
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
    CHECK_ERRNO(read(ends[0], buf, 1), EAGAIN);
    close(ends[0]), close(ends[1]);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    char name[64];
    sprintf(name, "/tmp/umbel-socket-%d", getpid());
    pairs();
    streams(name);
    streams("@umbel-streams");
    datagrams();
    descriptors_travel();
    much();
    DONE();
}
