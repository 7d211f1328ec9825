/* The bombs of bombs.c: each takes one kind of object until it is refused and returns the errno; HELD if a limit of the
 * interface came first. What was taken stays taken until the process dies. */
#ifndef BOMBS_H
#define BOMBS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { HELD = 0, END = -9999, KILLED = -SIGKILL };

struct bomb {
    const char *name;
    int (*run)(void);
    long rest_mib;   /* what of RAM may stay with the heap: steps that it keeps, and those in which something small is left */
    const int *ends; /* how it may end; terminated by END */
};
#define ENDS(...) (const int[]){__VA_ARGS__, END}

static inline int processes(void)
{
    for (;;) {
        pid_t child = fork();
        if (child < 0)
            return errno;
        if (child == 0)
            for (;;)
                pause();
    }
}

/* Each process forks too: refusals come to many at once. */
static inline int fork_storm(void)
{
    for (int level = 0; level < 14; level++)
        if (fork() < 0)
            return errno;
    return HELD;
}

static void *sleeper(void *lock)
{
    if (lock)
        syscall(SYS_futex, lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
    for (;;)
        pause();
    return NULL;
}

static inline int make_threads(void *(*body)(void *), void *argument)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16384);
    for (;;) {
        int error = pthread_create(&thread, &attr, body, argument);
        if (error)
            return error;
    }
}

static inline int threads(void)
{
    return make_threads(sleeper, NULL);
}

static inline int futex_pi(void)
{
    static int lock;
    syscall(SYS_futex, &lock, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
    return make_threads(sleeper, &lock);
}

/* Calls that hold memory for as long as they sleep. */
static void *long_poll(void *fds)
{
    poll(fds, 20000, -1);
    return sleeper(NULL);
}

static inline int polls(void)
{
    static struct pollfd fds[20000];
    int ends[2];
    if (pipe(ends) != 0)
        return errno;
    for (int i = 0; i < 20000; i++)
        fds[i] = (struct pollfd){ends[0], POLLIN, 0};
    return make_threads(long_poll, fds);
}

static inline int files(void)
{
    while (open("/dev/null", O_RDONLY) >= 0)
        ;
    return errno;
}

static inline int ptys(void)
{
    static char page[4096];
    for (;;) {
        int master = open("/dev/ptmx", O_RDWR | O_NONBLOCK | O_NOCTTY);
        if (master < 0 || (write(master, page, sizeof page) < 0 && errno != EAGAIN))
            return errno;
    }
}

static inline int pipes(void)
{
    static char page[65536];
    int ends[2];
    while (pipe2(ends, O_NONBLOCK) == 0)
        if (write(ends[1], page, sizeof page) < 0)
            return errno;
    return errno;
}

static inline int epolls(void)
{
    int ends[2];
    if (pipe(ends) != 0)
        return errno;
    for (;;) {
        int set = epoll_create1(0);
        if (set < 0)
            return errno;
        for (int i = 0; i < 64; i++) {
            struct epoll_event event = {EPOLLIN, {.fd = i}};
            int fd = dup(ends[0]);
            if (fd < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
                return errno;
        }
    }
}

/* Descriptors and bytes in flight: nobody holds the sockets but messages in them. */
static inline int flights(void)
{
    static char bytes[4096];
    for (;;) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair) != 0)
            return errno;
        for (int i = 0; i < 8; i++) {
            char control[CMSG_SPACE(2 * sizeof(int))] = {0};
            struct iovec piece = {bytes, sizeof bytes};
            struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                                     .msg_controllen = sizeof control};
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof pair);
            memcpy(CMSG_DATA(header), pair, sizeof pair);
            if (sendmsg(pair[0], &message, 0) < 0 && errno != EAGAIN)
                return errno;
        }
        close(pair[0]);
        close(pair[1]);
    }
}

/* Sockets that only messages hold: whoever closes one looks for those that nobody can receive. */
static inline int in_flight(void)
{
    enum { EACH = 100 };
    for (;;) {
        int holder[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, holder) != 0)
            return errno;
        for (int error = 0; !error;) {
            char control[CMSG_SPACE(EACH * sizeof(int))] = {0}, byte = 0;
            struct iovec piece = {&byte, 1};
            struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                                     .msg_controllen = sizeof control};
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            int fds[EACH], made = 0;
            while (made < EACH && (fds[made] = socket(AF_UNIX, SOCK_DGRAM, 0)) >= 0)
                made++;
            error = made < EACH ? errno : 0;
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof fds);
            memcpy(CMSG_DATA(header), fds, sizeof fds);
            if (!error && sendmsg(holder[0], &message, 0) < 0)
                error = errno;
            for (int i = 0; i < made; i++)
                close(fds[i]);
            if (error && error != EAGAIN)
                return error;
        }
    }
}

