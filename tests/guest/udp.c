/* Datagrams over loopback: names, peers, truncation, refusal, control messages, groups, many at once; ICMP by raw sockets. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <linux/sockios.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

typedef struct sockaddr sa;
typedef struct sockaddr_in in4;
typedef struct sockaddr_in6 in6;

static in4 at(int port) {
    return (in4){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int bound(in4 *addr) {
    socklen_t len = sizeof *addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    *addr = at(0);
    CHECK(bind(fd, (sa *)addr, sizeof *addr) == 0 && getsockname(fd, (sa *)addr, &len) == 0);
    return fd;
}

static int events(int fd) {
    struct pollfd one = {fd, POLLIN | POLLOUT, 0};
    poll(&one, 1, 0);
    return one.revents;
}

static void messages(void) {
    in4 a_addr, from;
    socklen_t len = sizeof from;
    int a = bound(&a_addr), b = socket(AF_INET, SOCK_DGRAM, 0), count;
    char buf[64];
    CHECK_ERRNO(send(b, "x", 1, 0), EDESTADDRREQ);
    CHECK_ERRNO(getpeername(b, (sa *)&from, &len), ENOTCONN);
    CHECK_ERRNO(recv(a, buf, 9, MSG_DONTWAIT), EAGAIN);
    CHECK(sendto(b, "hello", 5, 0, (sa *)&a_addr, sizeof a_addr) == 5);
    CHECK(ioctl(a, FIONREAD, &count) == 0 && count == 5 && events(a) == (POLLIN | POLLOUT));
    CHECK(recv(a, buf, 2, MSG_PEEK | MSG_TRUNC) == 5);
    CHECK(recvfrom(a, buf, 3, 0, (sa *)&from, &len) == 3 && len == 16 && from.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    in4 own;
    CHECK(getsockname(b, (sa *)&own, &len) == 0 && own.sin_port == from.sin_port && own.sin_addr.s_addr == 0);
    CHECK(sendto(a, "", 0, 0, (sa *)&from, sizeof from) == 0 && recv(b, buf, 9, 0) == 0);
    CHECK(connect(b, (sa *)&a_addr, sizeof a_addr) == 0 && getpeername(b, (sa *)&from, &len) == 0);
    CHECK(from.sin_port == a_addr.sin_port && getsockname(b, (sa *)&own, &len) == 0 && own.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    /* Only the peer's messages come. */
    in4 c_addr;
    int c = bound(&c_addr);
    CHECK(sendto(c, "no", 2, 0, (sa *)&own, sizeof own) == 2);
    CHECK_ERRNO(recv(b, buf, 9, MSG_DONTWAIT), EAGAIN);
    CHECK(sendto(a, "yes", 3, 0, (sa *)&own, sizeof own) == 3 && read(b, buf, 9) == 3);
    in4 none = {.sin_family = AF_UNSPEC};
    CHECK(connect(b, (sa *)&none, sizeof none) == 0);
    CHECK_ERRNO(getpeername(b, (sa *)&from, &len), ENOTCONN);
    static char big[70000];
    CHECK_ERRNO(sendto(b, big, 65508, 0, (sa *)&a_addr, sizeof a_addr), EMSGSIZE);
    CHECK(sendto(b, big, 65507, 0, (sa *)&a_addr, sizeof a_addr) == 65507 && recv(a, big, sizeof big, 0) == 65507);
    in4 zero = at(0);
    CHECK_ERRNO(sendto(b, "x", 1, 0, (sa *)&zero, sizeof zero), EINVAL);
    CHECK_ERRNO(sendto(b, "x", 1, 0, (sa *)&a_addr, 8), EINVAL);
    a_addr.sin_addr.s_addr = htonl(0x7fffffff);
    CHECK_ERRNO(sendto(b, "x", 1, 0, (sa *)&a_addr, sizeof a_addr), EACCES);
    close(a), close(b), close(c);
}

