/* Files: names, links, directories, positions, truncation, permissions, attributes, descriptors. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/tmp/umbel-files-XXXXXX";

static void open_flags(void) {
    struct stat s;
    int fd = open("a", O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & 0777) == 0640 && s.st_size == 0);
    CHECK_ERRNO(open("a", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
    CHECK_ERRNO(open("none", O_RDONLY), ENOENT);
    CHECK_ERRNO(open("", O_RDONLY), ENOENT);
    CHECK_ERRNO(open("a/b", O_RDONLY), ENOTDIR);
    CHECK_ERRNO(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_ERRNO(open(".", O_RDWR), EISDIR);
    CHECK_ERRNO(open("none/x", O_CREAT | O_RDWR, 0600), ENOENT);
    CHECK(write(fd, "0123456789", 10) == 10 && lseek(fd, 0, SEEK_CUR) == 10);
    int appending = open("a", O_WRONLY | O_APPEND);
    CHECK(write(appending, "ab", 2) == 2 && lseek(appending, 0, SEEK_CUR) == 12);
    CHECK_ERRNO(read(appending, &s, 1), EBADF);
    int reading = open("a", O_RDONLY);
    CHECK_ERRNO(write(reading, "x", 1), EBADF);
    CHECK(fstat(reading, &s) == 0 && s.st_size == 12);
    int truncated = open("a", O_RDWR | O_TRUNC);
    CHECK(fstat(reading, &s) == 0 && s.st_size == 0);
    int path = open("a", O_PATH);
    CHECK_ERRNO(read(path, &s, 1), EBADF);
    CHECK(fstat(path, &s) == 0);
    CHECK(close(fd) == 0 && close(appending) == 0 && close(reading) == 0 && close(truncated) == 0 && close(path) == 0);
    CHECK_ERRNO(close(fd), EBADF);
    int unnamed = open(".", O_TMPFILE | O_RDWR, 0600);
    CHECK(unnamed >= 0 && write(unnamed, "x", 1) == 1 && fstat(unnamed, &s) == 0 && s.st_nlink == 0);
    close(unnamed);
}

static void positions(void) {
    int fd = open("p", O_RDWR | O_CREAT, 0600);
    char text[16] = "";
    CHECK(pwrite(fd, "end", 3, 100000) == 3 && lseek(fd, 0, SEEK_CUR) == 0 && lseek(fd, 0, SEEK_END) == 100003);
    CHECK(pread(fd, text, 5, 99999) == 4 && text[0] == 0 && !strncmp(text + 1, "end", 3));
    CHECK(pread(fd, text, 5, 200000) == 0);
    CHECK_ERRNO(pread(fd, text, 1, -1), EINVAL);
    CHECK_ERRNO(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERRNO(lseek(fd, 0, 99), EINVAL);
    CHECK(lseek(fd, 5, SEEK_SET) == 5 && lseek(fd, -2, SEEK_CUR) == 3);
    struct iovec out[2] = {{"ab", 2}, {"cde", 3}}, in[3] = {{text, 1}, {text + 1, 0}, {text + 1, 10}};
    CHECK(writev(fd, out, 2) == 5 && lseek(fd, 3, SEEK_SET) == 3 && readv(fd, in, 3) == 11 && !strcmp(text, "abcde"));
    CHECK(ftruncate(fd, 4) == 0 && pread(fd, text, 16, 0) == 4 && ftruncate(fd, 8) == 0);
    CHECK(pread(fd, text, 16, 0) == 8 && !memcmp(text + 3, "a\0\0\0\0", 5)); /* what was cut off is gone */
    CHECK_ERRNO(ftruncate(fd, -1), EINVAL);
    CHECK_ERRNO(truncate("none", 1), ENOENT);
    int copy = dup(fd);
    CHECK(lseek(copy, 7, SEEK_SET) == 7 && lseek(fd, 0, SEEK_CUR) == 7); /* one open file, one position */
    CHECK(close(fd) == 0 && close(copy) == 0);
}

