/* userfaultfd(2): faults that another thread answers, with pages, zeroes, poison or by moving; watched writes; errors. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef UFFDIO_POISON
#define UFFD_FEATURE_POISON (1 << 14)
struct uffdio_poison {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 8, struct uffdio_poison)
#endif
#ifndef UFFDIO_MOVE
struct uffdio_move {
    uint64_t dst, src, len, mode;
    int64_t move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 5, struct uffdio_move)
#endif

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)
#define RANGE(start, pages) {(uintptr_t)(start), (uint64_t)(pages) * PAGE}

static char fresh[PAGE];

static int open_uffd(int flags, uint64_t features) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && api.api == UFFD_API);
    return fd;
}

static char *anon(int pages) {
    char *m = mmap(0, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED);
    return m;
}

static int watch(int fd, void *start, int pages, int mode) {
    struct uffdio_register r = {.range = RANGE(start, pages), .mode = mode};
    int result = ioctl(fd, UFFDIO_REGISTER, &r);
    if (!result) CHECK(r.ioctls & 1 << _UFFDIO_WAKE);
    return result;
}

static int64_t copied;
static int copy(int fd, char *to, int pages, int mode) {
    static char bytes[4 * PAGE];
    memset(bytes, fresh[0], sizeof bytes);
    struct uffdio_copy c = {.dst = (uintptr_t)to, .src = (uintptr_t)bytes, .len = pages * PAGE, .mode = mode};
    int result = ioctl(fd, UFFDIO_COPY, &c);
    copied = c.copy;
    return result;
}

/* The next message; the address that was touched, in pages from `base`. */
static int next_fault(int fd, char *base, uint64_t *flags) {
    struct pollfd p = {fd, POLLIN, 0};
    struct uffd_msg m = {0};
    CHECK(poll(&p, 1, 10000) == 1 && p.revents == POLLIN);
    CHECK(read(fd, &m, sizeof m) == sizeof m && m.event == UFFD_EVENT_PAGEFAULT);
    CHECK(m.arg.pagefault.address % PAGE == 0);
    *flags = m.arg.pagefault.flags;
    return ((char *)(uintptr_t)m.arg.pagefault.address - base) / PAGE;
}

struct toucher {
    volatile char *at;
    int write;
    char got;
    volatile int done;
    volatile pid_t tid;
    pthread_t thread;
};
static void *touches(void *p) {
    struct toucher *t = p;
    t->tid = gettid();
    if (t->write) *t->at = 'w';
    t->got = *t->at;
    t->done = 1;
    return p;
}
static void touch(struct toucher *t, char *at, int write) {
    *t = (struct toucher){.at = at, .write = write};
    CHECK(pthread_create(&t->thread, 0, touches, t) == 0);
}
/* Its fault can be read of before it waits: then it would look once more, and not wait at all. */
static void until_it_waits(struct toucher *t) {
    until_asleep(getpid(), t->tid);
}
static char joined(struct toucher *t) {
    pthread_join(t->thread, 0);
    return t->got;
}

static void agreement(void) {
    CHECK_ERRNO(syscall(SYS_userfaultfd, 0x40000000), EINVAL);
    int fd = syscall(SYS_userfaultfd, O_NONBLOCK);
    char *m = anon(1);
    struct uffd_msg message;
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLERR);
    CHECK_ERRNO(read(fd, &message, sizeof message), EINVAL);
    CHECK_ERRNO(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MISSING), EINVAL);
    struct uffdio_api api = {.api = UFFD_API + 1};
    CHECK_ERRNO(ioctl(fd, UFFDIO_API, &api), EINVAL);
    CHECK(api.api == 0 && api.ioctls == 0);
    api = (struct uffdio_api){.api = UFFD_API, .features = 1ULL << 60};
    CHECK_ERRNO(ioctl(fd, UFFDIO_API, &api), EINVAL);
    api = (struct uffdio_api){.api = UFFD_API};
    CHECK(ioctl(fd, UFFDIO_API, &api) == 0 && api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP && api.ioctls == (1 | 2 | 1ULL << 0x3f));
    api = (struct uffdio_api){.api = UFFD_API};
    CHECK_ERRNO(ioctl(fd, UFFDIO_API, &api), EINVAL);
    CHECK_ERRNO(read(fd, &message, sizeof message), EAGAIN);
    CHECK_ERRNO(read(fd, &message, 8), EINVAL);
    CHECK_ERRNO(ioctl(fd, 0xaa77, 0), EINVAL);
    CHECK(poll(&p, 1, 0) == 0);
    CHECK_ERRNO(watch(fd, m, 1, 0), EINVAL);
    CHECK_ERRNO(watch(fd, m, 1, 64), EINVAL);
    CHECK_ERRNO(watch(fd, m, 0, UFFDIO_REGISTER_MODE_MISSING), EINVAL);
    CHECK_ERRNO(watch(fd, m + 1, 1, UFFDIO_REGISTER_MODE_MISSING), EINVAL);
    CHECK_ERRNO(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MINOR), EINVAL);
    CHECK(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MISSING) == 0);
    int other = open_uffd(0, 0);
    CHECK_ERRNO(watch(other, m, 1, UFFDIO_REGISTER_MODE_MISSING), EBUSY);
    close(other);
    munmap(m, PAGE);
    CHECK_ERRNO(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MISSING), EINVAL);
    close(fd);
}

