/* The corners of mmap, mprotect, mremap, madvise, mlock, msync, mincore, remap_file_pages, mseal: flags and errors. */
#define _GNU_SOURCE
#include "check.h"
#include "faults.h"
#include <fcntl.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static char *anon(int pages, int flags) {
    char *m = mmap(0, pages * PAGE, RW, MAP_ANONYMOUS | flags, -1, 0);
    CHECK(m != MAP_FAILED);
    return m;
}

/* Whether smaps gives the area at `start` this flag. */
static int has_flag(const void *start, const char *flag) {
    char line[512], word[8];
    unsigned long from, to;
    int inside = 0, found = 0;
    snprintf(word, sizeof word, " %s ", flag);
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) inside = from <= (unsigned long)start && (unsigned long)start < to;
        if (inside && !strncmp(line, "VmFlags:", 8)) found = strstr(line, word) != 0;
    }
    fclose(file);
    return found;
}

static void mapping(void) {
    int fd = memfd_create("x", 0), reader, ends[2];
    char path[40];
    CHECK(ftruncate(fd, 4 * PAGE) == 0 && pipe(ends) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    reader = open(path, O_RDONLY);
    CHECK_ERRNO(mmap(0, 0, RW, MAP_SHARED, 999, 0), EBADF);
    CHECK_ERRNO(mmap(0, 0, RW, MAP_SHARED, fd, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, 0, fd, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED, fd, 1), EINVAL);
    CHECK_ERRNO(syscall(SYS_mmap, 0, PAGE, RW, MAP_SHARED, 999, 1), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED, ends[0], 0), EACCES);
    CHECK_ERRNO(mmap(0, PAGE, PROT_READ, MAP_SHARED, ends[0], 0), ENODEV);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED, reader, 0), EACCES);
    CHECK(mmap(0, PAGE, RW, MAP_PRIVATE, reader, 0) != MAP_FAILED);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | (1 << 21), fd, 0), EOPNOTSUPP);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0), EOPNOTSUPP);
    CHECK(mmap(0, PAGE, RW, MAP_SHARED | (1 << 21) | MAP_SYNC, fd, 0) != MAP_FAILED);
    CHECK(mmap(0, PAGE, RW, MAP_SHARED_VALIDATE | MAP_POPULATE, fd, 0) != MAP_FAILED);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED | MAP_GROWSDOWN, fd, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, SHARED | MAP_GROWSDOWN, -1, 0), EINVAL);
    CHECK_ERRNO(mmap((void *)8, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), EINVAL);
    CHECK_ERRNO(mmap(0, PAGE, RW, PRIVATE | MAP_HUGETLB, -1, 0), ENOMEM);
    CHECK_ERRNO(mmap(0, 1ul << 50, RW, PRIVATE, -1, 0), ENOMEM);
    char *m = mmap(0, PAGE, PROT_READ | 0x1000, PRIVATE, -1, 0);
    CHECK(m != MAP_FAILED);
    CHECK_ERRNO(mmap(m, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    munmap(m, PAGE);
    CHECK(mmap(m, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0) == m);
    int zero = open("/dev/zero", O_RDWR);
    char *a = mmap(0, 2 * PAGE, RW, MAP_SHARED, zero, 0), *b = mmap(0, PAGE, RW, MAP_PRIVATE, zero, PAGE);
    CHECK(a != MAP_FAILED && b != MAP_FAILED && a[PAGE] == 0 && b[5] == 0);
    a[0] = b[0] = 1;
    CHECK(a[0] == 1 && b[1] == 0 && a[PAGE] == 0);
    close(zero);
    close(ends[0]);
    close(ends[1]);
    close(reader);
    close(fd);
}

/* MAP_32BIT takes a hint, too, as far as it is below 2 GiB. */
static void low(void) {
    char *hints[] = {(char *)0x50000000, (char *)0x21000000, (char *)0x90000000};
    for (int i = 0; i < 3; i++) {
        char *first = mmap(hints[i], 4 * PAGE, RW, PRIVATE | MAP_32BIT, -1, 0);
        char *second = mmap(hints[i] + PAGE, 4 * PAGE, RW, PRIVATE | MAP_32BIT, -1, 0);
        CHECK((first == hints[i]) == (i < 2) && first < (char *)0x80000000);
        CHECK(second != hints[i] + PAGE && second < (char *)0x80000000);
        CHECK(munmap(first, 4 * PAGE) == 0 && munmap(second, 4 * PAGE) == 0);
    }
}

static void growing(void) {
    char *room = anon(1024, MAP_PRIVATE);
    munmap(room, 1024 * PAGE);
    char *m = mmap(room + 1000 * PAGE, 2 * PAGE, RW, PRIVATE | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    CHECK(m == room + 1000 * PAGE && touch(m - 1, 1) == 0 && touch(m - 40 * PAGE, 1) == 0 && has_flag(m, "gd"));
    /* Not closer to what lies below than 256 pages. */
    CHECK(mmap(room + 600 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0) == room + 600 * PAGE);
    CHECK(touch(room + 857 * PAGE, 1) == 0 && touch(room + 856 * PAGE, 1) == SIGSEGV);
    CHECK(touch(room + 700 * PAGE, 1) == SIGSEGV);
    /* What asks for that place gets another one. */
    char *hint = mmap(room + 855 * PAGE, PAGE, RW, PRIVATE, -1, 0);
    CHECK(hint != MAP_FAILED && hint != room + 855 * PAGE);
    CHECK(mprotect(m + PAGE, PAGE, PROT_READ | PROT_GROWSDOWN) == 0 && touch(room + 860 * PAGE, 1) == SIGSEGV);
    char *plain = anon(2, MAP_PRIVATE);
    CHECK_ERRNO(mprotect(plain, PAGE, RW | PROT_GROWSDOWN), EINVAL);
    CHECK_ERRNO(mprotect(plain, PAGE, RW | PROT_GROWSUP), EINVAL);
    CHECK_ERRNO(mprotect(plain, PAGE, RW | PROT_GROWSUP | PROT_GROWSDOWN), EINVAL);
    CHECK_ERRNO(mprotect(plain, PAGE, 0x100), EINVAL);
    CHECK_ERRNO(mprotect(plain + 1, 0, RW), EINVAL);
    CHECK(mprotect(plain, 0, 0x100) == 0);
    munmap(room, 1024 * PAGE);
}

static void advice(void) {
    char *m = anon(8, MAP_PRIVATE), *s = anon(8, MAP_SHARED);
    CHECK_ERRNO(madvise(m + 1, PAGE, MADV_NORMAL), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, 999), EINVAL);
    CHECK_ERRNO(madvise(m, -1ul, MADV_NORMAL), EINVAL);
    CHECK(madvise(m, 0, MADV_DONTNEED) == 0);
    CHECK_ERRNO(madvise(m, 0, 999), EINVAL);
    CHECK(madvise(m, 8 * PAGE, MADV_SEQUENTIAL) == 0 && has_flag(m, "sr") && !has_flag(m, "rr"));
    CHECK(madvise(m, 8 * PAGE, MADV_RANDOM) == 0 && has_flag(m, "rr") && !has_flag(m, "sr"));
    CHECK(madvise(m, 8 * PAGE, MADV_NORMAL) == 0 && !has_flag(m, "rr"));
    CHECK(madvise(m, 8 * PAGE, MADV_HUGEPAGE) == 0 && has_flag(m, "hg"));
    CHECK(madvise(m, 8 * PAGE, MADV_NOHUGEPAGE) == 0 && has_flag(m, "nh") && !has_flag(m, "hg"));
    CHECK(madvise(m, PAGE, MADV_DONTFORK) == 0 && has_flag(m, "dc") && madvise(m, PAGE, MADV_DOFORK) == 0);
    CHECK(madvise(m, PAGE, MADV_WIPEONFORK) == 0 && has_flag(m, "wf") && madvise(m, PAGE, MADV_KEEPONFORK) == 0);
    CHECK_ERRNO(madvise(s, PAGE, MADV_WIPEONFORK), EINVAL);
    CHECK_ERRNO(madvise(s, PAGE, MADV_FREE), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, MADV_REMOVE), EINVAL);
    memset(s, 'x', 3 * PAGE);
    CHECK(madvise(s + PAGE, PAGE, MADV_REMOVE) == 0 && s[0] == 'x' && s[PAGE] == 0 && s[2 * PAGE] == 'x');
    CHECK(mlock(m, PAGE) == 0);
    CHECK_ERRNO(madvise(m, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, MADV_FREE), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, MADV_COLD), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, MADV_PAGEOUT), EINVAL);
    munlock(m, PAGE);
    memset(m, 'y', 8 * PAGE);
    CHECK(madvise(m, PAGE, MADV_COLD) == 0 && madvise(m, PAGE, MADV_PAGEOUT) == 0 && madvise(m, PAGE, MADV_WILLNEED) == 0);
    CHECK(m[0] == 'y' && munmap(m + 3 * PAGE, PAGE) == 0);
    /* A hole is an error, but the rest is done. */
    CHECK_ERRNO(madvise(m, 8 * PAGE, MADV_DONTNEED), ENOMEM);
    CHECK(m[0] == 0 && m[7 * PAGE] == 0);
    CHECK_ERRNO(madvise(m, 8 * PAGE, MADV_POPULATE_WRITE), ENOMEM);
    CHECK(madvise(m, 3 * PAGE, MADV_POPULATE_WRITE) == 0);
    unsigned char in[8];
    CHECK(mincore(m, 3 * PAGE, in) == 0 && in[0] && in[1] && in[2]);
    CHECK(mincore(m, PAGE, in) == 0 && in[0] && mincore(m + PAGE, PAGE, in) == 0 && in[0]);
    mprotect(m, PAGE, PROT_READ);
    CHECK_ERRNO(madvise(m, 3 * PAGE, MADV_POPULATE_WRITE), EINVAL);
    mprotect(m, PAGE, PROT_NONE);
    CHECK_ERRNO(madvise(m, 3 * PAGE, MADV_POPULATE_READ), EINVAL);
    int fd = memfd_create("short", 0);
    CHECK(ftruncate(fd, PAGE) == 0);
    char *f = mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    CHECK_ERRNO(madvise(f, 2 * PAGE, MADV_POPULATE_READ), EFAULT);
    f[10] = 'f';
    CHECK(madvise(f, PAGE, MADV_REMOVE) == 0 && f[10] == 0);
    munmap(f, 2 * PAGE);
    f = mmap(0, PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK_ERRNO(madvise(f, PAGE, MADV_REMOVE), EACCES);
    munmap(f, PAGE);
    close(fd);
    munmap(m, 8 * PAGE);
    munmap(s, 8 * PAGE);
}

