/* Descriptors of files and directories that are only read: what close and fcntl say of them however often they are called,
 * and that a close is done where somebody waits for it. */
#define _GNU_SOURCE
#include "check.h"
#include "cpus.h"
#include "passing.h"
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Enough that a call site is patched. */
#define ROUNDS 3000

/* O_LARGEFILE as kernels show it. */
#define LARGE 0100000

static const char *self;
/* How many descriptors are open, and the lowest that is not. */
static int before, lowest;
/* Seen by forked processes, too. */
static volatile int *word;

static int descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void rounds(void) {
    for (int i = 0; i < ROUNDS; i++) {
        const char *name = i % 2 ? self : "/usr";
        int fd = open(name, O_RDONLY | (i % 3 ? O_CLOEXEC : 0));
        int copy = fcntl(fd, i % 5 ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
        CHECK(fd == lowest && copy == lowest + 1);
        CHECK(fcntl(fd, F_GETFD) == (i % 3 ? FD_CLOEXEC : 0) && fcntl(copy, F_GETFD) == (i % 5 ? FD_CLOEXEC : 0));
        CHECK((fcntl(fd, F_GETFL) & ~LARGE) == 0);
        CHECK(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
        CHECK(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
        CHECK(fcntl(fd, F_SETFD, 0) == 0 && fcntl(fd, F_GETFD) == 0 && fcntl(copy, F_GETFD) == (i % 5 ? FD_CLOEXEC : 0));
        if (i % 7 == 0) {
            CHECK(fcntl(copy, F_SETFL, O_NONBLOCK) == 0);
            CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
        }
        CHECK(close(fd) == 0);
        if (i % 4 == 0)
            CHECK_ERRNO(close(fd), EBADF);
        if (i % 4 == 1)
            CHECK_ERRNO(fcntl(fd, F_GETFL), EBADF);
        if (i % 4 == 2)
            CHECK_ERRNO(fcntl(fd, F_GETFD), EBADF);
        struct stat st;
        CHECK(fstat(copy, &st) == 0);
        if (i % 2)
            CHECK(dup2(copy, fd) == fd && close(fd) == 0);
        CHECK(close(copy) == 0);
        CHECK_ERRNO(fstat(copy, &st), EBADF);
    }
    CHECK_ERRNO(close(-1), EBADF);
    CHECK_ERRNO(close(300), EBADF);
    CHECK_ERRNO(fcntl(77, F_GETFL), EBADF);
}

static void beyond(void) {
    int fds[100];
    for (int i = 0; i < 100; i++)
        fds[i] = open("/usr", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 100; i++)
        CHECK(fds[i] >= lowest && fcntl(fds[i], F_GETFL) & O_DIRECTORY && fcntl(fds[i], F_GETFD) == FD_CLOEXEC);
    for (int i = 99; i >= 0; i--)
        CHECK(close(fds[i]) == 0);
    CHECK(descriptors() == before);
}

static void *other_thread(void *arg) {
    int fd = *(int *)arg;
    CHECK(close(fd) == 0);
    *word = 1;
    while (*word != 2) {
    }
    return 0;
}

/* Somebody else shares the table: what one closes is closed for the other, without a call in between. */
static void threads(void) {
    for (int i = 0; i < 50; i++) {
        int fd = open("/usr", O_RDONLY);
        *word = 0;
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, other_thread, &fd) == 0);
        while (*word != 1) {
        }
        CHECK_ERRNO(fcntl(fd, F_GETFL), EBADF);
        *word = 2;
        pthread_join(thread, 0);
    }
}

static void children(void) {
    for (volatile int i = 0; i < 50; i++) {
        int fd = open("/usr", O_RDONLY);
        pid_t child = i % 2 ? fork() : vfork();
        if (child == 0) {
            int own = open("/", O_RDONLY);
            close(own);
            close(fd);
            _exit(own != lowest + 1 || fcntl(fd, F_GETFL) != -1);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(fcntl(fd, F_GETFL) >= 0 && fcntl(fd, F_GETFD) == 0);
        CHECK(close(fd) == 0);
        CHECK_ERRNO(fcntl(fd, F_GETFD), EBADF);
    }
}

/* Closes what `prepare` opened, tells the parent, and then makes no call. */
static pid_t closer(int (*prepare)(void)) {
    *word = 0;
    pid_t child = fork();
    if (child == 0) {
        stay_on(1);
        *word = 0; /* no fault later */
        for (int i = 0; i < ROUNDS; i++)
            close(open("/usr", O_RDONLY));
        close(prepare());
        *word = 1;
        while (*word != 2) {
        }
        _exit(0);
    }
    while (*word != 1) {
    }
    return child;
}

static void end(pid_t child) {
    *word = 2;
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static int whole_lock(void) {
    int fd = open(self, O_RDONLY);
    CHECK(flock(fd, LOCK_EX) == 0);
    return fd;
}

/* Any close of the file gives a record lock back. */
static int record_lock(void) {
    static struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(open(self, O_RDONLY), F_SETLK, &lock) == 0);
    return open(self, O_RDONLY);
}

static int pair[2];

/* Who else has it may be the last to close it. */
static int passed(void) {
    int fd = open(self, O_RDONLY);
    give(pair[0], fd);
    return fd;
}

static int mounted(void) {
    return open("mounted", O_RDONLY | O_DIRECTORY);
}

static void waited_for(void) {
    cpu_set_t all;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    stay_on(0);
    int fd = open(self, O_RDONLY);
    pid_t child = closer(whole_lock);
    CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0);
    CHECK(flock(fd, LOCK_UN) == 0);
    end(child);
    child = closer(record_lock);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type == F_UNLCK);
    end(child);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    child = closer(passed);
    int received = take(pair[1]);
    CHECK(flock(received, LOCK_EX) == 0 && close(received) == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
    end(child);
    close(fd), close(pair[0]), close(pair[1]);
    if (geteuid() == 0 && unshare(CLONE_NEWNS) == 0) {
        CHECK(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0) == 0);
        CHECK(mkdir("mounted", 0700) == 0 && mount("none", "mounted", "tmpfs", 0, 0) == 0);
        child = closer(mounted);
        CHECK(umount("mounted") == 0);
        end(child);
        CHECK(rmdir("mounted") == 0);
    }
    sched_setaffinity(0, sizeof all, &all);
}

static volatile sig_atomic_t ticks;

static void tick(int number) {
    (void)number;
    int saved = errno;
    int fd = open("/usr", O_RDONLY | O_CLOEXEC);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(close(fd) == 0);
    ticks++;
    errno = saved;
}

/* A signal between any two instructions loses no close and answers for no other descriptor. */
static void interrupted(void) {
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval often = {{0, 200}, {0, 200}};
    setitimer(ITIMER_REAL, &often, 0);
    for (long i = 0; ticks < 300; i++) {
        int fd = open(i % 2 ? self : "/usr", O_RDONLY | (i % 2 ? O_CLOEXEC : 0));
        CHECK(fd >= 0);
        for (int j = 0; j < 20; j++) {
            CHECK(fcntl(fd, F_GETFD) == (i % 2 ? FD_CLOEXEC : 0));
            CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
        }
        CHECK(close(fd) == 0);
    }
    struct itimerval never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &never, 0);
    CHECK(descriptors() == before);
}

int main(int argc, char **argv) {
    (void)argc;
    self = argv[0];
    word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    before = descriptors();
    close(lowest = open("/", O_RDONLY));
    rounds();
    beyond();
    threads();
    children();
    waited_for();
    interrupted();
    DONE();
}
