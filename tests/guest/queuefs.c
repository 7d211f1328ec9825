/* POSIX message queues as files: mounts, listings, attributes, the line of a queue, names that come and go both ways, other
   namespaces. As root. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

static int by_name(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

static void list(const char *what) {
    struct dirent **names;
    struct stat facts;
    int count = scandir("/mnt", &names, NULL, by_name);
    CHECK(count >= 2 && stat("/mnt", &facts) == 0);
    printf("%s (%ld):", what, (long)facts.st_size);
    for (int i = 2; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/mnt/%s", names[i]->d_name);
        CHECK(stat(path, &facts) == 0 && facts.st_ino == names[i]->d_ino && names[i]->d_type == DT_REG);
        printf(" %s %o %ld %ld %u.%u", names[i]->d_name, facts.st_mode, (long)facts.st_size, (long)facts.st_nlink, facts.st_uid,
               facts.st_gid);
    }
    printf("\n");
}

/* A queue's line, but for who is told. */
static void line(const char *path) {
    char text[100] = "";
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text) > 20);
    char *pid = strstr(text, "NOTIFY_PID:");
    CHECK(pid && strchr(pid, '\n'));
    if (pid && atoi(pid + 11) == getpid()) strcpy(pid + 11, "own\n");
    printf("%s", text);
    close(fd);
}

static void listing(void) {
    struct statfs facts;
    struct stat dir;
    list("none");
    CHECK(statfs("/mnt", &facts) == 0 && facts.f_type == 0x19800202 && facts.f_bsize == 4096 && facts.f_blocks == 0);
    CHECK(stat("/mnt", &dir) == 0 && dir.st_mode == (S_IFDIR | 01777) && dir.st_nlink == 2);
    umask(0);
    mqd_t one = mq_open("/one", O_RDWR | O_CREAT | O_NONBLOCK, 0640, NULL), two = mq_open("/two", O_RDWR | O_CREAT, 0600, NULL);
    CHECK(one >= 0 && two >= 0);
    list("two");
    line("/mnt/one");
    CHECK(mq_send(one, "hello", 5, 1) == 0 && mq_send(one, "you", 3, 2) == 0);
    line("/mnt/one");
    CHECK(mq_notify(two, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1}) == 0);
    line("/mnt/two");
    CHECK(chmod("/mnt/one", 0600) == 0 && chown("/mnt/two", 5, 6) == 0);
    list("changed");
    /* Names go by either way, and come. */
    CHECK(mq_unlink("/one") == 0 && access("/mnt/one", F_OK) == -1 && errno == ENOENT);
    CHECK(unlink("/mnt/two") == 0);
    CHECK_ERRNO(mq_open("/two", O_RDWR), ENOENT);
    list("gone");
    struct stat still;
    CHECK(fstat(one, &still) == 0 && still.st_nlink == 0 && mq_send(one, "x", 1, 0) == 0);
    close(one), close(two);
    mqd_t again = mq_open("/one", O_RDWR | O_CREAT | O_EXCL, 0600, NULL);
    CHECK(again >= 0 && access("/mnt/one", F_OK) == 0);
    close(again);
    CHECK(unlink("/mnt/one") == 0);
}

