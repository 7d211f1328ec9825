/* Files under shared mappings: what mapping, writing and msync do to their times, and what a full file system does. */
#define _GNU_SOURCE
#include "check.h"
#include "faults.h"
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 8 };

static long long ns(struct timespec time) {
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void pass(void) {
    nanosleep(&(struct timespec){0, 30000000}, NULL);
}

/* Which of access, modification and change time are later than when this was called last. */
static int news(int fd) {
    static struct stat before;
    struct stat now;
    CHECK(fstat(fd, &now) == 0);
    int later = (ns(now.st_atim) > ns(before.st_atim)) | (ns(now.st_mtim) > ns(before.st_mtim)) << 1 |
                (ns(now.st_ctim) > ns(before.st_ctim)) << 2;
    before = now;
    pass();
    return later;
}

enum { A = 1, MC = 6 };

static char *map(int fd, int prot) {
    char *p = mmap(NULL, PAGES * PAGE, prot, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

/* `disk`: pages that were only read are noted when they are written, and again after each msync. */
static void times(const char *directory, int disk) {
    char name[100];
    snprintf(name, sizeof name, "%s/umbel-mapped-XXXXXX", directory);
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, PAGES * PAGE) == 0);
    for (int i = 0; i < PAGES; i++) CHECK(pwrite(fd, "x", 1, i * PAGE) == 1);
    news(fd);
    char *p = map(fd, PROT_READ | PROT_WRITE);
    struct statvfs facts;
    CHECK(fstatvfs(fd, &facts) == 0 && news(fd) == (facts.f_flag & ST_NOATIME ? 0 : A));
    CHECK(touch(p, 1) == 0 && news(fd) == MC);
    if (disk) {
        CHECK(touch(p + 4 * PAGE, 0) == 0 && news(fd) == 0);
        /* A disk may write the page back at any time: only after an msync it is known whether the next write is noted. */
        CHECK(msync(p, PAGES * PAGE, MS_SYNC) == 0 && news(fd) == 0);
        CHECK(touch(p, 0) == 0 && news(fd) == 0);
        CHECK(touch(p, 1) == 0 && news(fd) == MC);
        CHECK(msync(p, PAGES * PAGE, MS_SYNC) == 0 && mprotect(p, PAGE, PROT_READ) == 0 && touch(p, 1) == SIGSEGV);
        CHECK(news(fd) == 0);
        CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == 0 && touch(p, 1) == 0 && news(fd) == MC);
        CHECK(msync(p, PAGES * PAGE, MS_SYNC) == 0);
        /* A kernel that writes for the program. */
        int pair[2];
        CHECK(pipe(pair) == 0 && write(pair[1], "y", 1) == 1 && read(pair[0], p, 1) == 1 && news(fd) == MC && *p == 'y');
        close(pair[0]), close(pair[1]);
    }
    CHECK(munmap(p, PAGES * PAGE) == 0 && news(fd) == 0);
    p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && touch(p, 1) == 0);
    CHECK((news(fd) & MC) == 0);
    close(fd);
}

static void full(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "tmpfs", 0, "size=64k") != 0) {
        printf("no mounts\n");
        return;
    }
    int fd = open("/mnt/file", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 32 * PAGE) == 0);
    char *p = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    int good = 0;
    while (good < 32 && touch(p + good * PAGE, 1) == 0) good++;
    CHECK(good == 16 && last.si_signo == SIGBUS && last.si_code == BUS_ADRERR && last.si_addr == p + 16 * PAGE);
    /* A kernel that reads or writes there. */
    int pair[2];
    CHECK(pipe(pair) == 0 && write(pair[1], "abc", 3) == 3);
    CHECK_ERRNO(read(pair[0], p + 20 * PAGE, 1), EFAULT);
    CHECK_ERRNO(pwrite(fd, "x", 1, 20 * PAGE), ENOSPC);
    CHECK(touch(p, 1) == 0 && ftruncate(fd, PAGE) == 0 && touch(p + PAGE, 1) == SIGBUS);
    CHECK(ftruncate(fd, 32 * PAGE) == 0 && touch(p + 20 * PAGE, 1) == 0);
    munmap(p, 32 * PAGE), close(fd), close(pair[0]), close(pair[1]);
    CHECK(umount("/mnt") == 0);
}

static void flags(void) {
    CHECK_ERRNO(mmap(NULL, PAGE, PROT_READ, ~0, -1, 0), EINVAL);
    CHECK_ERRNO(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 5 << 26, -1, 0), EINVAL);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = escaping, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL), sigaction(SIGSEGV, &action, NULL);
    times("/var/tmp", 1);
    times("/dev/shm", 0);
    full();
    flags();
    DONE();
}
