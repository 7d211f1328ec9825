/* Packets between network namespaces over pairs of devices: TCP, UDP, ICMP, both families, through a namespace that forwards. */
#define _GNU_SOURCE
#include "rtnl.h"
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>

static int here, middle, there;

/* Fills in an address of either family. */
static socklen_t make(struct sockaddr_storage *to, const char *addr, int port) {
    struct sockaddr_in *v4 = (void *)to;
    struct sockaddr_in6 *v6 = (void *)to;
    memset(to, 0, sizeof *to);
    to->ss_family = family_of(addr);
    v4->sin_port = htons(port);
    if (to->ss_family == AF_INET) inet_pton(AF_INET, addr, &v4->sin_addr);
    else inet_pton(AF_INET6, addr, &v6->sin6_addr);
    return to->ss_family == AF_INET ? sizeof *v4 : sizeof *v6;
}

static int port_of(int fd) {
    struct sockaddr_in6 own;
    socklen_t len = sizeof own;
    CHECK(getsockname(fd, (sa *)&own, &len) == 0);
    return ntohs(own.sin6_port);
}

static int bound(int namespace, int kind, const char *addr) {
    struct sockaddr_storage own;
    struct timeval limit = {20, 0};
    enter(namespace);
    int fd = socket(family_of(addr), kind, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK(bind(fd, (sa *)&own, make(&own, addr, 0)) == 0);
    return fd;
}

static int connected(int namespace, int kind, const char *addr, int port) {
    struct sockaddr_storage to;
    struct timeval limit = {20, 0};
    enter(namespace);
    int fd = socket(family_of(addr), kind, 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    CHECK(connect(fd, (sa *)&to, make(&to, addr, port)) == 0);
    return fd;
}

/* Whether the far end of a socket, or the sender of what it gets, has this address. */
static int comes_from(struct sockaddr_storage *from, const char *addr) {
    struct sockaddr_storage want;
    make(&want, addr, 0);
    if (from->ss_family != want.ss_family) return 0;
    return want.ss_family == AF_INET
               ? ((struct sockaddr_in *)from)->sin_addr.s_addr == ((struct sockaddr_in *)&want)->sin_addr.s_addr
               : !memcmp(&((struct sockaddr_in6 *)from)->sin6_addr, &((struct sockaddr_in6 *)&want)->sin6_addr, 16);
}

/* A connection from `a` in one namespace to `b` in another. */
static void stream(int from, const char *a, int to, const char *b) {
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    static char out[200000], in[200000];
    int listener = bound(to, SOCK_STREAM, b);
    CHECK(listen(listener, 5) == 0);
    int client = connected(from, SOCK_STREAM, b, port_of(listener));
    int server = accept(listener, (sa *)&peer, &len);
    CHECK(server >= 0 && comes_from(&peer, a));
    for (unsigned i = 0; i < sizeof out; i++) out[i] = i * 7;
    pid_t child = fork();
    if (!child) _exit(write(client, out, sizeof out) != sizeof out || shutdown(client, SHUT_WR));
    CHECK(recv(server, in, sizeof in, MSG_WAITALL) == sizeof in && !memcmp(in, out, sizeof in));
    CHECK(recv(server, in, 1, 0) == 0 && write(server, "back", 4) == 4 && close(server) == 0);
    CHECK(recv(client, in, 9, MSG_WAITALL) == 4 && !memcmp(in, "back", 4));
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(client);
    /* Nobody listens. */
    int port = port_of(listener);
    close(listener);
    enter(from);
    client = socket(family_of(b), SOCK_STREAM, 0);
    CHECK_ERRNO(connect(client, (sa *)&peer, make(&peer, b, port)), ECONNREFUSED);
    close(client);
    /* Who has not been accepted is reset with the listener, who closes with bytes unread resets. */
    listener = bound(to, SOCK_STREAM, b);
    CHECK(listen(listener, 5) == 0);
    client = connected(from, SOCK_STREAM, b, port_of(listener));
    server = accept(listener, NULL, NULL);
    CHECK(write(client, "unread", 6) == 6 && recv(server, in, 1, 0) == 1 && close(server) == 0);
    CHECK_ERRNO(recv(client, in, 1, 0), ECONNRESET);
    close(client);
    close(listener);
}

static void datagrams(int from, const char *a, int to, const char *b, int hops) {
    struct sockaddr_storage peer;
    socklen_t len = sizeof peer;
    char in[16], control[64];
    int server = bound(to, SOCK_DGRAM, b), on = 1, v6 = family_of(b) == AF_INET6;
    CHECK(setsockopt(server, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_RECVHOPLIMIT : IP_RECVTTL, &on, sizeof on) == 0);
    int client = connected(from, SOCK_DGRAM, b, port_of(server));
    CHECK(send(client, "there", 5, 0) == 5);
    struct iovec vec = {in, sizeof in};
    struct msghdr message = {&peer, len, &vec, 1, control, sizeof control, 0};
    CHECK(recvmsg(server, &message, 0) == 5 && comes_from(&peer, a));
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    CHECK(head && *(int *)CMSG_DATA(head) == 64 - hops);
    CHECK(sendto(server, "back", 4, 0, (sa *)&peer, message.msg_namelen) == 4 && recv(client, in, sizeof in, 0) == 4);
    /* Nobody is there any more. */
    close(server);
    CHECK(send(client, "lost", 4, 0) == 4);
    CHECK_ERRNO(recv(client, in, sizeof in, 0), ECONNREFUSED);
    close(client);
}

static void echo(int from, const char *addr) {
    struct sockaddr_storage to;
    struct timeval limit = {20, 0};
    struct { struct icmphdr head; char text[8]; } request = {.head = {.type = ICMP_ECHO, .un.echo = {htons(77), htons(1)}}, .text = "payload"};
    unsigned char in[128];
    enter(from);
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), got = 0;
    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    unsigned sum = 0;
    for (unsigned i = 0; i < sizeof request / 2; i++) sum += ((unsigned short *)&request)[i];
    request.head.checksum = ~((sum & 0xffff) + (sum >> 16));
    CHECK(sendto(fd, &request, sizeof request, 0, (sa *)&to, make(&to, addr, 0)) == sizeof request);
    for (int i = 0; i < 10 && !got; i++)
        got = recv(fd, in, sizeof in, 0) == 20 + sizeof request && in[20] == ICMP_ECHOREPLY && !memcmp(in + 28, "payload", 8);
    CHECK(got);
    close(fd);
}

/* What a device has received and sent. */
static void counters(int namespace, const char *name, unsigned long long *packets) {
    char line[512], format[64];
    enter(namespace);
    FILE *file = fopen("/proc/thread-self/net/dev", "r");
    packets[0] = packets[1] = 0;
    snprintf(format, sizeof format, " %s: %%*u %%llu %%*u %%*u %%*u %%*u %%*u %%*u %%*u %%llu", name);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, format, &packets[0], &packets[1]) == 2) break;
    fclose(file);
}

