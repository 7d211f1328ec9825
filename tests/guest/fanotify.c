/* fanotify: marks on inodes, mounts and file systems, what is merged and ignored, permission to open and read. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/umbel-fanotify-XXXXXX";

#define mark(fd, flags, mask, path) fanotify_mark(fd, flags, mask, AT_FDCWD, path)

/* Prints the events that are there: what happened, and to which file. */
static void show(const char *what, int fd) {
    char buf[4096] __attribute__((aligned(8))), link[40], path[PATH_MAX];
    ssize_t count = read(fd, buf, sizeof buf);
    printf("%s:", what);
    for (struct fanotify_event_metadata *event = (void *)buf; FAN_EVENT_OK(event, count); event = FAN_EVENT_NEXT(event, count)) {
        CHECK(event->vers == FANOTIFY_METADATA_VERSION && event->metadata_len == 24 && event->event_len == 24);
        snprintf(link, sizeof link, "/proc/self/fd/%d", event->fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        printf(" %llx %s", (unsigned long long)event->mask, strncmp(path, directory, strlen(directory)) ? path : path + strlen(directory));
        CHECK(event->pid == getpid());
        /* Nobody is told what is done with it. */
        CHECK(read(event->fd, path, 1) >= -1 && close(event->fd) == 0);
    }
    printf("%s\n", count < 0 ? strerror(errno) : "");
}

static void touch(const char *name) {
    char c;
    int fd = open(name, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && pread(fd, &c, 1, 0) == 1 && close(fd) == 0);
}

static void refused(void) {
    CHECK_ERRNO(fanotify_init(FAN_CLASS_NOTIF, O_PATH), EINVAL);
    CHECK_ERRNO(fanotify_init(FAN_CLASS_NOTIF, 3), EINVAL);
    CHECK_ERRNO(fanotify_init(0x0c, O_RDONLY), EINVAL);
    CHECK_ERRNO(fanotify_init(0x80000000, O_RDONLY), EINVAL);
    int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_NONBLOCK));
    touch("f");
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD, 0, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, 0, FAN_OPEN, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD | FAN_MARK_REMOVE, FAN_OPEN, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM, FAN_OPEN, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD, 1ULL << 40, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM, "f"), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD, FAN_CREATE, "."), EINVAL);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_OPEN, "f"), ENOTDIR);
    CHECK_ERRNO(mark(fd, FAN_MARK_ADD, FAN_OPEN, "none"), ENOENT);
    CHECK_ERRNO(mark(fd, FAN_MARK_REMOVE, FAN_OPEN, "f"), ENOENT);
    CHECK_ERRNO(mark(fd, FAN_MARK_FLUSH | FAN_MARK_ONLYDIR, 0, "f"), EINVAL);
    CHECK_ERRNO(mark(0, FAN_MARK_ADD, FAN_OPEN, "f"), EINVAL);
    CHECK_ERRNO(mark(-1, FAN_MARK_ADD, FAN_OPEN, "f"), EBADF);
    struct fanotify_response answer = {77, FAN_ALLOW};
    CHECK_ERRNO(write(fd, &answer, 4), EINVAL);
    CHECK_ERRNO(write(fd, &answer, sizeof answer), ENOENT);
    answer.response = 99;
    CHECK_ERRNO(write(fd, &answer, sizeof answer), EINVAL);
    close(fd), unlink("f");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(4242) == 0);
        CHECK_ERRNO(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), EPERM);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void marks(void) {
    int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
    struct pollfd p = {fd, POLLIN, 0};
    touch("a"), touch("b"), mkdir("sub", 0700), touch("sub/c");
    CHECK(mark(fd, FAN_MARK_ADD, FAN_ACCESS | FAN_MODIFY | FAN_OPEN | FAN_CLOSE, "a") == 0);
    touch("b");
    CHECK(poll(&p, 1, 0) == 0);
    show("other", fd);
    touch("a");
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    CHECK_ERRNO(read(fd, &p, sizeof p), EINVAL);
    show("file", fd);
    CHECK(mark(fd, FAN_MARK_REMOVE, FAN_ACCESS | FAN_CLOSE, "a") == 0);
    touch("a");
    show("less", fd);
    CHECK(link("a", "a2") == 0);
    touch("a2");
    show("name", fd);
    CHECK(unlink("a2") == 0);
    /* What is ignored comes back with a modification, unless it survives. */
    CHECK(mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, "a") == 0);
    close(open("a", O_RDONLY));
    show("ignored", fd);
    touch("a"), touch("a");
    show("again", fd);
    CHECK(mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, "a") == 0);
    touch("a"), touch("a");
    show("survives", fd);
    CHECK(mark(fd, FAN_MARK_FLUSH, 0, "a") == 0);
    touch("a");
    show("flushed", fd);
    /* Directories: themselves with FAN_ONDIR, what is in them with FAN_EVENT_ON_CHILD. */
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN, "sub") == 0);
    close(open("sub", O_RDONLY)), touch("sub/c");
    show("neither", fd);
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_ONDIR | FAN_EVENT_ON_CHILD, "sub") == 0);
    close(open("sub", O_RDONLY)), touch("sub/c");
    show("both", fd);
    CHECK(mark(fd, FAN_MARK_REMOVE, FAN_EVENT_ON_CHILD, "sub") == 0);
    close(open("sub", O_RDONLY)), touch("sub/c");
    show("itself", fd);
    CHECK(mark(fd, FAN_MARK_REMOVE, FAN_OPEN | FAN_ONDIR, "sub") == 0);
    CHECK_ERRNO(mark(fd, FAN_MARK_REMOVE, FAN_OPEN, "sub"), ENOENT);
    /* A mark ends with its file. */
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_CLOSE, "b") == 0 && unlink("b") == 0);
    touch("b");
    show("gone", fd);
    /* A program that is run is opened. */
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN_EXEC, "/proc/self/exe") == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "fanotify", "run", NULL);
        _exit(3);
    }
    int status;
    struct fanotify_event_metadata event;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(read(fd, &event, sizeof event) == 24 && event.mask == FAN_OPEN_EXEC && event.pid == child && close(event.fd) == 0);
    CHECK_ERRNO(read(fd, &event, sizeof event), EAGAIN);
    close(fd);
    unlink("a"), unlink("b"), unlink("sub/c"), rmdir("sub");
}

