/* Names: openat2, renameat2, unnamed files, descriptors of places, set-id bits, access times, statx. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/umbel-names-XXXXXX";

static long open2(int dir, const char *path, unsigned long flags, unsigned long mode, unsigned long resolve) {
    struct open_how how = {flags, mode, resolve};
    return syscall(SYS_openat2, dir, path, &how, sizeof how);
}

static int try2(int dir, const char *path, unsigned long flags, unsigned long resolve) {
    long fd = open2(dir, path, flags, 0, resolve);
    if (fd >= 0) close((int)fd);
    return fd < 0 ? errno : 0;
}

static void limits_of_walks(void) {
    CHECK(mkdir("r", 0755) == 0 && mkdir("r/in", 0755) == 0 && close(creat("r/in/f", 0600)) == 0 && close(creat("out", 0600)) == 0);
    CHECK(symlink("in/f", "r/rel") == 0 && symlink("/in/f", "r/abs") == 0 && symlink("../out", "r/up") == 0);
    CHECK(symlink("/proc/self/fd", "r/fds") == 0 && symlink("../r/in/f", "r/around") == 0);
    int r = open("r", O_PATH | O_DIRECTORY);
    const char *paths[] = {"in/f", "rel", "abs", "up", "around", "../out", "in/../in/f", "/in/f", "..", "in/../../r/in/f", "."};
    const unsigned long limits[] = {0, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV};
    for (unsigned p = 0; p < sizeof paths / sizeof *paths; p++) {
        printf("%s:", paths[p]);
        for (unsigned l = 0; l < 6; l++) printf(" %d", try2(r, paths[p], O_RDONLY, limits[l]));
        printf("\n");
    }
    char link[64];
    sprintf(link, "/proc/self/fd/%d", r);
    printf("magic %d %d %d %d\n", try2(r, link, O_PATH, RESOLVE_NO_MAGICLINKS), try2(r, link, O_PATH, RESOLVE_NO_XDEV),
           try2(r, link, O_PATH, 0), try2(r, link, O_PATH, RESOLVE_BENEATH));
    printf("xdev %d %d\n", try2(AT_FDCWD, "/proc/self", O_PATH, RESOLVE_NO_XDEV), try2(AT_FDCWD, "/", O_PATH, RESOLVE_NO_XDEV));
    printf("last %d %d\n", try2(r, "rel", O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS), try2(r, "rel", O_NOFOLLOW, 0));
    CHECK_ERRNO(open2(r, "in", 0, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
    CHECK_ERRNO(open2(r, "in", 0, 0, 0x100), EINVAL);
    CHECK_ERRNO(open2(r, "in", 0, 0600, 0), EINVAL);
    CHECK_ERRNO(open2(r, "in", O_CREAT | O_RDWR, 010000, 0), EINVAL);
    CHECK_ERRNO(open2(r, "in", 1UL << 32, 0, 0), EINVAL);
    CHECK_ERRNO(open2(r, "in", O_PATH | O_RDWR, 0, 0), EINVAL);
    CHECK_ERRNO(open2(r, "new", O_CREAT | O_RDWR, 0600, RESOLVE_CACHED), EAGAIN);
    CHECK_ERRNO(open2(99, "in", 0, 0, 0), EBADF);
    unsigned long how[4] = {O_RDONLY, 0, 0, 0};
    long fd = syscall(SYS_openat2, r, "in", how, 32);
    CHECK(fd >= 0 && close((int)fd) == 0);
    how[3] = 1;
    CHECK_ERRNO(syscall(SYS_openat2, r, "in", how, 32), E2BIG);
    CHECK_ERRNO(syscall(SYS_openat2, r, "in", how, 16), EINVAL);
    CHECK_ERRNO(syscall(SYS_openat2, r, "in", 0, 24), EFAULT);
    fd = open2(r, "made", O_CREAT | O_EXCL | O_RDWR, 0640, RESOLVE_BENEATH);
    struct stat s;
    CHECK(fd >= 0 && fstat((int)fd, &s) == 0 && (s.st_mode & 07777) == 0640 && close((int)fd) == 0);
    close(r);
    unlink("r/made"), unlink("r/rel"), unlink("r/abs"), unlink("r/up"), unlink("r/fds"), unlink("r/around"), unlink("r/in/f");
    rmdir("r/in"), rmdir("r"), unlink("out");
}

static void renames(void) {
    struct stat s;
    CHECK(close(creat("a", 0600)) == 0 && close(creat("b", 0640)) == 0 && mkdir("d", 0755) == 0);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_WHITEOUT | RENAME_EXCHANGE), EINVAL);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", 8), EINVAL);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_EXCHANGE), ENOENT);
    CHECK(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE) == 0 && stat("a", &s) == 0 && S_ISDIR(s.st_mode));
    CHECK(renameat2(AT_FDCWD, "d", AT_FDCWD, "a/x", 0) == 0 && rename("a/x", "d") == 0);
    CHECK_ERRNO(renameat2(AT_FDCWD, "a", AT_FDCWD, "a/sub", 0), EINVAL);
    CHECK_ERRNO(rename("d", "a"), EISDIR);
    CHECK_ERRNO(rename("a", "d"), ENOTDIR);
    CHECK(renameat2(AT_FDCWD, "d", AT_FDCWD, "e", RENAME_WHITEOUT) == 0 && lstat("d", &s) == 0);
    CHECK(S_ISCHR(s.st_mode) && s.st_rdev == 0);
    CHECK(renameat2(AT_FDCWD, "e", AT_FDCWD, "f", RENAME_WHITEOUT | RENAME_NOREPLACE) == 0 && unlink("e") == 0);
    CHECK(unlink("d") == 0 && unlink("f") == 0 && unlink("b") == 0 && rmdir("a") == 0);
}

static void unnamed(void) {
    char proc[64], text[64];
    struct stat s;
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    CHECK(fd >= 0 && write(fd, "text", 4) == 4);
    CHECK(linkat(fd, "", AT_FDCWD, "t", AT_EMPTY_PATH) == 0 && stat("t", &s) == 0 && s.st_size == 4 && s.st_nlink == 1);
    sprintf(proc, "/proc/self/fd/%d", fd);
    CHECK(linkat(AT_FDCWD, proc, AT_FDCWD, "t2", AT_SYMLINK_FOLLOW) == 0 && unlink("t") == 0 && unlink("t2") == 0);
    CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "t", AT_EMPTY_PATH), ENOENT);
    close(fd);
    fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
    CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "t", AT_EMPTY_PATH), ENOENT);
    close(fd);
    CHECK_ERRNO(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
    CHECK_ERRNO(open("none", O_TMPFILE | O_RDWR, 0600), ENOENT);
    CHECK(close(creat("f", 0600)) == 0);
    CHECK_ERRNO(open("f", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
    CHECK_ERRNO(open("f", O_CREAT | O_DIRECTORY | O_RDWR, 0600), EINVAL);
    fd = open("f", O_RDWR);
    CHECK(unlink("f") == 0);
    CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "t", AT_EMPTY_PATH), ENOENT);
    close(fd);
    fd = memfd_create("m", 0);
    CHECK_ERRNO(linkat(fd, "", AT_FDCWD, "t", AT_EMPTY_PATH), EXDEV);
    close(fd);
    /* places */
    CHECK(close(creat("f", 0600)) == 0 && symlink("f", "l") == 0);
    fd = open("f", O_PATH | O_RDWR | O_CREAT | O_TRUNC, 0);
    CHECK((fcntl(fd, F_GETFL) & ~0100000) == O_PATH);
    CHECK_ERRNO(write(fd, "", 1), EBADF);
    CHECK_ERRNO(fchmod(fd, 0600), EBADF);
    CHECK_ERRNO(fchown(fd, 0, 0), EBADF);
    CHECK_ERRNO(ftruncate(fd, 0), EBADF);
    CHECK_ERRNO(fsync(fd), EBADF);
    CHECK_ERRNO(lseek(fd, 0, SEEK_SET), EBADF);
    CHECK_ERRNO(fcntl(fd, F_SETFL, 0), EBADF);
    CHECK_ERRNO(futimens(fd, 0), EBADF);
    CHECK_ERRNO((long)mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0), EBADF);
    CHECK_ERRNO(fchdir(fd), ENOTDIR);
    CHECK(linkat(fd, "", AT_FDCWD, "g", AT_EMPTY_PATH) == 0 && unlink("g") == 0 && fchmodat(fd, "", 0640, 0) == -1);
    close(fd);
    fd = open("l", O_PATH | O_NOFOLLOW);
    CHECK(fstat(fd, &s) == 0 && S_ISLNK(s.st_mode) && readlinkat(fd, "", text, sizeof text) == 1);
    sprintf(proc, "/proc/self/fd/%d", fd);
    CHECK_ERRNO(open(proc, O_RDONLY), ELOOP);
    close(fd);
    CHECK(unlink("l") == 0 && unlink("f") == 0);
}

