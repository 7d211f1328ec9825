/* Attributes of names that are asked for one after the other, which the gate may tell without the kernel: they are what another call
 * says, at good and bad addresses, and what another thread has just changed is changed. Argument: a directory with file000.txt…,
 * made before the machine. With another one it only looks. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define FILES 64
/* Enough that the call site is patched. */
#define ROUNDS 40

static char name[FILES][16];
static struct statx known[FILES];

static void learn(void) {
    for (int i = 0; i < FILES; i++)
        CHECK(statx(AT_FDCWD, name[i], AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &known[i]) == 0);
}

static int same(const struct stat *st, const struct statx *stx) {
    return st->st_ino == stx->stx_ino && st->st_mode == stx->stx_mode && st->st_nlink == stx->stx_nlink &&
           st->st_uid == stx->stx_uid && st->st_gid == stx->stx_gid && (uint64_t)st->st_size == stx->stx_size &&
           (uint64_t)st->st_blocks == stx->stx_blocks && st->st_blksize == stx->stx_blksize && st->st_rdev == 0 &&
           st->st_mtim.tv_sec == stx->stx_mtime.tv_sec && st->st_mtim.tv_nsec == stx->stx_mtime.tv_nsec &&
           st->st_ctim.tv_sec == stx->stx_ctime.tv_sec && st->st_ctim.tv_nsec == stx->stx_ctime.tv_nsec;
}

static void in_order(void) {
    struct stat st;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < FILES; i++) {
            memset(&st, 0xff, sizeof st);
            CHECK(lstat(name[i], &st) == 0 && same(&st, &known[i]));
        }
}

/* lstat by a call of our own, that sees whether a register or a flag changes: its result, or -1000. */
__attribute__((noinline)) static long checked(const char *path, struct stat *st, uint64_t flags) {
    uint64_t r8 = 0x1111111122222222, r9 = 0x3333333344444444, after;
    long result = -100;
    const char *rsi = path;
    struct stat *rdx = st;
    register uint64_t v8 __asm__("r8") = r8, v9 __asm__("r9") = r9, v10 __asm__("r10") = AT_SYMLINK_NOFOLLOW;
    __asm__ volatile("lea -256(%%rsp), %%rsp\n push %[flags]\n popfq\n"
                     "nop\n mov $262, %%eax\n syscall\n"
                     "pushfq\n pop %[after]\n lea 256(%%rsp), %%rsp\n cld"
                     : "=&a"(result), "+S"(rsi), "+d"(rdx), "+r"(v8), "+r"(v9), "+r"(v10), [after] "=&b"(after)
                     : "D"((long)AT_FDCWD), [flags] "r"(flags)
                     : "rcx", "r11", "memory", "cc");
    int kept = v8 == r8 && v9 == r9 && v10 == AT_SYMLINK_NOFOLLOW && rsi == path && rdx == st;
    return kept && (after & 0x8d5) == (flags & 0x8d5) ? result : -1000;
}

static volatile int ticks;

static void tick(int signal) {
    (void)signal;
    ticks++;
}

/* Interrupted everywhere. */
static void registers(void) {
    struct itimerval every = {{0, 150}, {0, 150}}, never = {{0, 0}, {0, 0}};
    static const uint64_t flags[] = {0x202, 0x202 | 0x8d5, 0x203, 0x206, 0x242, 0x282, 0xa02, 0x212};
    struct stat st;
    signal(SIGALRM, tick);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int round = 0; round < 4 * ROUNDS; round++)
        for (int i = 0; i < FILES; i++) {
            long result = checked(name[i], &st, flags[(round + i) % 8]);
            CHECK(result == 0 && same(&st, &known[i]));
        }
    setitimer(ITIMER_REAL, &never, NULL);
    signal(SIGALRM, SIG_DFL);
}

static void bad_addresses(void) {
    long page = sysconf(_SC_PAGESIZE);
    char *area = mmap(NULL, 200 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *locked = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mprotect(area + page, page, PROT_NONE) == 0);
    char *end = area + page - sizeof "file000.txt";
    struct stat st;
    int fresh = 4;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < FILES; i++) {
            switch (i % 8) {
            case 3: CHECK(checked(name[i], NULL, 0x202) == -EFAULT); break;
            case 4: CHECK(checked(name[i], (struct stat *)locked, 0x203) == -EFAULT); break;
            case 5: CHECK(checked(NULL, &st, 0x242) == -EFAULT); break;
            case 6: CHECK(checked(area + page, &st, 0x282) == -EFAULT); break;
            /* Reaches into what nobody may touch. */
            case 7: CHECK(checked(name[i], (struct stat *)(area + page - 72), 0x202) == -EFAULT); break;
            default: {
                strcpy(end, name[i]);
                struct stat *to = (struct stat *)(area + fresh++ * page);
                CHECK(checked(end, to, 0x202) == 0 && same(to, &known[i]));
            }
            }
        }
    }
    munmap(area, 200 * page);
    munmap(locked, page);
}