static void remote_advice(void) {
    char *m = anon(2, MAP_PRIVATE);
    struct iovec pieces[2] = {{m, PAGE}, {m + PAGE, PAGE}};
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    CHECK(syscall(440, self, pieces, 2, MADV_COLD, 0) == 2 * PAGE);
    CHECK_ERRNO(syscall(440, self, pieces, 2, MADV_COLD, 1), EINVAL);
    CHECK_ERRNO(syscall(440, 999, pieces, 2, MADV_COLD, 0), EBADF);
    CHECK_ERRNO(syscall(440, self, (void *)8, 2, MADV_COLD, 0), EFAULT);
    munmap(m + PAGE, PAGE);
    CHECK(syscall(440, self, pieces, 2, MADV_PAGEOUT, 0) == PAGE);
    CHECK_ERRNO(syscall(440, self, pieces + 1, 1, MADV_PAGEOUT, 0), ENOMEM);
    munmap(m, PAGE);
    close(self);
}

static void locking(void) {
    struct rlimit limit = {8 * PAGE, 8 * PAGE};
    char *m = anon(16, MAP_PRIVATE);
    unsigned char in[16];
    CHECK_ERRNO(syscall(SYS_mlock2, m, PAGE, 2), EINVAL);
    CHECK(syscall(SYS_mlock2, m, 4 * PAGE, MLOCK_ONFAULT) == 0 && has_flag(m, "lf") && has_flag(m, "lo"));
    CHECK(mincore(m, 4 * PAGE, in) == 0 && !(in[0] & 1) && mlock(m + 100, PAGE) == 0 && !has_flag(m, "lf"));
    CHECK(mincore(m, 4 * PAGE, in) == 0 && (in[0] & 1) && (in[1] & 1) && !(in[2] & 1));
    CHECK(munlock(m, 16 * PAGE) == 0 && !has_flag(m, "lo"));
    mprotect(m + PAGE, PAGE, PROT_NONE);
    CHECK_ERRNO(mlock(m, 4 * PAGE), ENOMEM);
    munmap(m + PAGE, PAGE);
    CHECK_ERRNO(mlock(m, 4 * PAGE), ENOMEM);
    CHECK_ERRNO(munlock(m, 4 * PAGE), ENOMEM);
    CHECK_ERRNO(mlockall(0), EINVAL);
    CHECK_ERRNO(mlockall(MCL_ONFAULT), EINVAL);
    CHECK_ERRNO(mlockall(8), EINVAL);
    CHECK(mlockall(MCL_FUTURE | MCL_ONFAULT) == 0);
    char *later = anon(1, MAP_PRIVATE);
    CHECK(has_flag(later, "lf") && mincore(later, PAGE, in) == 0 && !(in[0] & 1));
    CHECK(mlockall(MCL_CURRENT) == 0 && has_flag(later, "lo") && !has_flag(later, "lf"));
    char *free = anon(1, MAP_PRIVATE);
    CHECK(!has_flag(free, "lo") && munlockall() == 0 && !has_flag(later, "lo"));
    pid_t child = fork();
    if (child == 0) {
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        if (geteuid() == 0) CHECK(setresuid(65534, 65534, 65534) == 0);
        char *own = anon(16, MAP_PRIVATE);
        CHECK(mlock(own, 8 * PAGE) == 0 && mlock(own + 4 * PAGE, 4 * PAGE) == 0);
        CHECK_ERRNO(mlock(own, 9 * PAGE), ENOMEM);
        CHECK_ERRNO(mlockall(MCL_CURRENT), ENOMEM);
        CHECK_ERRNO(mmap(0, PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0), EAGAIN);
        CHECK_ERRNO(mremap(own, 8 * PAGE, 20 * PAGE, MREMAP_MAYMOVE), EAGAIN);
        CHECK(munlock(own, 8 * PAGE) == 0 && mlockall(MCL_FUTURE) == 0);
        CHECK_ERRNO(mmap(0, 9 * PAGE, RW, PRIVATE, -1, 0), EAGAIN);
        limit.rlim_cur = limit.rlim_max = 0;
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
        CHECK_ERRNO(mlock(own, PAGE), EPERM);
        CHECK_ERRNO(mmap(0, PAGE, RW, PRIVATE | MAP_LOCKED, -1, 0), EPERM);
        exit(check_failures);
    }
    int how;
    CHECK(waitpid(child, &how, 0) == child && how == 0);
    munmap(m, 16 * PAGE);
}

