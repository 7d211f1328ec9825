/* Control groups of version 2: the tree, who is in which group, freezing, killing, cgroup namespaces, and, with the argument
 * "machine", the controller pids. With "probe": whether they can be mounted here at all. As root. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static char top[64], text[8192];

/* The name of `file` in group `group`; one of four places, so that two can be used at once. */
static const char *name(const char *group, const char *file) {
    static char names[4][256];
    static int turn;
    char *at = names[turn++ % 4];
    snprintf(at, 256, "%s%s%s%s%s", top, *group ? "/" : "", group, *file ? "/" : "", file);
    return at;
}

/* What the file says. */
static const char *says(const char *group, const char *file) {
    int fd = open(name(group, file), O_RDONLY | O_CLOEXEC);
    ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    int error = errno;
    text[count < 0 ? 0 : count] = 0;
    if (fd >= 0)
        close(fd);
    errno = error;
    return count < 0 ? "none" : text;
}

/* The errno of a write, 0 if it was taken. */
static int put(const char *group, const char *file, const char *value) {
    int fd = open(name(group, file), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = write(fd, value, strlen(value)) == (ssize_t)strlen(value) ? 0 : errno;
    close(fd);
    return error;
}

static int put_pid(const char *group, pid_t pid) {
    char number[16];
    snprintf(number, sizeof(number), "%d", pid);
    return put(group, "cgroup.procs", number);
}

/* Waits until `file` says `wanted` somewhere; polls it, so that news that nobody tells of are not seen. */
static int comes(const char *group, const char *file, const char *wanted) {
    int fd = open(name(group, file), O_RDONLY | O_CLOEXEC), found = 0;
    for (int tries = 0; !found && tries < 20; tries++) {
        ssize_t count = pread(fd, text, sizeof(text) - 1, 0);
        text[count < 0 ? 0 : count] = 0;
        found = strstr(text, wanted) != NULL;
        struct pollfd poll_fd = {.fd = fd, .events = POLLPRI};
        if (!found && poll(&poll_fd, 1, 30000) <= 0)
            break;
    }
    close(fd);
    return found;
}

/* The line of the tree in /proc/PID/cgroup. */
static const char *place(const char *process) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/%s/cgroup", process);
    int fd = open(path, O_RDONLY);
    ssize_t count = read(fd, text, sizeof(text) - 1);
    text[count < 0 ? 0 : count] = 0;
    close(fd);
    char *line = strstr(text, "0::");
    if (!line)
        return "none";
    line[strcspn(line, "\n")] = 0;
    return line + 3;
}

/* A child that waits for its end. */
static pid_t sleeper(void) {
    pid_t pid = fork();
    if (pid == 0) {
        for (;;)
            pause();
    }
    return pid;
}

static int ends_by(pid_t pid, int signal) {
    int status = 0;
    return waitpid(pid, &status, 0) == pid && (signal ? WIFSIGNALED(status) && WTERMSIG(status) == signal : status == 0);
}