static void missing(void) {
    uint64_t flags;
    char *m = anon(8);
    m[0] = 'x';
    int fd = open_uffd(0, 0);
    CHECK(watch(fd, m, 8, UFFDIO_REGISTER_MODE_MISSING) == 0);
    CHECK(m[0] == 'x'); /* it was there */
    struct toucher t, second;
    fresh[0] = 'a';
    touch(&t, m + PAGE + 7, 0);
    CHECK(next_fault(fd, m, &flags) == 1 && flags == 0);
    CHECK(!t.done && copy(fd, m + PAGE, 1, 0) == 0 && copied == PAGE);
    CHECK(joined(&t) == 'a');
    CHECK_ERRNO(copy(fd, m + PAGE, 1, 0), EEXIST);
    CHECK(copied == -EEXIST);
    CHECK_ERRNO(copy(fd, m + 7 * PAGE, 2, 0), copied == PAGE ? EAGAIN : ENOENT);
    touch(&t, m + 2 * PAGE, 1);
    CHECK(next_fault(fd, m, &flags) == 2 && flags == UFFD_PAGEFAULT_FLAG_WRITE);
    struct uffdio_zeropage z = {.range = RANGE(m + 2 * PAGE, 1)};
    CHECK(ioctl(fd, UFFDIO_ZEROPAGE, &z) == 0 && z.zeropage == PAGE);
    CHECK(joined(&t) == 'w' && m[2 * PAGE + 1] == 0);
    z.range.start++;
    CHECK_ERRNO(ioctl(fd, UFFDIO_ZEROPAGE, &z), EINVAL);
    /* Two wait for two pages; the answer does not wake them until it is said. */
    touch(&t, m + 3 * PAGE, 0);
    CHECK(next_fault(fd, m, &flags) == 3);
    touch(&second, m + 4 * PAGE, 0);
    CHECK(next_fault(fd, m, &flags) == 4);
    until_it_waits(&t), until_it_waits(&second);
    fresh[0] = 'b';
    CHECK(copy(fd, m + 3 * PAGE, 2, UFFDIO_COPY_MODE_DONTWAKE) == 0);
    usleep(10000);
    CHECK(!t.done && !second.done);
    struct uffdio_range both = RANGE(m + 3 * PAGE, 2);
    CHECK(ioctl(fd, UFFDIO_WAKE, &both) == 0);
    CHECK(joined(&t) == 'b' && joined(&second) == 'b');
    /* A page that was given back is missing again; with its area's watcher gone it is zero. */
    CHECK(madvise(m + 3 * PAGE, PAGE, MADV_DONTNEED) == 0);
    touch(&t, m + 3 * PAGE, 0);
    CHECK(next_fault(fd, m, &flags) == 3);
    struct uffdio_range all = RANGE(m, 8);
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &all) == 0);
    CHECK(joined(&t) == 0);
    CHECK_ERRNO(copy(fd, m + 6 * PAGE, 1, 0), ENOENT);
    close(fd);
    munmap(m, 8 * PAGE);
}

