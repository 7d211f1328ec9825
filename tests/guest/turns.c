/* Pairs of processes that wake each other, in every way there is: a wake-up that is lost ends a pair's progress.
 * Usage: turns [PAIRS-OF-EACH [SECONDS]] */
#define _GNU_SOURCE
#include "check.h"
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, PATIENCE_S = 60 };

/* One of a pair, 0 or 1, gives the other its turn and waits for its own. */
struct pair {
    int there[2], back[2];
    atomic_int word;
    pthread_mutex_t mutex;
    pthread_cond_t turned;
    int turn;
    pid_t first;
    pid_t second;
};

static atomic_long *progress;

static void by_pipe(struct pair *pair, int side, atomic_long *done) {
    int in = side ? pair->there[0] : pair->back[0], out = side ? pair->back[1] : pair->there[1];
    char byte = 0;
    if (!side && write(out, &byte, 1) != 1) exit(1);
    while (read(in, &byte, 1) == 1 && write(out, &byte, 1) == 1) ++*done;
}

static void by_futex(struct pair *pair, int side, atomic_long *done) {
    for (;;) {
        while (pair->word != side) syscall(SYS_futex, &pair->word, FUTEX_WAIT, !side, 0, 0, 0);
        ++*done;
        pair->word = !side;
        syscall(SYS_futex, &pair->word, FUTEX_WAKE, 1, 0, 0, 0);
    }
}

static void by_condition(struct pair *pair, int side, atomic_long *done) {
    for (;;) {
        pthread_mutex_lock(&pair->mutex);
        while (pair->turn != side) pthread_cond_wait(&pair->turned, &pair->mutex);
        ++*done;
        pair->turn = !side;
        pthread_cond_signal(&pair->turned);
        pthread_mutex_unlock(&pair->mutex);
    }
}

static void by_event(struct pair *pair, int side, atomic_long *done) {
    int own = side ? pair->there[0] : pair->back[0], other = side ? pair->back[0] : pair->there[0];
    uint64_t count = 1;
    if (!side && write(other, &count, sizeof count) != sizeof count) exit(1);
    for (;;) {
        struct pollfd wanted = {own, POLLIN, 0};
        if (poll(&wanted, 1, -1) != 1 || read(own, &count, sizeof count) != sizeof count) exit(1);
        ++*done;
        count = 1;
        if (write(other, &count, sizeof count) != sizeof count) exit(1);
    }
}

static void by_socket(struct pair *pair, int side, atomic_long *done) {
    int own = pair->there[side], set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    char byte = 0;
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, own, &event)) exit(1);
    if (!side && send(own, &byte, 1, 0) != 1) exit(1);
    for (;;) {
        if (epoll_wait(set, &event, 1, -1) != 1) exit(1);
        while (recv(own, &byte, 1, MSG_DONTWAIT) == 1) {
            ++*done;
            if (send(own, &byte, 1, 0) != 1) exit(1);
        }
    }
}

static void by_signal(struct pair *pair, int side, atomic_long *done) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    /* Until the other is known. */
    while ((side ? pair->first : pair->second) == 0) usleep(100);
    pid_t other = side ? pair->first : pair->second;
    if (!side) kill(other, SIGUSR1);
    for (int signal; sigwait(&set, &signal) == 0;) {
        ++*done;
        kill(other, SIGUSR1);
    }
}

/* Not in turns: a child's end. */
static void by_child(struct pair *pair, int side, atomic_long *done) {
    (void)pair, (void)side;
    for (;;) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        if (waitpid(child, 0, 0) != child) exit(1);
        ++*done;
    }
}

/* Nor this: a timer's. */
static void by_time(struct pair *pair, int side, atomic_long *done) {
    (void)pair, (void)side;
    for (struct timespec soon = {0, 200000};; ++*done) nanosleep(&soon, 0);
}

static const struct {
    const char *name;
    void (*run)(struct pair *pair, int side, atomic_long *done);
} ways[] = {{"pipe", by_pipe},     {"futex", by_futex},   {"condition", by_condition}, {"event", by_event},
            {"socket", by_socket}, {"signal", by_signal}, {"child", by_child},         {"time", by_time}};
enum { WAYS = sizeof ways / sizeof *ways };

static void prepare(struct pair *pair, int way) {
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;
    pthread_mutexattr_init(&mutex);
    pthread_condattr_init(&condition);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    CHECK(pthread_mutex_init(&pair->mutex, &mutex) == 0 && pthread_cond_init(&pair->turned, &condition) == 0);
    if (ways[way].run == by_pipe) CHECK(pipe(pair->there) == 0 && pipe(pair->back) == 0);
    if (ways[way].run == by_socket) CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair->there) == 0);
    if (ways[way].run == by_event) {
        pair->there[0] = eventfd(0, 0);
        pair->back[0] = eventfd(0, 0);
        CHECK(pair->there[0] >= 0 && pair->back[0] >= 0);
    }
}

static pid_t start(struct pair *pair, int way, int side, atomic_long *done) {
    pid_t child = fork();
    if (child) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ways[way].run(pair, side, done);
    _exit(1);
}

/* Every pair gets on. */
static void all_get_on(int pairs) {
    long before[WAYS * MOST];
    for (int i = 0; i < WAYS * pairs; i++) before[i] = progress[i];
    time_t end = time(0) + PATIENCE_S;
    for (int i = 0; i < WAYS * pairs; i++) {
        while (progress[i] == before[i] && time(0) < end) usleep(1000);
        if (progress[i] != before[i]) continue;
        printf("%s: pair %d stands still at %ld\n", ways[i % WAYS].name, i / WAYS, before[i]);
        check_failures++;
    }
}

int main(int argc, char **argv) {
    int pairs = argc > 1 ? atoi(argv[1]) : 1;
    long seconds = argc > 2 ? atol(argv[2]) : 1;
    if (pairs < 1 || pairs > MOST) return 2;
    struct pair *all = mmap(0, sizeof *all * WAYS * MOST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    progress = mmap(0, sizeof *progress * WAYS * MOST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || progress == MAP_FAILED) return 1;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    for (int i = 0; i < WAYS * pairs; i++) {
        prepare(&all[i], i % WAYS);
        all[i].first = start(&all[i], i % WAYS, 0, &progress[i]);
        all[i].second = start(&all[i], i % WAYS, 1, &progress[i]);
        CHECK(all[i].first > 0 && all[i].second > 0);
    }
    for (time_t end = time(0) + seconds; time(0) < end && !check_failures;) all_get_on(pairs);
    for (int i = 0; i < WAYS * pairs; i++) {
        kill(all[i].first, SIGKILL);
        kill(all[i].second, SIGKILL);
    }
    for (int i = 0; i < 2 * WAYS * pairs; i++) CHECK(wait(0) > 0);
    DONE();
}
