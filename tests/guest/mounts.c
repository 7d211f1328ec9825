/* Mounts: tmpfs and its limits, binds, moves, remounts, flags, propagation, taking away, the new calls, pivot_root. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/quota.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static char directory[] = "/var/tmp/umbel-mounts-XXXXXX";

static int exists(const char *name) { return access(name, F_OK) == 0; }

static void touch(const char *name) { CHECK(close(creat(name, 0644)) == 0); }

/* The options and optional fields of the mount at `where`, group numbers left out. */
static void show(const char *where) {
    char line[1000], path[300], place[300], options[300], rest[300];
    snprintf(place, sizeof place, "%s/%s", directory, where);
    FILE *f = fopen("/proc/self/mountinfo", "r");
    while (fgets(line, sizeof line, f)) {
        char root[300];
        rest[0] = 0;
        if (sscanf(line, "%*d %*d %*s %299s %299s %299s %299[^\n]", root, path, options, rest) < 4 || strcmp(path, place)) continue;
        char *fields = strstr(rest, "- ");
        char *type = fields ? fields + 2 : rest;
        if (fields) *fields = 0;
        for (char *at = rest; *at; at++)
            if (*at >= '0' && *at <= '9') *at = '#';
        type[strcspn(type, " ")] = 0;
        printf("%s: %s %s | %s| %s\n", where, root, options, rest, type);
    }
    fclose(f);
}

