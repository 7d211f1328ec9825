/* Small calls and corners of calls that conformance suites look into. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void ids_and_priorities(void) {
    CHECK_ERRNO(getpriority(PRIO_PROCESS, -1), ESRCH);
    CHECK_ERRNO(setpriority(PRIO_PROCESS, -1, 0), ESRCH);
    CHECK_ERRNO(syscall(SYS_sched_getparam, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_sched_setparam, 0, 0), EINVAL);
    CHECK(setfsuid(-1) == (int)geteuid() && setfsuid(-1) == (int)geteuid() && setfsgid(-1) == (int)getegid() && setfsgid(-1) == (int)getegid());
    CHECK(syscall(SYS_ioprio_get, 1, 0) == 0);
    CHECK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0 && syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6));
    pid_t child = fork();
    if (child == 0) _exit(syscall(SYS_ioprio_get, 1, 0) != (2 << 13 | 6));
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_ERRNO(syscall(SYS_ioprio_set, 1, 0, 4 << 13), EINVAL);
    CHECK_ERRNO(syscall(SYS_ioprio_get, 4, 0), EINVAL);
    CHECK(syscall(SYS_ioprio_set, 1, 0, 0) == 0 && syscall(SYS_ioprio_get, 1, 0) == 0);
}

static void files(void) {
    int fd = open("/", O_PATH), null = open("/dev/null", O_RDWR), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EBADF);
    CHECK_ERRNO(fsync(null), EINVAL);
    CHECK_ERRNO(fdatasync(null), EINVAL);
    CHECK_ERRNO(sync_file_range(null, 0, 1, 0), ESPIPE);
    char text[8];
    CHECK_ERRNO(readlink("", text, sizeof text), ENOENT);
    CHECK_ERRNO(readlinkat(fd, "", text, sizeof text), ENOENT);
}

/* Only the lower half of rax is looked at. */
static long raw_call(unsigned long number) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(0), "S"(0), "d"(0) : "rcx", "r11", "memory");
    return result;
}

static void numbers_of_calls(void) {
    CHECK(raw_call(-1) == -ENOSYS && raw_call(0xffffffff) == -ENOSYS && raw_call(1023) == -ENOSYS);
    CHECK(raw_call(1UL << 32 | SYS_getpid) == getpid() && raw_call(SYS_getpid) == getpid());
}

#define SCHED_DEADLINE_ 6
static volatile sig_atomic_t warned;
static void warn(int signo) { warned = signo; }

/* Beyond the soft limit SIGXCPU every second, at the hard one SIGKILL. */
static void cpu_limit(void) {
    struct rlimit limit = {1, 2};
    fflush(stdout);
    int ends[2], status = -1;
    char got = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CPU, &limit);
        if (fork() == 0) {
            signal(SIGXCPU, warn);
            for (int told = 0;;)
                if (warned && !told)
                    told = write(ends[1], "w", 1);
        }
        wait(&status);
        _exit(WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == SIGKILL);
    CHECK(read(ends[0], &got, 1) == 1 && got == 'w');
}

static void small_calls(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct timeval wait = {0, 1000};
        personality(STICKY_TIMEOUTS);
        int sticky = select(0, 0, 0, 0, &wait) == 0 && wait.tv_usec == 1000;
        personality(PER_LINUX);
        _exit(!(sticky && select(0, 0, 0, 0, &wait) == 0 && wait.tv_usec == 0));
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(sched_get_priority_max(SCHED_DEADLINE_) == 0 && sched_get_priority_min(SCHED_DEADLINE_) == 0);
    int user = open("/proc/self/ns/user", O_RDONLY);
    CHECK_ERRNO(ioctl(user, 0xb701), EPERM);
    CHECK_ERRNO(syscall(SYS_membarrier, 8, 0, 0), EPERM);
    CHECK(syscall(SYS_membarrier, 16, 0, 0) == 0 && syscall(SYS_membarrier, 8, 0, 0) == 0);
    child = fork();
    if (child == 0)
        _exit(setsid() < 0 || vhangup() != 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Whoever changes its users forgets who may look at it, and what it hears of its parent. */
static void changing_users(void) {
    struct timespec wait = {0, 1000};
    CHECK_ERRNO(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &wait, 0), EOPNOTSUPP);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int signo = 0;
        int ok = prctl(PR_SET_PDEATHSIG, SIGUSR1) == 0 && prctl(PR_GET_DUMPABLE) == 1;
        ok &= setresuid(geteuid(), geteuid(), geteuid()) == 0 && prctl(PR_GET_DUMPABLE) == 1;
        ok &= prctl(PR_GET_PDEATHSIG, &signo) == 0 && signo == SIGUSR1;
        ok &= setresuid(77, 77, 77) == 0 && prctl(PR_GET_DUMPABLE) == 0;
        ok &= prctl(PR_GET_PDEATHSIG, &signo) == 0 && signo == 0;
        _exit(!ok);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && (geteuid() != 0 || status == 0));
}

static void types_of_file_systems(void) {
    char name[64] = "";
    long proc = syscall(SYS_sysfs, 1, "proc");
    CHECK(proc >= 0 && proc < syscall(SYS_sysfs, 3));
    CHECK(syscall(SYS_sysfs, 2, proc, name) == 0 && !strcmp(name, "proc"));
    CHECK_ERRNO(syscall(SYS_sysfs, 1, "no such"), EINVAL);
    CHECK_ERRNO(syscall(SYS_sysfs, 1, (char *)-8l), EFAULT);
    CHECK_ERRNO(syscall(SYS_sysfs, 2, 1000, name), EINVAL);
    CHECK_ERRNO(syscall(SYS_sysfs, 4), EINVAL);
}

static void comparing(void) {
    int fd = open("/dev/null", O_RDONLY), same = dup(fd), other = open("/dev/null", O_RDONLY), own = getpid();
    CHECK(syscall(SYS_kcmp, own, own, KCMP_FILE, fd, same) == 0);
    long order = syscall(SYS_kcmp, own, own, KCMP_FILE, fd, other);
    CHECK((order == 1 || order == 2) && syscall(SYS_kcmp, own, own, KCMP_FILE, other, fd) == 3 - order);
    CHECK_ERRNO(syscall(SYS_kcmp, own, own, KCMP_FILE, fd, 999), EBADF);
    CHECK_ERRNO(syscall(SYS_kcmp, own, own, 100, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_kcmp, own, 1 << 30, KCMP_VM, 0, 0), ESRCH);
    pid_t child = fork();
    if (child == 0) pause();
    CHECK(syscall(SYS_kcmp, own, child, KCMP_FILE, fd, fd) == 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_VM, 0, 0) > 0 && syscall(SYS_kcmp, own, child, KCMP_FILES, 0, 0) > 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_SIGHAND, 0, 0) > 0 && syscall(SYS_kcmp, own, own, KCMP_SIGHAND, 0, 0) == 0);
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
}

int main(void) {
    numbers_of_calls();
    cpu_limit();
    small_calls();
    changing_users();
    ids_and_priorities();
    files();
    types_of_file_systems();
    comparing();
    DONE();
}
