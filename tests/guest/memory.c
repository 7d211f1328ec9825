/* Memory: mmap, munmap, mprotect, mremap, brk, copy-on-write, sharing between processes, files in memory. */
#define _GNU_SOURCE
#include "check.h"
#include "faults.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static void anonymous(void) {
    char *m = mmap(0, 64 * PAGE, RW, PRIVATE, -1, 0);
    CHECK(m != MAP_FAILED);
    for (int i = 0; i < 64 * PAGE; i += 511) CHECK(m[i] == 0);
    memset(m, 0x5a, 64 * PAGE);
    CHECK(munmap(m + 10 * PAGE, 4 * PAGE) == 0);
    CHECK(touch(m + 10 * PAGE, 0) == SIGSEGV && last.si_code == SEGV_MAPERR);
    CHECK(touch(m + 13 * PAGE + 4095, 0) == SIGSEGV && touch(m + 14 * PAGE, 0) == 0 && m[9 * PAGE] == 0x5a);
    CHECK(mprotect(m, 2 * PAGE, PROT_READ) == 0 && touch(m, 1) == SIGSEGV && last.si_code == SEGV_ACCERR);
    CHECK(touch(m + 2 * PAGE, 1) == 0);
    CHECK(mprotect(m, 2 * PAGE, RW) == 0 && touch(m, 1) == 0);
    CHECK(mprotect(m, PAGE, PROT_NONE) == 0 && touch(m, 0) == SIGSEGV);
    CHECK_ERRNO(mprotect(m + 9 * PAGE, 2 * PAGE, PROT_READ), ENOMEM);
    char *again = mmap(m + 10 * PAGE, PAGE, RW, PRIVATE | MAP_FIXED, -1, 0);
    CHECK(again == m + 10 * PAGE && again[0] == 0); /* never what was there before */
    CHECK((void *)mmap(m, PAGE, RW, PRIVATE | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
    CHECK(munmap(m, 64 * PAGE) == 0 && munmap(m, 64 * PAGE) == 0);
    CHECK_ERRNO(munmap(m + 1, PAGE), EINVAL);
    CHECK((void *)mmap(0, 0, RW, PRIVATE, -1, 0) == MAP_FAILED && errno == EINVAL);
    CHECK((void *)mmap(0, 1ul << 60, RW, PRIVATE, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK((void *)mmap(0, PAGE, RW, MAP_PRIVATE, 999, 0) == MAP_FAILED && errno == EBADF);
}

static void copy_on_write(void) {
    char *m = mmap(0, 32 * PAGE, RW, PRIVATE, -1, 0);
    for (int i = 0; i < 32; i++) m[i * PAGE] = i;
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 32; i++) {
            CHECK(m[i * PAGE] == i);
            m[i * PAGE] = i + 100;
        }
        if (fork() == 0) {
            m[0] = 55;
            _exit(check_failures);
        }
        wait(0);
        CHECK(m[0] == 100);
        _exit(check_failures);
    }
    for (int i = 16; i < 32; i++) m[i * PAGE] = i + 50;
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    for (int i = 0; i < 32; i++) CHECK(m[i * PAGE] == (i < 16 ? i : i + 50));
    munmap(m, 32 * PAGE);
}

static void shared(void) {
    volatile int *m = mmap(0, PAGE, RW, SHARED, -1, 0);
    pid_t child = fork();
    if (child == 0) {
        while (m[0] != 1) usleep(100);
        m[1] = 2;
        _exit(0);
    }
    m[0] = 1;
    CHECK(waitpid(child, 0, 0) == child && m[1] == 2);
    munmap((void *)m, PAGE);
}

static void files(void) {
    char name[] = "/tmp/umbel-memory-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && ftruncate(fd, 3 * PAGE) == 0 && pwrite(fd, "file text", 9, PAGE) == 9);
    char *s = mmap(0, 3 * PAGE, RW, MAP_SHARED, fd, 0), *p = mmap(0, 3 * PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK(s != MAP_FAILED && p != MAP_FAILED && !strcmp(s + PAGE, "file text") && !strcmp(p + PAGE, "file text"));
    strcpy(p + PAGE, "private");
    CHECK(!strcmp(s + PAGE, "file text"));
    strcpy(s + 2 * PAGE, "through memory");
    char text[32] = "";
    CHECK(pread(fd, text, 15, 2 * PAGE) == 15 && !strcmp(text, "through memory"));
    CHECK(pwrite(fd, "through call", 13, 0) == 13 && !strcmp(s, "through call") && !strcmp(p, "through call"));
    CHECK(ftruncate(fd, PAGE) == 0 && touch(s + 2 * PAGE, 0) == SIGBUS && last.si_code == BUS_ADRERR);
    CHECK(touch(s, 1) == 0);
    int ro = open(name, O_RDONLY);
    CHECK((void *)mmap(0, PAGE, RW, MAP_SHARED, ro, 0) == MAP_FAILED && errno == EACCES);
    CHECK((void *)mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 1) == MAP_FAILED && errno == EINVAL);
    CHECK(msync(s, PAGE, MS_SYNC) == 0);
    CHECK(munmap(s, 3 * PAGE) == 0 && munmap(p, 3 * PAGE) == 0 && close(fd) == 0 && close(ro) == 0 && unlink(name) == 0);
    /* A file of the host: private writes stay private. */
    fd = open("/bin/sh", O_RDONLY);
    p = mmap(0, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED && !memcmp(p, "\177ELF", 4));
    p[0] = 'x';
    CHECK(pread(fd, text, 4, 0) == 4 && !memcmp(text, "\177ELF", 4) && p[0] == 'x');
    munmap(p, 2 * PAGE);
    close(fd);
}

static void remap(void) {
    char *m = mmap(0, 4 * PAGE, RW, PRIVATE, -1, 0);
    m[0] = 1, m[3 * PAGE] = 4;
    char *bigger = mremap(m, 4 * PAGE, 400 * PAGE, MREMAP_MAYMOVE);
    CHECK(bigger != MAP_FAILED && bigger[0] == 1 && bigger[3 * PAGE] == 4 && bigger[399 * PAGE] == 0);
    char *smaller = mremap(bigger, 400 * PAGE, PAGE, 0);
    CHECK(smaller == bigger && touch(bigger + PAGE, 0) == SIGSEGV);
    char *target = mmap(0, PAGE, PROT_NONE, PRIVATE, -1, 0);
    char *moved = mremap(smaller, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(moved == target && moved[0] == 1 && touch(smaller, 0) == SIGSEGV);
    CHECK((void *)mremap(smaller, PAGE, PAGE, 0) == MAP_FAILED && errno == EFAULT);
    munmap(moved, PAGE);
}

static void advice(void) {
    char *m = mmap(0, 16 * PAGE, RW, PRIVATE, -1, 0);
    memset(m, 7, 16 * PAGE);
    CHECK(madvise(m, 8 * PAGE, MADV_DONTNEED) == 0 && m[0] == 0 && m[7 * PAGE] == 0 && m[8 * PAGE] == 7);
    CHECK_ERRNO(madvise(m + 1, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_ERRNO(madvise(m, PAGE, 12345), EINVAL);
    unsigned char resident[16];
    CHECK(mincore(m, 16 * PAGE, resident) == 0 && (resident[9] & 1));
    munmap(m, 16 * PAGE);
}

static void breaks(void) {
    char *start = sbrk(0);
    CHECK(sbrk(10 * PAGE) == start);
    start[9 * PAGE] = 3;
    CHECK(sbrk(-10 * PAGE) == start + 10 * PAGE && sbrk(0) == start);
    CHECK(sbrk(PAGE) == start && start[0] == 0);
    sbrk(-PAGE);
    CHECK_ERRNO(brk((void *)-1ul), ENOMEM);
    CHECK_ERRNO(brk((void *)-4096ul), ENOMEM);
    CHECK(sbrk(0) == start);
}

static int deep(int n) {
    volatile char frame[4096];
    frame[0] = n;
    return n == 0 ? frame[0] : deep(n - 1) + frame[0];
}

static void stacks(void) {
    deep(1000); /* four megabytes of stack appear when touched */
}

static void code(void) {
    unsigned char *m = mmap(0, PAGE, RW, PRIVATE, -1, 0);
    memcpy(m, "\xb8\x2a\x00\x00\x00\xc3", 6); /* mov $42, %eax; ret */
    CHECK(mprotect(m, PAGE, PROT_READ | PROT_EXEC) == 0 && ((int (*)(void))m)() == 42);
    CHECK(mprotect(m, PAGE, RW) == 0);
    m[1] = 43;
    CHECK(mprotect(m, PAGE, PROT_READ | PROT_EXEC) == 0 && ((int (*)(void))m)() == 43);
    munmap(m, PAGE);
}

static void bad_pointers(void) {
    int fd = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY);
    char *m = mmap(0, 2 * PAGE, RW, PRIVATE, -1, 0);
    munmap(m + PAGE, PAGE);
    CHECK_ERRNO(read(fd, (void *)-4096l, 1), EFAULT);
    CHECK_ERRNO(read(fd, (void *)0x7fffffffe000, 8192), EFAULT);
    CHECK_ERRNO(stat((char *)1, (struct stat *)m), EFAULT);
    CHECK_ERRNO(pipe((int *)(m + PAGE)), EFAULT);
    memset(m, 'a', PAGE);
    CHECK_ERRNO(open(m, O_RDONLY), ENAMETOOLONG);
    CHECK_ERRNO(open(m + PAGE - 20, O_RDONLY), EFAULT);
    CHECK(read(fd, m + PAGE - 100, 50) == 50);
    close(fd);
    close(null);
    munmap(m, PAGE);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = escaping;
    a.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &a, 0);
    sigaction(SIGBUS, &a, 0);
    anonymous();
    copy_on_write();
    shared();
    files();
    remap();
    advice();
    breaks();
    stacks();
    code();
    bad_pointers();
    DONE();
}
