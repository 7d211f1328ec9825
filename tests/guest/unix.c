/* What AF_UNIX does beyond streams: credentials, circles of descriptors, resets, records, many messages, autobind. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <unistd.h>

typedef struct sockaddr sa;

static int send_fds(int by, const int *fds, int count) {
    char control[256] = {0}, byte = 'f';
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(count * 4)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(count * 4);
    memcpy(CMSG_DATA(head), fds, count * 4);
    return sendmsg(by, &message, 0);
}

/* The reader of a pipe sees its end once the last writer is gone. */
static int ends_soon(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, 5000) == 1 && (one.revents & POLLHUP);
}

static void circles(void) {
    int a[2], b[2], inner[2];
    /* A socket that waits in its own inbox, with a pipe. */
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0 && pipe(inner) == 0);
    CHECK(send_fds(a[0], (int[]){a[1], inner[1]}, 2) == 1);
    close(inner[1]), close(a[1]), close(a[0]);
    CHECK(ends_soon(inner[0]));
    close(inner[0]);
    /* Two that wait in each other's, and one that does not belong. */
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, a) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, b) == 0 && pipe(inner) == 0);
    CHECK(send_fds(a[0], (int[]){b[1], inner[1]}, 2) == 1 && send_fds(b[0], (int[]){a[1]}, 1) == 1);
    close(inner[1]), close(a[1]), close(b[1]);
    struct pollfd one = {inner[0], POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    close(a[0]), close(b[0]);
    CHECK(ends_soon(inner[0]));
    close(inner[0]);
    /* A long chain, no circle. */
    int last = -1;
    CHECK(pipe(inner) == 0);
    last = inner[1];
    for (int i = 0; i < 300; i++) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0 && send_fds(a[0], &last, 1) == 1);
        close(last), close(a[0]);
        last = a[1];
    }
    CHECK(poll(&(struct pollfd){inner[0], POLLIN, 0}, 1, 0) == 0);
    close(last);
    CHECK(ends_soon(inner[0]));
    close(inner[0]);
}

static void credentials(void) {
    int ends[2], on = 1;
    char control[256], byte = 'c';
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    pid_t child = fork();
    if (child == 0) _exit(write(ends[0], "c", 1) != 1);
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(ends[1], &message, 0) == 1);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    CHECK(head && head->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(head))->pid == child);
    waitpid(child, 0, 0);
    struct ucred own = {getpid(), getuid(), getgid()}, other = {1 << 22, 0, 0};
    memset(control, 0, sizeof control);
    message.msg_controllen = CMSG_SPACE(sizeof own);
    head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_CREDENTIALS, head->cmsg_len = CMSG_LEN(sizeof own);
    memcpy(CMSG_DATA(head), &own, sizeof own);
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    memcpy(CMSG_DATA(head), &other, sizeof other);
    errno = 0;
    CHECK(sendmsg(ends[0], &message, 0) == -1 && (errno == ESRCH || errno == EPERM));
    head->cmsg_len = 3;
    CHECK_ERRNO(sendmsg(ends[0], &message, 0), EINVAL);
    close(ends[0]), close(ends[1]);
}