static int mode_of(const char *name) {
    struct stat s;
    CHECK(stat(name, &s) == 0);
    return s.st_mode & 07777;
}

static void set_id_bits(void) {
    CHECK(close(creat("s", 0777)) == 0 && chmod("s", 06777) == 0);
    int fd = open("s", O_RDWR);
    CHECK(write(fd, "root", 4) == 4);
    printf("set-id after root's write %o", mode_of("s"));
    CHECK(chown("s", 0, 0) == 0);
    printf(" chown %o", mode_of("s"));
    CHECK(chmod("s", 06767) == 0 && chown("s", 1000, 1000) == 0);
    printf(" without group exec %o", mode_of("s"));
    CHECK(chmod("s", 06777) == 0 && fchown(fd, -1, -1) == 0);
    printf(" none %o\n", mode_of("s"));
    close(fd);
    CHECK(chmod("s", 06777) == 0 && mkdir("g", 0777) == 0 && chown("g", 0, 50) == 0 && chmod("g", 03777) == 0);
    CHECK(mkdir("plain", 06755) == 0);
    printf("made %o %o\n", mode_of("g"), mode_of("plain"));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        fd = open("s", O_RDWR);
        CHECK(write(fd, "user", 4) == 4);
        printf("user's write %o", mode_of("s"));
        CHECK(chmod("s", 06777) == 0 && ftruncate(fd, 1) == 0);
        printf(" truncation %o\n", mode_of("s"));
        umask(0);
        CHECK(close(open("g/f", O_CREAT | O_RDWR, 02775)) == 0 && mkdir("g/d", 0755) == 0 && mknod("g/p", S_IFIFO | 02755, 0) == 0);
        struct stat st;
        CHECK(stat("g/f", &st) == 0 && st.st_gid == 50);
        printf("inherited %o %o %o\n", mode_of("g/f"), mode_of("g/d"), mode_of("g/p"));
        CHECK(chmod("g/f", 02775) == 0);
        printf("chmod by others %o\n", mode_of("g/f"));
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        CHECK(setgid(1001) == 0 && setuid(1001) == 0);
        CHECK_ERRNO(chown("g/f", 1001, -1), EPERM);
        CHECK_ERRNO(chown("g/f", -1, 1001), EPERM);
        CHECK(chown("g/p", -1, -1) == 0); /* nothing is asked for */
        CHECK_ERRNO(unlink("g/f"), EPERM);
        CHECK_ERRNO(rename("g/f", "g/x"), EPERM);
        CHECK_ERRNO(rmdir("g/d"), EPERM);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(unlink("g/f") == 0 && rmdir("g/d") == 0 && unlink("g/p") == 0 && rmdir("g") == 0 && unlink("s") == 0 && rmdir("plain") == 0);
}