static void files_in_memory(void) {
    struct statfs s;
    struct stat st;
    CHECK(mkdir("t", 0755) == 0 && mount("src", "t", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,nr_inodes=5,mode=0711") == 0);
    CHECK(stat("t", &st) == 0 && (st.st_mode & 07777) == 0711 && statfs("t", &s) == 0);
    CHECK(s.f_blocks == 16 && s.f_files == 5 && s.f_ffree == 4 && s.f_type == 0x01021994 && s.f_namelen == 255);
    show("t");
    int fd = open("t/f", O_CREAT | O_RDWR, 0600);
    char page[4096] = "x";
    int pages = 0;
    while (write(fd, page, sizeof page) == sizeof page) pages++;
    CHECK(errno == ENOSPC && pages == 16 && ftruncate(fd, 0) == 0 && write(fd, page, 10) == 10);
    touch("t/1"), touch("t/2"), touch("t/3");
    CHECK_ERRNO(creat("t/4", 0600), ENOSPC);
    CHECK_ERRNO(mkdir("t/4", 0600), ENOSPC);
    CHECK(unlink("t/1") == 0 && mkdir("t/4", 0700) == 0);
    CHECK_ERRNO(mount("src", "t", 0, MS_REMOUNT, "nr_inodes=2"), EINVAL);
    CHECK(mount("src", "t", 0, MS_REMOUNT, "size=128k,nr_inodes=10") == 0 && statfs("t", &s) == 0 && s.f_blocks == 32);
    show("t");
    CHECK_ERRNO(mount("src", "t", 0, MS_REMOUNT | MS_RDONLY, 0), EBUSY);
    CHECK_ERRNO(umount("t"), EBUSY);
    close(fd);
    CHECK(mount("src", "t", 0, MS_REMOUNT | MS_RDONLY, 0) == 0);
    show("t");
    CHECK_ERRNO(creat("t/5", 0600), EROFS);
    CHECK_ERRNO(unlink("t/2"), EROFS);
    CHECK_ERRNO(chmod("t/2", 0600), EROFS);
    CHECK_ERRNO(mkdir("t/5", 0600), EROFS);
    CHECK_ERRNO(rename("t/2", "t/5"), EROFS);
    CHECK_ERRNO(truncate("t/2", 0), EROFS);
    CHECK_ERRNO(setxattr("t/2", "user.x", "", 0, 0), EROFS);
    CHECK_ERRNO(access("t/2", W_OK), EROFS);
    CHECK(umount("t") == 0 && !exists("t/2"));
    CHECK_ERRNO(umount("t"), EINVAL);
    CHECK_ERRNO(umount("none"), ENOENT);
    CHECK_ERRNO(umount2("t", 0x100), EINVAL);
    CHECK_ERRNO(mount("x", "t", "nothing", 0, 0), ENODEV);
    CHECK_ERRNO(mount("x", "t", "tmpfs", 0, "nonsense=1"), EINVAL);
    CHECK_ERRNO(mount("x", "none", "tmpfs", 0, 0), ENOENT);
    CHECK_ERRNO(mount("t", "t", 0, MS_REMOUNT, 0), EINVAL);
    CHECK(rmdir("t") == 0);
}

static void binds(void) {
    CHECK(mkdir("a", 0755) == 0 && mkdir("a/sub", 0755) == 0 && mkdir("b", 0755) == 0 && mkdir("m", 0755) == 0);
    touch("a/f"), touch("file");
    CHECK(mount("a", "b", 0, MS_BIND, 0) == 0 && exists("b/f"));
    touch("b/g");
    CHECK(exists("a/g") && unlink("a/g") == 0);
    CHECK_ERRNO(link("a/f", "b/h"), EXDEV);
    CHECK_ERRNO(rename("a/f", "b/h"), EXDEV);
    show("b");
    CHECK(mount(0, "b", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, 0) == 0);
    show("b");
    CHECK_ERRNO(creat("b/x", 0600), EROFS);
    CHECK(close(creat("a/x", 0600)) == 0 && unlink("a/x") == 0);
    CHECK_ERRNO(rmdir("b"), EBUSY);
    CHECK_ERRNO(rename("b", "c"), EBUSY);
    CHECK(mount("file", "a/f", 0, MS_BIND, 0) == 0);
    CHECK_ERRNO(mount("file", "m", 0, MS_BIND, 0), ENOTDIR);
    CHECK_ERRNO(mount("a", "file", 0, MS_BIND, 0), ENOTDIR);
    CHECK(umount("a/f") == 0 && umount("b") == 0);
    CHECK(mount("tm", "a/sub", "tmpfs", 0, 0) == 0 && close(creat("a/sub/in", 0600)) == 0);
    CHECK(mount("a", "b", 0, MS_BIND, 0) == 0 && !exists("b/sub/in") && umount("b") == 0);
    CHECK(mount("a", "b", 0, MS_BIND | MS_REC, 0) == 0 && exists("b/sub/in"));
    CHECK_ERRNO(umount("b"), EBUSY);
    CHECK(umount2("b", MNT_DETACH) == 0 && !exists("b/sub") && exists("a/sub/in"));
    CHECK(mount("a/sub", "b", 0, MS_MOVE, 0) == 0 && !exists("a/sub/in") && exists("b/in"));
    CHECK_ERRNO(mount("a", "m", 0, MS_MOVE, 0), EINVAL);
    CHECK(mkdir("b/deep", 0700) == 0);
    CHECK_ERRNO(mount("b", "b/deep", 0, MS_MOVE, 0), ELOOP);
    int fd = open("b/in", O_RDONLY);
    CHECK_ERRNO(umount("b"), EBUSY);
    CHECK(umount2("b", MNT_DETACH) == 0 && read(fd, &fd, 0) == 0 && close(fd) == 0);
    CHECK(symlink("b", "l") == 0 && mount("x", "b", "tmpfs", 0, 0) == 0);
    CHECK_ERRNO(umount2("l", UMOUNT_NOFOLLOW), EINVAL);
    CHECK_ERRNO(umount2("b", MNT_EXPIRE | MNT_DETACH), EINVAL);
    CHECK_ERRNO(umount2("b", MNT_EXPIRE), EAGAIN);
    CHECK(umount2("b", MNT_EXPIRE) == 0 && !exists("b/deep"));
    CHECK(unlink("l") == 0 && unlink("a/f") == 0 && unlink("file") == 0 && rmdir("a/sub") == 0 && rmdir("a") == 0 && rmdir("b") == 0 && rmdir("m") == 0);
}

static void flags(void) {
    CHECK(mkdir("n", 0755) == 0 && mount("x", "n", "tmpfs", MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW, 0) == 0);
    CHECK(mknod("n/null", S_IFCHR | 0666, 0x103) == 0 && symlink("null", "n/l") == 0);
    CHECK_ERRNO(open("n/null", O_RDWR), EACCES);
    CHECK_ERRNO(access("n/l", F_OK), ELOOP);
    struct statfs facts;
    /* ST_RDONLY, NOSUID, NODEV, NOEXEC, NOSYMFOLLOW */
    CHECK(statfs("n", &facts) == 0 && (facts.f_flags & (1 | 2 | 4 | 8 | 0x2000)) == (4 | 8 | 0x2000));
    touch("n/run");
    CHECK(chmod("n/run", 0755) == 0);
    CHECK_ERRNO(execl("n/run", "run", (char *)0), EACCES);
    CHECK_ERRNO(access("n/run", X_OK), EACCES);
    int fd = open("n/run", O_RDWR);
    CHECK(ftruncate(fd, 4096) == 0);
    CHECK_ERRNO((long)mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0), EPERM);
    void *at = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK_ERRNO(mprotect(at, 4096, PROT_READ | PROT_EXEC), EACCES);
    CHECK(munmap(at, 4096) == 0 && close(fd) == 0);
    struct stat before, after;
    CHECK(mount("x", "n", 0, MS_REMOUNT | MS_BIND | MS_NOATIME, 0) == 0);
    show("n");
    CHECK(mkdir("n/d", 0755) == 0 && stat("n/d", &before) == 0);
    usleep(20000);
    fd = open("n/d", O_RDONLY | O_DIRECTORY);
    char buf[1000];
    CHECK(syscall(SYS_getdents64, fd, buf, sizeof buf) > 0 && stat("n/d", &after) == 0);
    CHECK(before.st_atim.tv_nsec == after.st_atim.tv_nsec && close(fd) == 0);
    fd = open("n/null", O_RDWR);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
    CHECK(umount("n") == 0 && rmdir("n") == 0);
}

static void propagation(void) {
    CHECK(mkdir("p", 0755) == 0 && mkdir("q", 0755) == 0 && mkdir("r", 0755) == 0 && mkdir("s", 0755) == 0);
    CHECK(mount("x", "p", "tmpfs", 0, 0) == 0 && mkdir("p/in", 0755) == 0 && mkdir("p/in2", 0755) == 0);
    CHECK(mount(0, "p", 0, MS_SHARED, 0) == 0 && mount("p", "q", 0, MS_BIND, 0) == 0);
    CHECK(mount("p", "r", 0, MS_BIND, 0) == 0 && mount(0, "r", 0, MS_SLAVE, 0) == 0);
    CHECK(mount("p", "s", 0, MS_BIND, 0) == 0 && mount(0, "s", 0, MS_PRIVATE, 0) == 0);
    show("p"), show("q"), show("r"), show("s");
    CHECK(mount("y", "p/in", "tmpfs", 0, 0) == 0);
    touch("p/in/f");
    CHECK(exists("q/in/f") && exists("r/in/f") && !exists("s/in/f"));
    CHECK(mount("y", "r/in2", "tmpfs", 0, 0) == 0);
    touch("r/in2/g");
    CHECK(!exists("p/in2/g") && !exists("q/in2/g") && umount("r/in2") == 0);
    show("p/in"), show("q/in"), show("r/in");
    CHECK(umount("q/in") == 0 && !exists("p/in/f") && !exists("r/in/f"));
    CHECK(mount(0, "r", 0, MS_SHARED, 0) == 0);
    show("r");
    CHECK(mount("y", "p/in", "tmpfs", 0, 0) == 0);
    show("r/in");
    CHECK_ERRNO(mount("p/in", "s/in", 0, MS_MOVE, 0), EINVAL);
    CHECK(umount("p/in") == 0 && mount(0, "s", 0, MS_UNBINDABLE, 0) == 0);
    show("s");
    CHECK_ERRNO(mount("s", "s/in", 0, MS_BIND, 0), EINVAL);
    CHECK_ERRNO(mount(0, "s", 0, MS_SHARED | MS_PRIVATE, 0), EINVAL);
    CHECK_ERRNO(mount(0, "s/in", 0, MS_SHARED, 0), EINVAL);
    CHECK(umount("s") == 0 && umount("r") == 0 && umount("q") == 0 && umount("p") == 0);
    CHECK(rmdir("p") == 0 && rmdir("q") == 0 && rmdir("r") == 0 && rmdir("s") == 0);
}

static long fsconfig_(int fd, unsigned command, const char *key, const void *value, int aux) {
    return syscall(SYS_fsconfig, fd, command, key, value, aux);
}

struct attributes {
    uint64_t set, clear, propagation, user;
};

static void steps(void) {
    CHECK(mkdir("v", 0755) == 0 && mkdir("w", 0755) == 0);
    CHECK_ERRNO(syscall(SYS_fsopen, "nothing", 0), ENODEV);
    CHECK_ERRNO(syscall(SYS_fsopen, "tmpfs", 8), EINVAL);
    int fs = (int)syscall(SYS_fsopen, "tmpfs", 1);
    CHECK(fs >= 0 && fsconfig_(fs, 1, "size", "64k", 0) == 0 && fsconfig_(fs, 1, "source", "here", 0) == 0);
    CHECK_ERRNO(fsconfig_(fs, 1, "nonsense", "1", 0), EINVAL);
    CHECK_ERRNO(fsconfig_(fs, 99, 0, 0, 0), EOPNOTSUPP);
    CHECK_ERRNO(syscall(SYS_fsmount, fs, 0, 0), EINVAL);
    CHECK(fsconfig_(fs, 6, 0, 0, 0) == 0);
    CHECK_ERRNO(fsconfig_(fs, 6, 0, 0, 0), EBUSY);
    int mnt = (int)syscall(SYS_fsmount, fs, 1, 2 | 8);
    CHECK(mnt >= 0 && close(openat(mnt, "inside", O_CREAT | O_RDWR, 0600)) == 0);
    CHECK(syscall(SYS_move_mount, mnt, "", AT_FDCWD, "v", 4) == 0 && exists("v/inside"));
    show("v");
    close(fs), close(mnt);
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, "v", 1);
    CHECK(tree >= 0 && faccessat(tree, "inside", F_OK, 0) == 0);
    struct attributes a = {1, 0, 0, 0};
    CHECK(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &a, sizeof a) == 0);
    CHECK(syscall(SYS_move_mount, tree, "", AT_FDCWD, "w", 4) == 0 && exists("w/inside"));
    show("w");
    CHECK_ERRNO(creat("w/x", 0600), EROFS);
    a.set = 0x10, a.clear = 0x71, a.propagation = MS_SHARED;
    CHECK(syscall(SYS_mount_setattr, AT_FDCWD, "w", 0, &a, sizeof a) == 0);
    show("w");
    a.clear = 0;
    CHECK_ERRNO(syscall(SYS_mount_setattr, AT_FDCWD, "w", 0, &a, sizeof a), EINVAL);
    CHECK_ERRNO(syscall(SYS_mount_setattr, AT_FDCWD, "w", 0, &a, 16), EINVAL);
    close(tree);
    tree = (int)syscall(SYS_open_tree, AT_FDCWD, "w", 0);
    CHECK((fcntl(tree, F_GETFL) & O_PATH) && close(tree) == 0);
    CHECK_ERRNO(syscall(SYS_open_tree, AT_FDCWD, "w", AT_RECURSIVE), EINVAL);
    int pick = (int)syscall(SYS_fspick, AT_FDCWD, "v", 0);
    CHECK(pick >= 0 && fsconfig_(pick, 0, "ro", 0, 0) == 0 && fsconfig_(pick, 7, 0, 0, 0) == 0);
    CHECK_ERRNO(creat("v/x", 0600), EROFS);
    close(pick);
    CHECK(umount("v") == 0 && umount("w") == 0 && rmdir("v") == 0 && rmdir("w") == 0);
}