static void records(void) {
    int ends[2], unread;
    char buf[8];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    CHECK(send(ends[0], "first", 5, 0) == 5 && send(ends[0], "second", 6, 0) == 6);
    struct iovec piece = {buf, 3};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    CHECK(recvmsg(ends[1], &message, 0) == 3 && (message.msg_flags & MSG_TRUNC));
    CHECK(recv(ends[1], buf, 2, MSG_PEEK | MSG_TRUNC) == 6 && recv(ends[1], buf, 8, 0) == 6);
    CHECK(ioctl(ends[0], SIOCOUTQ, &unread) == 0);
    close(ends[0]);
    CHECK(recv(ends[1], buf, 8, 0) == 0);
    close(ends[1]);
    /* Unread bytes at a close reset the peer. */
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && write(ends[0], "unread", 6) == 6);
    close(ends[1]);
    CHECK_ERRNO(read(ends[0], buf, 1), ECONNRESET);
    CHECK(read(ends[0], buf, 1) == 0);
    close(ends[0]);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    struct mmsghdr many[3] = {0};
    struct iovec pieces[3];
    for (int i = 0; i < 3; i++) {
        pieces[i] = (struct iovec){"abc", i};
        many[i].msg_hdr = (struct msghdr){0, 0, &pieces[i], 1, 0, 0, 0};
    }
    CHECK(sendmmsg(ends[0], many, 3, 0) == 3);
    for (int i = 0; i < 3; i++) {
        CHECK(recv(ends[1], buf, 8, 0) == i);
    }
    int size = 4608;
    CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &(int){2304}, 4) == 0);
    static char big[300000];
    CHECK_ERRNO(send(ends[0], big, size, 0), EMSGSIZE);
    CHECK_ERRNO(send(ends[1], big, sizeof big, 0), EMSGSIZE);
    close(ends[1]);
    CHECK_ERRNO(send(ends[0], "x", 1, 0), ECONNREFUSED);
    close(ends[0]);
}

static void names(void) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX}, got;
    socklen_t len = sizeof got;
    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0), c = socket(AF_UNIX, SOCK_DGRAM, 0);
    char buf[8];
    /* Autobind: a NUL and five digits. */
    CHECK(bind(a, (sa *)&addr, sizeof(sa_family_t)) == 0 && getsockname(a, (sa *)&got, &len) == 0 && len == 8 && got.sun_path[0] == 0);
    CHECK(connect(b, (sa *)&got, len) == 0 && send(b, "x", 1, 0) == 1 && recv(a, buf, 8, 0) == 1);
    /* Who is connected takes messages of its peer alone. */
    struct sockaddr_un of_b;
    socklen_t b_len = sizeof of_b;
    CHECK(bind(b, (sa *)&addr, sizeof(sa_family_t)) == 0 && getsockname(b, (sa *)&of_b, &b_len) == 0);
    CHECK_ERRNO(sendto(c, "x", 1, 0, (sa *)&of_b, b_len), EPERM);
    CHECK(sendto(a, "y", 1, 0, (sa *)&of_b, b_len) == 1 && recv(b, buf, 8, 0) == 1);
    addr.sun_family = AF_UNSPEC;
    CHECK(connect(b, (sa *)&addr, sizeof(sa_family_t)) == 0);
    CHECK_ERRNO(send(b, "x", 1, 0), ENOTCONN);
    close(a), close(b), close(c);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    addr = (struct sockaddr_un){AF_UNIX, "\0umbel-unix-names"};
    len = offsetof(struct sockaddr_un, sun_path) + 17;
    CHECK(bind(listener, (sa *)&addr, len) == 0 && listen(listener, 1) == 0 && connect(client, (sa *)&addr, len) == 0);
    close(listener);
    CHECK_ERRNO(read(client, buf, 1), ECONNRESET);
    close(client);
}

/* Receives into `room` bytes with credentials and at most one descriptor. */
static int receive(int by, char *bytes, int room, struct ucred *who, int *fd, int *flags) {
    char control[256] = {0};
    struct iovec piece = {bytes, room};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int count = recvmsg(by, &message, 0);
    *fd = -1, who->pid = -1, *flags = message.msg_flags;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_type == SCM_CREDENTIALS) memcpy(who, CMSG_DATA(head), sizeof *who);
        if (head->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(head), sizeof *fd);
    }
    return count;
}