/* What the other thread shall do to a file, and whether it has. */
static void (*volatile wish)(int);
static volatile int which, done;

static void *other(void *unused) {
    (void)unused;
    for (;;) {
        while (!wish)
            sched_yield();
        void (*what)(int) = wish;
        what(which);
        wish = NULL;
        done = 1;
    }
    return NULL;
}

static void append(int i) {
    int fd = open(name[i], O_WRONLY | O_APPEND);
    CHECK(write(fd, "x", 1) == 1 && close(fd) == 0);
}
static void permit(int i) { CHECK(chmod(name[i], 0600) == 0); }
static void forget(int i) { CHECK(unlink(name[i]) == 0); }
static void replace(int i) {
    int fd = open("new", O_WRONLY | O_CREAT | O_TRUNC, 0640);
    CHECK(write(fd, "four", 4) == 4 && close(fd) == 0 && rename("new", name[i]) == 0);
}
static void exchange(int i) { CHECK(renameat2(AT_FDCWD, name[i], AT_FDCWD, name[i + 1], RENAME_EXCHANGE) == 0); }
static void leave(int i) { CHECK(i > 0 && chdir("empty") == 0); }
static void close_dir(int i) { CHECK(i > 0 && chmod(".", 0) == 0); }
static void mount_on(int i) { CHECK(mount("empty/of", name[i], NULL, MS_BIND, NULL) == 0); }

/* Looks at the five names before `i`, has the other thread do `what` without a call of our own, and looks at `i`. */
static int look_after(void (*what)(int), int i, struct stat *st) {
    for (int k = i - 5; k < i; k++)
        CHECK(lstat(name[k], st) == 0);
    which = i;
    done = 0;
    wish = what;
    for (long spins = 0; !done; spins++)
        if (spins > 2000000)
            sched_yield();
    errno = 0;
    int result = lstat(name[i], st);
    return result == 0 ? 0 : errno;
}

static void changes(void) {
    struct stat st;
    for (int i = 8; i < 24; i++) {
        CHECK(look_after(append, i, &st) == 0 && (uint64_t)st.st_size == known[i].stx_size + 1);
        CHECK(look_after(permit, i, &st) == 0 && (st.st_mode & 07777) == 0600);
        CHECK(look_after(append, i, &st) == 0 && (uint64_t)st.st_size == known[i].stx_size + 2);
    }
    for (int i = 24; i < 32; i++)
        CHECK(look_after(replace, i, &st) == 0 && st.st_size == 4 && (st.st_mode & 07777) == 0640);
    for (int i = 38; i < 44; i++) {
        CHECK(look_after(forget, i, &st) == ENOENT);
        replace(i);
    }
    for (int i = 44; i < 50; i++)
        CHECK(look_after(exchange, i, &st) == 0 && st.st_ino != known[i].stx_ino);
}

/* Whether mounts are not seen by others. */
static int own_mounts;

static void places(void) {
    struct stat st;
    for (int i = 52; i < 58; i++) {
        int back = open(".", O_RDONLY | O_DIRECTORY);
        CHECK(look_after(leave, i, &st) == ENOENT);
        CHECK(fchdir(back) == 0 && close(back) == 0);
    }
    int root = geteuid() == 0, here = open(".", O_RDONLY | O_DIRECTORY);
    for (int i = 52; i < 58; i++) {
        if (root)
            setfsuid(4321);
        CHECK(look_after(close_dir, i, &st) == EACCES);
        if (root)
            setfsuid(0);
        CHECK(fchmod(here, 0755) == 0);
    }
    close(here);
    if (!own_mounts)
        return;
    for (int i = 52; i < 58; i++) {
        CHECK(look_after(mount_on, i, &st) == 0 && st.st_size == 2);
        CHECK(umount(name[i]) == 0);
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || chdir(argv[1]) != 0)
        return 2;
    for (int i = 0; i < FILES; i++)
        snprintf(name[i], sizeof name[i], "file%03d.txt", i);
    learn();
    in_order();
    if (argc > 2)
        DONE();
    registers();
    bad_addresses();
    mkdir("empty", 0755);
    int fd = open("empty/of", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(write(fd, "ab", 2) == 2 && close(fd) == 0);
    own_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, other, NULL) == 0);
    changes();
    learn();
    in_order();
    places();
    CHECK(ticks > 0);
    DONE();
}