/* A queue made and used by its file. */
static void as_file(void) {
    char text[9000];
    int fd = open("/mnt/file", O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0644);
    struct mq_attr attr;
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    struct epoll_event event = {EPOLLIN, {0}};
    CHECK(fd >= 0 && mq_getattr(fd, &attr) == 0 && attr.mq_flags == O_NONBLOCK && attr.mq_maxmsg > 0);
    CHECK(mq_send(fd, "text", 4, 3) == 0);
    mqd_t same = mq_open("/file", O_RDONLY);
    CHECK(same >= 0 && mq_receive(same, text, sizeof text, NULL) == 4 && !memcmp(text, "text", 4));
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLOUT);
    int ready = epoll_create1(0);
    CHECK(epoll_ctl(ready, EPOLL_CTL_ADD, fd, &event) == 0 && epoll_wait(ready, &event, 1, 0) == 0);
    CHECK(mq_send(fd, "text", 4, 3) == 0 && epoll_wait(ready, &event, 1, 0) == 1);
    CHECK(pread(fd, text, 5, 0) == 5 && !memcmp(text, "QSIZE", 5) && pread(fd, text, 5, 80) == 0);
    CHECK(lseek(fd, 6, SEEK_SET) == 6 && read(fd, text, 1) == 1 && text[0] == '4');
    CHECK_ERRNO(write(fd, "x", 1), EINVAL);
    CHECK_ERRNO(mkdir("/mnt/dir", 0700), EPERM);
    CHECK_ERRNO(symlink("x", "/mnt/link"), EPERM);
    CHECK_ERRNO(link("/mnt/file", "/mnt/other"), EPERM);
    CHECK_ERRNO(rename("/mnt/file", "/mnt/other"), EPERM);
    CHECK_ERRNO(mknod("/mnt/fifo", S_IFIFO | 0600, 0), EPERM);
    CHECK_ERRNO(open("/mnt/file", O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_ERRNO(rmdir("/mnt/file"), ENOTDIR);
    CHECK_ERRNO(open("/mnt", O_TMPFILE | O_RDWR, 0600), EOPNOTSUPP);
    /* Who may not read the file may not receive. */
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(4242) == 0);
        CHECK_ERRNO(mq_open("/file", O_WRONLY), EACCES);
        CHECK_ERRNO(mq_unlink("/file"), EACCES);
        CHECK_ERRNO(unlink("/mnt/file"), EPERM);
        CHECK(mq_open("/file", O_RDONLY) >= 0);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(unlink("/mnt/file") == 0);
    close(fd), close(same), close(ready);
}

/* A second mount shows the same queues; another namespace has its own. */
static void mounts(void) {
    char second[] = "/dev/shm/umbel-queues-XXXXXX", queue[60], own_queue[60];
    CHECK(mkdtemp(second) && mount("none", second, "mqueue", 0, NULL) == 0);
    snprintf(queue, sizeof queue, "%s/q", second), snprintf(own_queue, sizeof own_queue, "%s/own", second);
    close(open("/mnt/q", O_CREAT | O_RDONLY, 0600));
    CHECK(access(queue, F_OK) == 0);
    CHECK(unshare(CLONE_NEWIPC) == 0);
    CHECK_ERRNO(mq_open("/q", O_RDONLY), ENOENT);
    CHECK(access("/mnt/q", F_OK) == 0 && unlink("/mnt/q") == 0);
    CHECK(umount(second) == 0 && mount("none", second, "mqueue", 0, NULL) == 0);
    mqd_t own = mq_open("/own", O_RDWR | O_CREAT, 0600, NULL);
    CHECK(own >= 0 && access(own_queue, F_OK) == 0 && access("/mnt/own", F_OK) == -1);
    CHECK(close(own) == 0 && mq_unlink("/own") == 0 && umount(second) == 0 && rmdir(second) == 0);
}

/* A namespace ends with its last process; who has its queues mounted sees them, and makes no more. */
static void outlived(void) {
    int status, child = fork();
    if (child == 0) {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        mqd_t queue = mq_open("/kept", O_RDWR | O_CREAT, 0600, NULL);
        CHECK(queue >= 0 && close(queue) == 0 && mount("none", "/mnt", "mqueue", 0, NULL) == 0);
        _exit(check_failures);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(access("/mnt/kept", F_OK) == 0);
    CHECK_ERRNO(open("/mnt/new", O_CREAT | O_RDONLY, 0600), EACCES);
    CHECK(unlink("/mnt/kept") == 0 && umount("/mnt") == 0);
}

int main(void) {
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "mqueue", 0, NULL) != 0) {
        printf("no mounts\n");
        return 0;
    }
    listing();
    as_file();
    mounts();
    outlived();
    CHECK(umount("/mnt") == 0);
    DONE();
}