/* Credentials go with what is sent while somebody asks for them, and keep senders apart. */
static void who_sent(void) {
    int s[2], fd, flags, on = 1;
    struct ucred who;
    char buf[16], name[32];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && write(s[0], "early", 5) == 5);
    CHECK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0 && write(s[0], "late", 4) == 4);
    CHECK(receive(s[1], buf, 16, &who, &fd, &flags) == 5 && who.pid == 0 && who.uid == 65534 && who.gid == 65534);
    CHECK(receive(s[1], buf, 16, &who, &fd, &flags) == 4 && who.pid == getpid());
    CHECK(write(s[0], "ab", 2) == 2 && write(s[0], "cd", 2) == 2);
    pid_t child = fork();
    if (child == 0) _exit(write(s[0], "ef", 2) != 2);
    CHECK(waitpid(child, 0, 0) == child && receive(s[1], buf, 16, &who, &fd, &flags) == 4 && who.pid == getpid());
    CHECK(receive(s[1], buf, 16, &who, &fd, &flags) == 2 && who.pid == child);
    on = 0;
    CHECK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
    /* Bytes before a descriptor come with it, those after it do not. */
    CHECK(write(s[0], "ab", 2) == 2 && send_fds(s[0], s, 1) == 1 && write(s[0], "cd", 2) == 2);
    CHECK(receive(s[1], buf, 16, &who, &fd, &flags) == 3 && fd >= 0 && close(fd) == 0 && read(s[1], buf, 16) == 2);
    CHECK(send_fds(s[0], s, 1) == 1 && receive(s[1], buf, 0, &who, &fd, &flags) == 0 && fd >= 0 && close(fd) == 0);
    CHECK(read(s[1], buf, 16) == 1);
    sprintf(name, "/proc/self/fd/%d", s[0]);
    CHECK_ERRNO(open(name, O_WRONLY), ENXIO);
    close(s[0]), close(s[1]);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0 && write(s[0], "ab", 2) == 2);
    CHECK(receive(s[1], buf, 16, &who, &fd, &flags) == 2 && flags == 0);
    close(s[0]), close(s[1]);
    signal(SIGPIPE, SIG_IGN);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0 && shutdown(s[0], SHUT_RD) == 0);
    CHECK_ERRNO(write(s[1], "x", 1), EPIPE);
    close(s[0]);
    CHECK_ERRNO(write(s[1], "x", 1), ECONNREFUSED);
    close(s[1]);
}

/* Where nothing comes any more there is no sender, and but in streams no word of one. */
static void nobody_sent(void) {
    int kinds[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
    for (int i = 0; i < 6; i++) {
        int s[2], on = 1, kind = kinds[i % 3], waits = kind == SOCK_DGRAM;
        char buf[4], control[64];
        struct iovec to = {buf, 4};
        struct msghdr message = {.msg_iov = &to, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct ucred who = {1, 1, 1};
        CHECK(socketpair(AF_UNIX, kind, 0, s) == 0);
        CHECK(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
        CHECK(i < 3 && !waits ? close(s[0]) == 0 : shutdown(s[1], SHUT_RD) == 0);
        if (waits) CHECK_ERRNO(recv(s[1], buf, 4, MSG_DONTWAIT), EAGAIN);
        CHECK(recvmsg(s[1], &message, waits ? 0 : MSG_DONTWAIT) == 0 && message.msg_flags == 0);
        CHECK(message.msg_controllen == (kind == SOCK_STREAM ? CMSG_SPACE(sizeof who) : 0));
        if (message.msg_controllen) memcpy(&who, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof who);
        CHECK(kind != SOCK_STREAM || (who.pid == 0 && who.uid == 0 && who.gid == 0));
        close(s[0]), close(s[1]);
    }
}

/* A larger buffer lets a sender that had filled the old one go on. */
static void larger(void) {
    int s[2], size;
    socklen_t len = sizeof size;
    static char bytes[50000];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, s) == 0);
    CHECK(getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &size, &len) == 0);
    while (send(s[0], bytes, sizeof bytes, 0) > 0);
    CHECK(errno == EAGAIN && setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
    CHECK(send(s[0], bytes, sizeof bytes, 0) == sizeof bytes);
    close(s[0]), close(s[1]);
}

int main(void) {
    who_sent();
    nobody_sent();
    larger();
    circles();
    credentials();
    records();
    names();
    DONE();
}