/* Datagrams put together of several calls. */
static void corks(void) {
    in4 addr;
    int a = bound(&addr), b = socket(AF_INET, SOCK_DGRAM, 0), owner = 0;
    char buf[16];
    CHECK(connect(b, (sa *)&addr, sizeof addr) == 0 && send(b, "one ", 4, MSG_MORE) == 4);
    CHECK_ERRNO(recv(a, buf, 16, MSG_DONTWAIT), EAGAIN);
    CHECK(send(b, "two", 3, 0) == 3 && recv(a, buf, 16, 0) == 7 && !memcmp(buf, "one two", 7));
    CHECK(setsockopt(b, IPPROTO_UDP, UDP_CORK, &(int){1}, 4) == 0 && send(b, "three", 5, 0) == 5 && send(b, "!", 1, 0) == 1);
    CHECK_ERRNO(recv(a, buf, 16, MSG_DONTWAIT), EAGAIN);
    CHECK(setsockopt(b, IPPROTO_UDP, UDP_CORK, &(int){0}, 4) == 0 && recv(a, buf, 16, 0) == 6);
    CHECK(ioctl(b, SIOCSPGRP, &(int){getpid()}) == 0 && ioctl(b, SIOCGPGRP, &owner) == 0 && owner == getpid());
    close(b);
    b = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_ERRNO(shutdown(b, SHUT_RDWR), ENOTCONN);
    CHECK_ERRNO(sendto(b, "x", 1, MSG_NOSIGNAL, (sa *)&addr, sizeof addr), EPIPE);
    CHECK_ERRNO(setsockopt(b, IPPROTO_IP, 999, &owner, 4), ENOPROTOOPT);
    CHECK_ERRNO(getsockopt(b, IPPROTO_IPV6, 1, &owner, &(socklen_t){4}), EOPNOTSUPP);
    close(a), close(b);
}

static void refusal(void) {
    in4 gone;
    int a = bound(&gone), b = socket(AF_INET, SOCK_DGRAM, 0);
    char buf[64];
    close(a);
    CHECK(sendto(b, "x", 1, 0, (sa *)&gone, sizeof gone) == 1);
    CHECK_ERRNO(recv(b, buf, 9, MSG_DONTWAIT), EAGAIN);
    CHECK(connect(b, (sa *)&gone, sizeof gone) == 0 && send(b, "x", 1, 0) == 1);
    CHECK((events(b) & POLLERR) != 0);
    CHECK_ERRNO(recv(b, buf, 9, MSG_DONTWAIT), ECONNREFUSED);
    CHECK_ERRNO(recv(b, buf, 9, MSG_DONTWAIT), EAGAIN);
    CHECK(send(b, "x", 1, 0) == 1);
    CHECK_ERRNO(send(b, "x", 1, 0), ECONNREFUSED);
    /* With a queue of errors. */
    CHECK(setsockopt(b, IPPROTO_IP, IP_RECVERR, &(int){1}, 4) == 0 && send(b, "queued", 6, 0) == 6);
    char control[512];
    in4 to;
    struct iovec piece = {buf, sizeof buf};
    struct msghdr message = {&to, sizeof to, &piece, 1, control, sizeof control, 0};
    CHECK(recvmsg(b, &message, MSG_ERRQUEUE) == 6 && !memcmp(buf, "queued", 6) && (message.msg_flags & MSG_ERRQUEUE));
    CHECK(to.sin_port == gone.sin_port);
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    CHECK(first && first->cmsg_level == IPPROTO_IP && first->cmsg_type == IP_RECVERR);
    struct sock_extended_err *error = (void *)CMSG_DATA(first);
    CHECK(error->ee_errno == ECONNREFUSED && error->ee_origin == SO_EE_ORIGIN_ICMP && error->ee_type == 3 && error->ee_code == 3);
    CHECK_ERRNO(recvmsg(b, &message, MSG_ERRQUEUE), EAGAIN);
    close(b);
}