static void tree(void) {
    struct statfs fs;
    struct stat st;
    CHECK(mkdir(name("a", ""), 0750) == 0);
    CHECK(statfs(name("a", ""), &fs) == 0 && fs.f_type == 0x63677270);
    CHECK(stat(name("a", ""), &st) == 0 && (st.st_mode & 07777) == 0750 && st.st_nlink == 2);
    CHECK(stat(name("a", "cgroup.procs"), &st) == 0 && (st.st_mode & 07777) == 0644 && st.st_size == 0);
    CHECK(stat(name("a", "cgroup.kill"), &st) == 0 && (st.st_mode & 07777) == 0200);
    CHECK(chown(name("a", "cgroup.procs"), 12, 13) == 0 && chmod(name("a", "cgroup.procs"), 0664) == 0);
    CHECK(stat(name("a", "cgroup.procs"), &st) == 0 && st.st_uid == 12 && st.st_gid == 13 && (st.st_mode & 0777) == 0664);
    CHECK(strcmp(says("a", "cgroup.type"), "domain\n") == 0);
    CHECK(strcmp(says("a", "cgroup.procs"), "") == 0);
    CHECK(strcmp(says("a", "cgroup.subtree_control"), "") == 0);
    CHECK(strcmp(says("a", "cgroup.events"), "populated 0\nfrozen 0\n") == 0);
    CHECK(strcmp(says("a", "cgroup.freeze"), "0\n") == 0);
    CHECK(strcmp(says("a", "cgroup.max.depth"), "max\n") == 0);
    CHECK(strncmp(says("a", "cgroup.stat"), "nr_descendants 0\n", 17) == 0);
    CHECK(strcmp(says("", "cgroup.nothing"), "none") == 0);

    CHECK(mkdir(name("a", "b"), 0755) == 0);
    CHECK(stat(name("a", ""), &st) == 0 && st.st_nlink == 3);
    CHECK_ERRNO(mkdir(name("a", "b"), 0755), EEXIST);
    CHECK_ERRNO(mkdir(name("a", "x\ny"), 0755), EINVAL);
    CHECK_ERRNO(open(name("a", "file"), O_CREAT | O_WRONLY, 0644), EACCES);
    CHECK_ERRNO(symlink("x", name("a", "link")), EPERM);
    CHECK_ERRNO(unlink(name("a", "cgroup.procs")), EPERM);
    CHECK_ERRNO(rename(name("a", "cgroup.procs"), name("a", "cgroup.other")), EPERM);
    CHECK_ERRNO(rename(name("a", "b"), name("a", "c")), EPERM);
    CHECK(put("a", "cgroup.controllers", "x") == EINVAL && strcmp(says("a", "cgroup.kill"), "none") == 0 && errno == EINVAL);
    CHECK_ERRNO(rmdir(name("a", "")), EBUSY);

    CHECK(put("a", "cgroup.max.descendants", "1") == 0 && strcmp(says("a", "cgroup.max.descendants"), "1\n") == 0);
    CHECK_ERRNO(mkdir(name("a", "c"), 0755), EAGAIN);
    CHECK(put("a", "cgroup.max.descendants", "max") == 0);
    CHECK(put("a", "cgroup.max.depth", "1") == 0);
    CHECK_ERRNO(mkdir(name("a/b", "c"), 0755), EAGAIN);
    CHECK(put("a", "cgroup.max.depth", "-1") == ERANGE && put("a", "cgroup.max.depth", "x") == EINVAL);
    CHECK(put("a", "cgroup.procs", "x") == EINVAL && put("a", "cgroup.procs", "99999999") == ESRCH);
    CHECK(put("a", "cgroup.freeze", "2") == ERANGE && put("a", "cgroup.freeze", " ") == EINVAL);
    CHECK(put("a", "cgroup.kill", "0") == ERANGE && put("a", "cgroup.kill", "x") == EINVAL);
    CHECK(put("a", "cgroup.type", "domain") == EINVAL);
    CHECK(put("a", "cgroup.subtree_control", "nonsense") == EINVAL && put("a", "cgroup.subtree_control", "+nonsense") == EINVAL);

    char value[8];
    CHECK(setxattr(name("a", ""), "trusted.x", "1", 1, 0) == 0);
    CHECK(getxattr(name("a", ""), "trusted.x", value, sizeof(value)) == 1 && value[0] == '1');

    int dir = open(name("a/b", ""), O_RDONLY | O_DIRECTORY), file = open(name("a/b", "cgroup.procs"), O_RDWR);
    CHECK(rmdir(name("a/b", "")) == 0);
    CHECK_ERRNO(openat(dir, "cgroup.procs", O_RDONLY), ENOENT);
    CHECK_ERRNO(mkdirat(dir, "c", 0755), ENOENT);
    CHECK_ERRNO(read(file, value, 1), ENODEV);
    CHECK_ERRNO(write(file, "0", 1), ENODEV);
    close(dir);
    close(file);
    CHECK(rmdir(name("a", "")) == 0);
}

