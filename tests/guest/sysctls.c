/* Settings of the network: what they take, what they refuse, what they change. In a namespace of its own, and as root only. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <fcntl.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int file(const char *name, int flags) {
    char path[128];
    snprintf(path, sizeof path, "/proc/sys/net/%s", name);
    return open(path, flags);
}

static int put(const char *name, const char *value) {
    int fd = file(name, O_WRONLY), count = write(fd, value, strlen(value)), error = errno;
    close(fd);
    errno = error;
    return count;
}

/* Whether it reads as `value`. */
static int is(const char *name, const char *value) {
    char text[64] = "";
    int fd = file(name, O_RDONLY), count = read(fd, text, sizeof text - 1);
    close(fd);
    if (count > 0 && text[count - 1] == '\n') text[count - 1] = 0;
    if (strcmp(text, value)) printf("%s is %s\n", name, text);
    return !strcmp(text, value);
}

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    CHECK(getsockopt(fd, level, name, &value, &len) == 0);
    return value;
}

static void up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

static void kept(void) {
    CHECK(is("ipv4/tcp_sack", "1") && put("ipv4/tcp_sack", "0\n") == 2 && is("ipv4/tcp_sack", "0"));
    CHECK(put("ipv4/conf/lo/rp_filter", "2") == 1 && is("ipv4/conf/lo/rp_filter", "2") && is("ipv4/conf/default/rp_filter", "0"));
    CHECK(put("ipv4/conf/lo/route_localnet", "1") == 1 && put("ipv4/conf/lo/accept_local", "1") == 1);
    CHECK(put("ipv4/ip_forward", "1") == 1 && is("ipv4/conf/all/forwarding", "1") && is("ipv4/conf/lo/forwarding", "1"));
    CHECK(put("ipv4/conf/all/forwarding", "0") == 1 && is("ipv4/ip_forward", "0"));
    CHECK(put("ipv4/tcp_rmem", "4096 100000") == 11 && put("ipv4/tcp_rmem", "5000") == 4);
    CHECK(put("ipv4/tcp_rmem", "5000 90000 4000000") == 18 && is("ipv4/tcp_rmem", "5000\t90000\t4000000"));
    CHECK_ERRNO(put("ipv4/tcp_sack", "x"), EINVAL);
    CHECK_ERRNO(put("ipv4/tcp_rmem", "0 1 2"), EINVAL);
    CHECK_ERRNO(put("ipv4/ip_default_ttl", "0"), EINVAL);
    CHECK_ERRNO(put("ipv4/ip_default_ttl", "256"), EINVAL);
    CHECK_ERRNO(put("core/somaxconn", "-1"), EINVAL);
    CHECK_ERRNO(file("ipv4/nothing", O_RDONLY), ENOENT);
}

static void ports(void) {
    int fds[11];
    CHECK_ERRNO(put("ipv4/ip_local_port_range", "50000 40000"), EINVAL);
    CHECK_ERRNO(put("ipv4/ip_local_port_range", "40000 65536"), EINVAL);
    CHECK_ERRNO(put("ipv4/ip_local_port_range", "1000 40000"), EINVAL);
    CHECK_ERRNO(put("ipv4/ip_unprivileged_port_start", "40000"), EINVAL);
    CHECK(put("ipv4/ip_local_port_range", "40000 40009") == 11 && is("ipv4/ip_local_port_range", "40000\t40009"));
    in4 any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 11; i++) fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
    for (int i = 0; i < 10; i++) {
        CHECK(bind(fds[i], (sa *)&any, sizeof any) == 0);
        int port = ntohs(own(fds[i]).sin_port);
        CHECK(port >= 40000 && port <= 40009);
    }
    CHECK_ERRNO(bind(fds[10], (sa *)&any, sizeof any), EADDRINUSE);
    for (int i = 0; i < 11; i++) close(fds[i]);
    CHECK(put("ipv4/ip_unprivileged_port_start", "81") == 2);
    if (fork() == 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        any.sin_port = htons(80);
        CHECK_ERRNO(bind(fd, (sa *)&any, sizeof any), EACCES);
        any.sin_port = htons(81);
        CHECK(bind(fd, (sa *)&any, sizeof any) == 0);
        exit(check_failures);
    }
    int status;
    CHECK(wait(&status) > 0 && status == 0);
}

