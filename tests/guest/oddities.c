/* Small calls and corners of calls that conformance suites look into. */
#define _GNU_SOURCE
#include "check.h"
#include <elf.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <signal.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <stdint.h>
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
    CHECK(syscall(SYS_membarrier, 0, 0, 0) == 0x3ff && syscall(SYS_membarrier, 512, 0, 0) == 0);
    CHECK_ERRNO(syscall(SYS_membarrier, 32, 0, 0), EPERM);
    CHECK_ERRNO(syscall(SYS_membarrier, 128, 0, 0), EPERM);
    CHECK(syscall(SYS_membarrier, 64, 0, 0) == 0 && syscall(SYS_membarrier, 512, 0, 0) == 0x50);
    CHECK(syscall(SYS_membarrier, 32, 0, 0) == 0);
    CHECK_ERRNO(syscall(SYS_membarrier, 8, 0, 0), EPERM);
    CHECK(syscall(SYS_membarrier, 256, 0, 0) == 0 && syscall(SYS_membarrier, 512, 0, 0) == 0x150);
    CHECK(syscall(SYS_membarrier, 128, 0, 0) == 0 && syscall(SYS_membarrier, 128, 1, 0) == 0);
    CHECK_ERRNO(syscall(SYS_membarrier, 128, 2, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_membarrier, 32, 1, 0), EINVAL);
    CHECK(syscall(SYS_membarrier, 16, 0, 0) == 0 && syscall(SYS_membarrier, 8, 0, 0) == 0);
    child = fork();
    if (child == 0)
        _exit(setsid() < 0 || vhangup() != 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Whoever changes its users forgets who may look at it, and what it hears of its parent. */
/* There is no swap, here and on most machines that run tests: what can be told before it is looked at. */
static void swapping(void) {
    CHECK_ERRNO(swapon("/dev/null", 0x80000), EINVAL);
    if (geteuid() != 0) {
        CHECK_ERRNO(swapon("/dev/null", 0), EPERM);
        CHECK_ERRNO(swapoff("/dev/null"), EPERM);
        return;
    }
    CHECK_ERRNO(swapon("/nonexistent", 0), ENOENT);
    CHECK_ERRNO(swapon("/tmp", 0), EISDIR);
    CHECK_ERRNO(swapon("/dev/null", 0), EINVAL);
    CHECK_ERRNO(swapon((char *)8, 0), EFAULT);
    CHECK_ERRNO(swapoff("/nonexistent"), ENOENT);
    CHECK_ERRNO(swapoff("/tmp"), EISDIR);
    CHECK_ERRNO(swapoff("/dev/null"), EINVAL);
    CHECK_ERRNO(swapoff((char *)8), EFAULT);
}

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
    pid_t other_child = fork();
    if (other_child == 0) pause();
    CHECK(syscall(SYS_kcmp, child, other_child, KCMP_SYSVSEM, 0, 0) == 0); /* neither has adjusted a semaphore */
    kill(child, SIGKILL), kill(other_child, SIGKILL);
    CHECK(waitpid(child, 0, 0) == child && waitpid(other_child, 0, 0) == other_child);
}