static void mounts(void) {
    CHECK(mkdir("m", 0700) == 0 && mkdir("n", 0700) == 0);
    if (mount("none", "m", "tmpfs", 0, NULL) != 0 || mount("m", "n", NULL, MS_BIND, NULL) != 0) {
        printf("no mounts\n");
        return;
    }
    int one = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY), all = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
    CHECK(mark(one, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, "m") == 0);
    CHECK(mark(all, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE, "m") == 0);
    touch("m/x"), touch("n/y");
    show("mount", one);
    show("system", all);
    close(one), close(all);
    CHECK(umount("n") == 0 && umount("m") == 0 && rmdir("m") == 0 && rmdir("n") == 0);
}

static void answer(int fd, unsigned long long wanted, unsigned response) {
    struct fanotify_event_metadata event;
    CHECK(read(fd, &event, sizeof event) == 24 && event.mask == wanted);
    struct fanotify_response reply = {event.fd, response};
    CHECK(write(fd, &reply, sizeof reply) == sizeof reply);
    CHECK_ERRNO(write(fd, &reply, sizeof reply), ENOENT);
    close(event.fd);
}

static volatile sig_atomic_t signals;

static void on_signal(int signo) {
    (void)signo;
    signals++;
}

static void permissions(void) {
    char c;
    int fd = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), status;
    struct pollfd asked = {.fd = fd, .events = POLLIN};
    touch("p");
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_ACCESS_PERM, "p") == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK_ERRNO(open("p", O_RDONLY), EPERM);
        int file = open("p", O_RDONLY);
        CHECK(file >= 0);
        CHECK_ERRNO(read(file, &c, 1), EPERM);
        CHECK(read(file, &c, 1) == 1);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    answer(fd, FAN_OPEN_PERM, FAN_DENY);
    answer(fd, FAN_OPEN_PERM, FAN_ALLOW);
    answer(fd, FAN_ACCESS_PERM, FAN_DENY);
    answer(fd, FAN_ACCESS_PERM, FAN_ALLOW);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    /* A signal that kills ends the wait; so does the end of the listener, which allows. */
    int fatal[] = {SIGKILL, SIGTERM};
    for (int i = 0; i < 2; i++) {
        child = fork();
        if (child == 0) _exit(open("p", O_RDONLY) < 0);
        CHECK(poll(&asked, 1, -1) == 1);
        CHECK(kill(child, fatal[i]) == 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        CHECK(poll(&asked, 1, 0) == 0);
    }
    /* Another one is taken after the wait. */
    child = fork();
    if (child == 0) {
        signal(SIGUSR1, on_signal);
        int file = open("p", O_RDONLY);
        _exit(file < 0 || signals != 1);
    }
    CHECK(poll(&asked, 1, -1) == 1 && kill(child, SIGUSR1) == 0);
    answer(fd, FAN_OPEN_PERM, FAN_ALLOW);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    child = fork();
    if (child == 0) {
        close(fd);
        _exit(open("p", O_RDONLY) < 0);
    }
    usleep(30000);
    close(fd);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    unlink("p");
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return 0;
    CHECK(mkdtemp(directory) && chdir(directory) == 0);
    refused();
    marks();
    mounts();
    permissions();
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
    DONE();
}