/* Watches end with the file system that they watch. */
static void watched(void) {
    CHECK(mkdir("n", 0755) == 0 && mount("x", "n", "tmpfs", 0, 0) == 0);
    int fd = inotify_init1(IN_NONBLOCK);
    CHECK(inotify_add_watch(fd, "n", IN_OPEN) == 1 && umount("n") == 0);
    struct inotify_event event[2];
    CHECK(read(fd, event, sizeof event) == sizeof event);
    CHECK(event[0].wd == 1 && event[0].mask == (IN_UNMOUNT | IN_ISDIR) && event[1].wd == 1 && event[1].mask == IN_IGNORED);
    CHECK(rmdir("n") == 0);
    close(fd);
}

/* In a child: chroot and pivot_root change what it sees. */
static void roots(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWNS)) _exit(99);
        CHECK(mount(0, "/", 0, MS_PRIVATE | MS_REC, 0) == 0);
        CHECK(mkdir("new", 0755) == 0 && mount("x", "new", "tmpfs", 0, 0) == 0 && mkdir("new/old", 0755) == 0);
        touch("new/marker");
        CHECK_ERRNO(syscall(SYS_pivot_root, "new/old", "new/old"), EINVAL);
        CHECK_ERRNO(syscall(SYS_pivot_root, "/", "new"), EBUSY);
        CHECK(syscall(SYS_pivot_root, "new", "new/old") == 0 && exists("/marker") && exists("/old/proc/self"));
        CHECK(chdir("/") == 0 && umount2("old", MNT_DETACH) == 0 && !exists("/old/proc"));
        char text[100];
        CHECK(getcwd(text, sizeof text) && !strcmp(text, "/"));
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0 || status == 99 << 8);
    CHECK(!exists("/marker") && rmdir("new") == (status == 0 ? 0 : -1));
}