/* Ends of positions and of buffers, and what may not be moved. */
static void ends(void) {
    const off_t last = 0x7ffffffffffff000;
    int fd = memfd_create("ends", 0), dir = open("/", O_RDONLY | O_DIRECTORY), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    int event = eventfd(0, EFD_NONBLOCK), file = open("/proc/self/stat", O_RDONLY);
    uint64_t numbers[2] = {1, 1};
    off_t at = last + 4094;
    char *m = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mmap(0, 4096, PROT_READ, MAP_SHARED, fd, last) == MAP_FAILED && errno == EOVERFLOW);
    CHECK(mmap(0, 4096, PROT_READ, MAP_SHARED, fd, (off_t)(1UL << 63)) == MAP_FAILED && errno == EOVERFLOW);
    CHECK_ERRNO(pwrite(fd, m, 4096, last + 1), EINVAL);
    CHECK_ERRNO(pread(fd, m, 4096, last + 1), EINVAL);
    CHECK_ERRNO(sendfile(fd, file, &at, 3), EINVAL);
    CHECK_ERRNO(sendfile(fd, dir, 0, 1), EINVAL);
    CHECK_ERRNO(sendfile(fd, fd, 0, -1), EINVAL);
    CHECK(ftruncate(fd, 10) == 0);
    CHECK_ERRNO(lseek(fd, 0x7fffffffffffffff, SEEK_END), EINVAL);
    CHECK_ERRNO(lseek(file, 0, SEEK_END), EINVAL);
    CHECK_ERRNO(write(timer, numbers, 8), EINVAL);
    CHECK_ERRNO(write(event, numbers, 16), EINVAL);
    CHECK_ERRNO(fchmodat(-1, "", 0444, 0), ENOENT);
    CHECK_ERRNO(open("/", O_RDONLY | O_DIRECT), EINVAL);
    CHECK_ERRNO(syscall(SYS_getdents64, dir, m, 0x80000000u), EINVAL);
    /* Entries end where memory does. */
    CHECK(mprotect(m + 4096, 4096, PROT_NONE) == 0 && syscall(SYS_getdents64, dir, m + 4096 - 100, 4096) > 0);
    CHECK_ERRNO(syscall(SYS_getdents64, dir, m + 4096, 4096), EFAULT);
    /* A smaller mapping may end in another area than it began in. */
    CHECK(mremap(m, 3 * 4096, 2 * 4096, 0) == m && access("/", F_OK) == 0);
    CHECK_ERRNO(madvise(m + 2 * 4096, 4096, MADV_NORMAL), ENOMEM);
    CHECK(munmap(m, 2 * 4096) == 0);
    m = mmap(0, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK_ERRNO(mremap(m, 0, 4096, 0), ENOMEM);
    CHECK_ERRNO(sync_file_range(fd, 4096, 0x7fffffffffffffff, 0), EINVAL);
    CHECK_ERRNO(fallocate(timer, 0, 0, 10), ENODEV);
    int null = open("/dev/null", O_RDWR), mem = open("/proc/self/mem", O_RDONLY);
    CHECK_ERRNO(fallocate(null, 0, 0, 10), ENODEV);
    CHECK_ERRNO(lseek(mem, 0, SEEK_END), EINVAL);
    close(fd), close(dir), close(timer), close(event), close(file), close(null), close(mem);
    fd = open("/dev/null", O_WRONLY | O_RDWR);
    CHECK(fd >= 0);
    CHECK_ERRNO(read(fd, numbers, 1), EBADF);
    CHECK_ERRNO(write(fd, numbers, 1), EBADF);
    close(fd);
}

/* Files that are made when they are read end where lseek(2) says so: whoever appends to a setting looks for its end. */
static void ends_of_made_files(void) {
    static const struct { const char *name; long end; } files[] = {
        {"/proc/sys/kernel/pid_max", 0}, {"/proc/sys/kernel/hostname", 0},   {"/proc/self/oom_score_adj", 0},
        {"/proc/self/cmdline", 0},       {"/proc/self/environ", 0},          {"/proc/self/auxv", 0},
        {"/proc/self/comm", -1},         {"/proc/self/status", -1},          {"/proc/self/maps", -1},
        {"/proc/uptime", -1},            {"/proc/self/pagemap", -1},         {"/proc/self/uid_map", -1},
        {"/proc/mounts", -1},            {"/sys/devices/system/cpu/online", 4096},
    };
    struct stat st;
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        int fd = open(files[i].name, O_RDONLY), data = files[i].end > 0 ? 0 : -1;
        long end = lseek(fd, 0, SEEK_END);
        if (fd < 0 || end != files[i].end) printf("%s ends at %ld: %s\n", files[i].name, end, strerror(errno)), check_failures++;
        CHECK(end >= 0 || errno == EINVAL);
        CHECK(lseek(fd, 0, SEEK_DATA) == data && fstat(fd, &st) == 0 && st.st_size == (end > 0 ? end : 0));
        close(fd);
    }
    FILE *adjust = fopen("/proc/self/oom_score_adj", "a");
    CHECK(adjust && fprintf(adjust, "7\n") == 2 && fclose(adjust) == 0);
    char text[8] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDONLY);
    CHECK(read(fd, text, 7) == 2 && !strcmp(text, "7\n") && close(fd) == 0);
}