static void members(void) {
    char number[32], own[256];
    CHECK(mkdir(name("a", ""), 0755) == 0 && mkdir(name("a", "b"), 0755) == 0 && mkdir(name("a", "c"), 0755) == 0);
    pid_t pid = sleeper();
    snprintf(number, sizeof(number), "%d\n", pid);
    CHECK(put_pid("a/b", pid) == 0);
    CHECK(strcmp(says("a/b", "cgroup.procs"), number) == 0 && strcmp(says("a", "cgroup.procs"), "") == 0);
    CHECK(strcmp(says("a/b", "cgroup.threads"), number) == 0);
    CHECK(put("a/c", "cgroup.threads", number) == EOPNOTSUPP && put("a/b", "cgroup.threads", number) == 0);
    CHECK(strstr(says("a", "cgroup.events"), "populated 1") && strstr(says("a/c", "cgroup.events"), "populated 0"));
    CHECK_ERRNO(rmdir(name("a", "b")), EBUSY);
    number[strlen(number) - 1] = 0;
    snprintf(own, sizeof(own), "%s/a/b", strrchr(top, '/'));
    CHECK(strcmp(place(number), own) == 0);
    CHECK(put_pid("a/c", pid) == 0);
    CHECK(strstr(says("a/b", "cgroup.events"), "populated 0") && strstr(says("a/c", "cgroup.events"), "populated 1"));
    CHECK(strstr(says("a", "cgroup.events"), "populated 1"));

    /* A zombie is in no list, cannot be moved, and knows where it was. */
    siginfo_t info;
    CHECK(kill(pid, SIGKILL) == 0 && waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK(comes("a", "cgroup.events", "populated 0") && strcmp(says("a/c", "cgroup.procs"), "") == 0);
    CHECK(put_pid("a/b", pid) == 0 && rmdir(name("a", "c")) == 0);
    snprintf(own, sizeof(own), "%s/a/c (deleted)", strrchr(top, '/'));
    CHECK(strcmp(place(number), own) == 0);
    CHECK(ends_by(pid, SIGKILL));
    CHECK(rmdir(name("a", "b")) == 0 && rmdir(name("a", "")) == 0);
}

/* Those who have not read get told; those who have are told of what comes. */
static void news(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0);
    int fd = open(name("a", "cgroup.events"), O_RDONLY);
    struct pollfd poll_fd = {.fd = fd, .events = POLLPRI};
    CHECK(poll(&poll_fd, 1, 0) == 1 && poll_fd.revents == (POLLPRI | POLLERR));
    CHECK(read(fd, text, sizeof(text)) > 0 && poll(&poll_fd, 1, 0) == 0);
    pid_t pid = sleeper();
    CHECK(put_pid("a", pid) == 0 && poll(&poll_fd, 1, 0) == 1);
    CHECK(pread(fd, text, sizeof(text), 0) > 0 && poll(&poll_fd, 1, 0) == 0);
    CHECK(kill(pid, SIGKILL) == 0 && poll(&poll_fd, 1, 30000) == 1 && ends_by(pid, SIGKILL));
    close(fd);
    CHECK(rmdir(name("a", "")) == 0);
}

/* A process that forks into the group, and its child, are killed together. */
static void killed(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0 && mkdir(name("a", "b"), 0755) == 0);
    int ready[2], held[2];
    CHECK(pipe(ready) == 0 && pipe(held) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(held[0]);
        if (put("a/b", "cgroup.procs", "0") != 0)
            _exit(1);
        if (fork() == 0)
            pause();
        CHECK(write(ready[1], "x", 1) == 1);
        pause();
        _exit(2);
    }
    char byte;
    close(held[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(put("a", "cgroup.kill", "1") == 0 && ends_by(pid, SIGKILL));
    /* The grandchild held the last end. */
    CHECK(read(held[0], &byte, 1) == 0);
    CHECK(comes("a", "cgroup.events", "populated 0"));
    close(ready[0]);
    close(ready[1]);
    close(held[0]);
    CHECK(rmdir(name("a", "b")) == 0 && rmdir(name("a", "")) == 0);
}

static volatile long *count;

static void *counts(void *unused) {
    while (!unused)
        (*count)++;
    return NULL;
}

/* Waits that not every signal ends. */
static pid_t waiter(int by_epoll) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    struct epoll_event event;
    int epoll = epoll_create1(0);
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1), sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;) {
        if (by_epoll) epoll_wait(epoll, &event, 1, -1);
        else sigwaitinfo(&set, NULL);
    }
}

