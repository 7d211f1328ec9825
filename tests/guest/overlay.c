/* Overlay file systems: what is merged and hidden, copied up, removed and renamed, and what the upper directory has then; attributes,
   lists, refused options, stacks. As root. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

#define STACK "lowerdir=/mnt/l1:/mnt/l2,upperdir=/mnt/u,workdir=/mnt/w"

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static const char *get(const char *path) {
    static char text[100];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return strerror(errno);
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    text[count < 0 ? 0 : count] = 0;
    return text;
}

static int by_name(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

/* All that is below `path`: kinds, modes, owners, contents. */
static void tree(const char *path, int depth) {
    struct dirent **names;
    int count = scandir(path, &names, NULL, by_name);
    CHECK(count >= 2);
    for (int i = 0; i < count; i++) {
        char inner[400], value[20], target[100] = "";
        struct stat facts;
        if (!strcmp(names[i]->d_name, ".") || !strcmp(names[i]->d_name, "..")) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
        CHECK(lstat(inner, &facts) == 0);
        printf("%*s%s %o %d.%d", depth * 2 + 2, "", names[i]->d_name, facts.st_mode, facts.st_uid, facts.st_gid);
        if (S_ISREG(facts.st_mode)) printf(" %ld %ld '%s'", (long)facts.st_nlink, (long)facts.st_size, get(inner));
        if (S_ISLNK(facts.st_mode)) printf(" %s", readlink(inner, target, 99) > 0 ? target : "?");
        if (S_ISCHR(facts.st_mode)) printf(" %d:%d", major(facts.st_rdev), minor(facts.st_rdev));
        if (S_ISDIR(facts.st_mode) && getxattr(inner, "trusted.overlay.opaque", value, 20) == 1) printf(" opaque %c", value[0]);
        printf("\n");
        if (S_ISDIR(facts.st_mode)) tree(inner, depth + 1);
    }
}

static void show(const char *what) {
    printf("%s:\n", what);
    tree("/mnt/m", 0);
    printf(" upper:\n");
    tree("/mnt/u", 0);
}

static void lay(void) {
    static const char *const directories[] = {"l1", "l2", "u", "w", "m", "l1/d", "l2/d", "l2/d/deep", "l2/only", "l1/e", "l1/old", "l2/old"};
    for (unsigned i = 0; i < sizeof directories / sizeof *directories; i++) CHECK(mkdir(directories[i], 0755) == 0);
    put("l1/a", "a of 1"), put("l2/a", "a of 2"), put("l2/b", "b of 2"), put("l1/d/x", "x"), put("l2/d/x", "hidden"), put("l2/d/y", "y");
    put("l2/d/deep/z", "z"), put("l2/only/file", "file"), put("l2/old/under", "under"), put("l1/run", "set");
    CHECK(symlink("a", "l2/link") == 0 && mkfifo("l2/fifo", 0640) == 0 && chmod("l1/run", 04750) == 0 && chown("l2/b", 7, 8) == 0);
    CHECK(setxattr("l1/old", "trusted.overlay.opaque", "y", 1, 0) == 0 && setxattr("l2/b", "user.note", "kept", 4, 0) == 0);
    CHECK(mknod("l1/gone", S_IFCHR, 0) == 0);
    put("l2/gone", "never seen");
}

static void refused(void) {
    static const char *const bad[] = {"", "lowerdir=/mnt/l1", "lowerdir=/mnt/l1,upperdir=/mnt/u", "upperdir=/mnt/u,workdir=/mnt/w",
                                      STACK ",what=1", "lowerdir=/mnt/l1,upperdir=/mnt/u,workdir=/mnt/u/w"};
    CHECK(mkdir("u/w", 0700) == 0);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_ERRNO(mount("overlay", "m", "overlay", 0, bad[i]), EINVAL);
    CHECK(rmdir("u/w") == 0);
    CHECK_ERRNO(mount("overlay", "m", "overlay", 0, "lowerdir=/mnt/none,upperdir=/mnt/u,workdir=/mnt/w"), ENOENT);
    CHECK(mount("overlay", "m", "overlay", 0, "lowerdir=/mnt/l1:/mnt/l2") == 0);
    CHECK_ERRNO(open("m/a", O_RDWR), EROFS);
    CHECK_ERRNO(mkdir("m/new", 0700), EROFS);
    CHECK(!strcmp(get("m/a"), "a of 1") && umount("m") == 0);
}

