/* How large the buffers of sockets may be, what they take, and raw sockets that make whole packets of IPv6. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <fcntl.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/un.h>
#include <unistd.h>

static int set(int fd, int name, int value) { return setsockopt(fd, SOL_SOCKET, name, &value, sizeof value); }

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    CHECK(getsockopt(fd, level, name, &value, &len) == 0);
    return value;
}

/* A setting, which namespaces of containers may hide. */
static int setting(const char *path, int otherwise) {
    FILE *file = fopen(path, "r");
    int value = otherwise;
    if (!file) return otherwise;
    CHECK(fscanf(file, "%d", &value) == 1);
    fclose(file);
    return value;
}

static void limits(int family, int kind) {
    int fd = socket(family, kind, 0);
    CHECK(fd >= 0);
    CHECK(set(fd, SO_SNDBUF, 0) == 0 && get(fd, SOL_SOCKET, SO_SNDBUF) == 4608);
    CHECK(set(fd, SO_RCVBUF, 0) == 0 && get(fd, SOL_SOCKET, SO_RCVBUF) == 2304);
    CHECK(set(fd, SO_SNDBUF, 50001) == 0 && get(fd, SOL_SOCKET, SO_SNDBUF) == 100002);
    CHECK(set(fd, SO_RCVBUF, 50001) == 0 && get(fd, SOL_SOCKET, SO_RCVBUF) == 100002);
    int send_max = setting("/proc/sys/net/core/wmem_max", 0), receive_max = setting("/proc/sys/net/core/rmem_max", 0);
    CHECK(set(fd, SO_SNDBUF, 1 << 30) == 0 && set(fd, SO_RCVBUF, -1) == 0);
    if (send_max) CHECK(get(fd, SOL_SOCKET, SO_SNDBUF) == 2 * send_max);
    if (receive_max) CHECK(get(fd, SOL_SOCKET, SO_RCVBUF) == 2 * receive_max);
    if (set(fd, SO_SNDBUFFORCE, 300 << 20) == 0) {
        CHECK(get(fd, SOL_SOCKET, SO_SNDBUF) == 600 << 20);
        CHECK(set(fd, SO_RCVBUFFORCE, 0x7fffffff) == 0 && get(fd, SOL_SOCKET, SO_RCVBUF) == 0x7ffffffe);
        CHECK(set(fd, SO_RCVBUFFORCE, -1) == 0 && get(fd, SOL_SOCKET, SO_RCVBUF) == 2304);
    } else {
        CHECK(errno == EPERM);
        CHECK_ERRNO(set(fd, SO_RCVBUFFORCE, 1), EPERM);
    }
    close(fd);
}

/* A message as long as the buffer allows, and one that is longer. */
static void large_messages(int kind) {
    int ends[2], size = setting("/proc/sys/net/core/wmem_max", 212992);
    CHECK(socketpair(AF_UNIX, kind, 0, ends) == 0);
    CHECK(set(ends[0], SO_SNDBUF, size) == 0);
    size = get(ends[0], SOL_SOCKET, SO_SNDBUF);
    if (size > 3 << 20) {
        size = 3 << 20;
        CHECK(set(ends[0], SO_SNDBUF, size / 2) == 0);
    }
    char *sent = malloc(size), *got = malloc(size);
    for (int i = 0; i < size; i++) sent[i] = i * 7 + i / 1000;
    CHECK_ERRNO(send(ends[0], sent, size - 31, 0), EMSGSIZE);
    int most = size - 4096;
    CHECK(send(ends[0], sent, most, 0) == most);
    CHECK(recv(ends[1], got, size, 0) == most && !memcmp(sent, got, most));
    free(sent), free(got), close(ends[0]), close(ends[1]);
}

/* A connection's buffers grow, and a write that need not wait does not take three times as much. */
static void connections(void) {
    int server = bound(SOCK_STREAM), client = socket(AF_INET, SOCK_STREAM, 0), by_hand = socket(AF_INET, SOCK_STREAM, 0);
    in4 addr = own(server);
    CHECK(listen(server, 5) == 0);
    int before = get(client, SOL_SOCKET, SO_SNDBUF);
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0);
    int fd = accept(server, 0, 0), grown = get(client, SOL_SOCKET, SO_SNDBUF);
    CHECK(grown > 10 * before && get(fd, SOL_SOCKET, SO_SNDBUF) == grown);
    char *bytes = calloc(3, grown);
    CHECK(fcntl(client, F_SETFL, O_NONBLOCK) == 0);
    long count = write(client, bytes, 3L * grown);
    CHECK(count > 0 && count < 3L * grown);
    CHECK(set(by_hand, SO_SNDBUF, 10000) == 0 && connect(by_hand, (sa *)&addr, sizeof addr) == 0);
    CHECK(get(by_hand, SOL_SOCKET, SO_SNDBUF) == 20000);
    free(bytes), close(fd), close(client), close(by_hand), close(server);
}

