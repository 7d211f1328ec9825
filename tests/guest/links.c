/* Devices, addresses, routes and rules of a namespace by NETLINK_ROUTE and SIOC*; what /proc/net and /sys/class/net say of them. */
#define _GNU_SOURCE
#include "rtnl.h"
#include <net/if_arp.h>
#include <linux/fib_rules.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/wait.h>

static int contains(const char *path, const char *text) {
    static char buf[65536];
    int fd = open(path, O_RDONLY), len = read(fd, buf, sizeof buf - 1);
    close(fd);
    buf[len > 0 ? len : 0] = 0;
    return strstr(buf, text) != NULL;
}

static void names(void) {
    CHECK(make_pair("left", "right") == 0);
    CHECK_ERRNO(make_pair("left", "third"), EEXIST);
    CHECK_ERRNO(make_pair("third", "right"), EEXIST);
    CHECK(if_nametoindex("third") == 0);
    CHECK(make_pair(NULL, NULL) == 0 && if_nametoindex("veth0") && if_nametoindex("veth1"));
    CHECK(remove_link("veth1") == 0 && !if_nametoindex("veth0") && !if_nametoindex("veth1"));
    CHECK_ERRNO(remove_link("veth0"), ENODEV);
    CHECK_ERRNO(remove_link("lo"), EOPNOTSUPP);
    CHECK(rename_link("left", "west") == 0 && if_nametoindex("west") && !if_nametoindex("left"));
    CHECK_ERRNO(rename_link("west", "right"), EEXIST);
    CHECK_ERRNO(rename_link("west", "a/b"), EINVAL);
    CHECK_ERRNO(rename_link("west", ".."), EINVAL);
    CHECK(rename_link("west", "x%d") == 0 && if_nametoindex("x0") && rename_link("x0", "left") == 0);
    CHECK(rename_link("lo", "loop") == 0 && if_nametoindex("loop") == 1 && rename_link("loop", "lo") == 0);
    struct request request;
    struct ifinfomsg *negative = begin(&request, RTM_NEWLINK, 0, sizeof *negative);
    negative->ifi_index = -7;
    CHECK_ERRNO(ask(&request), EINVAL);
    begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
    struct rtattr *info = put(&request, IFLA_LINKINFO, NULL, 0);
    put_text(&request, IFLA_INFO_KIND, "nonsense");
    end_nest(&request, info);
    CHECK_ERRNO(ask(&request), EOPNOTSUPP);
}