static void direct(void) {
    unsigned long long before[2], after[2], far[2];
    counters(here, "left", before);
    stream(here, "10.1.0.1", middle, "10.1.0.2");
    stream(middle, "10.1.0.2", here, "10.1.0.1");
    stream(here, "2001:db8:1::1", middle, "2001:db8:1::2");
    datagrams(here, "10.1.0.1", middle, "10.1.0.2", 0);
    datagrams(here, "2001:db8:1::1", middle, "2001:db8:1::2", 0);
    echo(here, "10.1.0.2");
    counters(here, "left", after);
    counters(middle, "right", far);
    CHECK(after[0] > before[0] + 8 && after[1] > before[1] + 8 && far[0] > 8 && far[1] > 8);
    /* Its own address is a neighbour of nobody: it goes through the loopback device. */
    stream(here, "10.1.0.1", here, "10.1.0.1");
    datagrams(here, "10.1.0.1", here, "10.1.0.1", 0);
}

static void forwards(const char *whether) {
    enter(middle);
    int fd = open("/proc/sys/net/ipv4/ip_forward", O_WRONLY);
    CHECK(fd >= 0 && write(fd, whether, 1) == 1);
    close(fd);
}

/* A packet goes no further before the one in the middle is told to forward. A new namespace does as the first one, which may
 * have been told. */