static void links(void) {
    struct stat s, t;
    char text[PATH_MAX];
    CHECK(close(creat("l", 0644)) == 0 && link("l", "l2") == 0 && stat("l", &s) == 0 && s.st_nlink == 2);
    CHECK(stat("l2", &t) == 0 && s.st_ino == t.st_ino);
    CHECK_ERRNO(link("l", "l2"), EEXIST);
    CHECK_ERRNO(link("none", "x"), ENOENT);
    CHECK(symlink("l", "s") == 0 && lstat("s", &s) == 0 && S_ISLNK(s.st_mode) && s.st_size == 1);
    CHECK(readlink("s", text, sizeof text) == 1 && text[0] == 'l' && stat("s", &s) == 0 && s.st_ino == t.st_ino);
    CHECK_ERRNO(readlink("l", text, sizeof text), EINVAL);
    CHECK_ERRNO(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK(symlink("loop", "loop") == 0);
    CHECK_ERRNO(stat("loop", &s), ELOOP);
    CHECK(symlink("nowhere", "dangling") == 0);
    CHECK_ERRNO(stat("dangling", &s), ENOENT);
    CHECK(close(open("dangling", O_CREAT | O_WRONLY, 0600)) == 0 && stat("nowhere", &s) == 0);
    CHECK(unlink("l") == 0 && stat("l2", &s) == 0 && s.st_nlink == 1);
    int fd = open("l2", O_RDWR);
    CHECK(unlink("l2") == 0 && write(fd, "x", 1) == 1 && fstat(fd, &s) == 0 && s.st_nlink == 0);
    close(fd);
}

static void directories(void) {
    struct stat s;
    CHECK(mkdir("d", 0755) == 0 && stat("d", &s) == 0 && s.st_nlink == 2);
    CHECK_ERRNO(mkdir("d", 0755), EEXIST);
    CHECK(mkdir("d/e", 0700) == 0 && stat("d", &s) == 0 && s.st_nlink == 3);
    CHECK_ERRNO(rmdir("d"), ENOTEMPTY);
    CHECK_ERRNO(unlink("d"), EISDIR);
    CHECK_ERRNO(rmdir("d/e/."), EINVAL);
    CHECK_ERRNO(rmdir("a"), ENOTDIR);
    int here = open("d/e", O_RDONLY | O_DIRECTORY);
    CHECK(fchdir(here) == 0);
    char text[PATH_MAX];
    CHECK(getcwd(text, sizeof text) != 0 && strstr(text, "/d/e"));
    CHECK_ERRNO(getcwd(text, 2) ? 0 : -1, ERANGE);
    CHECK(close(openat(here, "f", O_CREAT | O_WRONLY, 0600)) == 0 && chdir("../..") == 0 && stat("d/e/f", &s) == 0);
    CHECK(faccessat(here, "f", R_OK, 0) == 0 && fstatat(here, "f", &s, 0) == 0 && unlinkat(here, "f", 0) == 0);
    CHECK(fstatat(here, "", &s, AT_EMPTY_PATH) == 0 && S_ISDIR(s.st_mode));
    CHECK(close(here) == 0 && unlinkat(AT_FDCWD, "d/e", AT_REMOVEDIR) == 0);
    for (int i = 0; i < 500; i++) {
        sprintf(text, "d/file-%03d", i);
        CHECK(close(creat(text, 0600)) == 0);
    }
    int seen = 0, dots = 0;
    DIR *d = opendir("d");
    for (struct dirent *e; (e = readdir(d)) != 0;) {
        if (e->d_name[0] == '.')
            dots++;
        else
            seen++;
        if (e->d_name[0] == 'f' && seen % 2) CHECK(unlinkat(dirfd(d), e->d_name, 0) == 0);
    }
    CHECK(seen == 500 && dots == 2);
    rewinddir(d);
    seen = 0;
    while (readdir(d)) seen++;
    CHECK(seen == 252);
    closedir(d);
}

static void renames(void) {
    struct stat s;
    CHECK(mkdir("r", 0755) == 0 && mkdir("r/sub", 0755) == 0 && close(creat("r/f", 0600)) == 0 && close(creat("r/g", 0600)) == 0);
    CHECK(rename("r/f", "r/g") == 0 && stat("r/g", &s) == 0);
    CHECK_ERRNO(stat("r/f", &s), ENOENT);
    CHECK_ERRNO(rename("r", "r/sub/x"), EINVAL);
    CHECK_ERRNO(rename("r/g", "r/sub"), EISDIR);
    CHECK_ERRNO(rename("r/sub", "r/g"), ENOTDIR);
    CHECK_ERRNO(rename("none", "x"), ENOENT);
    CHECK(rename("r/sub", "r/sub2") == 0 && rename("r", "r2") == 0 && stat("r2/sub2", &s) == 0);
    CHECK_ERRNO(renameat2(AT_FDCWD, "r2/g", AT_FDCWD, "a", RENAME_NOREPLACE), EEXIST);
    CHECK(renameat2(AT_FDCWD, "r2/g", AT_FDCWD, "r2/sub2", RENAME_EXCHANGE) == 0 && stat("r2/g", &s) == 0 && S_ISDIR(s.st_mode));
}

static void attributes(void) {
    struct stat s;
    CHECK(close(creat("t", 0600)) == 0 && chmod("t", 04755) == 0 && stat("t", &s) == 0 && (s.st_mode & 07777) == 04755);
    struct timespec times[2] = {{1000000000, 5}, {1234567890, 123456789}};
    CHECK(utimensat(AT_FDCWD, "t", times, 0) == 0 && stat("t", &s) == 0);
    CHECK(s.st_atim.tv_sec == 1000000000 && s.st_mtim.tv_sec == 1234567890 && s.st_mtim.tv_nsec == 123456789);
    mode_t old = umask(077);
    CHECK(close(creat("m", 0666)) == 0 && stat("m", &s) == 0 && (s.st_mode & 0777) == 0600 && umask(old) == 077);
    CHECK(access("t", X_OK) == 0);
    CHECK_ERRNO(access("none", F_OK), ENOENT);
    struct statx x;
    CHECK(statx(AT_FDCWD, "t", 0, STATX_BASIC_STATS, &x) == 0 && x.stx_size == 0 && x.stx_mtime.tv_sec == 1234567890);
    struct statfs f;
    CHECK(statfs(".", &f) == 0 && f.f_bsize > 0);
    CHECK(mkfifo("fifo", 0600) == 0 && stat("fifo", &s) == 0 && S_ISFIFO(s.st_mode));
    CHECK_ERRNO(open("fifo", O_WRONLY | O_NONBLOCK), ENXIO);
}

static void other_users(void) {
    if (geteuid() != 0) return;
    CHECK(close(creat("secret", 0600)) == 0 && mkdir("closed", 0700) == 0 && chmod(".", 0755) == 0);
    CHECK(mkdir("sticky", 0777) == 0 && chmod("sticky", 01777) == 0 && close(creat("sticky/mine", 0666)) == 0);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(4321) == 0 && setuid(4321) == 0);
        CHECK_ERRNO(open("secret", O_RDONLY), EACCES);
        CHECK_ERRNO(open("closed/x", O_RDONLY), EACCES);
        CHECK_ERRNO(creat("new", 0600), EACCES);
        CHECK_ERRNO(chmod("secret", 0666), EPERM);
        CHECK_ERRNO(unlink("sticky/mine"), EPERM);
        CHECK_ERRNO(setuid(0), EPERM);
        CHECK_ERRNO(chown("secret", 4321, 4321), EPERM);
        CHECK(access("secret", R_OK) == -1 && errno == EACCES);
        struct stat s;
        int fd = open("sticky/yours", O_CREAT | O_RDWR, 0644);
        CHECK(fd >= 0 && fstat(fd, &s) == 0 && s.st_uid == 4321 && s.st_gid == 4321);
        _exit(check_failures);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void descriptors(void) {
    int fd = open("a", O_RDWR), high = fcntl(fd, F_DUPFD, 100);
    CHECK(high == 100 && dup2(fd, fd) == fd && dup2(fd, 101) == 101);
    CHECK_ERRNO(dup3(fd, fd, 0), EINVAL);
    CHECK_ERRNO(dup2(55, 56), EBADF);
    CHECK_ERRNO(dup2(fd, -1), EBADF);
    CHECK(fcntl(fd, F_GETFL) == (O_RDWR | 0100000) && fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK) == 0);
    CHECK(fcntl(high, F_GETFL) == (O_RDWR | O_APPEND | O_NONBLOCK | 0100000));
    CHECK(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(high, F_GETFD) == 0);
    CHECK(close_range(100, 101, 0) == 0);
    CHECK_ERRNO(fcntl(100, F_GETFD), EBADF);
    struct rlimit limit, old;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    limit = old;
    limit.rlim_cur = 32;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_ERRNO(fcntl(fd, F_DUPFD, 32), EINVAL);
    int opened = 0;
    while (open("a", O_RDONLY) >= 0) opened++;
    CHECK(errno == EMFILE && opened > 20);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0 && close_range(fd + 1, ~0u, 0) == 0);
    CHECK(flock(fd, LOCK_EX) == 0);
    pid_t child = fork();
    if (child == 0) {
        int other = open("a", O_RDONLY);
        CHECK_ERRNO(flock(other, LOCK_SH | LOCK_NB), EWOULDBLOCK);
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
        int writable = open("a", O_RDWR);
        CHECK(fcntl(writable, F_SETLK, &lock) == 0);
        _exit(check_failures);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0 && flock(fd, LOCK_UN) == 0 && close(fd) == 0);
}

int main(void) {
    setvbuf(stdout, 0, _IOLBF, 0);
    umask(022);
    CHECK(mkdtemp(directory) != 0 && chdir(directory) == 0);
    open_flags();
    positions();
    links();
    directories();
    renames();
    attributes();
    other_users();
    descriptors();
    char command[64];
    sprintf(command, "rm -rf %s", directory);
    CHECK(chdir("/") == 0 && system(command) == 0);
    DONE();
}
