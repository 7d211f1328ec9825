/* What /proc/net counts: each thing that is done to the network shows up there, once. In a namespace of its own, and as root only. */
#define _GNU_SOURCE
#include "check.h"
#include "loopback.h"
#include <fcntl.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* The number of a name in a file with lines of names and lines of numbers; -1 if it is missing. */
static long named(const char *file, const char *group, const char *name) {
    static char names[8192], values[8192];
    FILE *in = fopen(file, "r");
    long found = -1;
    while (in && found < 0 && fgets(names, sizeof names, in) && fgets(values, sizeof values, in)) {
        char *of_names, *of_values, *title = strtok_r(names, " \n", &of_names), *value = strtok_r(values, " \n", &of_values);
        if (!title || strncmp(title, group, strlen(group)) || title[strlen(group)] != ':') continue;
        while ((title = strtok_r(0, " \n", &of_names)) && (value = strtok_r(0, " \n", &of_values)))
            if (!strcmp(title, name)) found = atol(value);
    }
    if (in) fclose(in);
    return found;
}

/* The number in a file with a name and a number a line. */
static long listed(const char *file, const char *name) {
    char line[256], word[128];
    long value, found = -1;
    FILE *in = fopen(file, "r");
    while (in && fgets(line, sizeof line, in))
        if (sscanf(line, "%127s %ld", word, &value) == 2 && !strcmp(word, name)) found = value;
    if (in) fclose(in);
    return found;
}

static long count(const char *group, const char *name) {
    if (!strcmp(group, "6")) return listed("/proc/net/snmp6", name);
    return named(strstr(group, "Ext") ? "/proc/net/netstat" : "/proc/net/snmp", group, name);
}

/* Whether a count comes to be as expected: packets take their time. */
static int becomes(const char *group, const char *name, long wanted) {
    for (int tries = 0; tries < 500 && count(group, name) != wanted; tries++) usleep(10000);
    if (count(group, name) != wanted) printf("%s %s: %ld, not %ld\n", group, name, count(group, name), wanted);
    return count(group, name) == wanted;
}

static void up(void) {
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

static void datagrams(void) {
    int to = bound(SOCK_DGRAM), from = socket(AF_INET, SOCK_DGRAM, 0);
    in4 addr = own(to), nobody = addr;
    char buf[4096] = "";
    CHECK(sendto(from, "one", 3, 0, (sa *)&addr, sizeof addr) == 3 && recv(to, buf, 8, MSG_PEEK) == 3);
    CHECK(becomes("Udp", "OutDatagrams", 1) && count("Udp", "InDatagrams") == 0);
    CHECK(recv(to, buf, 8, 0) == 3 && becomes("Udp", "InDatagrams", 1));
    nobody.sin_port = htons(9);
    CHECK(sendto(from, "two", 3, 0, (sa *)&nobody, sizeof nobody) == 3);
    CHECK(becomes("Udp", "NoPorts", 1) && becomes("Icmp", "OutDestUnreachs", 1) && becomes("Icmp", "InDestUnreachs", 1));
    CHECK(becomes("IcmpMsg", "OutType3", 1));
    CHECK(setsockopt(to, SOL_SOCKET, SO_RCVBUF, &(int){0}, 4) == 0);
    for (int i = 0; i < 3; i++) CHECK(sendto(from, buf, sizeof buf, 0, (sa *)&addr, sizeof addr) == sizeof buf);
    CHECK(becomes("Udp", "RcvbufErrors", 2) && becomes("Udp", "InErrors", 2) && becomes("Udp", "OutDatagrams", 5));
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(9)};
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    CHECK(sendto(fd, "x", 1, 0, (sa *)&six, sizeof six) == 1 && becomes("6", "Udp6NoPorts", 1));
    CHECK(becomes("6", "Udp6OutDatagrams", 1) && becomes("6", "Icmp6InDestUnreachs", 1) && count("Udp", "NoPorts") == 1);
    close(to), close(from), close(fd);
    fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    struct icmphdr request = {.type = ICMP_ECHO, .checksum = htons(0xf7ff)};
    CHECK(sendto(fd, &request, sizeof request, 0, (sa *)&nobody, sizeof nobody) == sizeof request);
    CHECK(becomes("Icmp", "InEchos", 1) && becomes("Icmp", "OutEchoReps", 1));
    CHECK(count("Ip", "InReceives") >= 8 && count("Ip", "InDelivers") >= 8 && count("IpExt", "InOctets") > 3 * 4096);
    close(fd);
}