static inline int streams(void)
{
    static char bytes[65536];
    for (;;) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
            return errno;
        while (write(pair[0], bytes, sizeof bytes) > 0)
            ;
        if (errno != EAGAIN)
            return errno;
    }
}

static inline int listen_somewhere(struct sockaddr_in *at, int type)
{
    socklen_t len = sizeof *at;
    int fd = socket(AF_INET, type, 0);
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (void *)at, sizeof *at) != 0 || getsockname(fd, (void *)at, &len) != 0)
        return -1;
    if (type == SOCK_STREAM)
        listen(fd, 64);
    return fd;
}

static inline int tcp(void)
{
    static char bytes[65536];
    struct sockaddr_in at;
    int listener = listen_somewhere(&at, SOCK_STREAM);
    if (listener < 0)
        return errno;
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (void *)&at, sizeof at) != 0 || accept(listener, NULL, NULL) < 0)
            return errno;
        while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
        if (errno != EAGAIN)
            return errno;
    }
}

static inline int udp(void)
{
    static char bytes[1024];
    for (;;) {
        struct sockaddr_in at;
        int fd = listen_somewhere(&at, SOCK_DGRAM);
        if (fd < 0)
            return errno;
        for (int i = 0; i < 200; i++)
            if (sendto(fd, bytes, sizeof bytes, MSG_DONTWAIT, (void *)&at, sizeof at) < 0 && errno != EAGAIN)
                return errno;
    }
}

/* Areas that cannot be merged; MAX_AREAS each, so several processes. */
static inline int vmas(void)
{
    const size_t len = 256 << 20, page = 4096;
    for (int child = 0; child < 32; child++) {
        pid_t pid = fork();
        if (pid < 0)
            return errno;
        if (pid > 0)
            for (;;)
                pause();
        char *at = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return errno;
        for (size_t i = 0; i < 60000; i += 2)
            if (mprotect(at + i * page, page, PROT_READ) != 0)
                return errno;
    }
    return HELD;
}

/* The same page again and again: page tables without memory behind them. */
static inline int page_tables(void)
{
    const size_t len = 64 << 20, page = 4096;
    int fd = memfd_create("one", 0);
    if (fd < 0 || ftruncate(fd, len) != 0)
        return errno;
    for (int i = 0; i < 10000; i++) {
        char *at = mmap(NULL, page * 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
            return errno;
        *(volatile char *)at = 1;
    }
    return HELD;
}

static inline int sparse(void)
{
    for (;;) {
        char *at = mmap(NULL, 1 << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return errno;
        for (size_t i = 0; i < 1 << 30; i += 2 << 20)
            *(volatile char *)(at + i) = 1;
    }
}

/* Copies of a page table with a page here and there. */
static inline int sparse_forks(void)
{
    const size_t stride = 256 << 10;
    char *at = mmap(NULL, 3000 * stride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return errno;
    for (size_t i = 0; i < 3000; i++) {
        /* An area of one page: no more is made at once. */
        if (mprotect(at + i * stride, 4096, PROT_READ | PROT_WRITE) != 0)
            return errno;
        at[i * stride] = 1;
    }
    return processes();
}

/* Copies of many areas, which then go at once, though nothing is left. */
static inline int area_forks(void)
{
    const size_t page = 4096, areas = 20000;
    char *at = mmap(NULL, areas * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return errno;
    for (size_t i = 0; i < areas; i += 2)
        if (mprotect(at + i * page, page, PROT_READ) != 0)
            return errno;
    int error = processes();
    return munmap(at, areas * page) == 0 ? error : -errno;
}

/* Goes to a file system of its own, which ends with the process. */
static inline int enter_own_directory(void)
{
    mkdir("/tmp/bomb", 0700);
    if (mount("bomb", "/tmp/bomb", "tmpfs", 0, "size=1g,nr_inodes=0") != 0 || chdir("/tmp/bomb") != 0)
        return -1;
    return umount2("/tmp/bomb", MNT_DETACH);
}

static inline int in_directory(int (*make)(const char *))
{
    char name[300];
    if (enter_own_directory() != 0)
        return errno;
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "%0200d", i);
        if (make(name) != 0)
            return errno;
    }
}

static inline int make_file(const char *name)
{
    return mknod(name, S_IFREG | 0600, 0);
}

static inline int make_directory(const char *name)
{
    return mkdir(name, 0700);
}

static inline int make_symlink(const char *name)
{
    return symlink(name, name);
}

static inline int make_xattr(const char *name)
{
    static char value[4000];
    if (mknod(name, S_IFREG | 0600, 0) != 0)
        return -1;
    for (int i = 0; i < 12; i++) {
        char attribute[32];
        snprintf(attribute, sizeof attribute, "trusted.bomb%d", i);
        if (setxattr(name, attribute, value, sizeof value, 0) != 0)
            return -1;
    }
    return 0;
}

static inline int inodes(void)
{
    return in_directory(make_file);
}

static inline int directories(void)
{
    return in_directory(make_directory);
}

static inline int symlinks(void)
{
    return in_directory(make_symlink);
}

static inline int xattrs(void)
{
    return in_directory(make_xattr);
}

/* Names that do not exist may be remembered, but never refused for it. */
static inline int absent_names(void)
{
    char name[300];
    for (int i = 0; i < 200000; i++) {
        snprintf(name, sizeof name, "/tmp/%0200d", i);
        if (access(name, F_OK) == 0 || errno != ENOENT)
            return errno;
    }
    return HELD;
}

static inline int watches(void)
{
    char name[64];
    int fd = -1;
    if (enter_own_directory() != 0)
        return errno;
    for (int i = 0; i < 100000; i++) {
        snprintf(name, sizeof name, "w%d", i % 8000);
        if (i < 8000 && mknod(name, S_IFREG | 0600, 0) != 0)
            return errno;
        if (i % 8000 == 0 && (fd = inotify_init1(IN_NONBLOCK)) < 0)
            return errno;
        if (inotify_add_watch(fd, name, IN_ALL_EVENTS) < 0)
            return errno;
    }
    return HELD;
}

static inline int posix_timers(void)
{
    for (int process = 0; process < 4; process++) {
        struct sigevent event = {.sigev_notify = SIGEV_NONE};
        struct itimerspec far = {{0, 0}, {100000, 0}};
        timer_t timer;
        for (int i = 0; i < 1000; i++)
            if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &far, NULL) != 0)
                return errno;
        pid_t pid = fork();
        if (pid < 0)
            return errno;
        if (pid > 0)
            for (;;)
                pause();
    }
    return HELD;
}

