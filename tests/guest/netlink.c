/* Questions about the network: getifaddrs, NETLINK_ROUTE and NETLINK_SOCK_DIAG, /proc/net, /sys/class/net. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct sockaddr sa;

static void addresses(void) {
    struct ifaddrs *list, *at;
    int found = 0;
    CHECK(getifaddrs(&list) == 0);
    for (at = list; at; at = at->ifa_next) {
        if (strcmp(at->ifa_name, "lo") || !at->ifa_addr) continue;
        CHECK((at->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == (IFF_UP | IFF_LOOPBACK));
        if (at->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in *in = (void *)at->ifa_addr, *mask = (void *)at->ifa_netmask;
            found |= in->sin_addr.s_addr == htonl(INADDR_LOOPBACK) && mask->sin_addr.s_addr == htonl(0xff000000) ? 1 : 0;
        }
        if (at->ifa_addr->sa_family == AF_INET6)
            found |= !memcmp(&((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr, &in6addr_loopback, 16) ? 2 : 0;
        if (at->ifa_addr->sa_family == AF_PACKET) found |= 4;
    }
    CHECK(found == 7);
    freeifaddrs(list);
}

static int ask(int fd, void *request, int len) {
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    return sendto(fd, request, len, 0, (sa *)&kernel, sizeof kernel);
}

static void routes(void) {
    struct sockaddr_nl own = {.nl_family = AF_NETLINK}, from;
    socklen_t len = sizeof own;
    static char buf[32768];
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    CHECK(fd >= 0 && bind(fd, (sa *)&own, sizeof own) == 0 && getsockname(fd, (sa *)&own, &len) == 0);
    CHECK(len == 12 && own.nl_pid == (unsigned)getpid());
    int other = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    CHECK_ERRNO(bind(other, (sa *)&own, sizeof own), EADDRINUSE);
    close(other);
    CHECK_ERRNO(recv(fd, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    /* One device by its name, with what does not fit cut off. */
    struct { struct nlmsghdr head; struct ifinfomsg info; struct rtattr name; char text[4]; } by_name = {
        {sizeof by_name, RTM_GETLINK, NLM_F_REQUEST, 7, 0}, {AF_UNSPEC}, {8, IFLA_IFNAME}, "lo"};
    CHECK(ask(fd, &by_name, sizeof by_name) == sizeof by_name);
    len = sizeof from;
    CHECK(recvfrom(fd, buf, 16, MSG_PEEK | MSG_TRUNC, (sa *)&from, &len) > 16 && from.nl_pid == 0);
    struct nlmsghdr *head = (void *)buf;
    CHECK(recv(fd, buf, sizeof buf, 0) > 32 && head->nlmsg_type == RTM_NEWLINK && head->nlmsg_seq == 7);
    CHECK(((struct ifinfomsg *)NLMSG_DATA(head))->ifi_index == 1 && ((struct ifinfomsg *)NLMSG_DATA(head))->ifi_type == 772);
    strcpy(by_name.text, "no");
    CHECK(ask(fd, &by_name, sizeof by_name) > 0 && recv(fd, buf, sizeof buf, 0) > 0 && head->nlmsg_type == NLMSG_ERROR);
    CHECK(((struct nlmsgerr *)NLMSG_DATA(head))->error == -ENODEV);
    /* A list that ends. */
    struct { struct nlmsghdr head; struct rtgenmsg any; } all = {{sizeof all, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 8, 0}, {AF_INET}};
    int loopbacks = 0, done = 0;
    CHECK(ask(fd, &all, sizeof all) == sizeof all);
    while (!done) {
        int left = recv(fd, buf, sizeof buf, 0);
        for (head = (void *)buf; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            done |= head->nlmsg_type == NLMSG_DONE;
            CHECK(head->nlmsg_flags & NLM_F_MULTI);
            if (head->nlmsg_type == RTM_NEWADDR) {
                struct ifaddrmsg *addr = NLMSG_DATA(head);
                loopbacks += addr->ifa_family == AF_INET && addr->ifa_index == 1 && addr->ifa_prefixlen == 8;
            }
        }
    }
    CHECK(loopbacks == 1);
    struct { struct nlmsghdr head; struct rtmsg route; struct rtattr to; unsigned addr; } where = {
        {sizeof where, RTM_GETROUTE, NLM_F_REQUEST, 9, 0}, {.rtm_family = AF_INET, .rtm_dst_len = 32}, {8, RTA_DST}, htonl(INADDR_LOOPBACK)};
    head = (void *)buf;
    CHECK(ask(fd, &where, sizeof where) > 0 && recv(fd, buf, sizeof buf, 0) > 0 && head->nlmsg_type == RTM_NEWROUTE);
    CHECK(((struct rtmsg *)NLMSG_DATA(head))->rtm_type == RTN_LOCAL);
    close(fd);
    CHECK_ERRNO(socket(AF_NETLINK, SOCK_STREAM, 0), ESOCKTNOSUPPORT);
    CHECK_ERRNO(socket(AF_NETLINK, SOCK_RAW, 99), EPROTONOSUPPORT);
    fd = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT);
    own = (struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_groups = 1};
    CHECK(fd >= 0 && bind(fd, (sa *)&own, sizeof own) == 0);
    close(fd);
}

