/* What comes with what is received: times, what is left, credentials, errors; connections to oneself; groups of netlink. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <linux/errqueue.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef TCP_INQ
#define TCP_INQ 36
#endif

static int to(int fd, in4 addr) { return connect(fd, (sa *)&addr, sizeof addr); }

static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

/* Linux begins to note when packets come some time after it was asked to, and a stream has no other time. */
static void await_times(int from, int fd) {
    char byte, control[256];
    for (int tries = 0; tries < 500; tries++) {
        struct iovec piece = {&byte, 1};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        CHECK(write(from, "0", 1) == 1 && recvmsg(fd, &message, 0) == 1);
        if (CMSG_FIRSTHDR(&message)) return;
        usleep(10000);
    }
}

static void streams(void) {
    int server = bound(SOCK_STREAM), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listen(server, 5) == 0 && to(client, own(server)) == 0);
    int fd = accept(server, 0, 0);
    char buf[16] = "", control[256];
    CHECK(set(fd, SOL_SOCKET, SO_TIMESTAMP, 1) == 0);
    await_times(client, fd);
    CHECK(write(client, "12345678", 8) == 8 && recv(fd, buf, 4, MSG_PEEK | MSG_WAITALL) == 4 && buf[0] == '1');
    memset(buf, 0, sizeof buf);
    CHECK(recv(fd, buf, 4, MSG_PEEK | MSG_TRUNC) == 4 && buf[0] == 0 && recv(fd, buf, 2, MSG_TRUNC) == 2 && buf[0] == 0);
    CHECK(set(fd, IPPROTO_TCP, TCP_INQ, 1) == 0 && write(client, "9", 1) == 1);
    struct pollfd one = {fd, POLLIN, 0};
    int waits = 0;
    while (poll(&one, 1, 1000) == 1 && ioctl(fd, FIONREAD, &waits) == 0 && waits < 7);
    struct iovec piece = {buf, 7};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(fd, &message, 0) == 7);
    struct cmsghdr *first = CMSG_FIRSTHDR(&message), *second = first ? CMSG_NXTHDR(&message, first) : 0;
    CHECK(first && first->cmsg_level == SOL_SOCKET && first->cmsg_type == SO_TIMESTAMP);
    CHECK(second && second->cmsg_level == IPPROTO_TCP && second->cmsg_type == TCP_INQ && *(int *)CMSG_DATA(second) == 0);
    close(fd), close(client);
    /* A port that nobody asked for is free again when the connection is refused. */
    int closed = bound(SOCK_STREAM), again = socket(AF_INET, SOCK_STREAM, 0);
    client = bound(SOCK_STREAM);
    in4 name = own(client);
    CHECK_ERRNO(to(client, own(closed)), ECONNREFUSED);
    CHECK(bind(again, (sa *)&name, sizeof name) == 0);
    close(closed), close(again), close(client), close(server);
}

static void oneself(void) {
    int fd = bound(SOCK_STREAM);
    char buf[8];
    CHECK(to(fd, own(fd)) == 0 && write(fd, "echo", 4) == 4 && read(fd, buf, 8) == 4 && !memcmp(buf, "echo", 4));
    CHECK(shutdown(fd, SHUT_WR) == 0 && read(fd, buf, 8) == 0);
    close(fd);
}