static void syncing(void) {
    char *m = anon(4, MAP_SHARED);
    CHECK_ERRNO(msync(m, PAGE, MS_SYNC | MS_ASYNC), EINVAL);
    CHECK_ERRNO(msync(m, PAGE, 8), EINVAL);
    CHECK_ERRNO(msync(m + 1, PAGE, MS_SYNC), EINVAL);
    CHECK(msync(m, 4 * PAGE, MS_SYNC) == 0 && msync(m, 0, MS_SYNC) == 0 && mlock(m, PAGE) == 0);
    CHECK_ERRNO(msync(m, PAGE, MS_INVALIDATE), EBUSY);
    CHECK(munlock(m, PAGE) == 0 && msync(m, PAGE, MS_INVALIDATE | MS_SYNC) == 0);
    munmap(m + PAGE, PAGE);
    CHECK_ERRNO(msync(m, 4 * PAGE, MS_SYNC), ENOMEM);
    CHECK_ERRNO(mincore(m, 4 * PAGE, (void *)m), ENOMEM);
    CHECK_ERRNO(mincore(m, PAGE, (void *)8), EFAULT);
    CHECK_ERRNO(mincore(m + 1, PAGE, (void *)m), EINVAL);
    munmap(m, 4 * PAGE);
}

static void moving(void) {
    char *m = anon(8, MAP_PRIVATE), *s = anon(4, MAP_SHARED);
    memset(m, 'm', 8 * PAGE);
    CHECK_ERRNO(mremap(m + 1, PAGE, PAGE, 0), EINVAL);
    CHECK_ERRNO(mremap(m, PAGE, 0, 0), EINVAL);
    CHECK_ERRNO(mremap(m, PAGE, PAGE, 8), EINVAL);
    CHECK_ERRNO(mremap(m, PAGE, PAGE, MREMAP_FIXED, m), EINVAL);
    CHECK_ERRNO(mremap(m, PAGE, 2 * PAGE, MREMAP_MAYMOVE | 4), EINVAL);
    CHECK_ERRNO(mremap(m, 2 * PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, m + PAGE), EINVAL);
    CHECK_ERRNO(mremap(m, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, s + 1), EINVAL);
    CHECK_ERRNO(mremap(m, 0, PAGE, MREMAP_MAYMOVE), EINVAL);
    CHECK_ERRNO(mremap(m, 4 * PAGE, 12 * PAGE, 0), ENOMEM);
    CHECK(mremap(m, 8 * PAGE, 6 * PAGE, 0) == m && touch(m + 6 * PAGE, 0) == SIGSEGV);
    CHECK(mremap(m, 6 * PAGE, 8 * PAGE, 0) == m && m[0] == 'm' && m[7 * PAGE] == 0);
    char *kept = mremap(m, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | 4);
    CHECK(kept != MAP_FAILED && kept != m && kept[0] == 'm' && m[0] == 0);
    memset(s, 's', 4 * PAGE);
    char *twin = mremap(s, 0, 2 * PAGE, MREMAP_MAYMOVE);
    CHECK(twin != MAP_FAILED && twin[PAGE] == 's' && (s[1] = 'S', twin[1] == 'S'));
    CHECK_ERRNO(mremap(s + 64 * PAGE * 1024, PAGE, 2 * PAGE, 0), EFAULT);
    munmap(m, 8 * PAGE);
    munmap(s, 4 * PAGE);
    munmap(kept, 4 * PAGE);
    munmap(twin, 2 * PAGE);
}

