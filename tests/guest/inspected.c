/* Files of a process that programs read: syscall, timers, sched, map_files, attr, projid_map; limits of namespaces. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char text[8192];

/* What a file says, or -1. */
static ssize_t says(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    ssize_t n = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    text[n > 0 ? n : 0] = 0;
    errno = error;
    return n;
}

static ssize_t put(const char *path, const char *what) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    ssize_t n = write(fd, what, strlen(what));
    int error = errno;
    close(fd);
    errno = error;
    return n;
}

static const char *of(pid_t pid, const char *name) {
    static char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return path;
}

static void calls(void) {
    long number;
    unsigned long a, b, c, sp, pc;
    CHECK(says("/proc/self/syscall") > 0);
    CHECK(sscanf(text, "%ld %lx %lx %lx %*x %*x %*x %lx %lx", &number, &a, &b, &c, &sp, &pc) == 6);
    CHECK(number == SYS_read && b == (uintptr_t)text && c == sizeof text - 1 && pc != 0);
    CHECK(sp < (uintptr_t)&number + 4096 && sp > (uintptr_t)&number - 65536);
    pid_t child = fork();
    if (child == 0) {
        struct timespec hour = {3600, 0};
        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &hour, 0x55);
        _exit(1);
    }
    until_asleep(child, child);
    CHECK(says(of(child, "syscall")) > 0);
    CHECK(sscanf(text, "%ld %lx %lx %*x %lx", &number, &a, &b, &c) == 4);
    CHECK(number == SYS_clock_nanosleep && a == CLOCK_MONOTONIC && b == 0 && c == 0x55);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    volatile int *runs = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child = fork();
    if (child == 0)
        for (;;) *runs = 1;
    while (!*runs) usleep(1000);
    for (int i = 0; i < 1000 && (says(of(child, "syscall")) < 0 || strcmp(text, "running\n")); i++) usleep(1000);
    CHECK(strcmp(text, "running\n") == 0);
    int status;
    CHECK(kill(child, SIGSTOP) == 0 && waitpid(child, &status, WUNTRACED) == child);
    for (int i = 0; i < 1000 && (says(of(child, "syscall")) < 0 || !strcmp(text, "running\n")); i++) usleep(1000);
    CHECK(sscanf(text, "%ld %lx %lx", &number, &sp, &pc) == 3 && number == -1 && pc != 0);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

static void timers(void) {
    timer_t id;
    char wanted[512];
    struct sigevent event = {.sigev_notify = SIGEV_NONE, .sigev_signo = 10, .sigev_value.sival_int = 5};
    CHECK(says("/proc/self/timers") == 0);
    CHECK(timer_create(CLOCK_REALTIME, 0, &id) == 0 && timer_create(CLOCK_TAI, &event, &id) == 0);
    event.sigev_notify = SIGEV_THREAD_ID;
    event._sigev_un._tid = gettid();
    CHECK(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &id) == 0);
    event.sigev_notify = SIGEV_SIGNAL;
    CHECK(timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &id) == 0);
    snprintf(wanted, sizeof wanted,
             "ID: 3\nsignal: 10/0000000000000005\nnotify: signal/pid.%d\nClockID: -2\n"
             "ID: 2\nsignal: 10/0000000000000005\nnotify: signal/tid.%d\nClockID: -6\n"
             "ID: 1\nsignal: 10/0000000000000005\nnotify: none/pid.%d\nClockID: 11\n"
             "ID: 0\nsignal: 14/0000000000000000\nnotify: signal/pid.%d\nClockID: 0\n",
             getpid(), gettid(), getpid(), getpid());
    CHECK(says("/proc/self/timers") > 0 && strcmp(text, wanted) == 0);
    CHECK(access("/proc/thread-self/timers", F_OK) == -1 && access("/proc/thread-self/map_files", F_OK) == -1);
    /* How it was scheduled. */
    CHECK(says("/proc/self/sched") > 0);
    char *line = strstr(text, "\nnr_voluntary_switches");
    long before = line ? atol(strchr(line, ':') + 1) : -1;
    usleep(1000);
    CHECK(says("/proc/self/sched") > 0 && (line = strstr(text, "\nnr_voluntary_switches")));
    CHECK(before >= 0 && line && atol(strchr(line, ':') + 1) > before);
    CHECK((line = strstr(text, "\nprio")) && atol(strchr(line, ':') + 1) == 120 + getpriority(PRIO_PROCESS, 0));
    CHECK((line = strstr(text, "#threads: 1)")) && strstr(text, "\nse.sum_exec_runtime"));
}

