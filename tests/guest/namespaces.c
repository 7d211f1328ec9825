/* Namespaces that need no privilege of the host's kernel configuration: names, IPC objects, networks. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static ino_t number(const char *kind) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void links(void) {
    char text[64] = "", want[64];
    CHECK(readlink("/proc/self/ns/uts", text, sizeof text - 1) > 0);
    snprintf(want, sizeof want, "uts:[%lu]", (unsigned long)number("uts"));
    CHECK(strcmp(text, want) == 0);
    CHECK(number("uts") == 4026531838 && number("ipc") == 4026531839 && number("user") == 4026531837);
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    CHECK(fd >= 0);
    CHECK_ERRNO(setns(fd, CLONE_NEWNET), EINVAL);
    CHECK_ERRNO(setns(0, 0), EINVAL);
    CHECK_ERRNO(setns(99, 0), EBADF);
    CHECK(setns(fd, 0) == 0 && setns(fd, CLONE_NEWUTS) == 0);
    CHECK(read(fd, text, 1) == -1);
    close(fd);
    CHECK_ERRNO(unshare(1), EINVAL);
    CHECK(unshare(0) == 0 && unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM) == 0);
}

static int ready[2];
static void names(void) {
    struct utsname before, after;
    uname(&before);
    int old = open("/proc/self/ns/uts", O_RDONLY);
    CHECK(unshare(CLONE_NEWUTS) == 0 && number("uts") != 4026531838);
    CHECK(sethostname("inside", 6) == 0 && uname(&after) == 0 && strcmp(after.nodename, "inside") == 0);
    CHECK(setns(old, CLONE_NEWUTS) == 0 && uname(&after) == 0 && strcmp(after.nodename, before.nodename) == 0);
    close(old);
}

static void ipc(void) {
    int id = shmget(0x5151, 4096, IPC_CREAT | 0600);
    CHECK(id >= 0 && shmget(0x5151, 0, 0) == id);
    CHECK(unshare(CLONE_NEWIPC) == 0);
    CHECK_ERRNO(shmget(0x5151, 0, 0), ENOENT);
    CHECK(shmget(0x5151, 4096, IPC_CREAT | 0600) >= 0);
}

static void net(void) {
    ino_t before = number("net");
    CHECK(unshare(CLONE_NEWNET) == 0 && number("net") != before);
}

static int cloned(void *p) {
    (void)p;
    sethostname("cloned", 6);
    return number("uts") == 4026531838;
}

static void by_clone(void) {
    static char stack[65536];
    struct utsname before, after;
    uname(&before);
    pid_t pid = clone(cloned, stack + sizeof stack, CLONE_NEWUTS | CLONE_NEWIPC | SIGCHLD, 0);
    int status = -1;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    uname(&after);
    CHECK(strcmp(after.nodename, before.nodename) == 0);
    /* By pidfd into the namespaces of another process. */
    CHECK(pipe(ready) == 0);
    pid = fork();
    if (pid == 0) {
        unshare(CLONE_NEWUTS);
        sethostname("other", 5);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;) pause();
    }
    char c;
    CHECK(read(ready[0], &c, 1) == 1);
    int fd = syscall(SYS_pidfd_open, pid, 0);
    CHECK_ERRNO(setns(fd, 0), EINVAL);
    CHECK(setns(fd, CLONE_NEWUTS | CLONE_NEWIPC) == 0);
    uname(&after);
    CHECK(strcmp(after.nodename, "other") == 0);
    kill(pid, SIGKILL);
    waitpid(pid, 0, 0);
    close(fd);
}

static void mounts(void) {
    ino_t before = number("mnt");
    int old = open("/proc/self/ns/mnt", O_RDONLY);
    CHECK(mkdir("/tmp/nsdir", 0755) == 0);
    CHECK(unshare(CLONE_NEWNS) == 0 && number("mnt") != before);
    CHECK(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    CHECK(mount("none", "/tmp/nsdir", "tmpfs", 0, 0) == 0);
    CHECK(close(creat("/tmp/nsdir/inside", 0600)) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(setns(old, CLONE_NEWNS) == 0 && number("mnt") == before);
        CHECK_ERRNO(access("/tmp/nsdir/inside", F_OK), ENOENT);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(access("/tmp/nsdir/inside", F_OK) == 0);
    CHECK(umount("/tmp/nsdir") == 0 && rmdir("/tmp/nsdir") == 0);
    close(old);
}

static void unprivileged(void) {
    CHECK(setuid(4321) == 0);
    CHECK_ERRNO(unshare(CLONE_NEWUTS), EPERM);
    CHECK_ERRNO(unshare(CLONE_NEWNET), EPERM);
    CHECK_ERRNO(sethostname("x", 1), EPERM);
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    CHECK_ERRNO(setns(fd, 0), EPERM);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    in_child(links);
    in_child(names);
    in_child(ipc);
    in_child(net);
    in_child(mounts);
    in_child(by_clone);
    in_child(unprivileged);
    DONE();
}