static void file_pages(void) {
    int fd = memfd_create("pages", 0);
    CHECK(ftruncate(fd, 8 * PAGE) == 0);
    char *m = mmap(0, 4 * PAGE, RW, MAP_SHARED, fd, 0), *all = mmap(0, 8 * PAGE, RW, MAP_SHARED, fd, 0);
    for (int i = 0; i < 8; i++) all[i * PAGE] = '0' + i;
    CHECK(syscall(SYS_remap_file_pages, m + PAGE, 2 * PAGE, 0, 6, 0) == 0);
    CHECK(m[0] == '0' && m[PAGE] == '6' && m[2 * PAGE] == '7' && m[3 * PAGE] == '3');
    CHECK_ERRNO(syscall(SYS_remap_file_pages, m, PAGE, PROT_READ, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_remap_file_pages, m, 0, 0, 0, 0), EINVAL);
    char *p = anon(1, MAP_PRIVATE);
    CHECK_ERRNO(syscall(SYS_remap_file_pages, p, PAGE, 0, 0, 0), EINVAL);
    munmap(p, PAGE);
    munmap(m, 4 * PAGE);
    munmap(all, 8 * PAGE);
    close(fd);
}

static void sealing(void) {
    char *m = anon(4, MAP_PRIVATE);
    CHECK_ERRNO(syscall(462, m, PAGE, 1), EINVAL);
    CHECK_ERRNO(syscall(462, m + 1, PAGE, 0), EINVAL);
    CHECK(syscall(462, m, 0, 0) == 0 && mprotect(m, PAGE, PROT_READ) == 0);
    CHECK(syscall(462, m, 2 * PAGE, 0) == 0 && syscall(462, m, PAGE, 0) == 0 && has_flag(m, "sl"));
    CHECK_ERRNO(munmap(m, PAGE), EPERM);
    CHECK_ERRNO(munmap(m, 4 * PAGE), EPERM);
    CHECK_ERRNO(mprotect(m, PAGE, RW), EPERM);
    CHECK_ERRNO(mmap(m, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0), EPERM);
    CHECK_ERRNO(mremap(m, PAGE, 8 * PAGE, MREMAP_MAYMOVE), EPERM);
    CHECK_ERRNO(madvise(m, PAGE, MADV_DONTNEED), EPERM);
    CHECK(madvise(m + PAGE, PAGE, MADV_DONTNEED) == 0); /* writable anyway */
    CHECK(munmap(m + 2 * PAGE, PAGE) == 0 && touch(m, 0) == 0 && touch(m + PAGE, 1) == 0);
    CHECK_ERRNO(syscall(462, m, 4 * PAGE, 0), ENOMEM);
}