static void changes(void) {
    struct stat before, after;
    char value[20];
    /* What is only read is not copied. */
    CHECK(stat("m/b", &before) == 0 && !strcmp(get("m/d/y"), "y"));
    CHECK(getxattr("m/b", "user.note", value, 20) == 4);
    int old = open("m/b", O_RDONLY), fd = open("m/b", O_RDWR);
    CHECK(fd >= 0 && pwrite(fd, "B", 1, 0) == 1 && close(fd) == 0);
    CHECK(!strcmp(get("m/b"), "B of 2") && !strcmp(get("l2/b"), "b of 2"));
    CHECK(stat("m/b", &after) == 0 && before.st_ino == after.st_ino && before.st_dev == after.st_dev);
    CHECK(pread(old, value, 1, 0) == 1 && fstat(old, &after) == 0 && after.st_ino == before.st_ino && close(old) == 0);
    CHECK(getxattr("u/b", "user.note", value, 20) == 4);
    /* Attributes, and directories above that come along. */
    CHECK(chmod("m/d/deep/z", 0600) == 0);
    CHECK(truncate("m/a", 1) == 0 && chown("m/run", 9, 9) == 0);
    /* The layers' own marks are not seen, nor set. */
    CHECK_ERRNO(getxattr("m/old", "trusted.overlay.opaque", value, 20), ENODATA);
    CHECK(setxattr("m/d", "trusted.overlay.opaque", "y", 1, 0) == 0 && getxattr("m/d", "trusted.overlay.opaque", value, 20) == 1);
    CHECK(removexattr("m/d", "trusted.overlay.opaque") == 0);
    show("changed");
    /* Names go, and come back as something else. */
    CHECK(unlink("m/a") == 0 && unlink("m/d/x") == 0 && rmdir("m/e") == 0 && unlink("m/fifo") == 0);
    CHECK_ERRNO(rmdir("m/only"), ENOTEMPTY);
    CHECK(unlink("m/only/file") == 0 && rmdir("m/only") == 0 && mkdir("m/only", 0711) == 0);
    CHECK_ERRNO(open("m/a", O_RDONLY), ENOENT);
    show("removed");
    put("m/a", "new a"), put("m/gone", "back");
    CHECK_ERRNO(mknod("m/zero", S_IFCHR, 0), EPERM);
    CHECK(link("m/b", "m/b2") == 0 && symlink("nowhere", "m/e") == 0);
    /* Files are renamed; merged directories are not. */
    CHECK(rename("m/link", "m/d/moved") == 0 && rename("m/only", "m/old/only") == 0);
    CHECK_ERRNO(rename("m/d", "m/dd"), EXDEV);
    CHECK(mkdir("m/fresh", 0700) == 0 && mkdir("m/fresh/in", 0700) == 0 && rename("m/fresh", "m/fresher") == 0);
    CHECK(rename("m/a", "m/d/y") == 0 && renameat2(AT_FDCWD, "m/gone", AT_FDCWD, "m/run", RENAME_EXCHANGE) == 0);
    show("renamed");
    /* A mapping writes to the copy. */
    fd = open("m/d/y", O_RDWR);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED && (p[0] = 'N', munmap(p, 4096)) == 0 && close(fd) == 0 && !strcmp(get("u/d/y"), "New a"));
    /* A name that is removed while the file is open. */
    fd = open("m/d/deep/z", O_RDONLY);
    CHECK(unlink("m/d/deep/z") == 0 && fstat(fd, &after) == 0 && after.st_nlink == 0 && pread(fd, value, 1, 0) == 1 && close(fd) == 0);
    fd = open("m", O_TMPFILE | O_RDWR, 0600);
    CHECK(fd >= 0 && write(fd, "tmp", 3) == 3 && linkat(fd, "", AT_FDCWD, "m/named", AT_EMPTY_PATH) == 0 && close(fd) == 0);
    CHECK(!strcmp(get("m/named"), "tmp"));
}

/* Programs run from it, threads of others change it, lists are whole while names go. */
static void use(void) {
    int status;
    char name[40];
    CHECK(mkdir("m/many", 0755) == 0);
    for (int i = 0; i < 600; i++) {
        snprintf(name, sizeof name, "m/many/%d", i);
        CHECK(close(open(name, O_CREAT | O_WRONLY, 0600)) == 0);
    }
    fflush(stdout);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            for (int n = i; n < 600; n += 4) {
                snprintf(name, sizeof name, "m/many/%d", n);
                CHECK(unlink(name) == 0);
                snprintf(name, sizeof name, "m/own%d", i);
                put(name, "text");
                CHECK(rename(name, "m/d/shared") == 0);
            }
            _exit(check_failures != 0);
        }
    for (int i = 0; i < 4; i++) CHECK(wait(&status) > 0 && status == 0);
    CHECK(rmdir("m/many") == 0 && unlink("m/d/shared") == 0);
    put("m/script", "#!/bin/sh\nexit 7\n");
    CHECK(chmod("m/script", 0755) == 0);
    if (fork() == 0) {
        execl("/mnt/m/script", "script", NULL);
        _exit(1);
    }
    CHECK(wait(&status) > 0 && WEXITSTATUS(status) == 7 && unlink("m/script") == 0);
}