static void settings(void) {
    struct ifreq request = {.ifr_name = "left"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(set_mtu("left", 1400) == 0 && ioctl(fd, SIOCGIFMTU, &request) == 0 && request.ifr_mtu == 1400);
    CHECK_ERRNO(set_mtu("left", 67), EINVAL);
    CHECK_ERRNO(set_mtu("left", 65536), EINVAL);
    request.ifr_mtu = 1500;
    CHECK(ioctl(fd, SIOCSIFMTU, &request) == 0 && ioctl(fd, SIOCGIFHWADDR, &request) == 0);
    CHECK(request.ifr_hwaddr.sa_family == ARPHRD_ETHER);
    char mac[6] = {2, 0, 0, 1, 2, 3}, group[6] = {1}, netns[4];
    CHECK(set_link("left", IFLA_ADDRESS, mac, 6) == 0 && ioctl(fd, SIOCGIFHWADDR, &request) == 0);
    CHECK(memcmp(request.ifr_hwaddr.sa_data, mac, 6) == 0);
    CHECK_ERRNO(set_link("left", IFLA_ADDRESS, group, 6), EADDRNOTAVAIL);
    *(int *)netns = 0x7fffffff;
    CHECK_ERRNO(set_link("left", IFLA_NET_NS_PID, netns, 4), ESRCH);
    CHECK_ERRNO(set_link("left", IFLA_NET_NS_FD, netns, 4), EBADF);
    CHECK(ioctl(fd, SIOCGIFINDEX, &request) == 0 && request.ifr_ifindex == (int)if_nametoindex("left"));
    request.ifr_ifindex = 12345;
    CHECK_ERRNO(ioctl(fd, SIOCGIFNAME, &request), ENODEV);
    /* An end is up when it is told to, and runs when both are. */
    CHECK(flags_of("left") == (IFF_BROADCAST | IFF_MULTICAST));
    CHECK(set_up("left", 1) == 0 && (flags_of("left") & ~IFF_RUNNING) == (IFF_BROADCAST | IFF_MULTICAST | IFF_UP));
    CHECK(set_up("right", 1) == 0);
    await_running("left");
    await_running("right");
    strcpy(request.ifr_name, "none");
    CHECK_ERRNO(ioctl(fd, SIOCGIFFLAGS, &request), ENODEV);
    close(fd);
}

struct counts {
    int addresses, secondary, routes, local, gateways, rules;
};

static void count_addresses(struct nlmsghdr *message, void *arg) {
    struct ifaddrmsg *own = NLMSG_DATA(message);
    struct counts *counts = arg;
    if (own->ifa_index != if_nametoindex("left")) return;
    counts->addresses++;
    counts->secondary += own->ifa_flags & IFA_F_SECONDARY ? 1 : 0;
    CHECK(!strcmp(RTA_DATA(find(message, sizeof *own, IFA_LABEL)), "left"));
}

static void count_routes(struct nlmsghdr *message, void *arg) {
    struct rtmsg *own = NLMSG_DATA(message);
    struct rtattr *device = find(message, sizeof *own, RTA_OIF);
    struct counts *counts = arg;
    if (!device || *(unsigned *)RTA_DATA(device) != if_nametoindex("left")) return;
    counts->routes += own->rtm_table == RT_TABLE_MAIN;
    counts->local += own->rtm_table == RT_TABLE_LOCAL;
    counts->gateways += find(message, sizeof *own, RTA_GATEWAY) != NULL;
}

static struct counts count(void) {
    struct counts counts = {0};
    struct request request;
    *(char *)begin(&request, RTM_GETADDR, 0, sizeof(struct ifaddrmsg)) = AF_INET;
    dump(&request, count_addresses, &counts);
    *(char *)begin(&request, RTM_GETROUTE, 0, sizeof(struct rtmsg)) = AF_INET;
    dump(&request, count_routes, &counts);
    return counts;
}

static void addresses(void) {
    struct counts counts;
    CHECK(address(RTM_NEWADDR, "left", "10.1.0.1", 24) == 0);
    CHECK_ERRNO(address(RTM_NEWADDR, "left", "10.1.0.1", 24), EEXIST);
    CHECK_ERRNO(address(RTM_NEWADDR, "left", "10.1.0.1", 33), EINVAL);
    CHECK_ERRNO(address(RTM_NEWADDR, "none", "10.1.0.1", 24), ENODEV);
    CHECK(address(RTM_NEWADDR, "left", "10.1.0.9", 24) == 0);
    counts = count();
    CHECK(counts.addresses == 2 && counts.secondary == 1 && counts.routes == 1 && counts.local == 3);
    CHECK_ERRNO(address(RTM_DELADDR, "left", "10.1.0.9", 25), EADDRNOTAVAIL);
    /* With the first goes the second. */
    CHECK(address(RTM_DELADDR, "left", "10.1.0.1", 24) == 0);
    counts = count();
    CHECK(counts.addresses == 0 && counts.routes == 0 && counts.local == 0);
    CHECK(address(RTM_NEWADDR, "left", "10.1.0.1", 24) == 0);
    struct ifreq request = {.ifr_name = "left"};
    struct sockaddr_in *in = (void *)&request.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCGIFADDR, &request) == 0 && in->sin_addr.s_addr == inet_addr("10.1.0.1"));
    CHECK(ioctl(fd, SIOCGIFNETMASK, &request) == 0 && in->sin_addr.s_addr == inet_addr("255.255.255.0"));
    strcpy(request.ifr_name, "right");
    CHECK_ERRNO(ioctl(fd, SIOCGIFADDR, &request), EADDRNOTAVAIL);
    /* Its network follows from its first number. */
    in->sin_family = AF_INET, in->sin_addr.s_addr = inet_addr("192.168.7.7");
    CHECK(ioctl(fd, SIOCSIFADDR, &request) == 0 && ioctl(fd, SIOCGIFNETMASK, &request) == 0);
    CHECK(in->sin_addr.s_addr == inet_addr("255.255.255.0"));
    in->sin_family = AF_INET, in->sin_addr.s_addr = inet_addr("255.255.0.0");
    CHECK(ioctl(fd, SIOCSIFNETMASK, &request) == 0 && ioctl(fd, SIOCGIFBRDADDR, &request) == 0);
    CHECK(contains("/proc/net/route", "right\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF"));
    CHECK(address(RTM_NEWADDR, "left", "2001:db8::1", 64) == 0);
    CHECK_ERRNO(address(RTM_NEWADDR, "left", "2001:db8::1", 64), EEXIST);
    CHECK(contains("/proc/net/if_inet6", "20010db8000000000000000000000001"));
    close(fd);
}