static void limits(void) {
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit;
        CHECK(getrlimit(RLIMIT_DATA, &limit) == 0);
        limit.rlim_cur = 64 << 20;
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        CHECK_ERRNO(mmap(0, 64 << 20, RW, PRIVATE, -1, 0), ENOMEM);
        CHECK(mmap(0, 64 << 20, PROT_READ, PRIVATE, -1, 0) != MAP_FAILED);
        CHECK(mmap(0, 64 << 20, RW, SHARED, -1, 0) != MAP_FAILED);
        char *m = mmap(0, 16 << 20, RW, PRIVATE, -1, 0);
        CHECK(m != MAP_FAILED);
        CHECK_ERRNO(mremap(m, 16 << 20, 80 << 20, MREMAP_MAYMOVE), ENOMEM);
        CHECK_ERRNO(sbrk(64 << 20), ENOMEM);
        limit.rlim_cur = 256 << 20;
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        CHECK_ERRNO(mmap(0, 256 << 20, PROT_NONE, PRIVATE, -1, 0), ENOMEM);
        exit(check_failures);
    }
    int how;
    CHECK(waitpid(child, &how, 0) == child && how == 0);
}

static void other_memory(void) {
    char *m = anon(2, MAP_PRIVATE), text[4] = "new";
    strcpy(m, "old");
    mprotect(m, PAGE, PROT_READ);
    struct iovec local = {text, 4}, remote = {m, 4};
    CHECK_ERRNO(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT);
    CHECK(process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 4 && !strcmp(text, "old"));
    mprotect(m, PAGE, PROT_NONE);
    CHECK_ERRNO(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
    /* A debugger may, but never through a mapping of a file that may not be written. */
    int mem = open("/proc/self/mem", O_RDWR), fd = memfd_create("ro", 0);
    CHECK(pread(mem, text, 4, (uintptr_t)m) == 4 && pwrite(mem, "dbg", 4, (uintptr_t)m) == 4);
    CHECK(ftruncate(fd, PAGE) == 0);
    char *s = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK_ERRNO(pwrite(mem, "dbg", 4, (uintptr_t)s), EIO);
    CHECK(s[0] == 0 && mprotect(m, PAGE, PROT_READ) == 0 && !strcmp(m, "dbg"));
    close(mem);
    close(fd);
    munmap(m, 2 * PAGE);
}

/* Guards: nothing is there, whatever came before; protection, giving back and fork leave them. */
static void guards(void) {
    char *m = anon(8, MAP_PRIVATE);
    memset(m, 'g', 8 * PAGE);
    CHECK(madvise(m + PAGE, 2 * PAGE, 102) == 0);
    CHECK(touch(m, 1) == 0 && touch(m + PAGE, 0) == SIGSEGV && touch(m + 2 * PAGE, 1) == SIGSEGV && touch(m + 3 * PAGE, 0) == 0);
    CHECK(madvise(m, 8 * PAGE, MADV_DONTNEED) == 0 && touch(m + PAGE, 0) == SIGSEGV && m[0] == 0);
    CHECK(mprotect(m, 8 * PAGE, PROT_READ) == 0 && mprotect(m, 8 * PAGE, RW) == 0 && touch(m + PAGE, 0) == SIGSEGV);
    pid_t child = fork();
    if (child == 0) _exit(touch(m + PAGE, 0) != SIGSEGV || touch(m + 3 * PAGE, 1) != 0);
    int status, ends[2];
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(pipe(ends) == 0 && write(ends[1], "abcd", 4) == 4);
    CHECK_ERRNO(read(ends[0], m + PAGE, 1), EFAULT);
    CHECK_ERRNO(write(ends[1], m + PAGE, 1), EFAULT);
    char byte;
    struct iovec here = {&byte, 1}, there = {m + PAGE, 1};
    CHECK_ERRNO(process_vm_readv(getpid(), &here, 1, &there, 1, 0), EFAULT);
    CHECK_ERRNO(madvise(m, 8 * PAGE, MADV_POPULATE_READ), EFAULT);
    char *moved = mremap(m, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, anon(8, MAP_PRIVATE));
    CHECK(moved != MAP_FAILED && touch(moved + 2 * PAGE, 0) == SIGSEGV && touch(moved + 3 * PAGE, 1) == 0);
    CHECK(madvise(moved, 8 * PAGE, 103) == 0 && touch(moved + PAGE, 1) == 0 && moved[2 * PAGE] == 0);
    CHECK(mlock(moved, PAGE) == 0);
    CHECK_ERRNO(madvise(moved, PAGE, 102), EINVAL);
    CHECK(madvise(moved, PAGE, 103) == 0);
    munmap(moved + 4 * PAGE, PAGE);
    CHECK_ERRNO(madvise(moved + 3 * PAGE, 4 * PAGE, 102), ENOMEM);
    CHECK(touch(moved + 3 * PAGE, 0) == SIGSEGV && touch(moved + 6 * PAGE, 0) == SIGSEGV && touch(moved + 7 * PAGE, 0) == 0);
    munmap(moved, 8 * PAGE);
    close(ends[0]), close(ends[1]);
}

/* The first stack ends where what it was given ends: a limit is of what the program uses, and a core holds no more. */
static void first_stack(void) {
    const char *name = (const char *)getauxval(AT_EXECFN);
    unsigned long start, end = 0;
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (end == 0 && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &start, &end) != 2 || (uintptr_t)name < start || (uintptr_t)name >= end) end = 0;
    fclose(maps);
    CHECK(end != 0 && strstr(line, "[stack]") && end - (uintptr_t)(name + strlen(name)) <= PAGE);
}