/* Who waits for changes of the tree; places where nothing can be mounted. */
static void changes(void) {
    int list = open("/proc/self/mountinfo", O_RDONLY), epoll = epoll_create1(0), links = open("/proc/self/fd/0", O_PATH | O_NOFOLLOW);
    struct pollfd p = {list, POLLPRI, 0};
    struct epoll_event in = {.events = EPOLLPRI}, out;
    CHECK(poll(&p, 1, 0) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, list, &in) == 0 && epoll_wait(epoll, &out, 1, 0) == 0);
    CHECK(mkdir("w", 0755) == 0 && mount("x", "w", "tmpfs", 0, 0) == 0);
    CHECK(poll(&p, 1, 0) == 1 && (p.revents & (POLLPRI | POLLERR)) == (POLLPRI | POLLERR) && poll(&p, 1, 0) == 0);
    CHECK(umount("w") == 0 && epoll_wait(epoll, &out, 1, 1000) == 1 && (out.events & EPOLLPRI));
    CHECK(epoll_wait(epoll, &out, 1, 0) == 0 && rmdir("w") == 0);
    char place[64];
    snprintf(place, sizeof place, "/proc/self/fd/%d", links);
    CHECK_ERRNO(mount(directory, place, 0, MS_BIND, 0), ENOENT);
    touch("file");
    CHECK_ERRNO(mount("file", place, 0, MS_BIND, 0), ENOENT);
    CHECK(unlink("file") == 0 && close(list) == 0 && close(epoll) == 0 && close(links) == 0);
}

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x200
#endif

