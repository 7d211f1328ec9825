/* AF_PACKET on the loopback device of a namespace of its own: both directions, headers, filters, sending, memory-mapped rings. */
#define _GNU_SOURCE
#include "check.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

typedef struct sockaddr sa;

static int from, to, port;

/* Packets come in when the kernel gets round to it. */
static int patient(int fd) {
    struct timeval limit = {10, 0};
    CHECK(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    return fd;
}

static struct sockaddr_in loopback(int at) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(at), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void start(void) {
    CHECK(unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
    struct ifreq device = {.ifr_name = "lo"};
    to = socket(AF_INET, SOCK_DGRAM, 0), from = socket(AF_INET, SOCK_DGRAM, 0);
    patient(to);
    int down = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll own = {.sll_family = AF_PACKET, .sll_ifindex = 1};
    CHECK_ERRNO(sendto(down, "0123456789012345", 16, 0, (sa *)&own, sizeof own), ENETDOWN);
    close(down);
    device.ifr_flags = IFF_UP;
    CHECK(ioctl(to, SIOCSIFFLAGS, &device) == 0);
    struct sockaddr_in addr = loopback(0);
    socklen_t len = sizeof addr;
    CHECK(bind(to, (sa *)&addr, sizeof addr) == 0 && getsockname(to, (sa *)&addr, &len) == 0);
    port = ntohs(addr.sin_port);
    CHECK(connect(from, (sa *)&addr, sizeof addr) == 0);
}

static int open_packet(int kind, int protocol) { return patient(socket(AF_PACKET, kind, htons(protocol))); }

static void errors(void) {
    CHECK_ERRNO(socket(AF_PACKET, SOCK_STREAM, 0), ESOCKTNOSUPPORT);
    int fd = open_packet(SOCK_RAW, 0);
    struct sockaddr_ll own = {.sll_family = AF_PACKET, .sll_ifindex = 77};
    socklen_t len = sizeof own;
    char byte;
    CHECK_ERRNO(bind(fd, (sa *)&own, sizeof own), ENODEV);
    CHECK_ERRNO(bind(fd, (sa *)&own, 12), EINVAL);
    CHECK_ERRNO(listen(fd, 1), EOPNOTSUPP);
    CHECK_ERRNO(getpeername(fd, (sa *)&own, &len), EOPNOTSUPP);
    CHECK_ERRNO(send(fd, "0123456789012345", 16, 0), ENXIO);
    CHECK_ERRNO(recv(fd, &byte, 1, MSG_OOB), EINVAL);
    CHECK_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
    own.sll_ifindex = 1, own.sll_protocol = htons(ETH_P_IP);
    CHECK(bind(fd, (sa *)&own, sizeof own) == 0);
    CHECK_ERRNO(send(fd, "short", 5, 0), EINVAL);
    memset(&own, 0, sizeof own);
    CHECK(getsockname(fd, (sa *)&own, &len) == 0 && len == 18 && own.sll_ifindex == 1 && own.sll_hatype == 772 && own.sll_halen == 6);
    CHECK(own.sll_protocol == htons(ETH_P_IP));
    close(fd);
}

static void receiving(void) {
    int all = open_packet(SOCK_RAW, ETH_P_ALL), ip = open_packet(SOCK_DGRAM, ETH_P_IP), none = open_packet(SOCK_RAW, ETH_P_ARP);
    unsigned char buf[256];
    struct sockaddr_ll sender;
    socklen_t len = sizeof sender;
    CHECK(setsockopt(ip, SOL_PACKET, PACKET_AUXDATA, &(int){1}, 4) == 0);
    CHECK(send(from, "hello", 5, 0) == 5);
    for (int i = 0; i < 2; i++) {
        CHECK(recvfrom(all, buf, sizeof buf, 0, (sa *)&sender, &len) == 14 + 20 + 8 + 5);
        CHECK(len == sizeof sender && sender.sll_family == AF_PACKET && sender.sll_protocol == htons(ETH_P_IP) && sender.sll_ifindex == 1);
        CHECK(sender.sll_hatype == 772 && sender.sll_pkttype == (i == 0 ? PACKET_OUTGOING : PACKET_HOST));
        CHECK(buf[12] == 8 && buf[13] == 0 && buf[14] == 0x45 && buf[23] == 17 && !memcmp(buf + 42, "hello", 5));
        CHECK(((buf[36] << 8) | buf[37]) == port);
    }
    CHECK_ERRNO(recv(all, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    char control[128];
    struct iovec piece = {buf, 10};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CHECK(recvmsg(ip, &message, 0) == 10 && message.msg_flags & MSG_TRUNC && buf[0] == 0x45);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    struct tpacket_auxdata aux;
    CHECK(head && head->cmsg_level == SOL_PACKET && head->cmsg_type == PACKET_AUXDATA);
    memcpy(&aux, CMSG_DATA(head), sizeof aux);
    CHECK(aux.tp_len == 33 && aux.tp_snaplen == 33 && aux.tp_net == 0);
    CHECK_ERRNO(recv(ip, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    CHECK_ERRNO(recv(none, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    struct tpacket_stats stats = {0};
    len = sizeof stats;
    CHECK(getsockopt(all, SOL_PACKET, PACKET_STATISTICS, &stats, &len) == 0 && stats.tp_packets == 2 && stats.tp_drops == 0);
    CHECK(getsockopt(all, SOL_PACKET, PACKET_STATISTICS, &stats, &len) == 0 && stats.tp_packets == 0);
    /* Only what comes in, and 20 bytes of it. */
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 20),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {4, code};
    CHECK(setsockopt(all, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 && send(from, "again", 5, 0) == 5);
    CHECK(recv(all, buf, sizeof buf, 0) == 20);
    CHECK_ERRNO(recv(all, buf, sizeof buf, MSG_DONTWAIT), EAGAIN);
    close(all), close(ip), close(none);
    CHECK(recv(to, buf, sizeof buf, 0) == 5 && recv(to, buf, sizeof buf, 0) == 5);
}

/* Whether the protocols above take in what is sent is for the administrator to say; other packet sockets see it. */
static void sending(void) {
    int raw = open_packet(SOCK_RAW, 0), cooked = open_packet(SOCK_DGRAM, 0), all = open_packet(SOCK_RAW, ETH_P_ALL);
    unsigned char frame[64], buf[128];
    struct sockaddr_ll own = {.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_protocol = htons(0x88b5), .sll_halen = 6}, sender;
    socklen_t len;
    memset(frame, 'B', sizeof frame);
    frame[12] = 0x88, frame[13] = 0xb5;
    CHECK(sendto(raw, frame, sizeof frame, 0, (sa *)&own, sizeof own) == sizeof frame);
    for (int i = 0; i < 2; i++) {
        len = sizeof sender;
        CHECK(recvfrom(all, buf, sizeof buf, 0, (sa *)&sender, &len) == sizeof frame && !memcmp(buf, frame, sizeof frame));
        CHECK(sender.sll_protocol == htons(0x88b5) && sender.sll_pkttype == (i == 0 ? PACKET_OUTGOING : PACKET_OTHERHOST));
    }
    CHECK(sendto(cooked, "payload", 7, 0, (sa *)&own, sizeof own) == 7);
    CHECK(recv(all, buf, sizeof buf, 0) == 21 && buf[12] == 0x88 && buf[13] == 0xb5 && !memcmp(buf + 14, "payload", 7));
    close(raw), close(cooked), close(all);
}

static int ring(int fd, int version, unsigned block, unsigned blocks, unsigned frame) {
    struct tpacket_req3 request = {block, blocks, frame, frame ? block / frame * blocks : 0, 60, 0, 0};
    return setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, version == TPACKET_V3 ? sizeof request : sizeof(struct tpacket_req));
}

static void rings(void) {
    int fd = open_packet(SOCK_RAW, ETH_P_IP), version = TPACKET_V2, value = -1;
    socklen_t len = sizeof value;
    CHECK_ERRNO(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &(int){9}, 4), EINVAL);
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0);
    CHECK_ERRNO(setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &(int){-1}, 4), EINVAL);
    CHECK_ERRNO(ring(fd, version, 4096, 1, 16), EINVAL);
    CHECK_ERRNO(ring(fd, version, 1000, 1, 500), EINVAL);
    CHECK(ring(fd, version, 4096, 2, 2048) == 0);
    CHECK_ERRNO(ring(fd, version, 4096, 2, 2048), EBUSY);
    CHECK_ERRNO(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version), EBUSY);
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_RESERVE, &value, &len) == 0 && value == 0);
    char *memory = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    struct pollfd one = {fd, POLLIN, 0};
    CHECK(poll(&one, 1, 0) == 0);
    for (int i = 0; i < 5; i++) CHECK(send(from, "ringed", 6, 0) == 6);
    char buf[16];
    for (int i = 0; i < 5; i++) CHECK(recv(to, buf, sizeof buf, 0) == 6);
    CHECK(poll(&one, 1, 1000) == 1 && one.revents == POLLIN);
    for (int i = 0; i < 4; i++) {
        struct tpacket2_hdr *head = (void *)(memory + i * 2048);
        struct sockaddr_ll *sender = (void *)((char *)head + TPACKET_ALIGN(sizeof *head));
        CHECK(head->tp_status & TP_STATUS_USER && head->tp_len == 48 && head->tp_snaplen == 48 && head->tp_sec != 0);
        CHECK(head->tp_net == head->tp_mac + 14 && !memcmp((char *)head + head->tp_net + 28, "ringed", 6));
        CHECK(sender->sll_family == AF_PACKET && sender->sll_ifindex == 1 && sender->sll_protocol == htons(ETH_P_IP));
        head->tp_status = TP_STATUS_KERNEL;
    }
    struct tpacket_stats stats = {0};
    len = sizeof stats;
    CHECK(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) == 0 && stats.tp_packets == 5 && stats.tp_drops == 1);
    CHECK(send(from, "x", 1, 0) == 1 && recv(to, buf, sizeof buf, 0) == 1 && ((struct tpacket2_hdr *)memory)->tp_len == 43);
    munmap(memory, 8192), close(fd);
    fd = open_packet(SOCK_RAW, ETH_P_IP), version = TPACKET_V3;
    CHECK(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0 && ring(fd, version, 4096, 4, 4096) == 0);
    memory = mmap(0, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED && send(from, "third", 5, 0) == 5 && recv(to, buf, sizeof buf, 0) == 5);
    one.fd = fd;
    CHECK(poll(&one, 1, 2000) == 1);
    struct tpacket_block_desc *block = (void *)memory;
    CHECK(block->hdr.bh1.block_status & TP_STATUS_USER && block->hdr.bh1.num_pkts == 1 && block->hdr.bh1.seq_num == 1);
    struct tpacket3_hdr *head = (void *)(memory + block->hdr.bh1.offset_to_first_pkt);
    CHECK(head->tp_len == 47 && head->tp_snaplen == 47 && !memcmp((char *)head + head->tp_mac + 42, "third", 5));
    munmap(memory, 16384), close(fd);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    start();
    errors();
    receiving();
    sending();
    rings();
    DONE();
}