static void datagrams(void) {
    int server = bound(SOCK_DGRAM), fd = socket(AF_INET, SOCK_DGRAM, 0);
    char buf[8];
    struct timeval stamp = {0};
    CHECK_ERRNO(ioctl(server, SIOCGSTAMP, &stamp), ENOENT);
    CHECK(to(fd, own(server)) == 0 && own(fd).sin_port != 0 && send(fd, "x", 1, 0) == 1 && recv(server, buf, 8, 0) == 1);
    CHECK(ioctl(server, SIOCGSTAMP, &stamp) == 0 && stamp.tv_sec > 1000000000);
    in4 none = {.sin_family = AF_UNSPEC};
    CHECK(connect(fd, (sa *)&none, sizeof none) == 0 && own(fd).sin_port == 0 && own(fd).sin_addr.s_addr == 0);
    in4 zero = own(server);
    zero.sin_port = 0;
    socklen_t len = sizeof zero;
    CHECK(to(fd, zero) == 0);
    CHECK_ERRNO(getpeername(fd, (sa *)&zero, &len), ENOTCONN);
    CHECK(to(server, own(fd)) == 0 && shutdown(server, SHUT_RD) == 0);
    CHECK_ERRNO(recv(server, buf, 8, MSG_DONTWAIT), EAGAIN);
    CHECK(recv(server, buf, 8, 0) == 0);
    close(fd), close(server);
    /* The error goes with its entry in the queue. */
    int closed = bound(SOCK_DGRAM), value = 0;
    in4 addr = own(closed);
    close(closed), fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(set(fd, IPPROTO_IP, IP_RECVERR, 1) == 0 && to(fd, addr) == 0 && send(fd, "x", 1, 0) == 1);
    char control[256];
    struct iovec piece = {buf, 8};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(fd, &message, MSG_ERRQUEUE) == 1 && message.msg_flags & MSG_ERRQUEUE);
    len = sizeof value;
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &len) == 0 && value == 0);
    close(fd);
}

static void lingering(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), value = 0;
    struct linger linger = {1, 5}, got;
    socklen_t len = sizeof got;
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    linger = (struct linger){0, 9};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &got, &len) == 0 && got.l_onoff == 0 && got.l_linger == 5);
    len = sizeof value;
    CHECK(set(fd, IPPROTO_TCP, TCP_LINGER2, -7) == 0 && getsockopt(fd, IPPROTO_TCP, TCP_LINGER2, &value, &len) == 0 && value == -1);
    CHECK(set(fd, IPPROTO_TCP, TCP_LINGER2, 500) == 0 && getsockopt(fd, IPPROTO_TCP, TCP_LINGER2, &value, &len) == 0 && value == 120);
    CHECK(set(fd, IPPROTO_TCP, TCP_LINGER2, 0) == 0 && getsockopt(fd, IPPROTO_TCP, TCP_LINGER2, &value, &len) == 0 && value == 60);
    CHECK(set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, 100) == 0);
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &value, &len) == 0 && value == 1152);
    close(fd);
}

/* A group is heard only as long as somebody has joined it on the device. */
static void multicast(void) {
    int to_group = socket(AF_INET, SOCK_DGRAM, 0), fd = socket(AF_INET, SOCK_DGRAM, 0), other = socket(AF_INET, SOCK_DGRAM, 0);
    in4 any = {.sin_family = AF_INET}, group;
    struct ip_mreqn join = {.imr_multiaddr.s_addr = inet_addr("224.1.2.3"), .imr_address.s_addr = htonl(INADDR_LOOPBACK)};
    char buf[8];
    CHECK(bind(to_group, (sa *)&any, sizeof any) == 0);
    group = own(to_group), group.sin_addr = join.imr_multiaddr;
    CHECK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &join, sizeof join) == 0 && set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0) == 0);
    CHECK(sendto(fd, "a", 1, 0, (sa *)&group, sizeof group) == 1);
    CHECK_ERRNO(recv(to_group, buf, 8, MSG_DONTWAIT), EAGAIN);
    CHECK(setsockopt(other, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) == 0);
    CHECK(sendto(fd, "b", 1, 0, (sa *)&group, sizeof group) == 1 && recv(to_group, buf, 8, 0) == 1 && buf[0] == 'b');
    close(other);
    CHECK(sendto(fd, "c", 1, 0, (sa *)&group, sizeof group) == 1);
    CHECK_ERRNO(recv(to_group, buf, 8, MSG_DONTWAIT), EAGAIN);
    in4 all = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_BROADCAST)};
    CHECK(bind(fd, (sa *)&all, sizeof all) == 0 || errno == EINVAL);
    close(to_group), close(fd);
}

static int netlink(unsigned groups) {
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = groups};
    CHECK(fd >= 0 && bind(fd, (sa *)&addr, sizeof addr) == 0);
    return fd;
}