/* How many packets of `size` bytes fit into a buffer. */
static int fitting(int from, int fd, in4 to, int size) {
    static char buf[4096];
    int count = 0;
    for (int i = 0; i < 60; i++) CHECK(sendto(from, buf, size, 0, (sa *)&to, sizeof to) == size);
    while (recv(fd, buf, sizeof buf, MSG_DONTWAIT) >= 0) count++;
    return count;
}

static void full_queues(void) {
    int udp = bound(SOCK_DGRAM), from = socket(AF_INET, SOCK_DGRAM, 0), raw = socket(AF_INET, SOCK_RAW, 201);
    CHECK(set(udp, SO_RCVBUF, 0) == 0 && fitting(from, udp, own(udp), 4000) == 1);
    CHECK(set(udp, SO_RCVBUF, 20000) == 0 && fitting(from, udp, own(udp), 100) > 40);
    in4 to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (raw >= 0) CHECK(set(raw, SO_RCVBUF, 4608) == 0 && fitting(raw, raw, to, 2304) == 3);
    close(udp), close(from), close(raw);
}

static void raw_v6(void) {
    int udp = socket(AF_INET6, SOCK_RAW, IPPROTO_UDP), plain = socket(AF_INET6, SOCK_RAW, IPPROTO_UDP);
    int whole = socket(AF_INET6, SOCK_RAW, IPPROTO_RAW), icmp = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    if (udp < 0) return;
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    union { in4 v4; struct sockaddr_in6 room; } mixed = {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    CHECK_ERRNO(connect(udp, (sa *)&mixed, sizeof to), EAFNOSUPPORT);
    CHECK_ERRNO(sendto(udp, "x", 1, 0, (sa *)&mixed, sizeof mixed.v4), EINVAL);
    CHECK_ERRNO(sendto(udp, "x", 1, 0, (sa *)&mixed, sizeof to), EAFNOSUPPORT);
    CHECK_ERRNO(sendto(whole, "short", 5, 0, (sa *)&to, sizeof to), EINVAL);
    CHECK(get(whole, IPPROTO_IPV6, IPV6_HDRINCL) == 1 && get(udp, IPPROTO_IPV6, IPV6_HDRINCL) == 0);
    int offset = 6;
    CHECK_ERRNO(setsockopt(icmp, IPPROTO_IPV6, IPV6_CHECKSUM, &offset, 4), EINVAL);
    CHECK_ERRNO(setsockopt(udp, IPPROTO_IPV6, IPV6_CHECKSUM, &(int){3}, 4), EINVAL);
    CHECK_ERRNO(setsockopt(udp, IPPROTO_IPV6, IPV6_CHECKSUM, 0, 4), EFAULT);
    CHECK(setsockopt(udp, IPPROTO_IPV6, IPV6_CHECKSUM, &offset, 4) == 0 && get(udp, IPPROTO_IPV6, IPV6_CHECKSUM) == 6);
    /* Without a checksum it does not reach who looks at it; with one it reaches both. */
    struct { struct udphdr head; uint32_t value; } one = {.value = 1}, got;
    CHECK(sendto(plain, &one, sizeof one, 0, (sa *)&to, sizeof to) == sizeof one);
    CHECK_ERRNO(recv(udp, &got, sizeof got, MSG_DONTWAIT), EAGAIN);
    CHECK(recv(plain, &got, sizeof got, 0) == sizeof got && got.head.check == 0);
    CHECK(sendto(udp, &one, sizeof one, 0, (sa *)&to, sizeof to) == sizeof one);
    CHECK(recv(udp, &got, sizeof got, 0) == sizeof got && got.head.check != 0);
    CHECK(recv(plain, &got, sizeof got, 0) == sizeof got && got.value == 1);
    CHECK_ERRNO(sendto(udp, "x", 1, 0, (sa *)&to, sizeof to), EINVAL);
    /* A packet with its header. */
    struct { struct ip6_hdr head; char text[4]; } packet = {.head.ip6_dst = to.sin6_addr, .head.ip6_src = to.sin6_addr};
    packet.head.ip6_flow = htonl(6 << 28), packet.head.ip6_plen = htons(4), packet.head.ip6_nxt = 201;
    packet.head.ip6_hlim = 9, memcpy(packet.text, "text", 4);
    int other = socket(AF_INET6, SOCK_RAW, 201);
    char text[8];
    CHECK(sendto(whole, &packet, sizeof packet, 0, (sa *)&to, sizeof to) == sizeof packet);
    CHECK(recv(other, text, sizeof text, 0) == 4 && !memcmp(text, "text", 4));
    close(udp), close(plain), close(whole), close(icmp), close(other);
}

int main(void) {
    limits(AF_INET, SOCK_STREAM), limits(AF_INET, SOCK_DGRAM), limits(AF_INET6, SOCK_DGRAM), limits(AF_UNIX, SOCK_STREAM);
    limits(AF_UNIX, SOCK_DGRAM), limits(AF_NETLINK, SOCK_RAW);
    large_messages(SOCK_DGRAM), large_messages(SOCK_SEQPACKET);
    connections();
    full_queues();
    raw_v6();
    DONE();
}