static void frozen(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0 && mkdir(name("a", "b"), 0755) == 0);
    pid_t runner = fork();
    if (runner == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, counts, NULL);
        for (;;)
            pause();
    }
    pid_t stopped = sleeper(), other = sleeper();
    CHECK(put_pid("a/b", runner) == 0 && put_pid("a/b", stopped) == 0 && put_pid("a", other) == 0);
    pid_t waiters[2] = {waiter(0), waiter(1)};
    for (int i = 0; i < 2; i++) {
        CHECK(put_pid("a", waiters[i]) == 0);
        until_asleep(waiters[i], waiters[i]);
    }
    int status;
    CHECK(kill(stopped, SIGSTOP) == 0 && waitpid(stopped, &status, WUNTRACED) == stopped);
    while (*count == 0)
        sched_yield();
    CHECK(put("a", "cgroup.freeze", "1") == 0 && comes("a", "cgroup.events", "frozen 1"));
    /* Who was stopped before leaves that state and enters this one: not frozen in between. */
    CHECK(comes("a/b", "cgroup.events", "frozen 1") && strcmp(says("a/b", "cgroup.freeze"), "0\n") == 0);
    /* A tracer reaches who is frozen, and the group stays so. */
    CHECK(ptrace(PTRACE_SEIZE, other, 0, 0) == 0 && ptrace(PTRACE_INTERRUPT, other, 0, 0) == 0);
    CHECK(waitpid(other, &status, __WALL) == other && status >> 8 == (SIGTRAP | PTRACE_EVENT_STOP << 8));
    CHECK(strstr(says("a", "cgroup.events"), "frozen 1") && ptrace(PTRACE_DETACH, other, 0, 0) == 0);
    CHECK(comes("a", "cgroup.events", "frozen 1"));
    long before = *count;
    struct timespec moment = {.tv_nsec = 30 * 1000 * 1000};
    nanosleep(&moment, NULL);
    CHECK(*count == before);
    /* What comes in stops, what goes out goes on; a group made now is frozen. */
    pid_t late = sleeper();
    CHECK(put_pid("a/b", late) == 0 && comes("a/b", "cgroup.events", "frozen 1"));
    CHECK(mkdir(name("a", "c"), 0755) == 0 && comes("a/c", "cgroup.events", "frozen 1"));
    CHECK(put_pid("", runner) == 0);
    while (*count == before)
        sched_yield();
    CHECK(kill(runner, SIGKILL) == 0 && ends_by(runner, SIGKILL));
    /* SIGKILL reaches them. */
    CHECK(kill(late, SIGKILL) == 0 && ends_by(late, SIGKILL));
    CHECK(comes("a", "cgroup.events", "frozen 1"));
    CHECK(put("a", "cgroup.freeze", "0") == 0 && comes("a", "cgroup.events", "frozen 0"));
    CHECK(put("a", "cgroup.kill", "1") == 0 && ends_by(stopped, SIGKILL) && ends_by(other, SIGKILL));
    CHECK(ends_by(waiters[0], SIGKILL) && ends_by(waiters[1], SIGKILL));
    CHECK(comes("a", "cgroup.events", "populated 0"));
    CHECK(rmdir(name("a", "c")) == 0 && rmdir(name("a", "b")) == 0 && rmdir(name("a", "")) == 0);
}