static void control_messages(void) {
    in4 addr;
    int a = bound(&addr), b = socket(AF_INET, SOCK_DGRAM, 0), found = 0;
    char buf[64], control[512];
    CHECK(setsockopt(a, IPPROTO_IP, IP_PKTINFO, &(int){1}, 4) == 0 && setsockopt(a, IPPROTO_IP, IP_RECVTTL, &(int){1}, 4) == 0);
    CHECK(setsockopt(a, SOL_SOCKET, SO_TIMESTAMP, &(int){1}, 4) == 0 && setsockopt(b, IPPROTO_IP, IP_TTL, &(int){33}, 4) == 0);
    CHECK(sendto(b, "hello", 5, 0, (sa *)&addr, sizeof addr) == 5);
    struct iovec piece = {buf, 3};
    struct msghdr message = {0, 0, &piece, 1, control, sizeof control, 0};
    CHECK(recvmsg(a, &message, 0) == 3 && message.msg_flags == MSG_TRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo *info = (void *)CMSG_DATA(c);
            found |= info->ipi_addr.s_addr == htonl(INADDR_LOOPBACK) && info->ipi_ifindex == 1 ? 1 : 0;
        }
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) found |= *(int *)CMSG_DATA(c) == 33 ? 2 : 0;
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMP) found |= ((struct timeval *)CMSG_DATA(c))->tv_sec > 1000 ? 4 : 0;
    }
    CHECK(found == 7);
    struct mmsghdr many[3] = {0};
    struct iovec pieces[3];
    char bytes[3][8];
    for (int i = 0; i < 3; i++) {
        pieces[i] = (struct iovec){"abc", i + 1};
        many[i].msg_hdr = (struct msghdr){&addr, sizeof addr, &pieces[i], 1, 0, 0, 0};
    }
    CHECK(sendmmsg(b, many, 3, 0) == 3 && many[2].msg_len == 3);
    for (int i = 0; i < 3; i++) {
        pieces[i] = (struct iovec){bytes[i], 8};
        many[i].msg_hdr = (struct msghdr){0, 0, &pieces[i], 1, 0, 0, 0};
    }
    CHECK(recvmmsg(a, many, 3, MSG_WAITFORONE, 0) == 3 && many[0].msg_len == 1 && many[2].msg_len == 3);
    CHECK_ERRNO(recvmmsg(a, many, 3, MSG_DONTWAIT, 0), EAGAIN);
    struct timeval brief = {0, 10000};
    CHECK(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief) == 0);
    CHECK_ERRNO(recv(a, buf, 1, 0), EAGAIN);
    CHECK(connect(a, (sa *)&addr, sizeof addr) == 0 && shutdown(a, SHUT_RDWR) == 0 && recv(a, buf, 1, 0) == 0);
    CHECK_ERRNO(send(a, "x", 1, 0), EPIPE);
    CHECK(events(a) == (POLLIN | POLLOUT | POLLHUP));
    close(a), close(b);
}

static void groups(void) {
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0);
    in4 any = {.sin_family = AF_INET}, group;
    socklen_t len = sizeof any;
    CHECK(bind(a, (sa *)&any, sizeof any) == 0 && getsockname(a, (sa *)&any, &len) == 0);
    struct ip_mreqn join = {{inet_addr("239.1.2.3")}, {htonl(INADDR_LOOPBACK)}, 1}, wrong = {{inet_addr("10.1.2.3")}, {0}, 1};
    CHECK(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join) == 0);
    CHECK_ERRNO(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join), EADDRINUSE);
    CHECK_ERRNO(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &wrong, sizeof wrong), EINVAL);
    group = any;
    group.sin_addr.s_addr = inet_addr("239.1.2.3");
    CHECK(setsockopt(b, IPPROTO_IP, IP_MULTICAST_IF, &join, sizeof join) == 0);
    char buf[16];
    CHECK(sendto(b, "group", 5, 0, (sa *)&group, sizeof group) == 5 && recv(a, buf, 16, 0) == 5);
    CHECK(setsockopt(a, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join) == 0);
    CHECK_ERRNO(setsockopt(a, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join), EADDRNOTAVAIL);
    close(a), close(b);
}