static void unforwarded(void) {
    char in;
    cpu_set_t all, own;
    CPU_ZERO(&own);
    CPU_SET(sched_getcpu(), &own);
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && sched_setaffinity(0, sizeof own, &own) == 0);
    int far = bound(there, SOCK_DGRAM, "10.2.0.2"), sender = connected(here, SOCK_DGRAM, "10.2.0.2", port_of(far));
    int near = bound(middle, SOCK_DGRAM, "10.1.0.2"), prompter = connected(here, SOCK_DGRAM, "10.1.0.2", port_of(near));
    forwards("0");
    CHECK(send(sender, "0", 1, 0) == 1);
    /* Behind it in the queue of the same CPU: once this one is here that one is lost. */
    CHECK(send(prompter, "-", 1, 0) == 1 && recv(near, &in, 1, 0) == 1);
    forwards("1");
    CHECK(send(sender, "1", 1, 0) == 1 && recv(far, &in, 1, 0) == 1 && in == '1');
    close(far), close(sender), close(near), close(prompter);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
}

static void forwarded(void) {
    struct sockaddr_storage to;
    enter(here);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_ERRNO(connect(fd, (sa *)&to, make(&to, "10.2.0.2", 9)), ENETUNREACH);
    close(fd);
    CHECK(route(RTM_NEWROUTE, NLM_F_CREATE, "10.2.0.0", 24, "10.1.0.2", NULL, RT_TABLE_MAIN) == 0);
    enter(there);
    CHECK(route(RTM_NEWROUTE, NLM_F_CREATE, "0.0.0.0", 0, "10.2.0.1", NULL, RT_TABLE_MAIN) == 0);
    unforwarded();
    stream(here, "10.1.0.1", there, "10.2.0.2");
    datagrams(there, "10.2.0.2", here, "10.1.0.1", 1);
    echo(here, "10.2.0.2");
    /* The forwarder's other address is its own, by whichever device. */
    datagrams(here, "10.1.0.1", middle, "10.2.0.1", 0);
}

/* A socket that is bound to a device gets what comes in by it, and sends by it. */
static void devices(void) {
    struct sockaddr_storage to;
    char in[8];
    int inner = bound(middle, SOCK_DGRAM, "0.0.0.0"), port = port_of(inner);
    CHECK(setsockopt(inner, SOL_SOCKET, SO_BINDTODEVICE, "inner", 5) == 0);
    CHECK_ERRNO(setsockopt(inner, SOL_SOCKET, SO_BINDTODEVICE, "none", 4), ENODEV);
    int one = connected(here, SOCK_DGRAM, "10.1.0.2", port), other = connected(there, SOCK_DGRAM, "10.2.0.1", port);
    CHECK(send(one, "1", 1, 0) == 1 && send(other, "2", 1, 0) == 1);
    CHECK(recv(inner, in, sizeof in, 0) == 1 && in[0] == '2');
    CHECK_ERRNO(recv(inner, in, sizeof in, MSG_DONTWAIT), EAGAIN);
    /* Everybody on the link. */
    int on = 1;
    enter(there);
    CHECK_ERRNO(sendto(other, "3", 1, 0, (sa *)&to, make(&to, "10.2.0.255", port)), EACCES);
    CHECK(setsockopt(other, SOL_SOCKET, SO_BROADCAST, &on, sizeof on) == 0);
    CHECK(sendto(other, "3", 1, 0, (sa *)&to, make(&to, "10.2.0.255", port)) == 1 && recv(inner, in, sizeof in, 0) == 1);
    close(inner), close(one), close(other);
}