static void times(void) {
    struct stat before, after;
    struct timespec old[2] = {{1000, 5}, {2000, 6}};
    char byte;
    CHECK(close(creat("t", 0644)) == 0 && truncate("t", 5) == 0 && utimensat(AT_FDCWD, "t", old, 0) == 0);
    CHECK(stat("t", &before) == 0 && before.st_atim.tv_sec == 1000 && before.st_mtim.tv_nsec == 6);
    int fd = open("t", O_RDONLY | O_NOATIME);
    CHECK(read(fd, &byte, 1) == 1 && fstat(fd, &after) == 0 && after.st_atim.tv_sec == 1000);
    close(fd);
    fd = open("t", O_RDONLY);
    CHECK(fstat(fd, &after) == 0 && after.st_atim.tv_sec == 1000);
    CHECK(read(fd, &byte, 1) == 1 && fstat(fd, &after) == 0 && after.st_atim.tv_sec > 1000000);
    struct timespec omit[2] = {{0, UTIME_OMIT}, {7, 8}}, bad[2] = {{0, 1000000000}, {0, 0}};
    CHECK(futimens(fd, omit) == 0 && fstat(fd, &before) == 0 && before.st_mtim.tv_sec == 7);
    CHECK(before.st_atim.tv_sec == after.st_atim.tv_sec);
    CHECK_ERRNO(futimens(fd, bad), EINVAL);
    close(fd);
    struct statx x;
    CHECK(statx(AT_FDCWD, "t", 0, STATX_ALL, &x) == 0 && (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    CHECK(x.stx_size == 5 && x.stx_nlink == 1 && S_ISREG(x.stx_mode) && x.stx_btime.tv_sec > 1000000 && x.stx_mnt_id != 0);
    CHECK(!(x.stx_attributes & STATX_ATTR_MOUNT_ROOT) && (x.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT));
    CHECK(statx(AT_FDCWD, "/dev/shm", 0, STATX_TYPE, &x) == 0 && (x.stx_attributes & STATX_ATTR_MOUNT_ROOT));
    CHECK_ERRNO(statx(AT_FDCWD, "t", 0, 0x80000000, &x), EINVAL);
    CHECK_ERRNO(statx(AT_FDCWD, "", 0, 0, &x), ENOENT);
    CHECK_ERRNO(statx(AT_FDCWD, "t", 0x10000, 0, &x), EINVAL);
    CHECK(unlink("t") == 0);
}

static void lengths(void) {
    char name[5000];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    CHECK(close(creat(name, 0600)) == 0 && unlink(name) == 0);
    name[255] = 'n', name[256] = 0;
    CHECK_ERRNO(creat(name, 0600), ENAMETOOLONG);
    CHECK_ERRNO(mkdir(name, 0600), ENAMETOOLONG);
    CHECK_ERRNO(rename(name, "x"), ENAMETOOLONG);
    for (int i = 0; i < 4095; i += 2) name[i] = '.', name[i + 1] = '/';
    name[4095] = 0;
    CHECK(access(name, F_OK) == 0);
    name[4095] = '/', name[4096] = 0;
    CHECK_ERRNO(access(name, F_OK), ENAMETOOLONG);
    char link[16], next[16];
    for (int i = 0; i < 41; i++) {
        sprintf(link, "l%d", i), sprintf(next, "l%d", i + 1);
        CHECK(symlink(i == 40 ? "." : next, link) == 0);
    }
    CHECK(access("l1", F_OK) == 0);
    CHECK_ERRNO(access("l0", F_OK), ELOOP);
    for (int i = 0; i < 41; i++) CHECK(sprintf(link, "l%d", i) > 0 && unlink(link) == 0);
    CHECK(close(creat("\xff\xfe\x80", 0600)) == 0 && access("\xff\xfe\x80", F_OK) == 0 && unlink("\xff\xfe\x80") == 0);
}

int main(void) {
    umask(022);
    CHECK(mkdtemp(directory) && chdir(directory) == 0 && chmod(directory, 0777) == 0);
    limits_of_walks();
    renames();
    unnamed();
    set_id_bits();
    times();
    lengths();
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
    DONE();
}