static inline int timer_files(void)
{
    struct itimerspec far = {{0, 0}, {100000, 0}};
    for (int i = 0; i < 20000; i++) {
        int fd = timerfd_create(CLOCK_MONOTONIC, 0);
        if (fd < 0 || timerfd_settime(fd, 0, &far, NULL) != 0)
            return errno;
    }
    return HELD;
}

static inline int queued_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    while (sigqueue(getpid(), SIGRTMIN + 1, (union sigval){0}) == 0)
        ;
    return errno;
}

static inline int posix_queues(void)
{
    static char text[8192];
    struct mq_attr attr = {.mq_maxmsg = 10, .mq_msgsize = sizeof text};
    for (int i = 0;; i++) {
        char name[32];
        snprintf(name, sizeof name, "/bomb%d", i);
        mqd_t queue = mq_open(name, O_CREAT | O_RDWR, 0600, &attr);
        if (queue == (mqd_t)-1)
            return errno;
        mq_unlink(name);
        for (int j = 0; j < 10; j++)
            if (mq_send(queue, text, sizeof text, 0) != 0)
                return errno;
    }
}

static int sysv_ids[4096], sysv_made;

static inline int sysv_queues(void)
{
    static struct {
        long type;
        char text[8000];
    } message = {1, {0}};
    int error = 0;
    while (!error && sysv_made < 4096) {
        int id = msgget(IPC_PRIVATE, 0600);
        if (id < 0) {
            error = errno;
            break;
        }
        sysv_ids[sysv_made++] = id;
        while (msgsnd(id, &message, sizeof message.text, IPC_NOWAIT) == 0)
            ;
        error = errno == EAGAIN ? 0 : errno;
    }
    for (int i = 0; i < sysv_made; i++)
        msgctl(sysv_ids[i], IPC_RMID, NULL);
    return error;
}

static inline int mounts(void)
{
    mkdir("/tmp/mounts", 0700);
    int error = 0, made = 0;
    for (; !error && made < 200; made++)
        error = mount("bomb", "/tmp/mounts", "tmpfs", 0, NULL) == 0 ? 0 : errno;
    for (int i = 1; i < made; i++)
        umount2("/tmp/mounts", MNT_DETACH);
    return error;
}

static inline int namespaces(void)
{
    char name[64];
    for (int i = 0;; i++) {
        if (unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET) != 0)
            return errno;
        snprintf(name, sizeof name, "/proc/self/ns/%s", i % 2 ? "mnt" : "net");
        if (open(name, O_RDONLY) < 0)
            return errno;
    }
}