/* Frames as they are on the link, which programs may make themselves. */
static void frames(void) {
    unsigned char in[256], frame[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x88, 0xb5, 'h', 'i'};
    struct timeval limit = {20, 0};
    struct sockaddr_ll own = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)}, from;
    socklen_t len = sizeof from;
    enter(middle);
    int to = socket(AF_PACKET, SOCK_RAW, 0);
    own.sll_ifindex = if_nametoindex("right");
    CHECK(setsockopt(to, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 && bind(to, (sa *)&own, sizeof own) == 0);
    enter(here);
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    own.sll_ifindex = if_nametoindex("left");
    CHECK(sendto(fd, frame, sizeof frame, 0, (sa *)&own, sizeof own) == sizeof frame);
    CHECK(recvfrom(to, in, sizeof in, 0, (sa *)&from, &len) == sizeof frame && !memcmp(in, frame, sizeof frame));
    CHECK(from.sll_pkttype == PACKET_BROADCAST && from.sll_hatype == 1 && from.sll_addr[5] == 9);
    close(fd), close(to);
}

/* An address that nobody has: an attempt to connect ends after a while. */
static void nobody(void) {
    struct sockaddr_storage to;
    enter(here);
    int fd = socket(AF_INET, SOCK_STREAM, 0), error;
    socklen_t len = sizeof error;
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK_ERRNO(connect(fd, (sa *)&to, make(&to, "10.1.0.77", 9)), EINPROGRESS);
    struct pollfd one = {fd, POLLOUT, 0};
    CHECK(poll(&one, 1, 0) == 0 && poll(&one, 1, 60000) == 1);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == EHOSTUNREACH);
    close(fd);
}

/* Ends go with their namespace, and with each other; a process names its namespace. */
static void gone(void) {
    int ready[2];
    char byte;
    CHECK(pipe(ready) == 0);
    enter(here);
    CHECK(make_pair("lost", "moved") == 0);
    pid_t child = fork();
    if (!child) {
        unshare(CLONE_NEWNET);
        write(ready[1], "x", 1);
        pause();
        _exit(0);
    }
    CHECK(read(ready[0], &byte, 1) == 1 && set_link("moved", IFLA_NET_NS_PID, &child, 4) == 0);
    CHECK(if_nametoindex("moved") == 0 && if_nametoindex("lost"));
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    for (int i = 0; i < 1000 && if_nametoindex("lost"); i++) nap();
    CHECK(if_nametoindex("lost") == 0);
    enter(middle);
    CHECK(remove_link("right") == 0);
    enter(here);
    CHECK(if_nametoindex("left") == 0);
}

static void start(void) {
    here = new_namespace();
    CHECK(set_up("lo", 1) == 0);
    if (make_pair("left", "right") && errno == EOPNOTSUPP) exit(puts("ok") < 0);
    CHECK(unshare(CLONE_NEWNET) == 0 && (there = open("/proc/self/ns/net", 0)) >= 0);
    CHECK(unshare(CLONE_NEWNET) == 0 && (middle = open("/proc/self/ns/net", 0)) >= 0);
    CHECK(make_pair("inner", "outer") == 0 && set_link("outer", IFLA_NET_NS_FD, &there, 4) == 0);
    CHECK(address(RTM_NEWADDR, "inner", "10.2.0.1", 24) == 0 && set_up("inner", 1) == 0);
    enter(there);
    CHECK(address(RTM_NEWADDR, "outer", "10.2.0.2", 24) == 0 && set_up("outer", 1) == 0);
    await_running("outer");
    enter(here);
    CHECK(set_link("right", IFLA_NET_NS_FD, &middle, 4) == 0);
    CHECK(address(RTM_NEWADDR, "left", "10.1.0.1", 24) == 0 && address(RTM_NEWADDR, "left", "2001:db8:1::1", 64) == 0);
    CHECK(set_up("left", 1) == 0);
    enter(middle);
    CHECK(address(RTM_NEWADDR, "right", "10.1.0.2", 24) == 0 && address(RTM_NEWADDR, "right", "2001:db8:1::2", 64) == 0);
    CHECK(set_up("right", 1) == 0);
    await_running("right");
    await_running("inner");
    enter(here);
    await_running("left");
}

int main(void) {
    start();
    direct();
    forwarded();
    devices();
    frames();
    nobody();
    gone();
    DONE();
}
