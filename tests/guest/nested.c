/* Instances of epoll(7) in others: neither depth nor the number of ways from one to another grows without bounds, from whichever end
 * they are put together. */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LAYERS = 4, WIDTH = 40 };

static int put(int outer, int inner) {
    struct epoll_event event = {EPOLLIN, {0}};
    return epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event) == 0 ? 0 : errno;
}

/* A chain from the outermost instance on, and one from the innermost. */
static void chains(void) {
    for (int upwards = 0; upwards < 2; upwards++) {
        int chain[12], length = 1, error = 0, event = eventfd(0, 0);
        for (int i = 0; i < 12; i++) chain[i] = epoll_create1(0);
        while (length < 12 && !(error = upwards ? put(chain[length], chain[length - 1]) : put(chain[length - 1], chain[length]))) length++;
        CHECK(length == 5 && error == ELOOP);
        CHECK(upwards ? put(chain[0], chain[4]) == ELOOP : put(chain[4], chain[0]) == ELOOP);
        CHECK(put(upwards ? chain[0] : chain[4], event) == 0);
        struct pollfd outermost = {upwards ? chain[4] : chain[0], POLLIN, 0};
        CHECK(poll(&outermost, 1, 0) == 0 && eventfd_write(event, 1) == 0 && poll(&outermost, 1, 0) == 1);
        for (int i = 0; i < 12; i++) close(chain[i]);
        close(event);
    }
}

/* Each of a layer in each of the next: that ends before it is much. */
static void layers(void) {
    int fds[LAYERS][WIDTH], refused = 0, taken = 0, event = eventfd(0, 0);
    for (int i = 0; i < LAYERS * WIDTH; i++) fds[i / WIDTH][i % WIDTH] = epoll_create1(0);
    for (int layer = 0; layer + 1 < LAYERS; layer++) {
        for (int i = 0; i < WIDTH * WIDTH; i++) {
            int error = put(fds[layer][i / WIDTH], fds[layer + 1][i % WIDTH]);
            CHECK(error == 0 || error == EINVAL);
            refused += error != 0;
            taken += error == 0;
        }
    }
    /* Where it ends is not the same everywhere; what is lowest tells. */
    for (int i = 0; i < WIDTH; i++) refused += put(fds[LAYERS - 1][i], event) != 0;
    CHECK(taken > WIDTH && refused > 0);
    CHECK(eventfd_write(event, 1) == 0);
}

int main(void) {
    chains();
    layers();
    DONE();
}