static void files(void) {
    char path[64], link[256] = "", own[256] = "";
    struct stat st;
    CHECK(stat("/proc/self/map_files", &st) == 0 && (st.st_mode & 07777) == 0500);
    CHECK(readlink("/proc/self/exe", own, sizeof own - 1) > 0);
    int fd = open("/proc/self/exe", O_RDONLY), count = 0;
    char *m = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)m, (unsigned long)m + 4096);
    CHECK(lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && (st.st_mode & 0700) == 0400);
    CHECK(readlink(path, link, sizeof link - 1) > 0 && strcmp(link, own) == 0);
    DIR *dir = opendir("/proc/self/map_files");
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, strrchr(path, '/') + 1) == 0) count += e->d_type == DT_LNK;
    closedir(dir);
    CHECK(count == 1);
    int opened = open(path, O_RDONLY);
    CHECK(geteuid() == 0 ? opened >= 0 : opened == -1 && errno == EPERM);
    close(opened);
    munmap(m, 4096);
    CHECK(lstat(path, &st) == -1 && errno == ENOENT);
    CHECK(lstat("/proc/self/map_files/zz", &st) == -1 && errno == ENOENT);
    close(fd);
    /* No module gives labels. */
    CHECK_ERRNO(says("/proc/self/attr/current"), EINVAL);
    CHECK_ERRNO(put("/proc/self/attr/exec", "x"), EINVAL);
    CHECK(stat("/proc/self/attr/prev", &st) == 0 && (st.st_mode & 07777) == 0444);
    CHECK(says("/proc/sys/kernel/seccomp/actions_avail") > 0);
    CHECK(strcmp(text, "kill_process kill_thread trap errno user_notif trace log allow\n") == 0);
    CHECK(says("/proc/sys/vm/dirty_ratio") > 0 && atoi(text) > 0 && says("/proc/sys/vm/vfs_cache_pressure") > 0);
}

/* In a user namespace of its own. */
static void limits(void) {
    CHECK(says("/proc/sys/user/max_uts_namespaces") > 0 && atol(text) > 100);
    CHECK(says("/proc/self/projid_map") > 0 && strcmp(text, "         0          0 4294967295\n") == 0);
    pid_t child = fork();
    if (child == 0) {
        uid_t uid = geteuid();
        check_failures = 0;
        if (unshare(CLONE_NEWUSER)) _exit(77);
        CHECK(says("/proc/self/projid_map") == 0 && put("/proc/self/projid_map", "0 5 1") == 5);
        CHECK(says("/proc/self/projid_map") > 0 && strcmp(text, "         0          5          1\n") == 0);
        CHECK_ERRNO(put("/proc/self/projid_map", "0 0 1"), EPERM);
        char map[32];
        snprintf(map, sizeof map, "0 %d 1", uid);
        CHECK(put("/proc/self/uid_map", map) > 0);
        CHECK(put("/proc/sys/user/max_uts_namespaces", "1") == 1);
        CHECK(says("/proc/sys/user/max_uts_namespaces") == 2 && strcmp(text, "1\n") == 0);
        CHECK(unshare(CLONE_NEWUTS) == 0);
        int held = open("/proc/self/ns/uts", O_RDONLY);
        CHECK_ERRNO(unshare(CLONE_NEWUTS), ENOSPC);
        CHECK(put("/proc/sys/user/max_uts_namespaces", "2") == 1 && unshare(CLONE_NEWUTS) == 0);
        CHECK_ERRNO(unshare(CLONE_NEWUTS), ENOSPC);
        /* Nobody has the first any more; it goes when it is not in use, which takes its time on Linux. */
        close(held);
        int again = -1;
        for (int i = 0; i < 1000 && again; i++, usleep(1000)) again = unshare(CLONE_NEWUTS);
        CHECK(again == 0);
        const char *others[] = {"cgroup", "ipc", "mnt", "net", "pid", "user"};
        int flags[] = {CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER};
        for (int i = 0; i < 6; i++) {
            char path[64];
            snprintf(path, sizeof path, "/proc/sys/user/max_%s_namespaces", others[i]);
            CHECK(put(path, "0") == 1);
            CHECK_ERRNO(unshare(flags[i]), ENOSPC);
        }
        CHECK_ERRNO(put("/proc/sys/user/max_net_namespaces", "-1"), EINVAL);
        CHECK_ERRNO(put("/proc/sys/user/max_net_namespaces", "2147483648"), EINVAL);
        CHECK_ERRNO(put("/proc/sys/user/max_net_namespaces", "x"), EINVAL);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && (status == 0 || status == 77 << 8));
}

int main(void) {
    calls();
    timers();
    files();
    limits();
    DONE();
}
