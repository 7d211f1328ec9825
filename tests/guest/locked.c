/* Mounts that a less privileged mount name space got: it has them as they are, and whole. As root. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEPT (MS_RDONLY | MS_NOEXEC | MS_NODEV | MS_NOSUID | MS_NOATIME)

static void map(const char *name, const char *text) {
    int fd = open(name, O_WRONLY);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

/* Runs `body` in user and mount name spaces of its own. */
static void inside(void (*body)(void)) {
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        check_failures = 0;
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
        map("/proc/self/uid_map", "0 0 1"), map("/proc/self/setgroups", "deny"), map("/proc/self/gid_map", "0 0 1");
        body();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static unsigned long flags(const char *path) {
    struct statfs facts;
    CHECK(statfs(path, &facts) == 0);
    return facts.f_flags & KEPT;
}

static void restrictions(void) {
    static const unsigned long each[] = {MS_RDONLY, MS_NOEXEC, MS_NODEV, MS_NOSUID, MS_NOATIME};
    CHECK(flags("/mnt/strict") == KEPT);
    for (unsigned i = 0; i < 5; i++)
        CHECK_ERRNO(mount("", "/mnt/strict", NULL, MS_REMOUNT | MS_BIND | (KEPT & ~each[i]) | (each[i] == MS_NOATIME ? MS_RELATIME : 0), ""), EPERM);
    CHECK(mount("", "/mnt/strict", NULL, MS_REMOUNT | MS_BIND | KEPT, "") == 0);
    /* What is not said about access times stays. */
    CHECK(mount("", "/mnt/strict", NULL, MS_REMOUNT | MS_BIND | (KEPT & ~MS_NOATIME), "") == 0 && flags("/mnt/strict") == KEPT);
    CHECK_ERRNO(mount("", "/mnt/strict", NULL, MS_REMOUNT | KEPT, ""), EPERM);
    /* Its copies are no freer; mounts of its own are. */
    CHECK(mount("/mnt/strict", "/mnt/place", NULL, MS_BIND, NULL) == 0);
    CHECK_ERRNO(mount("", "/mnt/place", NULL, MS_REMOUNT | MS_BIND, ""), EPERM);
    CHECK(umount("/mnt/place") == 0);
    CHECK(mount("none", "/mnt/place", "tmpfs", MS_NODEV | MS_NOEXEC, NULL) == 0);
    CHECK(mount("", "/mnt/place", NULL, MS_REMOUNT | MS_BIND, "") == 0 && umount("/mnt/place") == 0);
}

static void whole(void) {
    CHECK_ERRNO(umount2("/mnt/tree/cover", MNT_DETACH), EINVAL);
    CHECK_ERRNO(umount("/mnt/tree"), EINVAL);
    CHECK_ERRNO(mount("/mnt/tree", "/mnt/place", NULL, MS_BIND, NULL), EINVAL);
    CHECK_ERRNO(mount("/mnt/tree", "/mnt/place", NULL, MS_MOVE, NULL), EINVAL);
    CHECK(mount("/mnt/tree", "/mnt/place", NULL, MS_BIND | MS_REC, NULL) == 0);
    CHECK(access("/mnt/place/cover/hidden", F_OK) == -1 && errno == ENOENT);
    CHECK_ERRNO(umount2("/mnt/place/cover", MNT_DETACH), EINVAL);
    CHECK(umount2("/mnt/place", MNT_DETACH) == 0);
    /* A part without anything mounted on it may be seen elsewhere. */
    CHECK(mount("/mnt/tree/free", "/mnt/place", NULL, MS_BIND, NULL) == 0 && umount("/mnt/place") == 0);
    CHECK_ERRNO(syscall(SYS_pivot_root, "/mnt/tree", "/mnt/tree"), EINVAL);
}

/* It sees what comes, but nobody sees what it does. */
static void slaves(void) {
    CHECK(mount("none", "/mnt/shared/own", "tmpfs", 0, NULL) == 0);
    close(open("/mnt/shared/own/file", O_CREAT | O_RDWR, 0600));
    CHECK(access("/mnt/shared/own/file", F_OK) == 0);
}

/* A new root, as sandboxes make it. */
static void pivots(void) {
    CHECK(mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) == 0 && mount("none", "/mnt/place", "tmpfs", 0, NULL) == 0);
    CHECK(mkdir("/mnt/place/new", 0755) == 0 && mkdir("/mnt/place/old", 0755) == 0);
    CHECK(mount("/", "/mnt/place/new", NULL, MS_BIND | MS_REC, NULL) == 0 && chdir("/mnt/place") == 0);
    CHECK(syscall(SYS_pivot_root, ".", "old") == 0 && chdir("/") == 0 && umount2("/old", MNT_DETACH) == 0);
    CHECK(access("/new/mnt/tree/cover/hidden", F_OK) == -1 && access("/new/mnt/tree/free", F_OK) == 0);
}

int main(void) {
    static const char *const directories[] = {"/mnt/strict", "/mnt/tree", "/mnt/place", "/mnt/shared"};
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", "/mnt", "tmpfs", 0, NULL) != 0) {
        printf("no mounts\n");
        return 0;
    }
    for (int i = 0; i < 4; i++) CHECK(mkdir(directories[i], 0755) == 0);
    CHECK(mount("none", "/mnt/strict", "tmpfs", KEPT & ~MS_RDONLY, NULL) == 0);
    CHECK(mount("", "/mnt/strict", NULL, MS_REMOUNT | MS_BIND | KEPT, NULL) == 0);
    CHECK(mount("none", "/mnt/tree", "tmpfs", 0, NULL) == 0 && mkdir("/mnt/tree/cover", 0755) == 0 && mkdir("/mnt/tree/free", 0755) == 0);
    close(open("/mnt/tree/cover/hidden", O_CREAT | O_RDWR, 0600));
    CHECK(mount("none", "/mnt/tree/cover", "tmpfs", 0, NULL) == 0);
    CHECK(mount("none", "/mnt/shared", "tmpfs", 0, NULL) == 0 && mkdir("/mnt/shared/own", 0755) == 0);
    CHECK(mount("none", "/mnt/shared", NULL, MS_SHARED, NULL) == 0);
    inside(restrictions);
    inside(whole);
    inside(slaves);
    CHECK(access("/mnt/shared/own/file", F_OK) == -1);
    inside(pivots);
    /* Who owns them does as before. */
    CHECK(mount("", "/mnt/strict", NULL, MS_REMOUNT | MS_BIND, NULL) == 0 && (flags("/mnt/strict") & ~MS_NOATIME) == 0);
    CHECK(umount("/mnt/tree/cover") == 0 && umount2("/mnt", MNT_DETACH) == 0);
    DONE();
}