static int listed(const char *file, const char *text) {
    char line[512];
    FILE *in = fopen(file, "r");
    int found = 0;
    CHECK(in);
    while (in && fgets(line, sizeof line, in)) found += strstr(line, text) != 0;
    if (in) fclose(in);
    return found;
}

static int is_listening_at(const struct nlmsghdr *head, unsigned long port) {
    const struct inet_diag_msg *message = NLMSG_DATA(head);
    return message->id.idiag_sport == port && message->idiag_state == TCP_LISTEN;
}

static int is_named(const struct nlmsghdr *head, unsigned long inode) {
    const struct unix_diag_msg *message = NLMSG_DATA(head);
    const struct rtattr *name = (void *)(message + 1);
    if (message->udiag_ino != inode) return 0;
    CHECK(message->udiag_family == AF_UNIX && message->udiag_type == SOCK_STREAM && message->udiag_state == TCP_LISTEN);
    CHECK(name->rta_type == UNIX_DIAG_NAME && RTA_PAYLOAD(name) == 13 && !memcmp(RTA_DATA(name), "\0umbel-listed", 13));
    return 1;
}

/* How many sockets of the answer are wanted. */
static int told(void *request, int len, int (*wanted)(const struct nlmsghdr *, unsigned long), unsigned long what) {
    static char buf[32768];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), found = 0, done = 0;
    CHECK(fd >= 0 && ask(fd, request, len) == len);
    while (!done) {
        int left = recv(fd, buf, sizeof buf, 0);
        if (left <= 0) break;
        for (struct nlmsghdr *head = (void *)buf; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            done |= head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR;
            found += head->nlmsg_type == SOCK_DIAG_BY_FAMILY && wanted(head, what);
        }
    }
    close(fd);
    return found;
}

static void sockets(void) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    struct stat stat;
    int server = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), local = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(server, (sa *)&addr, len) == 0 && listen(server, 5) == 0 && bind(udp, (sa *)&addr, len) == 0);
    CHECK(fstat(udp, &stat) == 0 && getsockname(server, (sa *)&addr, &len) == 0);
    char text[64];
    snprintf(text, sizeof text, "0100007F:%04X 00000000:0000 0A", ntohs(addr.sin_port));
    CHECK(listed("/proc/net/tcp", text) == 1);
    snprintf(text, sizeof text, " %lu ", (long)stat.st_ino);
    CHECK(listed("/proc/net/udp", text) == 1 && listed("/proc/self/net/udp", text) == 1);
    struct sockaddr_un name = {AF_UNIX, "\0umbel-listed"};
    CHECK(bind(local, (sa *)&name, 2 + 13) == 0 && listed("/proc/net/unix", "@umbel-listed") == 1);
    CHECK(listed("/proc/net/dev", "lo:") == 1 && listed("/proc/net/if_inet6", "00000000000000000000000000000001 01 80 10 80       lo") == 1);
    CHECK(listed("/proc/net/sockstat", "TCP: inuse") == 1 && listed("/sys/class/net/lo/mtu", "65536") == 1);
    CHECK(listed("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999") == 1);
    /* The same by a question. */
    struct { struct nlmsghdr head; struct inet_diag_req_v2 request; } ours = {
        {sizeof ours, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0},
        {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << TCP_LISTEN}};
    CHECK(told(&ours, sizeof ours, is_listening_at, addr.sin_port) == 1);
    struct { struct nlmsghdr head; struct unix_diag_req request; } theirs = {
        {sizeof theirs, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 2, 0},
        {.sdiag_family = AF_UNIX, .udiag_states = 1 << TCP_LISTEN, .udiag_show = UDIAG_SHOW_NAME}};
    CHECK(fstat(local, &stat) == 0 && told(&theirs, sizeof theirs, is_named, stat.st_ino) == 0);
    CHECK(listen(local, 5) == 0 && told(&theirs, sizeof theirs, is_named, stat.st_ino) == 1);
    close(server), close(udp), close(local);
}

int main(void) {
    addresses();
    routes();
    sockets();
    DONE();
}
