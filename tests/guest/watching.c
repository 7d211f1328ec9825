/* Extended attributes and inotify: values, name spaces, events in their order. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static char directory[] = "/dev/shm/umbel-watching-XXXXXX";

static void values(void) {
    char buf[300], big[256 + 10];
    int fd = open("x", O_RDWR | O_CREAT, 0644);
    CHECK(setxattr("x", "user.one", "first", 5, 0) == 0 && getxattr("x", "user.one", buf, sizeof buf) == 5);
    CHECK(!memcmp(buf, "first", 5) && getxattr("x", "user.one", 0, 0) == 5);
    CHECK_ERRNO(getxattr("x", "user.one", buf, 4), ERANGE);
    CHECK_ERRNO(getxattr("x", "user.none", buf, 4), ENODATA);
    CHECK_ERRNO(setxattr("x", "user.one", "2", 1, XATTR_CREATE), EEXIST);
    CHECK_ERRNO(setxattr("x", "user.two", "2", 1, XATTR_REPLACE), ENODATA);
    CHECK_ERRNO(setxattr("x", "user.two", "2", 1, XATTR_REPLACE | XATTR_CREATE), ENODATA);
    CHECK_ERRNO(setxattr("x", "user.one", "2", 1, XATTR_REPLACE | XATTR_CREATE), EEXIST);
    CHECK_ERRNO(setxattr("x", "user.two", "2", 1, 8), EINVAL);
    CHECK(fsetxattr(fd, "user.two", "", 0, XATTR_CREATE) == 0 && fgetxattr(fd, "user.two", buf, 9) == 0);
    CHECK(fsetxattr(fd, "trusted.t", "v", 1, 0) == 0 && fsetxattr(fd, "security.s", "v", 1, 0) == 0);
    CHECK_ERRNO(setxattr("x", "nothing.two", "2", 1, 0), EOPNOTSUPP);
    CHECK_ERRNO(setxattr("x", "nothing", "2", 1, 0), EOPNOTSUPP);
    CHECK_ERRNO(setxattr("x", "", "2", 1, 0), ERANGE);
    CHECK_ERRNO(setxattr("x", "user.", "2", 1, 0), EINVAL);
    memset(big, 'a', sizeof big);
    memcpy(big, "user.", 5);
    big[256] = 0;
    CHECK_ERRNO(setxattr("x", big, "2", 1, 0), ERANGE);
    static char huge[65537];
    CHECK_ERRNO(setxattr("x", "user.z", huge, sizeof huge, 0), E2BIG);
    char *volatile nowhere = (char *)8;
    CHECK_ERRNO(setxattr("x", "user.z", nowhere, 5, 0), EFAULT);
    ssize_t length = listxattr("x", 0, 0);
    CHECK(length == 9 + 9 + 10 + 11 && flistxattr(fd, buf, sizeof buf) == length);
    int names = 0;
    for (char *at = buf; at < buf + length; at += strlen(at) + 1)
        names += !strcmp(at, "user.one") + !strcmp(at, "user.two") + !strcmp(at, "trusted.t") + !strcmp(at, "security.s");
    CHECK(names == 4);
    CHECK_ERRNO(listxattr("x", buf, 5), ERANGE);
    CHECK(removexattr("x", "user.two") == 0);
    CHECK_ERRNO(fremovexattr(fd, "user.two"), ENODATA);
    CHECK(symlink("x", "s") == 0 && getxattr("s", "user.one", buf, 9) == 5);
    CHECK_ERRNO(lgetxattr("s", "user.one", buf, 9), ENODATA);
    CHECK_ERRNO(lsetxattr("s", "user.one", "1", 1, 0), EPERM);
    CHECK(lsetxattr("s", "trusted.one", "1", 1, 0) == 0 && llistxattr("s", buf, sizeof buf) == 12);
    CHECK(link("x", "y") == 0 && getxattr("y", "user.one", buf, 9) == 5);
    int path = open("x", O_PATH);
    CHECK_ERRNO(fgetxattr(path, "user.one", buf, 9), EBADF);
    close(path);
    CHECK(mkdir("sticky", 01777) == 0 && chmod("sticky", 01777) == 0 && chmod("x", 0666) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        CHECK_ERRNO(getxattr("x", "trusted.t", buf, 9), ENODATA);
        CHECK_ERRNO(setxattr("x", "trusted.t", buf, 9, 0), EPERM);
        CHECK_ERRNO(setxattr("x", "security.s", buf, 9, 0), EPERM);
        CHECK(getxattr("x", "security.s", buf, 9) == 1 && setxattr("x", "user.three", "3", 1, 0) == 0);
        CHECK(listxattr("x", buf, sizeof buf) == 9 + 11 + 11);
        CHECK_ERRNO(setxattr("sticky", "user.a", "3", 1, 0), EPERM);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(fd);
    unlink("x"), unlink("y"), unlink("s"), rmdir("sticky");
}

static void show(int fd) {
    char buf[4096] __attribute__((aligned(8)));
    ssize_t count = read(fd, buf, sizeof buf);
    unsigned first = 0;
    for (char *at = buf; at < buf + count;) {
        struct inotify_event *event = (void *)at;
        if (event->cookie && !first) first = event->cookie;
        printf(" %d:%x", event->wd, event->mask);
        if (event->cookie) printf("+%u", event->cookie - first);
        if (event->len) printf("%s(%u)", event->name, event->len);
        at += sizeof *event + event->len;
    }
    printf("%s\n", count < 0 ? strerror(errno) : "");
}

static void events(void) {
    struct stat s;
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(mkdir("d", 0755) == 0);
    int wd = inotify_add_watch(fd, "d", IN_ALL_EVENTS);
    CHECK(wd == 1);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0);
    int f = open("d/file", O_CREAT | O_RDWR, 0600);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    int bytes = 0;
    CHECK(ioctl(fd, FIONREAD, &bytes) == 0);
    printf("queued %d\n", bytes);
    CHECK_ERRNO(read(fd, &s, 8), EINVAL);
    show(fd);
    CHECK(inotify_add_watch(fd, "d/file", IN_ALL_EVENTS) == 2);
    CHECK(write(f, "abc", 3) == 3 && write(f, "abc", 3) == 3 && pread(f, &s, 2, 0) == 2);
    show(fd);
    CHECK(fchmod(f, 0640) == 0 && ftruncate(f, 1) == 0 && futimens(f, 0) == 0 && fsetxattr(f, "user.a", "", 0, 0) == 0);
    show(fd);
    CHECK(link("d/file", "d/second") == 0);
    show(fd);
    CHECK(rename("d/second", "d/third") == 0);
    show(fd);
    CHECK(rename("d/third", "outside") == 0);
    show(fd);
    CHECK(unlink("outside") == 0);
    show(fd);
    CHECK(close(creat("other", 0600)) == 0 && rename("other", "d/new") == 0);
    show(fd);
    CHECK(rename("d/new", "d/file") == 0);
    show(fd);
    close(f);
    show(fd);
    CHECK(mkdir("d/sub", 0700) == 0 && symlink("x", "d/link") == 0 && mknod("d/fifo", S_IFIFO | 0600, 0) == 0);
    show(fd);
    CHECK(rmdir("d/sub") == 0 && unlink("d/link") == 0 && unlink("d/fifo") == 0);
    show(fd);
    f = open("d/file", O_RDONLY | O_TRUNC);
    show(fd);
    CHECK(renameat2(AT_FDCWD, "d/file", AT_FDCWD, "d/file2", 0) == 0 && close(creat("d/file3", 0600)) == 0);
    show(fd);
    CHECK(renameat2(AT_FDCWD, "d/file2", AT_FDCWD, "d/file3", RENAME_EXCHANGE) == 0);
    show(fd);
    CHECK(unlink("d/file3") == 0 && unlink("d/file2") == 0);
    show(fd);
    close(f);
    show(fd);
    CHECK(rmdir("d") == 0);
    show(fd);
    show(fd);
    CHECK_ERRNO(inotify_rm_watch(fd, wd), EINVAL);
    close(fd);
}

static void ways(void) {
    int fd = inotify_init1(IN_NONBLOCK);
    CHECK(mkdir("w", 0755) == 0 && symlink("w", "l") == 0 && close(creat("w/f", 0600)) == 0);
    CHECK_ERRNO(inotify_add_watch(fd, "w/f", IN_ONLYDIR | IN_OPEN), ENOTDIR);
    CHECK_ERRNO(inotify_add_watch(fd, "w", 0), EINVAL);
    CHECK_ERRNO(inotify_add_watch(fd, "none", IN_OPEN), ENOENT);
    CHECK_ERRNO(inotify_add_watch(0, "w", IN_OPEN), EINVAL);
    CHECK_ERRNO(inotify_add_watch(99, "w", IN_OPEN), EBADF);
    CHECK_ERRNO(inotify_add_watch(fd, "w", IN_OPEN | IN_MASK_ADD | IN_MASK_CREATE), EINVAL);
    CHECK_ERRNO(inotify_init1(1), EINVAL);
    int wd = inotify_add_watch(fd, "w", IN_CREATE);
    CHECK(inotify_add_watch(fd, "l", IN_DELETE | IN_MASK_ADD) == wd);
    CHECK_ERRNO(inotify_add_watch(fd, "w", IN_OPEN | IN_MASK_CREATE), EEXIST);
    CHECK(close(creat("w/g", 0600)) == 0 && unlink("w/g") == 0);
    show(fd);
    CHECK(inotify_add_watch(fd, "w", IN_DELETE) == wd && close(creat("w/g", 0600)) == 0 && unlink("w/g") == 0);
    show(fd);
    CHECK(inotify_add_watch(fd, "l", IN_DONT_FOLLOW | IN_ATTRIB) == wd + 1);
    CHECK(inotify_rm_watch(fd, wd) == 0);
    show(fd);
    wd = inotify_add_watch(fd, "w", IN_OPEN | IN_ONESHOT);
    CHECK(wd == 3 && close(open("w/f", O_RDONLY)) == 0 && close(open("w/f", O_RDONLY)) == 0);
    show(fd);
    CHECK_ERRNO(inotify_rm_watch(fd, wd), EINVAL);
    wd = inotify_add_watch(fd, "w", IN_MODIFY | IN_EXCL_UNLINK);
    int f = open("w/f", O_WRONLY);
    CHECK(write(f, "x", 1) == 1 && unlink("w/f") == 0 && write(f, "x", 1) == 1);
    show(fd);
    CHECK(inotify_add_watch(fd, "w", IN_MODIFY) == wd && write(f, "x", 1) == 1);
    show(fd);
    close(f);
    fcntl(fd, F_SETFL, 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        usleep(20000);
        close(open("w/late", O_CREAT | O_RDWR | O_TRUNC, 0600));
        f = open("w/late", O_WRONLY);
        _exit(write(f, "x", 1) != 1);
    }
    show(fd);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink("w/late"), unlink("l"), rmdir("w");
    close(fd);
}

int main(void) {
    CHECK(mkdtemp(directory) && chdir(directory) == 0);
    CHECK(chmod(directory, 0777) == 0);
    umask(022);
    values();
    events();
    ways();
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
    DONE();
}
