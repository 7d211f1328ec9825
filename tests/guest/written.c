/* Which pages were written: the soft-dirty bit of pagemap and clear_refs, PAGEMAP_SCAN, userfaultfd's UFFD_FEATURE_WP_ASYNC. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 };
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define SOFT_DIRTY (1ull << 55)
#define WATCHED (1ull << 57)
#define SWAPPED (1ull << 62)
#define PRESENT (1ull << 63)
#define WP_ASYNC (1 << 15)
#define MADV_GUARD 102

enum { WPALLOWED = 1, WRITTEN = 2, OF_FILE = 4, IS_PRESENT = 8, IS_SWAPPED = 16, IS_GUARD = 256 };
/* What kernels agree on: whether a page that was only read is one of zeroes, and soft dirty, they do not. */
#define SHOWN (WPALLOWED | WRITTEN | OF_FILE | IS_PRESENT | IS_SWAPPED | IS_GUARD)

struct arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, any, shown;
};
struct region {
    uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct arg)
enum { WP_MATCHING = 1, CHECK_WPASYNC = 2 };

static int pagemap;

static uint64_t entry(const char *at) {
    uint64_t entry = 0;
    CHECK(pread(pagemap, &entry, sizeof entry, (uintptr_t)at / PAGE * sizeof entry) == sizeof entry);
    return entry;
}

static char *map(int pages) {
    char *m = mmap(0, (size_t)pages * PAGE, RW, ANONYMOUS, -1, 0);
    CHECK(m != MAP_FAILED);
    madvise(m, (size_t)pages * PAGE, MADV_NOHUGEPAGE);
    return m;
}

/* Bit i: page i from `m` on is soft dirty. */
static unsigned dirty(const char *m, int pages) {
    unsigned bits = 0;
    for (int i = 0; i < pages; i++) bits |= (entry(m + i * PAGE) & SOFT_DIRTY ? 1u : 0) << i;
    return bits;
}

static void clear(void) {
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    CHECK(fd >= 0 && write(fd, "4", 1) == 1);
    close(fd);
}

