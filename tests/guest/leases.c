/* Who holds what of a file: record locks that split and join, leases and their breaks, which open made it; set-group-id
 * where the group is another's; access times at the end; epoll instances of which one is enough. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027
#endif
#ifndef F_CREATED_QUERY
#define F_CREATED_QUERY 1028
#endif

static int lock(int fd, int kind, long start, long length) {
    struct flock l = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, F_SETLK, &l);
}

/* What another process is told of the first lock in its way. */
static void shown(int fd, int kind, long start, long length) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct flock l = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
        CHECK(fcntl(fd, F_GETLK, &l) == 0);
        printf("%s %ld %ld %s\n", l.l_type == F_UNLCK ? "free" : l.l_type == F_RDLCK ? "read" : "write", (long)l.l_start,
               (long)l.l_len, l.l_type != F_UNLCK && l.l_pid == getppid() ? "parent" : "-");
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, 0, 0);
}

static void splitting(void) {
    int fd = open("k", O_RDWR | O_CREAT, 0600);
    CHECK(lock(fd, F_WRLCK, 10, 5) == 0 && lock(fd, F_RDLCK, 1, 5) == 0);
    shown(fd, F_WRLCK, 0, 0); /* the lower one, though it came later */
    shown(fd, F_WRLCK, 6, 0);
    CHECK(lock(fd, F_RDLCK, 6, 4) == 0);
    shown(fd, F_WRLCK, 0, 0); /* 1..9 are one now */
    CHECK(lock(fd, F_RDLCK, 10, 5) == 0);
    shown(fd, F_WRLCK, 0, 0);
    CHECK(lock(fd, F_WRLCK, 5, 3) == 0);
    shown(fd, F_WRLCK, 0, 0);
    shown(fd, F_RDLCK, 0, 0);
    shown(fd, F_WRLCK, 8, 0);
    CHECK(lock(fd, F_UNLCK, 0, 0) == 0);
    shown(fd, F_WRLCK, 0, 0);
    close(fd);
}

static volatile sig_atomic_t told, told_fd;
static void on_break(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    told++, told_fd = info->si_fd;
}

/* Opens the file in a child, which says how that went and how long it took at least. */
static pid_t opener(int flags, int wanted) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        errno = 0;
        int fd = open("l", flags);
        _exit(wanted ? fd != -1 || errno != wanted : fd < 0);
    }
    return child;
}

