/* Requests of NETLINK_ROUTE for guest programs: put together, sent, and their answers waited for. */
#ifndef RTNL_H
#define RTNL_H

#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* No program uses all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"

typedef struct sockaddr sa;

struct request {
    struct nlmsghdr head;
    char body[1024];
};

/* Begins a request with its fixed part. */
static void *begin(struct request *to, int type, int flags, int fixed) {
    memset(to, 0, sizeof *to);
    to->head.nlmsg_type = type;
    to->head.nlmsg_flags = NLM_F_REQUEST | flags;
    to->head.nlmsg_len = NLMSG_LENGTH(fixed);
    return to->body;
}

static struct rtattr *put(struct request *to, int type, const void *value, int len) {
    struct rtattr *at = (void *)((char *)to + NLMSG_ALIGN(to->head.nlmsg_len));
    at->rta_type = type;
    at->rta_len = RTA_LENGTH(len);
    if (len) memcpy(RTA_DATA(at), value, len);
    to->head.nlmsg_len = NLMSG_ALIGN(to->head.nlmsg_len) + RTA_ALIGN(at->rta_len);
    return at;
}

static void end_nest(struct request *to, struct rtattr *nest) {
    nest->rta_len = (char *)to + NLMSG_ALIGN(to->head.nlmsg_len) - (char *)nest;
}

static void put_word(struct request *to, int type, unsigned value) { put(to, type, &value, 4); }
static void put_text(struct request *to, int type, const char *text) { put(to, type, text, strlen(text) + 1); }

static int family_of(const char *addr) { return strchr(addr, ':') ? AF_INET6 : AF_INET; }

static void put_addr(struct request *to, int type, const char *addr) {
    char bytes[16];
    inet_pton(family_of(addr), addr, bytes);
    put(to, type, bytes, family_of(addr) == AF_INET ? 4 : 16);
}

/* Sends a request; 0, or -1 with errno. */
static int ask(struct request *request) {
    static char answer[16384];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    request->head.nlmsg_flags |= NLM_F_ACK;
    int result = -1;
    if (sendto(fd, request, request->head.nlmsg_len, 0, (sa *)&kernel, sizeof kernel) > 0 &&
        recv(fd, answer, sizeof answer, 0) >= (int)NLMSG_LENGTH(sizeof(struct nlmsgerr))) {
        struct nlmsgerr *error = NLMSG_DATA((struct nlmsghdr *)answer);
        errno = -error->error;
        result = error->error ? -1 : 0;
    }
    int kept = errno;
    close(fd);
    errno = kept;
    return result;
}

/* Calls `look` with each message of the answer to a dump. */
static void dump(struct request *request, void (*look)(struct nlmsghdr *, void *), void *arg) {
    static char answer[65536];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), done = 0;
    request->head.nlmsg_flags |= NLM_F_DUMP;
    CHECK(sendto(fd, request, request->head.nlmsg_len, 0, (sa *)&kernel, sizeof kernel) > 0);
    while (!done) {
        int left = recv(fd, answer, sizeof answer, 0);
        CHECK(left > 0);
        if (left <= 0) break;
        for (struct nlmsghdr *at = (void *)answer; NLMSG_OK(at, left); at = NLMSG_NEXT(at, left)) {
            done |= at->nlmsg_type == NLMSG_DONE || at->nlmsg_type == NLMSG_ERROR;
            if (!done) look(at, arg);
        }
    }
    close(fd);
}

/* An attribute of a message whose fixed part has `fixed` bytes. */
static struct rtattr *find(struct nlmsghdr *message, int fixed, int type) {
    int left = message->nlmsg_len - NLMSG_SPACE(fixed);
    for (struct rtattr *at = (void *)((char *)message + NLMSG_SPACE(fixed)); RTA_OK(at, left); at = RTA_NEXT(at, left))
        if ((at->rta_type & NLA_TYPE_MASK) == type) return at;
    return NULL;
}

static int make_pair(const char *a, const char *b) {
    struct request request;
    begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(struct ifinfomsg));
    if (a) put_text(&request, IFLA_IFNAME, a);
    struct rtattr *info = put(&request, IFLA_LINKINFO, NULL, 0);
    put_text(&request, IFLA_INFO_KIND, "veth");
    struct rtattr *data = put(&request, IFLA_INFO_DATA, NULL, 0);
    struct ifinfomsg empty = {0};
    struct rtattr *peer = put(&request, VETH_INFO_PEER, &empty, sizeof empty);
    if (b) put_text(&request, IFLA_IFNAME, b);
    end_nest(&request, peer);
    end_nest(&request, data);
    end_nest(&request, info);
    return ask(&request);
}

