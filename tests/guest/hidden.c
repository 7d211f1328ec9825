/* What others of a user, and who is root of a user namespace, do not get to see, make or reach. Root. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define USER 1000

static void become_user(void) {
    CHECK(setgid(USER) == 0 && setuid(USER) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

/* A directory of processes, not in the tree of mounts. */
static int aside(void) {
    int config = syscall(SYS_fsopen, "proc", 0);
    CHECK(config >= 0 && syscall(SYS_fsconfig, config, FSCONFIG_CMD_CREATE, 0, 0, 0) == 0);
    int fd = syscall(SYS_fsmount, config, 0, 0);
    CHECK(fd >= 0 && close(config) == 0);
    return fd;
}

static int put(int proc, const char *path, const char *text) {
    int fd = openat(proc, path, O_WRONLY);
    if (fd < 0) return -1;
    ssize_t count = write(fd, text, strlen(text));
    close(fd);
    return count < 0 ? -1 : 0;
}

static unsigned owner_of(const char *file) {
    char path[64];
    struct stat st = {.st_uid = 12345};
    snprintf(path, sizeof path, "/proc/self/%s", file);
    CHECK(lstat(path, &st) == 0 && st.st_uid == st.st_gid);
    return st.st_uid;
}

/* Files of a process that is not dumpable are root's, but for the directories that all may list. */
static void secrets(void) {
    static const char *const secret[] = {"mem", "environ", "maps", "fd", "fd/1", "ns", "ns/user", "exe", "root", "status", "auxv", "oom_score_adj"};
    static const char *const listed[] = {".", "task", "fdinfo"};
    become_user();
    for (int dumpable = 1; dumpable >= 0; dumpable--) {
        CHECK(prctl(PR_SET_DUMPABLE, dumpable) == 0);
        for (unsigned i = 0; i < sizeof secret / sizeof *secret; i++) CHECK(owner_of(secret[i]) == (dumpable ? USER : 0));
        for (unsigned i = 0; i < sizeof listed / sizeof *listed; i++) CHECK(owner_of(listed[i]) == USER);
        int mem = open("/proc/self/mem", O_RDWR), score = open("/proc/self/oom_score_adj", O_WRONLY);
        CHECK((mem >= 0) == dumpable && (score >= 0) == dumpable && (dumpable || errno == EACCES));
        close(mem);
        close(score);
        /* Its own descriptors it finds. */
        char text[64];
        DIR *fds = opendir("/proc/self/fd");
        CHECK(fds && readdir(fds) && readlink("/proc/self/fd/1", text, sizeof text) > 0);
        closedir(fds);
        pid_t pid = fork();
        if (pid == 0) {
            check_failures = 0;
            CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
            snprintf(text, sizeof text, "/proc/%d/fd", getppid());
            int other = open(text, O_RDONLY);
            CHECK((other >= 0) == dumpable);
            strcat(text, "info");
            other = open(text, O_RDONLY);
            fflush(stdout);
            _exit(check_failures);
        }
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
}

/* A user namespace of `USER`, where that is root, with mounts, processes and a network of its own. */
static void new_root(void) {
    int proc = aside();
    become_user();
    CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET) == 0);
    CHECK(put(proc, "self/setgroups", "deny") == 0 && put(proc, "self/gid_map", "0 1000 1") == 0);
    CHECK(put(proc, "self/uid_map", "0 1000 1") == 0);
}

static int try_mount(const char *kind, unsigned long flags) {
    return mount("none", "/tmp/hidden-here", kind, MS_NOSUID | MS_NODEV | MS_NOEXEC | flags, 0) == 0 ? 0 : errno;
}