/* struct clone_args with its last member, which old headers lack. */
static pid_t clone_into(uint64_t fd, uint64_t flags) {
    uint64_t args[11] = {[0] = 0x200000000ull | flags, [4] = SIGCHLD, [10] = fd};
    return syscall(SYS_clone3, args, sizeof(args));
}

static void cloned(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0);
    int dir = open(name("a", ""), O_RDONLY | O_DIRECTORY), file = open(name("a", "cgroup.procs"), O_RDONLY);
    CHECK_ERRNO(clone_into(-1, 0), EINVAL);
    CHECK_ERRNO(clone_into(0, 0), EBADF);
    CHECK_ERRNO(clone_into(file, 0), EBADF);
    pid_t pid = clone_into(dir, 0);
    if (pid == 0)
        _exit(strcmp(strrchr(place("self"), '/'), "/a") != 0);
    CHECK(pid > 0 && ends_by(pid, 0));
    CHECK(comes("a", "cgroup.events", "populated 0") && rmdir(name("a", "")) == 0);
    CHECK_ERRNO(clone_into(dir, 0), ENOENT);
    close(dir);
    close(file);
}

static void namespaces(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0 && mkdir(name("a", "b"), 0755) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        char parent[32], inside[128];
        snprintf(parent, sizeof(parent), "%d", getppid());
        CHECK(put("a", "cgroup.procs", "0") == 0 && unshare(CLONE_NEWCGROUP | CLONE_NEWNS) == 0);
        CHECK(strcmp(place("self"), "/") == 0);
        CHECK(strncmp(place(parent), "/..", 3) == 0);
        CHECK(put("a/b", "cgroup.procs", "0") == 0 && strcmp(place("self"), "/b") == 0);
        CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        snprintf(inside, sizeof(inside), "%s", top);
        *strrchr(inside, '/') = 0;
        CHECK(mount("none", inside, "cgroup2", 0, NULL) == -1 && errno == EBUSY);
        CHECK(mount("none", "/mnt", "cgroup2", 0, NULL) == 0);
        CHECK(access("/mnt/b/cgroup.procs", F_OK) == 0 && access("/mnt/a", F_OK) == -1);
        CHECK(mount("none", "/mnt", "cgroup2", MS_REMOUNT, "nonsense") == -1 && errno == EINVAL);
        _exit(check_failures != 0);
    }
    CHECK(ends_by(pid, 0));
    CHECK(comes("a", "cgroup.events", "populated 0"));
    CHECK(rmdir(name("a", "b")) == 0 && rmdir(name("a", "")) == 0);
}

static long used(const char *group) {
    return strtol(says(group, "cpu.stat") + strlen("usage_usec "), NULL, 10);
}