/* The kernel's own accesses for a program are asked about, unless that was excluded. */
static void by_the_kernel(void) {
    uint64_t flags;
    int fd = open_uffd(0, 0), ends[2];
    char *m = anon(2), byte = 0;
    CHECK(pipe(ends) == 0 && write(ends[1], "q", 1) == 1);
    CHECK(watch(fd, m, 2, UFFDIO_REGISTER_MODE_MISSING) == 0);
    pid_t child = fork(); /* nobody watches there */
    if (child == 0) _exit(m[0] != 0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    struct uffdio_range all = RANGE(m, 2);
    struct toucher t = {0};
    fresh[0] = 'k';
    touch(&t, m, 0);
    CHECK(next_fault(fd, m, &flags) == 0);
    CHECK(copy(fd, m, 1, 0) == 0 && joined(&t) == 'k');
    CHECK(write(ends[1], m, 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'q');
    CHECK(ioctl(fd, UFFDIO_UNREGISTER, &all) == 0);
    close(fd);
    fd = open_uffd(UFFD_USER_MODE_ONLY, 0);
    CHECK(watch(fd, m, 2, UFFDIO_REGISTER_MODE_MISSING) == 0);
    CHECK_ERRNO(read(ends[0], m + PAGE, 1), EFAULT);
    close(fd);
    CHECK(m[PAGE] == 0);
    munmap(m, 2 * PAGE);
    close(ends[0]), close(ends[1]);
}

static volatile int handled;
static void on_signal(int signo) {
    (void)signo;
    handled++;
}

/* A signal is handled while its thread waits for a page. */
static void interrupted(void) {
    uint64_t flags;
    int fd = open_uffd(0, 0);
    char *m = anon(1);
    signal(SIGUSR1, on_signal);
    CHECK(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MISSING) == 0);
    struct toucher t;
    touch(&t, m, 0);
    CHECK(next_fault(fd, m, &flags) == 0);
    pthread_kill(t.thread, SIGUSR1);
    while (!handled) usleep(1000);
    CHECK(!t.done);
    fresh[0] = 'i';
    CHECK(copy(fd, m, 1, 0) == 0 && joined(&t) == 'i');
    munmap(m, PAGE);
    close(fd);
}

static void watched_writes(void) {
    uint64_t flags;
    int fd = open_uffd(0, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    char *m = anon(4);
    memset(m, 'o', 4 * PAGE);
    struct uffdio_writeprotect w = {.range = RANGE(m, 4), .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    CHECK_ERRNO(ioctl(fd, UFFDIO_WRITEPROTECT, &w), ENOENT);
    CHECK(watch(fd, m, 4, UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MISSING) == 0);
    CHECK(ioctl(fd, UFFDIO_WRITEPROTECT, &w) == 0);
    struct toucher t;
    touch(&t, m + PAGE, 0);
    CHECK(joined(&t) == 'o'); /* reading is nobody's business */
    touch(&t, m + PAGE, 1);
    CHECK(next_fault(fd, m, &flags) == 1 && flags == (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP));
    CHECK(!t.done && m[PAGE] == 'o');
    pid_t child = fork(); /* where nothing is watched, whatever happens here */
    if (child == 0) {
        m[PAGE] = m[2 * PAGE] = 'c';
        _exit(m[PAGE] != 'c' || m[3 * PAGE] != 'o');
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(m[PAGE] == 'o' && m[2 * PAGE] == 'o');
    w = (struct uffdio_writeprotect){.range = RANGE(m + PAGE, 1)};
    CHECK(ioctl(fd, UFFDIO_WRITEPROTECT, &w) == 0);
    CHECK(joined(&t) == 'w' && m[PAGE] == 'w');
    w.mode = 3;
    CHECK_ERRNO(ioctl(fd, UFFDIO_WRITEPROTECT, &w), EINVAL);
    /* A page that comes watched. */
    CHECK(madvise(m, PAGE, MADV_DONTNEED) == 0);
    fresh[0] = 'p';
    CHECK(copy(fd, m, 1, UFFDIO_COPY_MODE_WP) == 0);
    touch(&t, m, 1);
    CHECK(next_fault(fd, m, &flags) == 0 && flags == (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP));
    close(fd); /* nobody answers any more */
    CHECK(joined(&t) == 'w' && m[1] == 'p');
    m[2 * PAGE] = 'z';
    CHECK(m[2 * PAGE] == 'z');
    munmap(m, 4 * PAGE);
}

static sigjmp_buf escape;
static void on_bus(int signo) {
    siglongjmp(escape, signo);
}
static int caught(char *at) {
    int signo = sigsetjmp(escape, 1);
    if (!signo) (void)*(volatile char *)at;
    return signo;
}

static void bad_pages(void) {
    signal(SIGBUS, on_bus);
    int fd = open_uffd(0, UFFD_FEATURE_POISON);
    char *m = anon(2);
    CHECK(watch(fd, m, 2, UFFDIO_REGISTER_MODE_MISSING) == 0);
    struct uffdio_poison p = {.range = RANGE(m, 1)};
    CHECK(ioctl(fd, UFFDIO_POISON, &p) == 0 && p.updated == PAGE);
    CHECK(caught(m) == SIGBUS);
    CHECK_ERRNO(ioctl(fd, UFFDIO_POISON, &p), EEXIST);
    p.range.start += PAGE;
    CHECK(ioctl(fd, UFFDIO_POISON, &p) == 0 && caught(m + PAGE) == SIGBUS);
    fresh[0] = 'g';
    CHECK(copy(fd, m, 1, 0) == 0 && caught(m) == 0 && *m == 'g'); /* a good page in its place */
    CHECK(madvise(m + PAGE, PAGE, MADV_DONTNEED) == 0);
    CHECK(ioctl(fd, UFFDIO_POISON, &p) == 0 && caught(m + PAGE) == SIGBUS);
    close(fd);
    munmap(m, 2 * PAGE);
    fd = open_uffd(0, UFFD_FEATURE_SIGBUS);
    m = anon(1);
    CHECK(watch(fd, m, 1, UFFDIO_REGISTER_MODE_MISSING) == 0);
    CHECK(caught(m) == SIGBUS);
    close(fd);
    CHECK(caught(m) == 0);
    munmap(m, PAGE);
}

static void moved(void) {
    int fd = open_uffd(0, 0);
    char *m = anon(2), *from = anon(2);
    memset(from, 'm', PAGE);
    CHECK(watch(fd, m, 2, UFFDIO_REGISTER_MODE_MISSING) == 0);
    struct uffdio_move move = {.dst = (uintptr_t)m, .src = (uintptr_t)from, .len = PAGE};
    CHECK(ioctl(fd, UFFDIO_MOVE, &move) == 0 && move.move == PAGE);
    CHECK(m[0] == 'm' && m[PAGE - 1] == 'm' && from[0] == 0);
    move = (struct uffdio_move){.dst = (uintptr_t)m, .src = (uintptr_t)from, .len = PAGE};
    from[0] = 'n';
    CHECK_ERRNO(ioctl(fd, UFFDIO_MOVE, &move), EEXIST);
    move = (struct uffdio_move){.dst = (uintptr_t)(m + PAGE), .src = (uintptr_t)(from + PAGE), .len = PAGE};
    CHECK_ERRNO(ioctl(fd, UFFDIO_MOVE, &move), ENOENT); /* nothing is there */
    close(fd);
    munmap(m, 2 * PAGE), munmap(from, 2 * PAGE);
}

static void shared_memory(void) {
    uint64_t flags;
    int fd = open_uffd(0, 0), file = memfd_create("shared", 0);
    CHECK(ftruncate(file, 4 * PAGE) == 0 && pwrite(file, "s", 1, PAGE) == 1);
    char *m = mmap(0, 4 * PAGE, RW, MAP_SHARED, file, 0);
    CHECK(watch(fd, m, 4, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR) == 0);
    struct toucher t;
    touch(&t, m, 1);
    CHECK(next_fault(fd, m, &flags) == 0 && flags == UFFD_PAGEFAULT_FLAG_WRITE);
    fresh[0] = 'h';
    CHECK(copy(fd, m, 1, 0) == 0 && joined(&t) == 'w');
    char got[2];
    CHECK(pread(file, got, 2, 0) == 2 && got[0] == 'w' && got[1] == 'h');
    touch(&t, m + PAGE, 0);
    CHECK(next_fault(fd, m, &flags) == 1 && flags == UFFD_PAGEFAULT_FLAG_MINOR);
    CHECK(pwrite(file, "t", 1, PAGE) == 1);
    CHECK_ERRNO(copy(fd, m + PAGE, 1, 0), EEXIST);
    struct uffdio_continue go = {.range = RANGE(m + PAGE, 1)};
    CHECK(ioctl(fd, UFFDIO_CONTINUE, &go) == 0 && go.mapped == PAGE);
    CHECK(joined(&t) == 't');
    CHECK_ERRNO(ioctl(fd, UFFDIO_CONTINUE, &go), EEXIST);
    go = (struct uffdio_continue){.range = RANGE(m + 2 * PAGE, 1)};
    CHECK_ERRNO(ioctl(fd, UFFDIO_CONTINUE, &go), EFAULT);
    close(fd), close(file);
    munmap(m, 4 * PAGE);
}

static void device(void) {
    int dev = open("/dev/userfaultfd", O_RDWR);
    if (dev < 0) return; /* a container may not have it */
    CHECK_ERRNO(ioctl(dev, 0x1234, 0), EINVAL);
    int fd = ioctl(dev, _IO(UFFDIO, 0), O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && ioctl(fd, UFFDIO_API, &api) == 0);
    close(fd), close(dev);
}

int main(void) {
    agreement();
    missing();
    by_the_kernel();
    interrupted();
    watched_writes();
    bad_pages();
    moved();
    shared_memory();
    device();
    DONE();
}