static int try_steps(const char *kind) {
    int config = syscall(SYS_fsopen, kind, 0);
    CHECK(config >= 0 && syscall(SYS_fsconfig, config, FSCONFIG_CMD_CREATE, 0, 0, 0) == 0);
    int fd = syscall(SYS_fsmount, config, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    int error = fd < 0 ? errno : 0;
    close(fd);
    close(config);
    return error;
}

/* How `/proc` is covered in this case, and what a new mount of it then gives: as it is, and read-only. */
static const struct {
    const char *cover;
    unsigned long flags;
    int plain, read_only;
} cases[] = {
    {0, 0, 0, 0},
    {"/proc/sys", 0, EPERM, EPERM},
    {"/proc", MS_RDONLY, EPERM, 0},
};

static void in_new_root(int i) {
    new_root();
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        CHECK(try_mount("proc", 0) == cases[i].plain);
        CHECK(try_steps("proc") == cases[i].plain);
        CHECK(try_mount("proc", MS_RDONLY) == cases[i].read_only);
        CHECK(i == 0 || try_mount("tmpfs", 0) == 0);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void covered(void) {
    CHECK(unshare(CLONE_NEWNS | CLONE_NEWPID) == 0 && mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    /* The first process of new ids, whose own instance of /proc has nothing on it. */
    pid_t first = fork();
    if (first == 0) {
        check_failures = 0;
        CHECK(umount2("/proc", MNT_DETACH) == 0 || errno == EINVAL);
        CHECK(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0) == 0);
        for (int i = 0; i < 3; i++) {
            if (cases[i].cover) {
                const char *cover = cases[i].cover;
                if (cases[i].flags) {
                    CHECK(umount2("/proc/sys", 0) == 0);
                    CHECK(mount(0, cover, 0, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC | cases[i].flags, 0) == 0);
                } else {
                    CHECK(mount("none", cover, "tmpfs", 0, 0) == 0);
                }
            }
            pid_t pid = fork();
            if (pid == 0) {
                check_failures = 0;
                in_new_root(i);
                fflush(stdout);
                _exit(check_failures);
            }
            int status = -1;
            CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        }
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(first, &status, 0) == first && status == 0);
}

/* From a directory that was moved out of what a mount shows nothing leads up. */
static void moved_out(void) {
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(0, "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
    CHECK(mount("none", "/tmp/hidden-here", "tmpfs", 0, 0) == 0 && chdir("/tmp/hidden-here") == 0);
    CHECK(mkdir("shown", 0755) == 0 && mkdir("shown/in", 0755) == 0 && mkdir("shown/in/deep", 0755) == 0);
    CHECK(mkdir("view", 0755) == 0 && mount("shown", "view", 0, MS_BIND, 0) == 0);
    int fd = open("view/in/deep", O_RDONLY | O_DIRECTORY);
    struct stat st;
    CHECK(fd >= 0 && fstatat(fd, "../..", &st, 0) == 0);
    CHECK(rename("shown/in", "out") == 0);
    CHECK(fstatat(fd, ".", &st, 0) == 0);
    CHECK_ERRNO(fstatat(fd, "..", &st, 0), ENOENT);
    CHECK_ERRNO(fstatat(fd, "../..", &st, 0), ENOENT);
    CHECK_ERRNO(openat(fd, "../../shown", O_RDONLY), ENOENT);
    CHECK(fchdir(fd) == 0);
    CHECK_ERRNO(chdir(".."), ENOENT);
    CHECK(rename("/tmp/hidden-here/out", "/tmp/hidden-here/shown/in") == 0 && chdir("..") == 0);
}

/* Who is nobody where a file system was made makes nothing there. */
static void nobody(void) {
    int proc = aside();
    become_user();
    CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
    CHECK(mount("none", "/tmp/hidden-here", "tmpfs", 0, 0) == 0 && chdir("/tmp/hidden-here") == 0);
    CHECK_ERRNO(mkdir("a", 0755), EOVERFLOW);
    CHECK_ERRNO(open("a", O_CREAT | O_RDWR, 0600), EOVERFLOW);
    CHECK_ERRNO(symlink("a", "b"), EOVERFLOW);
    CHECK(close(open("/tmp/hidden-made", O_CREAT | O_RDWR, 0600)) == 0);
    CHECK(put(proc, "self/setgroups", "deny") == 0 && put(proc, "self/gid_map", "0 1000 1") == 0);
    CHECK_ERRNO(mkdir("a", 0755), EOVERFLOW);
    CHECK(put(proc, "self/uid_map", "0 1000 1") == 0 && mkdir("a", 0755) == 0);
}

static siginfo_t wait_signal(int signo) {
    sigset_t set;
    siginfo_t info = {.si_uid = 7};
    sigemptyset(&set);
    sigaddset(&set, signo);
    CHECK(sigwaitinfo(&set, &info) == signo);
    return info;
}

/* Ids of users in siginfo are those that the taker knows. */
static void told_ids(void) {
    sigset_t set;
    int ready[2], go[2];
    char c;
    sigemptyset(&set);
    for (int signo = SIGRTMIN; signo < SIGRTMIN + 3; signo++) sigaddset(&set, signo);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0 && pipe(ready) == 0 && pipe(go) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        new_root();
        CHECK(write(ready[1], "x", 1) == 1 && read(go[0], &c, 1) == 1);
        CHECK(wait_signal(SIGRTMIN).si_uid == 65534 && wait_signal(SIGRTMIN + 1).si_uid == 0);
        siginfo_t queued = wait_signal(SIGRTMIN + 2);
        CHECK(queued.si_uid == 65534 && queued.si_value.sival_int == 5);
        CHECK(kill(getpid(), SIGUSR1) == 0 && wait_signal(SIGUSR1).si_uid == 0);
        pid_t child = fork();
        if (child == 0) _exit(3);
        siginfo_t end;
        CHECK(waitid(P_PID, child, &end, WEXITED) == 0 && end.si_uid == 0 && end.si_status == 3);
        fflush(stdout);
        _exit(check_failures);
    }
    CHECK(read(ready[0], &c, 1) == 1);
    union sigval value = {.sival_int = 5};
    CHECK(kill(pid, SIGRTMIN) == 0 && sigqueue(pid, SIGRTMIN + 2, value) == 0);
    CHECK(setresuid(USER, USER, 0) == 0 && kill(pid, SIGRTMIN + 1) == 0 && seteuid(0) == 0);
    CHECK(write(go[1], "x", 1) == 1);
    siginfo_t end;
    CHECK(waitid(P_PID, pid, &end, WEXITED) == 0 && end.si_uid == USER && end.si_status == 0);
}

int main(void) {
    CHECK(mkdir("/tmp/hidden-here", 0777) == 0 || errno == EEXIST);
    in_child(secrets);
    in_child(covered);
    in_child(moved_out);
    in_child(nobody);
    in_child(told_ids);
    CHECK(rmdir("/tmp/hidden-here") == 0 && unlink("/tmp/hidden-made") == 0);
    DONE();
}