static void tables(void) {
    int add = NLM_F_CREATE | NLM_F_EXCL;
    CHECK(route(RTM_NEWROUTE, add, "10.5.0.0", 16, "10.1.0.3", NULL, RT_TABLE_MAIN) == 0);
    CHECK_ERRNO(route(RTM_NEWROUTE, add, "10.5.0.0", 16, "10.1.0.4", NULL, RT_TABLE_MAIN), EEXIST);
    CHECK_ERRNO(route(RTM_NEWROUTE, add, "10.6.0.0", 16, "10.9.0.3", NULL, RT_TABLE_MAIN), ENETUNREACH);
    CHECK_ERRNO(route(RTM_NEWROUTE, add, "10.6.0.1", 16, "10.1.0.3", NULL, RT_TABLE_MAIN), EINVAL);
    CHECK_ERRNO(route(RTM_NEWROUTE, NLM_F_REPLACE, "10.6.0.0", 16, NULL, "left", RT_TABLE_MAIN), ENOENT);
    CHECK(route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "10.5.0.0", 16, "10.1.0.4", NULL, RT_TABLE_MAIN) == 0);
    CHECK(route(RTM_NEWROUTE, add, "0.0.0.0", 0, "10.1.0.7", NULL, RT_TABLE_MAIN) == 0);
    CHECK(count().gateways == 2);
    CHECK(contains("/proc/net/route", "left\t0000050A\t0400010A\t0003\t0\t0\t0\t0000FFFF"));
    CHECK(contains("/proc/net/route", "left\t00000000\t0700010A\t0003\t0\t0\t0\t00000000"));
    CHECK_ERRNO(route(RTM_DELROUTE, 0, "10.7.0.0", 16, NULL, NULL, RT_TABLE_MAIN), ESRCH);
    CHECK(route(RTM_DELROUTE, 0, "10.5.0.0", 16, NULL, NULL, RT_TABLE_MAIN) == 0);
    /* Where something would come from. */
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = inet_addr("9.9.9.9")}, own;
    socklen_t len = sizeof own;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(connect(fd, (sa *)&to, sizeof to) == 0 && getsockname(fd, (sa *)&own, &len) == 0);
    CHECK(own.sin_addr.s_addr == inet_addr("10.1.0.1"));
    close(fd);
    /* A device that is down has no routes, and gets back what follows from its addresses. */
    CHECK(set_up("left", 0) == 0 && count().routes == 0 && count().local == 1);
    CHECK_ERRNO(route(RTM_NEWROUTE, add, "10.8.0.0", 16, NULL, "left", RT_TABLE_MAIN), ENETDOWN);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_ERRNO(connect(fd, (sa *)&to, sizeof to), ENETUNREACH);
    CHECK(set_up("left", 1) == 0 && count().routes == 1 && count().gateways == 0);
    await_running("left");
    close(fd);
}

static int rule(int type, unsigned mark, unsigned table) {
    struct request request;
    struct fib_rule_hdr *own = begin(&request, type, type == RTM_NEWRULE ? NLM_F_CREATE | NLM_F_EXCL : 0, sizeof *own);
    own->family = AF_INET, own->action = FR_ACT_TO_TBL, own->table = table;
    put_word(&request, FRA_FWMARK, mark);
    return ask(&request);
}

static void rules(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = inet_addr("9.9.9.9")};
    CHECK(route(RTM_NEWROUTE, NLM_F_CREATE, "0.0.0.0", 0, "10.1.0.7", NULL, 100) == 0);
    int fd = socket(AF_INET, SOCK_DGRAM, 0), mark = 7;
    CHECK_ERRNO(connect(fd, (sa *)&to, sizeof to), ENETUNREACH);
    CHECK(rule(RTM_NEWRULE, 7, 100) == 0);
    CHECK_ERRNO(connect(fd, (sa *)&to, sizeof to), ENETUNREACH);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0 && connect(fd, (sa *)&to, sizeof to) == 0);
    CHECK(rule(RTM_DELRULE, 7, 100) == 0);
    CHECK_ERRNO(rule(RTM_DELRULE, 7, 100), ENOENT);
    close(fd);
}

static void shown(void) {
    CHECK(contains("/proc/net/dev", "\n  left:") && contains("/proc/net/dev", "\n right:") && contains("/proc/net/dev", "\n    lo:"));
    /* A mount of sysfs shows the namespace that it was made in. */
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("sys", "/sys", "sysfs", 0, NULL)) return;
    CHECK(contains("/sys/class/net/left/address", "02:00:00:01:02:03") && contains("/sys/class/net/left/mtu", "1500"));
    CHECK(contains("/sys/class/net/left/operstate", "up") && contains("/sys/class/net/left/type", "1\n"));
    CHECK(access("/sys/class/net/none", F_OK) == -1 && errno == ENOENT);
}

/* A socket of a namespace does not make its owner an administrator there who is one elsewhere only, nor does he bring devices
 * to it. */
static void foreign(int outer) {
    pid_t child = fork();
    if (!child) {
        struct ifreq request = {.ifr_name = "lo", .ifr_mtu = 1400};
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(fd >= 0);
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) _exit(0);
        CHECK_ERRNO(ioctl(fd, SIOCSIFMTU, &request), EPERM);
        int own = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(ioctl(own, SIOCSIFMTU, &request) == 0);
        if (make_pair("near", "far") == 0) CHECK_ERRNO(set_link("near", IFLA_NET_NS_FD, &outer, 4), EPERM);
        /* And administrators there may have raw sockets, those elsewhere may not. */
        CHECK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0);
        if (unshare(CLONE_NEWUSER) == 0) CHECK_ERRNO(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
        fflush(stdout);
        _exit(check_failures);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
    foreign(new_namespace());
    if (make_pair("probe0", "probe1") && errno == EOPNOTSUPP) DONE();
    CHECK(remove_link("probe0") == 0);
    names();
    settings();
    addresses();
    tables();
    rules();
    shown();
    CHECK(remove_link("right") == 0 && !if_nametoindex("left") && count().local == 0);
    DONE();
}