/* The next message of this kind, others passed over. */
static struct nlmsghdr *next(int fd, int kind, struct sockaddr_nl *from) {
    static char buf[16384] __attribute__((aligned(8)));
    struct pollfd one = {fd, POLLIN, 0};
    while (poll(&one, 1, 2000) == 1) {
        socklen_t len = sizeof *from;
        ssize_t got = recvfrom(fd, buf, sizeof buf, 0, (sa *)from, &len);
        if (got < 0) return 0;
        struct nlmsghdr *head = (void *)buf;
        if (NLMSG_OK(head, got) && head->nlmsg_type == kind) return head;
    }
    return 0;
}

static int change(int fd, int kind, int flags, unsigned address) {
    struct {
        struct nlmsghdr head;
        struct ifaddrmsg body;
        struct rtattr attribute;
        unsigned address;
    } request = {{sizeof request, kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0}, {AF_INET, 24, 0, 0, 1}, {8, IFA_LOCAL}, address};
    struct sockaddr_nl from;
    CHECK(send(fd, &request, sizeof request, 0) == sizeof request);
    struct nlmsghdr *head = next(fd, NLMSG_ERROR, &from);
    return head ? ((struct nlmsgerr *)NLMSG_DATA(head))->error : -1;
}

static void groups(void) {
    CHECK(unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
    int listener = netlink(RTMGRP_LINK | RTMGRP_IPV4_IFADDR), fd = netlink(0);
    struct ifreq device = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    struct sockaddr_nl from = {0};
    CHECK(ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &device) == 0);
    struct nlmsghdr *head = next(listener, RTM_NEWLINK, &from);
    CHECK(head && ((struct ifinfomsg *)NLMSG_DATA(head))->ifi_flags & IFF_UP && ((struct ifinfomsg *)NLMSG_DATA(head))->ifi_index == 1);
    CHECK(head && head->nlmsg_pid == 0 && from.nl_pid == 0 && from.nl_groups == RTMGRP_LINK);
    unsigned address = htonl(0x0a010203);
    CHECK(change(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address) == 0);
    /* The device got its own first. */
    do head = next(listener, RTM_NEWADDR, &from);
    while (head && ((struct ifaddrmsg *)NLMSG_DATA(head))->ifa_prefixlen != 24);
    CHECK(head && ((struct ifaddrmsg *)NLMSG_DATA(head))->ifa_prefixlen == 24 && from.nl_groups == RTMGRP_IPV4_IFADDR);
    CHECK(change(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, address) == -EEXIST);
    CHECK(change(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address) == 0);
    CHECK(change(fd, RTM_DELADDR, 0, address) == 0 && next(listener, RTM_DELADDR, &from));
    CHECK(change(fd, RTM_DELADDR, 0, address) == -EADDRNOTAVAIL);
    /* From one program to another, with credentials. */
    struct sockaddr_nl peer = {0};
    socklen_t len = sizeof peer;
    int other = netlink(0);
    CHECK(getsockname(other, (sa *)&peer, &len) == 0 && set(other, SOL_SOCKET, SO_PASSCRED, 1) == 0);
    char text[64] = "not a message, as it happens", got[64], control[128];
    CHECK(sendto(fd, text, sizeof text, 0, (sa *)&peer, sizeof peer) == sizeof text);
    struct iovec piece = {got, sizeof got};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(other, &message, MSG_DONTWAIT) == sizeof text && !memcmp(text, got, sizeof text));
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    CHECK(first && first->cmsg_type == SCM_CREDENTIALS && ((struct ucred *)CMSG_DATA(first))->pid == getpid());
    peer.nl_pid = 999999;
    CHECK_ERRNO(sendto(fd, text, sizeof text, 0, (sa *)&peer, sizeof peer), ECONNREFUSED);
    /* The groups of a socket, and their length without room. */
    unsigned long joined = 0;
    len = 0;
    CHECK(getsockopt(listener, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, 0, &len) == 0 && len == 8);
    CHECK(getsockopt(listener, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, &joined, &len) == 0);
    CHECK(joined == (RTMGRP_LINK | RTMGRP_IPV4_IFADDR));
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    streams();
    oneself();
    datagrams();
    lingering();
    multicast();
    groups();
    DONE();
}