static void connections(void) {
    int server = bound(SOCK_STREAM), client = socket(AF_INET, SOCK_STREAM, 0), other = socket(AF_INET, SOCK_STREAM, 0);
    in4 addr = own(server);
    CHECK_ERRNO(connect(client, (sa *)&addr, sizeof addr), ECONNREFUSED);
    CHECK(becomes("Tcp", "ActiveOpens", 1) && becomes("Tcp", "AttemptFails", 1) && becomes("Tcp", "OutRsts", 1));
    CHECK(listen(server, 5) == 0 && connect(client, (sa *)&addr, sizeof addr) == 0);
    int fd = accept(server, 0, 0);
    CHECK(becomes("Tcp", "ActiveOpens", 2) && becomes("Tcp", "PassiveOpens", 1) && becomes("Tcp", "CurrEstab", 2));
    long before = count("Tcp", "OutSegs");
    CHECK(before >= 5 && write(client, "unread", 6) == 6 && recv(fd, &(char){0}, 1, MSG_PEEK) == 1);
    CHECK(count("Tcp", "OutSegs") > before && count("Tcp", "InSegs") > before);
    close(fd);
    CHECK(becomes("Tcp", "OutRsts", 2) && becomes("Tcp", "EstabResets", 2) && becomes("Tcp", "CurrEstab", 0));
    CHECK(becomes("TcpExt", "TCPAbortOnClose", 1) && count("TcpExt", "TCPOrigDataSent") >= 0);
    close(client);
    CHECK(connect(other, (sa *)&addr, sizeof addr) == 0 && (fd = accept(server, 0, 0)) >= 0);
    struct linger at_once = {1, 0};
    CHECK(setsockopt(other, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
    close(other);
    CHECK(becomes("Tcp", "OutRsts", 3) && becomes("Tcp", "EstabResets", 4) && becomes("TcpExt", "TCPAbortOnData", 1));
    close(fd);
    int late = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(late, (sa *)&addr, sizeof addr) == 0 && (fd = accept(server, 0, 0)) >= 0 && close(late) == 0);
    CHECK(write(fd, "nobody", 6) == 6 && becomes("Tcp", "OutRsts", 4));
    close(fd), close(server);
}

static void lists(void) {
    char line[256];
    int tcp = bound(SOCK_STREAM), lite = socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE), cpus = 0, words = 0;
    long packets = 0, bytes = 0;
    CHECK(listen(tcp, 1) == 0);
    FILE *in = fopen("/proc/net/dev", "r");
    while (in && fgets(line, sizeof line, in)) sscanf(line, " lo: %ld %ld", &bytes, &packets);
    CHECK(packets >= count("Ip", "InReceives") && bytes >= count("IpExt", "InOctets") && packets > 0);
    fclose(in);
    in = fopen("/proc/net/softnet_stat", "r");
    while (in && fgets(line, sizeof line, in)) {
        cpus++, words = 0;
        for (char *word = strtok(line, " \n"); word; word = strtok(0, " \n")) words++;
    }
    CHECK(cpus == sysconf(_SC_NPROCESSORS_ONLN) && words >= 13);
    fclose(in);
    int sizes[3] = {0};
    in = fopen("/proc/net/protocols", "r");
    while (in && fgets(line, sizeof line, in)) {
        char name[32];
        int size, sockets;
        if (sscanf(line, "%31s %d %d", name, &size, &sockets) != 3) continue;
        if (!strcmp(name, "TCP")) sizes[0] = sockets;
        if (!strcmp(name, "RAWv6")) sizes[1] = sockets + 1;
    }
    CHECK(sizes[0] >= 1 && sizes[1] >= 1);
    fclose(in), close(tcp), close(lite);
}

int main(void) {
    /* Not everybody may. */
    if (geteuid() == 0 && unshare(CLONE_NEWNET) == 0) {
        up();
        datagrams();
        connections();
        lists();
        CHECK(unshare(CLONE_NEWNET) == 0 && count("Udp", "OutDatagrams") == 0 && count("Tcp", "ActiveOpens") == 0);
    }
    DONE();
}