/* A mount slips below another one, and is there when that one goes. */
static void beneath(void) {
    enum { FLAGS = MOVE_MOUNT_BENEATH | 4 /* MOVE_MOUNT_F_EMPTY_PATH */ };
    CHECK(mkdir("low", 0755) == 0 && mkdir("high", 0755) == 0 && mkdir("bare", 0755) == 0);
    CHECK(mount("x", "low", "tmpfs", 0, 0) == 0 && mount("x", "high", "tmpfs", 0, 0) == 0);
    touch("low/l"), touch("high/h");
    int fd = syscall(SYS_open_tree, AT_FDCWD, "low", 1);
    CHECK(fd >= 0);
    CHECK_ERRNO(syscall(SYS_move_mount, fd, "", AT_FDCWD, "bare", FLAGS), EINVAL);
    CHECK_ERRNO(syscall(SYS_move_mount, fd, "", AT_FDCWD, "high/h", FLAGS), EINVAL);
    CHECK(syscall(SYS_move_mount, fd, "", AT_FDCWD, "high", FLAGS) == 0);
    CHECK(exists("high/h") && !exists("high/l") && close(fd) == 0);
    CHECK(umount("high") == 0 && exists("high/l") && !exists("high/h"));
    CHECK(umount("high") == 0 && !exists("high/l") && umount("low") == 0);
    CHECK(rmdir("low") == 0 && rmdir("high") == 0 && rmdir("bare") == 0);
}