/* One area more than vm.max_map_count says; the gate area of vsyscall calls is none. */
static void most_areas(void) {
    pid_t child = fork();
    if (child == 0) {
        static char text[1 << 16];
        long limit = 0, areas = 0;
        int fd = open("/proc/sys/vm/max_map_count", O_RDONLY);
        if (fd < 0 || read(fd, text, sizeof text) <= 0) _exit(2);
        limit = atol(text);
        if (limit > 70000) _exit(0);
        fd = open("/proc/self/maps", O_RDONLY);
        for (ssize_t n; fd >= 0 && (n = read(fd, text, sizeof text - 1)) > 0;) {
            text[n] = 0;
            for (char *at = text; (at = strchr(at, '\n')); at++) areas++;
            if (strstr(text, "[vsyscall]")) areas--;
        }
        /* With gaps, and told where: who looks for a place looks at all areas. */
        size_t room = (size_t)(limit + 8) * 2 * PAGE;
        char *at = mmap(0, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED || munmap(at, room)) _exit(5);
        for (; mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED; at += 2 * PAGE)
            areas++;
        if (errno != ENOMEM) _exit(3);
        _exit(areas == limit + 1 ? 0 : 4);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = escaping, .sa_flags = SA_SIGINFO};
    first_stack();
    CHECK(sigaction(SIGSEGV, &action, 0) == 0 && sigaction(SIGBUS, &action, 0) == 0);
    mapping();
    low();
    growing();
    advice();
    guards();
    remote_advice();
    locking();
    syncing();
    moving();
    file_pages();
    sealing();
    limits();
    most_areas();
    other_memory();
    CHECK_ERRNO(syscall(SYS_pkey_alloc, 1, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_pkey_alloc, 0, 8), EINVAL);
    CHECK_ERRNO(syscall(SYS_pkey_free, 15), EINVAL);
    DONE();
}