static int remove_link(const char *name) {
    struct request request;
    begin(&request, RTM_DELLINK, 0, sizeof(struct ifinfomsg));
    put_text(&request, IFLA_IFNAME, name);
    return ask(&request);
}

/* Sets one attribute of a device. */
static int set_link(const char *name, int type, const void *value, int len) {
    struct request request;
    struct ifinfomsg *link = begin(&request, RTM_NEWLINK, 0, sizeof *link);
    link->ifi_index = if_nametoindex(name);
    if (type) put(&request, type, value, len);
    return ask(&request);
}

static int rename_link(const char *name, const char *to) { return set_link(name, IFLA_IFNAME, to, strlen(to) + 1); }
static int set_mtu(const char *name, unsigned mtu) { return set_link(name, IFLA_MTU, &mtu, 4); }

static int set_up(const char *name, int up) {
    struct request request;
    struct ifinfomsg *link = begin(&request, RTM_NEWLINK, 0, sizeof *link);
    link->ifi_index = if_nametoindex(name);
    link->ifi_flags = up ? IFF_UP : 0;
    link->ifi_change = IFF_UP;
    return ask(&request);
}

static int address(int type, const char *device, const char *addr, int prefix) {
    struct request request;
    struct ifaddrmsg *own = begin(&request, type, type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_EXCL : 0, sizeof *own);
    own->ifa_family = family_of(addr);
    own->ifa_prefixlen = prefix;
    /* Nobody is asked whether another host has it (IFA_F_NODAD). */
    own->ifa_flags = family_of(addr) == AF_INET6 ? 2 : 0;
    own->ifa_index = if_nametoindex(device);
    put_addr(&request, IFA_LOCAL, addr);
    put_addr(&request, IFA_ADDRESS, addr);
    return ask(&request);
}

/* A route to `to`, by a gateway or a device (or neither), in a table. */
static int route(int type, int flags, const char *to, int prefix, const char *gateway, const char *device, int table) {
    struct request request;
    struct rtmsg *own = begin(&request, type, flags, sizeof *own);
    own->rtm_family = family_of(to);
    own->rtm_dst_len = prefix;
    own->rtm_table = table;
    own->rtm_protocol = type == RTM_NEWROUTE ? RTPROT_BOOT : 0;
    own->rtm_scope = type == RTM_DELROUTE ? RT_SCOPE_NOWHERE : gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    own->rtm_type = type == RTM_DELROUTE ? 0 : RTN_UNICAST;
    if (prefix) put_addr(&request, RTA_DST, to);
    if (gateway) put_addr(&request, RTA_GATEWAY, gateway);
    if (device) put_word(&request, RTA_OIF, if_nametoindex(device));
    return ask(&request);
}

static int flags_of(const char *name) {
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    int result = ioctl(fd, SIOCGIFFLAGS, &request);
    close(fd);
    return result ? -1 : (unsigned short)request.ifr_flags;
}

static void nap(void) { nanosleep(&(struct timespec){0, 10000000}, NULL); }

/* IF_OPER_UP, which linux/if.h has, beside much that net/if.h has. */
#define OPER_UP 6

/* IF_OPER_*. */
static int state_of(const char *name) {
    static char answer[16384];
    struct request request;
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct ifinfomsg *link = begin(&request, RTM_GETLINK, 0, sizeof *link);
    link->ifi_index = if_nametoindex(name);
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    sendto(fd, &request, request.head.nlmsg_len, 0, (sa *)&kernel, sizeof kernel);
    struct nlmsghdr *message = (void *)answer;
    CHECK(recv(fd, answer, sizeof answer, 0) > 0 && message->nlmsg_type == RTM_NEWLINK);
    close(fd);
    struct rtattr *state = find(message, sizeof *link, IFLA_OPERSTATE);
    return state ? *(char *)RTA_DATA(state) : -1;
}

/* Carriers are noticed in a while: until then nothing goes through, though the flags may say so. */
static void await_running(const char *name) {
    for (int i = 0; i < 1000 && state_of(name) != OPER_UP; i++) nap();
    CHECK(state_of(name) == OPER_UP && flags_of(name) & IFF_RUNNING);
}

/* A network namespace of its own, which is the caller's from now on; as a descriptor. */
static int new_namespace(void) {
    CHECK(unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
    int fd = open("/proc/self/ns/net", 0);
    CHECK(fd >= 0);
    return fd;
}

static void enter(int namespace) { CHECK(setns(namespace, CLONE_NEWNET) == 0); }

#endif
