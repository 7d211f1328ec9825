/* Sockets at 127.0.0.1, for the tests of what they do. */
#pragma once
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

typedef struct sockaddr sa;
typedef struct sockaddr_in in4;

/* The address that a socket has. */
static in4 own(int fd) {
    in4 addr;
    socklen_t len = sizeof addr;
    CHECK(getsockname(fd, (sa *)&addr, &len) == 0);
    return addr;
}

/* A socket at a port of the kernel's choice. */
static int bound(int kind) {
    int fd = socket(AF_INET, kind, 0);
    in4 addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(fd >= 0 && bind(fd, (sa *)&addr, sizeof addr) == 0);
    return fd;
}