static void leases(void) {
    int fd = open("l", O_RDWR | O_CREAT, 0600), status;
    CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_RDLCK), EAGAIN); /* it is itself open for writing */
    CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_UNLCK), EAGAIN);
    CHECK_ERRNO(fcntl(fd, F_SETLEASE, 77), EINVAL);
    CHECK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_GETLEASE) == F_WRLCK && fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
    close(fd);
    fd = open("l", O_RDONLY);
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    CHECK_ERRNO(fcntl(pipes[0], F_SETLEASE, F_RDLCK), EINVAL);
    CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK && fcntl(fd, F_SETLEASE, F_RDLCK) == 0 && fcntl(fd, F_GETLEASE) == F_RDLCK);
    int other = open("l", O_RDONLY); /* readers do not mind readers */
    CHECK(other >= 0 && fcntl(other, F_SETLEASE, F_RDLCK) == 0);
    CHECK_ERRNO(fcntl(other, F_SETLEASE, F_WRLCK), EAGAIN);
    CHECK(fcntl(other, F_SETLEASE, F_UNLCK) == 0 && close(other) == 0);
    struct sigaction action = {.sa_sigaction = on_break, .sa_flags = SA_SIGINFO};
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    sigaction(SIGUSR1, &action, 0);
    sigaction(SIGIO, &action, 0);
    CHECK(fcntl(fd, F_SETSIG, SIGUSR1) == 0 && fcntl(fd, F_GETOWN) == getpid());
    CHECK(waitpid(opener(O_RDONLY, 0), &status, 0) > 0 && status == 0 && told == 0);
    pid_t child = opener(O_WRONLY | O_NONBLOCK, EWOULDBLOCK);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    sigsuspend(&old);
    CHECK(told == 1 && told_fd == fd && fcntl(fd, F_GETLEASE) == F_UNLCK); /* what it will be */
    CHECK(fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
    CHECK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_SETSIG, 0) == 0);
    sigprocmask(SIG_SETMASK, &old, 0);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, 0);
    child = opener(O_RDONLY, 0); /* waits until the lease is reduced */
    while (told == 1) sigsuspend(&old);
    CHECK(fcntl(fd, F_GETLEASE) == F_RDLCK && waitpid(child, &status, WNOHANG) == 0);
    CHECK(fcntl(fd, F_SETLEASE, F_RDLCK) == 0 && waitpid(child, &status, 0) == child && status == 0);
    fflush(stdout);
    child = fork();
    if (child == 0) _exit(close(fd) || truncate("l", 0)); /* waits until the holder is gone */
    while (told == 2) sigsuspend(&old);
    CHECK(close(fd) == 0 && waitpid(child, &status, 0) == child && status == 0);
    sigprocmask(SIG_SETMASK, &old, 0);
    if (geteuid() == 0) {
        fd = open("l", O_RDONLY);
        CHECK(fchown(fd, 1000, 1000) == 0 && fchmod(fd, 0644) == 0);
        child = fork();
        if (child == 0) {
            CHECK(setgid(1001) == 0 && setuid(1001) == 0);
            CHECK_ERRNO(fcntl(fd, F_SETLEASE, F_RDLCK), EACCES);
            fflush(stdout);
            _exit(check_failures != 0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        close(fd);
    }
    close(pipes[0]), close(pipes[1]);
}

static void made(void) {
    int fd = open("made", O_RDWR | O_CREAT, 0600), again = open("made", O_RDWR | O_CREAT, 0600), copy = dup(fd);
    /* Hosts older than these two commands refuse them. */
    int created = fcntl(fd, F_CREATED_QUERY, 0), same = fcntl(fd, F_DUPFD_QUERY, copy);
    CHECK(created == 1 || (created == -1 && errno == EINVAL));
    CHECK(created == -1 || (fcntl(again, F_CREATED_QUERY, 0) == 0 && fcntl(copy, F_CREATED_QUERY, 0) == 1));
    CHECK(same == 1 || same == -1);
    CHECK(same == -1 || fcntl(fd, F_DUPFD_QUERY, again) == 0);
    close(fd), close(again), close(copy);
    int null = open("/dev/null", O_RDWR);
    CHECK_ERRNO(ioctl(null, FICLONE, -1), EBADF);
    close(null);
    if (geteuid() != 0) return;
    struct stat s;
    CHECK(mkdir("group", 0777) == 0 && chown("group", 1000, 4242) == 0 && chmod("group", 02777) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        for (int i = 0; i < 2; i++) { /* whatever the umask takes away */
            umask(i ? 0010 : 0);
            CHECK(close(open("group/f", O_CREAT | O_EXCL | O_RDWR, 02777)) == 0 && stat("group/f", &s) == 0);
            CHECK(s.st_gid == 4242 && (s.st_mode & S_ISGID) == 0);
            CHECK(mkdir("group/d", 0777) == 0 && stat("group/d", &s) == 0 && s.st_gid == 4242 && (s.st_mode & S_ISGID));
            CHECK(unlink("group/f") == 0 && rmdir("group/d") == 0);
        }
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void one_is_enough(void) {
    int event = eventfd(0, EFD_NONBLOCK), instances[4], woken = 0;
    struct epoll_event in = {.events = EPOLLIN | EPOLLET | EPOLLEXCLUSIVE}, out;
    int report[2];
    CHECK(pipe(report) == 0);
    fflush(stdout);
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        instances[i] = epoll_create1(0);
        CHECK(epoll_ctl(instances[i], EPOLL_CTL_ADD, event, &in) == 0);
        if ((children[i] = fork()) == 0) {
            int got = epoll_wait(instances[i], &out, 1, -1);
            _exit(write(report[1], &got, sizeof got) != sizeof got);
        }
    }
    for (int i = 0; i < 4; i++) { /* all sleep */
        char name[64], state = 0;
        snprintf(name, sizeof name, "/proc/%d/stat", children[i]);
        while (state != 'S') {
            FILE *f = fopen(name, "r");
            if (!f || fscanf(f, "%*d %*s %c", &state) != 1) break;
            fclose(f);
            usleep(1000);
        }
    }
    unsigned long one = 1;
    int got[4] = {0};
    struct pollfd wait = {report[0], POLLIN, 0};
    for (int i = 0; i < 4; i++) {
        CHECK(write(event, &one, 8) == 8 && poll(&wait, 1, 5000) == 1);
        usleep(20000);
        int bytes = 0;
        CHECK(ioctl(report[0], FIONREAD, &bytes) == 0 && bytes == sizeof(int) && read(report[0], &got[i], 4) == 4);
        woken += got[i];
    }
    CHECK(woken == 4);
    for (int i = 0; i < 4; i++) waitpid(children[i], 0, 0);
    CHECK_ERRNO(epoll_ctl(instances[0], EPOLL_CTL_ADD, open("/dev/null", O_RDWR), &in), EPERM);
    for (int i = 0; i < 4; i++) close(instances[i]);
    close(event), close(report[0]), close(report[1]);
}

static void parts(void) {
    static char block[128 << 10] __attribute__((aligned(4096)));
    int pipes[2], event = eventfd(0, 0), file = open("v", O_RDWR | O_CREAT, 0600), directory = open(".", O_RDONLY);
    struct iovec piece = {block, sizeof block};
    CHECK(pipe(pipes) == 0);
    CHECK_ERRNO(splice(event, 0, pipes[1], 0, 8, 0), EINVAL);
    CHECK_ERRNO(splice(pipes[0], 0, event, 0, 8, 0), EINVAL);
    CHECK_ERRNO(splice(file, 0, event, 0, 8, 0), EINVAL);
    CHECK_ERRNO(splice(directory, 0, pipes[1], 0, 8, 0), EINVAL);
    CHECK(vmsplice(pipes[1], &piece, 1, 0) == 65536); /* what fits, not all */
    CHECK_ERRNO(vmsplice(file, &piece, 1, 0), EBADF);
    CHECK(splice(pipes[0], 0, file, 0, 4096, 0) == 4096);
    close(pipes[0]), close(pipes[1]), close(event), close(file), close(directory);
}

static int heard[2];
static void on_thread(union sigval value) {
    int seen = value.sival_int;
    if (write(heard[1], &seen, sizeof seen) != sizeof seen) abort();
}

static void threads_are_told(void) {
    struct mq_attr attr = {.mq_maxmsg = 3, .mq_msgsize = 50};
    mq_unlink("/umbel-leases");
    mqd_t q = mq_open("/umbel-leases", O_RDWR | O_CREAT, 0600, &attr);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 77};
    event.sigev_notify_function = on_thread;
    int seen = 0;
    CHECK(pipe(heard) == 0 && mq_notify(q, &event) == 0);
    CHECK_ERRNO(mq_notify(q, &event), EBUSY);
    CHECK(mq_send(q, "x", 1, 0) == 0 && read(heard[0], &seen, sizeof seen) == sizeof seen && seen == 77);
    CHECK(mq_notify(q, &event) == 0 && mq_notify(q, 0) == 0 && mq_close(q) == 0 && mq_unlink("/umbel-leases") == 0);
}

int main(void) {
    char directory[] = "/tmp/umbel-leases-XXXXXX";
    CHECK(mkdtemp(directory) && chmod(directory, 0755) == 0 && chdir(directory) == 0);
    umask(022);
    splitting();
    leases();
    made();
    one_is_enough();
    parts();
    threads_are_told();
    const char *left[] = {"v", "k", "l", "made"};
    for (int i = 0; i < 4; i++) CHECK(unlink(left[i]) == 0);
    CHECK(rmdir("group") == 0 && rmdir(directory) == 0);
    DONE();
}