/* Whom signals about files go to. */
static void owners(void) {
    int s[2];
    struct f_owner_ex owner = {F_OWNER_PID, 99999999};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK_ERRNO(fcntl(s[0], F_SETOWN, 99999999), ESRCH);
    CHECK_ERRNO(fcntl(s[0], F_SETOWN, -99999999), ESRCH);
    CHECK_ERRNO(fcntl(s[0], F_SETOWN_EX, &owner), ESRCH);
    owner.type = F_OWNER_TID, owner.pid = -1;
    CHECK_ERRNO(fcntl(s[0], F_SETOWN_EX, &owner), ESRCH);
    owner.type = 7;
    CHECK_ERRNO(fcntl(s[0], F_SETOWN_EX, &owner), EINVAL);
    CHECK(fcntl(s[0], F_SETOWN, getpid()) == 0 && fcntl(s[0], F_GETOWN) == getpid() && fcntl(s[0], F_SETOWN, 0) == 0);
    close(s[0]), close(s[1]);
}

static int word;

static void *wakes(void *flag) {
    usleep(100000);
    return (void *)syscall(SYS_futex, &word, FUTEX_WAKE | *(int *)flag, 1, 0, 0, 0);
}

/* A word that a process calls shared is another than the same called private. */
static void words(void) {
    struct timespec soon = {0, 400000000};
    for (int flag = 0; flag <= FUTEX_PRIVATE_FLAG; flag += FUTEX_PRIVATE_FLAG) {
        pthread_t thread;
        void *woken;
        int other = flag ^ FUTEX_PRIVATE_FLAG;
        CHECK(pthread_create(&thread, 0, wakes, &other) == 0);
        CHECK(syscall(SYS_futex, &word, FUTEX_WAIT | flag, 0, &soon, 0, 0) == -1 && errno == ETIMEDOUT);
        CHECK(pthread_join(thread, &woken) == 0 && woken == 0);
    }
}

/* Nobody gets a signal that is ignored and not blocked, not even who waits for it. */
static void dropped(void) {
    struct timespec soon = {0, 300000000};
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    signal(SIGUSR1, SIG_IGN);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        usleep(100000);
        _exit(kill(parent, SIGUSR1));
    }
    CHECK(sigtimedwait(&set, 0, &soon) == -1 && errno == EAGAIN && waitpid(child, 0, 0) == child);
    signal(SIGUSR1, SIG_DFL);
}

static int forked, told;

/* Forks a child that wants a signal when this thread ends. */
static void *forks(void *go) {
    int p[2];
    char byte;
    CHECK(pipe(p) == 0);
    forked = fork();
    if (forked == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        close(p[1]);
        for (;;) pause();
    }
    close(p[1]);
    /* The thread that forked it traces it. */
    CHECK(waitpid(forked, 0, 0) == forked && ptrace(PTRACE_DETACH, forked, 0, 0) == 0);
    CHECK(read(p[0], &byte, 1) == 0 && close(p[0]) == 0);
    CHECK(waitpid(forked, 0, WNOHANG | __WNOTHREAD) == 0);
    told = 1;
    CHECK(read(*(int *)go, &byte, 1) == 1);
    return 0;
}

/* Children belong to the thread that forked them, until it ends. */
static void families(void) {
    pthread_t thread;
    int go[2], status, fd;
    char text[64] = {0};
    siginfo_t info;
    CHECK(pipe(go) == 0 && pthread_create(&thread, 0, forks, go) == 0);
    while (!__atomic_load_n(&told, __ATOMIC_ACQUIRE)) usleep(1000);
    CHECK_ERRNO(waitpid(forked, 0, WNOHANG | __WNOTHREAD), ECHILD);
    sprintf(text, "/proc/self/task/%d/children", getpid());
    fd = open(text, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text) == 0 && close(fd) == 0);
    CHECK(write(go[1], "x", 1) == 1 && pthread_join(thread, 0) == 0);
    /* The join may return before the thread's children have been given away. */
    pid_t given;
    while ((given = waitpid(forked, &status, __WNOTHREAD)) == -1 && errno == ECHILD) usleep(1000);
    CHECK(given == forked && WTERMSIG(status) == SIGKILL);
    close(go[0]), close(go[1]);
    /* Who waits for stops alone does not see a zombie. */
    pid_t child = fork();
    if (child == 0) _exit(0);
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK_ERRNO(waitid(P_PID, child, &info, WSTOPPED), ECHILD);
    CHECK(waitpid(child, 0, 0) == child);
    /* One that traces its child waits for it with whatever options. */
    child = fork();
    if (child == 0) _exit(ptrace(PTRACE_TRACEME, 0, 0, 0) != 0);
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT | __WALL) == 0 && waitpid(child, &status, __WCLONE) == child && status == 0);
}