static void stacked(void) {
    struct statfs facts;
    CHECK(statfs("m", &facts) == 0 && facts.f_type == 0x794c7630);
    CHECK(mkdir("u2", 0755) == 0 && mkdir("w2", 0755) == 0 && mkdir("m2", 0755) == 0);
    CHECK_ERRNO(umount("/mnt"), EBUSY);
    CHECK(mount("overlay", "m2", "overlay", 0, "lowerdir=/mnt/m,upperdir=/mnt/u2,workdir=/mnt/w2") == 0);
    CHECK(!strcmp(get("m2/b"), "B of 2"));
    put("m2/b", "third");
    CHECK(!strcmp(get("m/b"), "B of 2") && !strcmp(get("u2/b"), "third") && unlink("m2/d/y") == 0 && access("m/d/y", F_OK) == 0);
    CHECK(umount("m2") == 0 && umount("m") == 0);
    /* Mounted again, all is as it was. */
    CHECK(mount("overlay", "m", "overlay", 0, STACK) == 0);
    show("again");
    CHECK(umount("m") == 0);
}

static void map(const char *name, const char *text) {
    int fd = open(name, O_WRONLY);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

/* Who mounts without privilege sees and copies what it could without the mount. */
static void unprivileged(void) {
    int status;
    CHECK(mkdir("p", 0755) == 0 && mkdir("p/u", 0755) == 0 && mkdir("p/u/closed", 0755) == 0 && mkdir("p/w", 0755) == 0 && mkdir("p/m", 0755) == 0);
    CHECK(mkdir("p/l", 0755) == 0 && mkdir("p/l/closed", 0700) == 0);
    put("p/l/closed/secret", "secret"), put("p/l/root", "root's"), put("p/l/own", "own");
    CHECK(chmod("p/l/root", 04755) == 0 && chown("p/l/own", 4242, 4242) == 0 && chmod("/mnt", 0755) == 0);
    CHECK(chown("p/u", 4242, 4242) == 0 && chown("p/u/closed", 4242, 4242) == 0 && chown("p/w", 4242, 4242) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setresgid(4242, 4242, 4242) == 0 && setresuid(4242, 4242, 4242) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
        map("/proc/self/uid_map", "0 4242 1"), map("/proc/self/setgroups", "deny"), map("/proc/self/gid_map", "0 4242 1");
        /* Where it may not write the mount is read-only. */
        CHECK(mount("overlay", "p/m", "overlay", 0, "lowerdir=/mnt/l1,upperdir=/mnt/u,workdir=/mnt/w,userxattr") == 0);
        CHECK_ERRNO(mkdir("p/m/new", 0700), EROFS);
        CHECK(umount("p/m") == 0);
        CHECK(mount("overlay", "p/m", "overlay", 0, "lowerdir=/mnt/p/l,upperdir=/mnt/p/u,workdir=/mnt/p/w,userxattr") == 0);
        CHECK_ERRNO(open("p/m/closed/secret", O_RDONLY), EACCES);
        CHECK(rename("p/m/root", "p/m/mine") == -1 && chmod("p/m/root", 0777) == -1 && access("p/u/mine", F_OK) == -1);
        put("p/m/own", "changed");
        CHECK(!strcmp(get("p/u/own"), "changed") && !strcmp(get("p/l/own"), "own"));
        CHECK(unlink("p/m/own") == 0 && mkdir("p/m/own", 0700) == 0 && umount("p/m") == 0);
        char value[4];
        CHECK(getxattr("p/u/own", "user.overlay.opaque", value, 4) == 1);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "tmpfs", 0, NULL) != 0 || chdir("/mnt") != 0) {
        printf("no mounts\n");
        return 0;
    }
    umask(022);
    lay();
    refused();
    CHECK(mount("overlay", "m", "overlay", 0, STACK) == 0);
    show("first");
    changes();
    use();
    stacked();
    unprivileged();
    CHECK(chdir("/") == 0 && umount("/mnt") == 0);
    DONE();
}