static void soft_dirty(void) {
    struct utsname name;
    char *m = map(16), *shared = mmap(0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(m, 1, 12 * PAGE);
    memset(shared, 1, 4 * PAGE);
    CHECK(uname(&name) == 0);
    if (!dirty(m, 1)) {
        /* A Linux without CONFIG_MEM_SOFT_DIRTY. */
        CHECK(!strstr(name.release, "umbel"));
        clear();
        CHECK(dirty(m, 16) == 0);
        return;
    }
    CHECK(dirty(m, 16) == 0xffff && dirty(shared, 4) == 15);
    clear();
    CHECK(dirty(m, 16) == 0 && dirty(shared, 4) == 0);
    CHECK(m[3 * PAGE] == 1 && dirty(m, 16) == 0);
    m[2 * PAGE] = 2;
    m[5 * PAGE] = 2;
    shared[PAGE] = 2;
    CHECK(dirty(m, 16) == (1 << 2 | 1 << 5) && dirty(shared, 4) == 2);
    /* Where nothing was: a read is none. */
    CHECK(m[13 * PAGE] == 0);
    m[14 * PAGE] = 1;
    CHECK(dirty(m, 16) == (1 << 2 | 1 << 5 | 1 << 14));
    m[13 * PAGE] = 1;
    CHECK(dirty(m, 16) == (1 << 2 | 1 << 5 | 1 << 13 | 1 << 14));
    clear();
    CHECK(dirty(m, 16) == 0);
    /* The kernel writes for the program, and others do. */
    int fds[2];
    CHECK(pipe(fds) == 0 && write(fds[1], "x", 1) == 1 && read(fds[0], m + 4 * PAGE, 1) == 1);
    struct iovec from = {"y", 1}, to = {m + 6 * PAGE, 1};
    CHECK(process_vm_writev(getpid(), &from, 1, &to, 1, 0) == 1);
    CHECK(dirty(m, 16) == (1 << 4 | 1 << 6));
    /* A child's writes are its own; its pages are as they were here. */
    clear();
    pid_t child = fork();
    if (child == 0) {
        pagemap = open("/proc/self/pagemap", O_RDONLY);
        int bad = dirty(m, 12) != 0;
        m[7 * PAGE] = 3;
        bad |= (dirty(m, 12) != 1 << 7) << 1;
        _exit(bad);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0 && dirty(m, 12) == 0);
    m[8 * PAGE] = 3;
    CHECK(dirty(m, 12) == 1 << 8);
    /* New memory is dirty, whether anybody was there or not. */
    char *fresh = map(4);
    CHECK(dirty(fresh, 4) == 15);
    munmap(fresh, 4 * PAGE);
    /* Protection that comes and goes is no write, nor hides one. */
    clear();
    CHECK(mprotect(m, 16 * PAGE, PROT_READ) == 0 && mprotect(m, 16 * PAGE, RW) == 0 && dirty(m, 12) == 0);
    m[9 * PAGE] = 4;
    CHECK(mprotect(m, 16 * PAGE, PROT_READ) == 0 && dirty(m, 12) == 1 << 9);
    munmap(m, 16 * PAGE);
    munmap(shared, 4 * PAGE);
}

static struct region found[PAGES];
static uint64_t walked;

static int scan_as(char *m, int pages, uint64_t flags, int room, uint64_t most, uint64_t inverted, uint64_t mask, uint64_t any) {
    struct arg arg = {sizeof arg, flags, (uintptr_t)m, (uintptr_t)m + (size_t)pages * PAGE, 1,
                      room ? (uintptr_t)found : 0, room, most, inverted, mask, any, SHOWN};
    int result = ioctl(pagemap, SCAN, &arg);
    walked = (arg.walk_end - (uintptr_t)m) / PAGE;
    for (int i = 0; i < result; i++) {
        found[i].start = (found[i].start - (uintptr_t)m) / PAGE;
        found[i].end = (found[i].end - (uintptr_t)m) / PAGE;
    }
    return result;
}

static int scan(char *m, int pages, uint64_t flags, uint64_t mask) {
    return scan_as(m, pages, flags, PAGES, 0, 0, mask, 0);
}

static int is(int i, uint64_t start, uint64_t end, uint64_t categories) {
    return found[i].start == start && found[i].end == end && found[i].categories == categories;
}

static void scanning(void) {
    char *m = map(PAGES);
    m[0] = m[PAGE] = m[4 * PAGE] = 1;
    CHECK(scan(m, PAGES, 0, IS_PRESENT) == 2 && walked == PAGES);
    CHECK(is(0, 0, 2, WRITTEN | IS_PRESENT) && is(1, 4, 5, WRITTEN | IS_PRESENT));
    CHECK(scan_as(m, PAGES, 0, 1, 0, 0, IS_PRESENT, 0) == 1 && walked == 4 && is(0, 0, 2, WRITTEN | IS_PRESENT));
    CHECK(scan_as(m, PAGES, 0, PAGES, 1, 0, IS_PRESENT, 0) == 1 && walked == 1 && is(0, 0, 1, WRITTEN | IS_PRESENT));
    CHECK(scan_as(m, PAGES, 0, PAGES, 3, 0, IS_PRESENT, 0) == 2 && walked == PAGES);
    CHECK(scan_as(m, PAGES, 0, 0, 1, 0, IS_PRESENT, 0) == 0 && walked == PAGES);
    CHECK(scan_as(m, 6, 0, PAGES, 0, IS_PRESENT, IS_PRESENT, 0) == 2 && found[0].start == 2 && found[1].end == 6);
    CHECK(scan_as(m, 6, 0, PAGES, 0, 0, 0, OF_FILE | IS_GUARD) == 0);
    CHECK(scan_as(m, 6, 0, PAGES, 0, 0, 0, OF_FILE | IS_PRESENT) == 2);
    CHECK(scan(m, 0, 0, 0) == 0 && walked == 0);
    /* Areas of other kinds, and none. */
    char *shared = mmap(0, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[PAGE] = 1;
    CHECK(scan(shared, 4, 0, IS_PRESENT) == 1 && is(0, 1, 2, WRITTEN | OF_FILE | IS_PRESENT));
    int fd = open("/proc/self/exe", O_RDONLY);
    char *file = mmap(0, 3 * PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK(*(volatile char *)file == 127 && file[PAGE] == file[PAGE] && file[2 * PAGE] == file[2 * PAGE]);
    CHECK(scan(file, 3, 0, IS_PRESENT) == 1 && is(0, 0, 3, WRITTEN | OF_FILE | IS_PRESENT));
    file[PAGE] = 1;
    CHECK(scan(file + PAGE, 1, 0, IS_PRESENT) == 1 && is(0, 0, 1, WRITTEN | IS_PRESENT));
    munmap(m + PAGE, PAGE);
    CHECK(scan(m, 6, 0, IS_PRESENT) == 2 && is(0, 0, 1, WRITTEN | IS_PRESENT) && is(1, 4, 5, WRITTEN | IS_PRESENT));
    /* Errors. */
    CHECK_ERRNO(scan(m, 1, 4, 0), EINVAL);
    CHECK_ERRNO(scan(m, 1, 0, 1 << 9), EINVAL);
    CHECK_ERRNO(scan(m + 1, 1, 0, 0), EINVAL);
    CHECK_ERRNO(scan(m, -1, 0, 0), EFAULT);
    CHECK_ERRNO(scan((char *)0xffff800000000000, 1, 0, 0), EFAULT);
    CHECK_ERRNO(ioctl(pagemap, SCAN, 0), EFAULT);
    CHECK_ERRNO(ioctl(pagemap, 0x1234, 0), EINVAL);
    struct arg arg = {8, 0, (uintptr_t)m, (uintptr_t)m + PAGE, 0, (uintptr_t)found, 1, 0, 0, 0, 0, SHOWN};
    CHECK_ERRNO(ioctl(pagemap, SCAN, &arg), EINVAL);
    arg.size = sizeof arg;
    arg.vec = 0;
    CHECK_ERRNO(ioctl(pagemap, SCAN, &arg), EINVAL);
    arg.vec = 8;
    CHECK_ERRNO(ioctl(pagemap, SCAN, &arg), EFAULT);
    arg.vec = (uintptr_t)found;
    arg.end -= PAGE - 1;
    CHECK(ioctl(pagemap, SCAN, &arg) == 1 && arg.walk_end == (uintptr_t)m + PAGE);
    close(fd);
    munmap(m, PAGES * PAGE);
    munmap(file, 3 * PAGE);
    munmap(shared, 4 * PAGE);
}

static void write_protect(int fd, char *m, int pages, int mode) {
    struct uffdio_writeprotect wp = {.range = {(uintptr_t)m, (size_t)pages * PAGE}, .mode = mode};
    CHECK(ioctl(fd, UFFDIO_WRITEPROTECT, &wp) == 0);
}

static void asynchronous(void) {
    enum { DONE = WPALLOWED | WRITTEN | IS_PRESENT };
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
    struct uffdio_api api = {.api = UFFD_API, .features = WP_ASYNC};
    CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 && api.features & WP_ASYNC);
    char *m = map(2 * PAGES);
    struct uffdio_register watch = {.range = {(uintptr_t)m, PAGES * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
    CHECK(ioctl(fd, UFFDIO_REGISTER, &watch) == 0);
    m[0] = m[2 * PAGE] = m[3 * PAGE] = 1;
    CHECK(scan(m, 1, 0, 0) == 1 && is(0, 0, 1, DONE));
    write_protect(fd, m, PAGES, 1);
    CHECK(scan(m, 2 * PAGES, WP_MATCHING, WRITTEN) == 0 && walked == 2 * PAGES);
    CHECK(entry(m) & WATCHED && entry(m) & PRESENT && entry(m + PAGE) & WATCHED && entry(m + PAGE) & SWAPPED);
    CHECK(scan(m, 4, 0, 0) == 3 && is(0, 0, 1, WPALLOWED | IS_PRESENT) && is(1, 1, 2, WPALLOWED | IS_SWAPPED));
    /* Nobody answers, and nobody waits. */
    m[2 * PAGE] = 2;
    m[10 * PAGE] = m[11 * PAGE] = 2;
    CHECK(*(volatile char *)(m + 20 * PAGE) == 0);
    CHECK(scan(m, PAGES, WP_MATCHING, WRITTEN) == 2 && is(0, 2, 3, DONE) && is(1, 10, 12, DONE));
    CHECK(m[2 * PAGE] == 2 && m[11 * PAGE] == 2 && m[3 * PAGE] == 1);
    CHECK(scan(m, PAGES, WP_MATCHING, WRITTEN) == 0);
    /* A page that was read, and then written; again and again. */
    for (int i = 0; i < 3; i++) {
        m[20 * PAGE] = m[11 * PAGE] = i;
        CHECK(scan(m, PAGES, WP_MATCHING | CHECK_WPASYNC, WRITTEN) == 2 && is(0, 11, 12, DONE) && is(1, 20, 21, DONE));
    }
    /* Those for which there is no room stay written. */
    m[5 * PAGE] = m[7 * PAGE] = 1;
    CHECK(scan_as(m, PAGES, WP_MATCHING, 1, 0, 0, WRITTEN, 0) == 1 && is(0, 5, 6, DONE) && walked == 7);
    CHECK(scan_as(m, PAGES, WP_MATCHING, 1, 0, 0, WRITTEN, 0) == 1 && is(0, 7, 8, DONE) && walked == PAGES);
    /* What is given back has been written. */
    CHECK(madvise(m + 10 * PAGE, PAGE, MADV_DONTNEED) == 0 && madvise(m + 30 * PAGE, PAGE, MADV_DONTNEED) == 0);
    CHECK(scan(m, PAGES, WP_MATCHING, WRITTEN) == 2 && is(0, 10, 11, WPALLOWED | WRITTEN) && is(1, 30, 31, WPALLOWED | WRITTEN));
    CHECK(scan(m, PAGES, WP_MATCHING, WRITTEN) == 0 && m[10 * PAGE] == 0);
    CHECK(madvise(m + 3 * PAGE, PAGE, MADV_GUARD) == 0);
    CHECK(scan(m + 3 * PAGE, 1, 0, 0) == 1 && found[0].categories & IS_GUARD);
    /* The kernel's writes. */
    int fds[2];
    CHECK(pipe(fds) == 0 && write(fds[1], "xy", 2) == 2);
    CHECK(read(fds[0], m + 12 * PAGE, 1) == 1 && read(fds[0], m + 40 * PAGE, 1) == 1);
    CHECK(scan(m + 4 * PAGE, PAGES - 4, WP_MATCHING, WRITTEN) == 2 && is(0, 8, 9, DONE) && is(1, 36, 37, DONE));
    /* Half of this is not watched. */
    m[(PAGES + 1) * PAGE] = m[50 * PAGE] = 1;
    CHECK(scan(m + 4 * PAGE, 2 * PAGES - 4, WP_MATCHING, WRITTEN) == 1 && is(0, 46, 47, DONE));
    CHECK_ERRNO(scan(m + 4 * PAGE, 2 * PAGES - 4, WP_MATCHING | CHECK_WPASYNC, WRITTEN), EPERM);
    CHECK(scan(m + 4 * PAGE, 2 * PAGES - 4, 0, WPALLOWED) > 0 && found[0].start == 0);
    write_protect(fd, m, PAGES, 0);
    CHECK(scan(m + 4 * PAGE, PAGES - 4, 0, WRITTEN) > 0 && is(0, 0, 1, WPALLOWED | WRITTEN));
    close(fd);
    CHECK(scan(m + 5 * PAGE, 1, 0, IS_PRESENT) == 1 && is(0, 0, 1, WRITTEN | IS_PRESENT));
    munmap(m, 2 * PAGES * PAGE);
}

int main(void) {
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    CHECK(pagemap >= 0);
    soft_dirty();
    scanning();
    asynchronous();
    DONE();
}