static inline int record_locks(void)
{
    int fd = open("/tmp/n", O_RDWR | O_CREAT, 0600);
    for (long at = 0; at < 4000; at += 2) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
        if (fcntl(fd, F_SETLK, &lock) != 0)
            return errno;
    }
    return HELD;
}

/* Texts of /proc that a descriptor keeps. */
static inline int proc_texts(void)
{
    const size_t page = 4096;
    char byte;
    char *at = mmap(NULL, 256 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t i = 0; i < 20000; i += 2)
        if (mprotect(at + i * page, page, PROT_READ) != 0)
            return errno;
    for (;;) {
        int fd = open("/proc/self/smaps", O_RDONLY);
        if (fd < 0)
            fd = open("/proc/self/maps", O_RDONLY);
        if (fd < 0 || pread(fd, &byte, 1, 0) < 0)
            return errno;
    }
}

static inline int arguments(void)
{
    static char *list[100000];
    static char text[100] = {[0 ... 98] = 'a'};
    for (int i = 0; i < 99999; i++)
        list[i] = i < 19000 ? text : NULL;
    for (int i = 0; i < 64; i++) {
        pid_t pid = fork();
        if (pid < 0)
            return errno;
        if (pid == 0) {
            for (;;)
                execve("/nowhere/at/all", list, list);
        }
    }
    sleep(2);
    return HELD;
}

static const struct bomb bombs[] = {
    {"processes", processes, 32, ENDS(EAGAIN, ENOMEM)},
    {"fork_storm", fork_storm, 32, ENDS(EAGAIN, ENOMEM, HELD)},
    {"threads", threads, 32, ENDS(EAGAIN, ENOMEM)},
    {"futex_pi", futex_pi, 32, ENDS(EAGAIN, ENOMEM)},
    {"polls", polls, 32, ENDS(EAGAIN, ENOMEM)},
    {"ptys", ptys, 16, ENDS(ENOMEM, ENOSPC, ENFILE)},
    {"files", files, 16, ENDS(ENOMEM, ENFILE, EMFILE)},
    {"pipes", pipes, 16, ENDS(ENOMEM, ENFILE)},
    {"epolls", epolls, 16, ENDS(ENOMEM, ENFILE)},
    {"flights", flights, 16, ENDS(ENOMEM, ENOBUFS, ETOOMANYREFS)},
    {"in_flight", in_flight, 16, ENDS(ENOMEM, ENOBUFS, ENFILE, ETOOMANYREFS)},
    {"streams", streams, 16, ENDS(ENOMEM, ENOBUFS)},
    {"tcp", tcp, 16, ENDS(ENOMEM, ENOBUFS)},
    {"udp", udp, 16, ENDS(ENOMEM, ENOBUFS)},
    {"vmas", vmas, 16, ENDS(ENOMEM, EAGAIN)},
    {"page_tables", page_tables, 16, ENDS(HELD, ENOMEM)},
    {"sparse", sparse, 16, ENDS(ENOMEM)},
    {"sparse_forks", sparse_forks, 16, ENDS(ENOMEM, EAGAIN)},
    {"area_forks", area_forks, 16, ENDS(ENOMEM, EAGAIN)},
    {"inodes", inodes, 16, ENDS(ENOMEM, ENOSPC)},
    {"directories", directories, 16, ENDS(ENOMEM, ENOSPC)},
    {"symlinks", symlinks, 16, ENDS(ENOMEM, ENOSPC)},
    {"xattrs", xattrs, 16, ENDS(ENOMEM, ENOSPC)},
    {"absent_names", absent_names, 16, ENDS(HELD)},
    {"watches", watches, 16, ENDS(HELD, ENOMEM, ENOSPC)},
    {"posix_timers", posix_timers, 16, ENDS(HELD, ENOMEM, EAGAIN)},
    {"timer_files", timer_files, 16, ENDS(HELD, ENOMEM, ENFILE, EMFILE)},
    {"queued_signals", queued_signals, 16, ENDS(EAGAIN, ENOMEM)},
    {"posix_queues", posix_queues, 16, ENDS(ENOMEM, ENOSPC, EMFILE)},
    {"sysv_queues", sysv_queues, 16, ENDS(HELD, ENOMEM, ENOSPC)},
    {"mounts", mounts, 16, ENDS(HELD, ENOMEM, ENOSPC)},
    {"namespaces", namespaces, 16, ENDS(ENOMEM, ENOSPC, ENFILE)},
    {"record_locks", record_locks, 16, ENDS(HELD, ENOLCK, ENOMEM)},
    {"proc_texts", proc_texts, 16, ENDS(ENOMEM)},
    {"arguments", arguments, 16, ENDS(HELD, EAGAIN)},
    {NULL, NULL, 0, NULL},
};

#endif