static void version6(void) {
    int a = socket(AF_INET6, SOCK_DGRAM, 0), b = socket(AF_INET6, SOCK_DGRAM, 0);
    in6 addr = {.sin6_family = AF_INET6, .sin6_addr = in6addr_any}, from;
    socklen_t len = sizeof addr;
    CHECK(bind(a, (sa *)&addr, sizeof addr) == 0 && getsockname(a, (sa *)&addr, &len) == 0);
    addr.sin6_addr = in6addr_loopback;
    char buf[16], text[64];
    CHECK(sendto(b, "six", 3, 0, (sa *)&addr, sizeof addr) == 3);
    CHECK(recvfrom(a, buf, 16, 0, (sa *)&from, &len) == 3 && len == 28 && !memcmp(&from.sin6_addr, &in6addr_loopback, 16));
    int c = socket(AF_INET, SOCK_DGRAM, 0);
    in4 four = at(ntohs(addr.sin6_port));
    CHECK(sendto(c, "four", 4, 0, (sa *)&four, sizeof four) == 4 && recvfrom(a, buf, 16, 0, (sa *)&from, &len) == 4);
    CHECK(inet_ntop(AF_INET6, &from.sin6_addr, text, sizeof text) && !strcmp(text, "::ffff:127.0.0.1"));
    CHECK(sendto(a, "back", 4, 0, (sa *)&from, len) == 4 && recv(c, buf, 16, 0) == 4);
    close(a), close(b), close(c);
}

static unsigned short sum(unsigned short *words, int bytes) {
    unsigned total = 0;
    for (int i = 0; i < bytes / 2; i++) total += words[i];
    while (total >> 16) total = (total & 0xffff) + (total >> 16);
    return ~total;
}

static void raw(void) {
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (fd < 0) return;
    struct { struct icmphdr header; char data[8]; } request = {{ICMP_ECHO, 0, 0, {{htons(4711), htons(1)}}}, "payload"};
    request.header.checksum = sum((void *)&request, sizeof request);
    struct icmp_filter { unsigned data; } filter = {~(1u << ICMP_ECHOREPLY)};
    CHECK(setsockopt(fd, SOL_RAW, 1, &filter, sizeof filter) == 0);
    in4 to = at(0), from;
    socklen_t len = sizeof from;
    CHECK(sendto(fd, &request, sizeof request, 0, (sa *)&to, sizeof to) == sizeof request);
    unsigned char buf[128];
    ssize_t got = recvfrom(fd, buf, sizeof buf, 0, (sa *)&from, &len);
    CHECK(got == 20 + sizeof request && buf[0] == 0x45 && buf[9] == IPPROTO_ICMP && from.sin_addr.s_addr == to.sin_addr.s_addr);
    CHECK(buf[20] == ICMP_ECHOREPLY && !memcmp(buf + 28, "payload", 8) && sum((void *)(buf + 20), got - 20) == 0);
    close(fd);
    /* A datagram made by hand. */
    in4 addr;
    int receiver = bound(&addr);
    fd = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    struct { struct udphdr header; char data[4]; } datagram = {{{{htons(7), addr.sin_port, htons(12), 0}}}, "raw!"};
    CHECK(fd >= 0 && sendto(fd, &datagram, sizeof datagram, 0, (sa *)&to, sizeof to) == sizeof datagram);
    CHECK(recvfrom(receiver, buf, sizeof buf, 0, (sa *)&from, &len) == 4 && !memcmp(buf, "raw!", 4) && ntohs(from.sin_port) == 7);
    close(fd), close(receiver);
}

static void interfaces(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request = {0};
    strcpy(request.ifr_name, "lo");
    CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & (IFF_UP | IFF_LOOPBACK | IFF_RUNNING)) == (IFF_UP | IFF_LOOPBACK | IFF_RUNNING));
    CHECK(ioctl(fd, SIOCGIFADDR, &request) == 0 && ((in4 *)&request.ifr_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    CHECK(ioctl(fd, SIOCGIFNETMASK, &request) == 0 && ((in4 *)&request.ifr_netmask)->sin_addr.s_addr == htonl(0xff000000));
    CHECK(ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu == 65536);
    CHECK(if_nametoindex("lo") == 1);
    char name[IF_NAMESIZE];
    CHECK(if_indextoname(1, name) && !strcmp(name, "lo"));
    strcpy(request.ifr_name, "none0");
    CHECK_ERRNO(ioctl(fd, SIOCGIFMTU, &request), ENODEV);
    CHECK_ERRNO(ioctl(fd, 0x12345, &request), ENOTTY);
    close(fd);
}

int main(void) {
    messages();
    corks();
    refusal();
    control_messages();
    groups();
    version6();
    raw();
    interfaces();
    DONE();
}