/* Times of children that nobody waits for are lost. */
static void lost_times(void) {
    struct rusage before, after;
    signal(SIGCHLD, SIG_IGN);
    CHECK(getrusage(RUSAGE_CHILDREN, &before) == 0);
    pid_t child = fork();
    if (child == 0) {
        clock_t end = clock() + CLOCKS_PER_SEC / 5;
        while (clock() < end);
        _exit(0);
    }
    CHECK_ERRNO(waitpid(child, 0, 0), ECHILD);
    CHECK(getrusage(RUSAGE_CHILDREN, &after) == 0 && !memcmp(&before.ru_utime, &after.ru_utime, sizeof after.ru_utime));
    signal(SIGCHLD, SIG_DFL);
}

/* splice moves what there is room for, and takes nothing that a limit forbids. */
static void splices(void) {
    static char bytes[8192];
    int a[2], b[2], status;
    off_t at = 0x7ffffffffffffffe;
    CHECK(pipe(a) == 0 && pipe(b) == 0 && fcntl(b[1], F_SETPIPE_SZ, 8192) == 8192);
    CHECK(write(a[1], bytes, 8192) == 8192 && write(b[1], bytes, 4096) == 4096);
    CHECK(tee(a[0], b[1], 8192, 0) == 4096 && read(b[0], bytes, 4096) == 4096);
    CHECK(splice(a[0], 0, b[1], 0, 8192, 0) == 4096);
    int file = memfd_create("spliced", 0);
    CHECK_ERRNO(splice(a[0], 0, file, &at, 3, 0), EINVAL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {4096, 4096};
        signal(SIGXFSZ, SIG_IGN);
        CHECK(ftruncate(file, 4096) == 0 && lseek(file, 0, SEEK_END) == 4096 && setrlimit(RLIMIT_FSIZE, &limit) == 0);
        CHECK_ERRNO(splice(a[0], 0, file, 0, 8192, 0), EFBIG);
        _exit(check_failures);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0 && read(a[0], bytes, 8192) == 4096);
    close(a[0]), close(a[1]), close(b[0]), close(b[1]), close(file);
}

/* The status of a program that is run from `fd`, or from `name`. */
static int run(int fd, const char *name) {
    char *arguments[] = {"program", 0}, *environment[] = {0};
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        if (name) execve(name, arguments, environment);
        syscall(SYS_execveat, fd, "", arguments, environment, AT_EMPTY_PATH);
        _exit(99);
    }
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/* Scripts know their own name, memory that is open for writing runs, and a segment that cannot be mapped kills. */
static void programs(void) {
    char own[4096] = {0}, name[] = "/var/tmp/umbel-oddities-XXXXXX", text[5000];
    CHECK(readlink("/proc/self/exe", own, sizeof own - 1) > 0);
    int memory = memfd_create("script", 0), file = mkstemp(name), self = open(own, O_RDONLY);
    CHECK(write(memory, "#!/bin/sh\nexit 7\n", 17) == 17 && run(memory, 0) == 7 << 8 && close(memory) == 0);
    CHECK(write(file, text, sprintf(text, "#!%s --execfn\n", own)) > 0 && fchmod(file, 0755) == 0 && close(file) == 0);
    CHECK(run(-1, name) == 0 && unlink(name) == 0);
    static char image[8 << 20];
    long size = read(self, image, sizeof image);
    Elf64_Ehdr *head = (Elf64_Ehdr *)image;
    Elf64_Phdr *parts = (Elf64_Phdr *)(image + head->e_phoff);
    CHECK(size > 0 && close(self) == 0);
    for (int i = 0; i < head->e_phnum; i++)
        if (parts[i].p_type == PT_LOAD) parts[i].p_offset += 1;
    memory = memfd_create("broken", 0);
    CHECK(write(memory, image, size) == size && (run(memory, 0) & 0x7f) == SIGSEGV && close(memory) == 0);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "--execfn")) return strcmp((char *)getauxval(AT_EXECFN), argv[2]) != 0;
    programs();
    numbers_of_calls();
    cpu_limit();
    small_calls();
    swapping();
    changing_users();
    ids_and_priorities();
    files();
    types_of_file_systems();
    comparing();
    ends();
    ends_of_made_files();
    owners();
    words();
    dropped();
    families();
    lost_times();
    splices();
    DONE();
}
