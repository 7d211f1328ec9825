/* Costs of sockets over loopback. Prints "NAME NANOSECONDS" for each operation named on the command line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

typedef struct sockaddr sa;

enum { BLOCK = 65536 };

static struct sockaddr_in addr;
static int ends[2], listener, udp[2];
static char block[BLOCK];
static pid_t partner;

static void connect_pair(void) {
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(ends[0], (sa *)&addr, sizeof addr) == 0, "connect");
    ends[1] = accept(listener, 0, 0);
    must(ends[1] >= 0, "accept");
    for (int i = 0; i < 2; i++) setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, 4);
}

/* A process that answers each byte, or takes everything. */
static void start(int answers) {
    connect_pair();
    partner = fork();
    if (partner == 0) {
        close(ends[0]);
        long count;
        while ((count = read(ends[1], block, answers ? 1 : BLOCK)) > 0)
            if (answers && write(ends[1], block, 1) != 1) break;
        _exit(0);
    }
    close(ends[1]);
}

static void op_tcp_self_1(void) { must(send(ends[0], block, 1, 0) == 1 && recv(ends[1], block, 1, 0) == 1, "self"); }
static void op_tcp_pingpong(void) { must(send(ends[0], block, 1, 0) == 1 && recv(ends[0], block, 1, 0) == 1, "pingpong"); }
static void op_tcp_stream_64k(void) { must(send(ends[0], block, BLOCK, 0) == BLOCK, "stream"); }
static void op_tcp_connect(void) {
    connect_pair();
    close(ends[0]), close(ends[1]);
}
static void op_udp_self_64(void) {
    must(send(udp[0], block, 64, 0) == 64 && recv(udp[1], block, 64, 0) == 64, "udp");
}

static const struct op ops[] = {
    {"tcp_self_1", op_tcp_self_1, 100},       {"tcp_pingpong", op_tcp_pingpong, 100},
    {"tcp_stream_64k", op_tcp_stream_64k, 50}, {"tcp_connect", op_tcp_connect, 20},
    {"udp_self_64", op_udp_self_64, 100},
};

int main(int argc, char **argv) {
    socklen_t len = sizeof addr;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(bind(listener, (sa *)&addr, len) == 0 && listen(listener, 128) == 0, "listen");
    must(getsockname(listener, (sa *)&addr, &len) == 0, "getsockname");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 2; i++) udp[i] = socket(AF_INET, SOCK_DGRAM, 0);
    must(bind(udp[1], (sa *)&to, len) == 0 && getsockname(udp[1], (sa *)&to, &len) == 0, "bind");
    must(connect(udp[0], (sa *)&to, len) == 0, "connect");
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!wanted(ops[i].name, argc, argv)) continue;
        if (ops[i].run == op_tcp_self_1) connect_pair();
        if (ops[i].run == op_tcp_pingpong) start(1);
        if (ops[i].run == op_tcp_stream_64k) start(0);
        measure(&ops[i]);
        if (partner > 0) close(ends[0]), waitpid(partner, 0, 0), partner = 0;
    }
    return 0;
}