static void sockets(void) {
    CHECK(put("ipv4/ip_default_ttl", "33") == 2 && put("ipv6/bindv6only", "1") == 1 && put("core/somaxconn", "2") == 1);
    CHECK(put("ipv4/tcp_keepalive_time", "100") == 3 && put("ipv4/tcp_keepalive_intvl", "7") == 1);
    CHECK(put("ipv4/tcp_keepalive_probes", "3") == 1 && put("ipv4/tcp_wmem", "4096 30000 50000") == 16);
    int server = bound(SOCK_STREAM), client = socket(AF_INET, SOCK_STREAM, 0), six = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(get(client, IPPROTO_IP, IP_TTL) == 33 && get(six, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
    CHECK(get(client, IPPROTO_TCP, TCP_KEEPIDLE) == 100 && get(client, IPPROTO_TCP, TCP_KEEPINTVL) == 7);
    CHECK(get(client, IPPROTO_TCP, TCP_KEEPCNT) == 3 && get(client, SOL_SOCKET, SO_SNDBUF) == 30000);
    CHECK(get(client, SOL_SOCKET, SO_RCVBUF) == 90000);
    struct tcp_info info;
    socklen_t len = sizeof info;
    CHECK(listen(server, 100) == 0 && getsockopt(server, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_sacked == 2);
    in4 addr = own(server);
    CHECK(connect(client, (sa *)&addr, sizeof addr) == 0 && get(client, SOL_SOCKET, SO_SNDBUF) == 50000);
    close(server), close(client), close(six);
}

static void addresses(void) {
    int four = socket(AF_INET, SOCK_DGRAM, 0), six = socket(AF_INET6, SOCK_DGRAM, 0);
    in4 foreign = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a010203)};
    struct sockaddr_in6 own6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    CHECK_ERRNO(bind(four, (sa *)&foreign, sizeof foreign), EADDRNOTAVAIL);
    CHECK(put("ipv4/ip_nonlocal_bind", "1") == 1 && bind(four, (sa *)&foreign, sizeof foreign) == 0);
    CHECK(put("ipv6/conf/lo/disable_ipv6", "1") == 1);
    CHECK_ERRNO(bind(six, (sa *)&own6, sizeof own6), EADDRNOTAVAIL);
    CHECK(put("ipv6/conf/lo/disable_ipv6", "0") == 1 && bind(six, (sa *)&own6, sizeof own6) == 0);
    CHECK(put("ipv6/conf/all/disable_ipv6", "1") == 1 && is("ipv6/conf/lo/disable_ipv6", "1"));
    close(four), close(six);
}

static void echo(void) {
    CHECK(put("ipv4/ping_group_range", "5 9") == 3);
    CHECK_ERRNO(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), EACCES);
    CHECK(put("ipv4/ping_group_range", "0 0") == 3);
    int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    struct icmphdr request = {.type = ICMP_ECHO}, reply;
    in4 to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(sendto(fd, &request, sizeof request, 0, (sa *)&to, sizeof to) == sizeof request);
    CHECK(recv(fd, &reply, sizeof reply, 0) == sizeof reply && reply.type == ICMP_ECHOREPLY);
    CHECK(put("ipv4/icmp_echo_ignore_all", "1") == 1);
    CHECK(sendto(fd, &request, sizeof request, 0, (sa *)&to, sizeof to) == sizeof request);
    struct timeval soon = {0, 200000};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon) == 0);
    CHECK_ERRNO(recv(fd, &reply, sizeof reply, 0), EAGAIN);
    close(fd);
}

int main(void) {
    int fd;
    /* Not everybody may, and containers show these files without letting them be written. */
    if (geteuid() == 0 && unshare(CLONE_NEWNET) == 0 && (fd = file("ipv4/tcp_sack", O_WRONLY)) >= 0) {
        close(fd);
        up();
        kept();
        ports();
        sockets();
        addresses();
        echo();
        /* Another namespace has its own. */
        CHECK(unshare(CLONE_NEWNET) == 0 && is("ipv4/tcp_sack", "1") && is("ipv4/ip_default_ttl", "64"));
    }
    DONE();
}