/* No file system that both have has quotas. */
static void quotas(void) {
    char quota[256];
    int dir = open("/proc", O_RDONLY | O_DIRECTORY), place = open("/proc/self", O_PATH);
    CHECK(syscall(SYS_quotactl, QCMD(Q_SYNC, USRQUOTA), NULL, 0, NULL) == 0);
    CHECK_ERRNO(syscall(SYS_quotactl, QCMD(Q_SYNC, 9), NULL, 0, NULL), EINVAL);
    CHECK_ERRNO(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), NULL, 0, quota), ENODEV);
    CHECK_ERRNO(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "/nowhere", 0, quota), ENOENT);
    CHECK_ERRNO(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "/proc", 0, quota), ENOTBLK);
    CHECK_ERRNO(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), (char *)1, 0, quota), EFAULT);
    CHECK_ERRNO(syscall(SYS_quotactl_fd, dir, QCMD(Q_GETQUOTA, USRQUOTA), 0, quota), ENOSYS);
    CHECK_ERRNO(syscall(SYS_quotactl_fd, place, QCMD(Q_SYNC, GRPQUOTA), 0, quota), ENOSYS);
    CHECK_ERRNO(syscall(SYS_quotactl_fd, dir, QCMD(Q_GETQUOTA, 7), 0, quota), EINVAL);
    CHECK_ERRNO(syscall(SYS_quotactl_fd, -1, QCMD(Q_GETQUOTA, USRQUOTA), 0, quota), EBADF);
    close(dir);
    close(place);
}

/* On directories whose names are made at each look; whose a new file system is. */
static void generated(void) {
    const char *at = "/proc/sys/kernel";
    struct stat st;
    CHECK(mount(at, at, 0, MS_BIND, 0) == 0 && mount(0, at, 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0) == 0);
    CHECK_ERRNO(access("/proc/sys/kernel/threads-max", W_OK), EROFS);
    CHECK(umount(at) == 0 && access("/proc/sys/kernel/threads-max", W_OK) == 0);
    CHECK_ERRNO(umount(at), EINVAL);
    CHECK(mkdir("own", 0755) == 0);
    setfsuid(1000), setfsgid(1001);
    CHECK(mount("x", "own", "tmpfs", 0, "mode=700") == 0);
    setfsuid(0), setfsgid(0);
    CHECK(stat("own", &st) == 0 && st.st_uid == 1000 && st.st_gid == 1001);
    CHECK(umount("own") == 0 && rmdir("own") == 0);
}

int main(void) {
    umask(022);
    CHECK(unshare(CLONE_NEWNS) == 0 || errno == ENOSYS);
    CHECK(mount(0, "/", 0, MS_PRIVATE | MS_REC, 0) == 0);
    CHECK(mkdtemp(directory) && mount("x", directory, "tmpfs", 0, 0) == 0 && chdir(directory) == 0);
    files_in_memory();
    binds();
    flags();
    propagation();
    steps();
    watched();
    changes();
    beneath();
    roots();
    quotas();
    generated();
    CHECK(chdir("/") == 0 && umount(directory) == 0 && rmdir(directory) == 0);
    DONE();
}