static long cpu_usec(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void times(void) {
    CHECK(mkdir(name("a", ""), 0755) == 0 && mkdir(name("a", "b"), 0755) == 0);
    CHECK(used("a") == 0);
    int ready[2], go[2];
    CHECK(pipe(ready) == 0 && pipe(go) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(put("a/b", "cgroup.procs", "0") == 0);
        /* What it used before it came is not the group's. */
        for (long start = cpu_usec(); cpu_usec() - start < 100 * 1000;)
            ;
        CHECK(write(ready[1], "x", 1) == 1 && read(go[0], text, 1) == 1);
        _exit(check_failures != 0);
    }
    char byte;
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(used("a") >= 80 * 1000 && used("a/b") >= 80 * 1000);
    CHECK(write(go[1], "x", 1) == 1 && ends_by(pid, 0) && comes("a", "cgroup.events", "populated 0"));
    CHECK(rmdir(name("a", "b")) == 0);
    CHECK(used("a") >= 80 * 1000);
    CHECK(rmdir(name("a", "")) == 0);
}

/* As in the machine: how many threads may be in a group. */
static void pids(void) {
    int pipes[2];
    CHECK(put("..", "cgroup.subtree_control", "+pids") == 0 && put("", "cgroup.subtree_control", "+pids") == 0);
    CHECK(mkdir(name("a", ""), 0755) == 0 && strcmp(says("a", "cgroup.controllers"), "pids\n") == 0);
    CHECK(put("..", "cgroup.subtree_control", "-pids") == EBUSY);
    CHECK(strcmp(says("a", "pids.max"), "max\n") == 0 && put("a", "pids.max", "2") == 0);
    CHECK(put("a", "pids.max", "-1") == EINVAL && put("a", "pids.max", "x") == EINVAL && strcmp(says("a", "pids.max"), "2\n") == 0);
    int events = open(name("a", "pids.events"), O_RDONLY);
    CHECK(read(events, text, sizeof(text)) > 0 && pipe(pipes) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        CHECK(put("a", "cgroup.procs", "0") == 0);
        pid_t child = fork();
        if (child == 0) {
            CHECK(read(pipes[0], text, 1) == 1);
            _exit(0);
        }
        CHECK_ERRNO(fork(), EAGAIN);
        CHECK(pthread_create(&thread, NULL, counts, NULL) == EAGAIN);
        CHECK(strcmp(says("a", "pids.current"), "2\n") == 0);
        /* A zombie counts until it has been waited for. */
        siginfo_t info;
        CHECK(write(pipes[1], "x", 1) == 1 && waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
        CHECK_ERRNO(fork(), EAGAIN);
        CHECK(ends_by(child, 0) && strcmp(says("a", "pids.current"), "1\n") == 0);
        child = fork();
        if (child == 0)
            _exit(0);
        CHECK(child > 0 && ends_by(child, 0));
        _exit(check_failures != 0);
    }
    CHECK(ends_by(pid, 0));
    struct pollfd poll_fd = {.fd = events, .events = POLLPRI};
    CHECK(poll(&poll_fd, 1, 0) == 1);
    CHECK(strcmp(says("a", "pids.current"), "0\n") == 0 && strcmp(says("a", "pids.peak"), "2\n") == 0);
    CHECK(strcmp(says("a", "pids.events"), "max 3\n") == 0 && strcmp(says("", "pids.events"), "max 3\n") == 0);
    CHECK(strcmp(says("", "pids.events.local"), "max 0\n") == 0);
    /* Whoever is moved in is not refused. */
    CHECK(put("a", "pids.max", "0") == 0);
    pid = sleeper();
    CHECK(put_pid("a", pid) == 0 && strcmp(says("a", "pids.current"), "1\n") == 0);
    CHECK(kill(pid, SIGKILL) == 0 && ends_by(pid, SIGKILL));
    CHECK(put("", "cgroup.subtree_control", "-pids") == 0);
    CHECK(pread(events, text, 1, 0) == -1 && errno == ENODEV);
    CHECK(access(name("a", "pids.max"), F_OK) == -1 && errno == ENOENT);
    close(events);
    CHECK(rmdir(name("a", "")) == 0 && put("..", "cgroup.subtree_control", "-pids") == 0);
}

int main(int argc, char **argv) {
    char dir[] = "/tmp/cgroupsXXXXXX";
    setvbuf(stdout, NULL, _IONBF, 0);
    int probes = argc > 1 && strcmp(argv[1], "probe") == 0, machine = argc > 1 && strcmp(argv[1], "machine") == 0;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || !mkdtemp(dir))
        return 1;
    int mounted = mount("none", dir, "cgroup2", 0, NULL);
    snprintf(top, sizeof(top), "%s/test-%d", dir, getpid());
    if (mounted != 0 || mkdir(top, 0755) != 0) {
        printf("no control groups: %s\n", strerror(errno));
        return 1;
    }
    count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!probes) {
        tree();
        members();
        news();
        killed();
        frozen();
        cloned();
        namespaces();
        times();
    }
    if (machine)
        pids();
    CHECK(rmdir(top) == 0 && umount(dir) == 0 && rmdir(dir) == 0);
    DONE();
}
