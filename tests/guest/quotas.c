/* What all processes of one user share: limits count for each user alone, and what is gone counts no more. As root. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Nobody on the host is these. */
enum { ONE = 54321, OTHER = 54322 };

static void limit(int resource, rlim_t value)
{
    struct rlimit both = {value, value};
    CHECK(setrlimit(resource, &both) == 0);
}

/* Runs `body` as `uid` in a process of its own; its status. */
static int as(int uid, int (*body)(void))
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        check_failures = 0;
        CHECK(setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0);
        int result = body();
        fflush(stdout);
        _exit(check_failures ? 99 : result);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static long setting(const char *name)
{
    char text[32] = "";
    int fd = open(name, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    return atol(text);
}

/* ---- processes ---- */

static pid_t sleepers[64];

/* How many more processes there may be; they stay. */
static int fill(void)
{
    for (int i = 0; i < 64; i++) {
        sleepers[i] = fork();
        if (sleepers[i] == 0)
            for (;;)
                pause();
        if (sleepers[i] < 0) {
            CHECK(errno == EAGAIN);
            return i;
        }
    }
    return 64;
}

static void end(int count)
{
    for (int i = 0; i < count; i++)
        kill(sleepers[i], SIGKILL);
}

static int reap(int count)
{
    for (int i = 0; i < count; i++)
        CHECK(waitpid(sleepers[i], NULL, 0) == sleepers[i]);
    return 0;
}

static int few(void)
{
    limit(RLIMIT_NPROC, 6);
    int made = fill();
    printf("6 processes at most: %d more\n", made);
    /* What has ended counts until somebody waits for it. */
    end(made);
    siginfo_t info;
    for (int i = 0; i < made; i++)
        CHECK(waitid(P_PID, sleepers[i], &info, WEXITED | WNOWAIT) == 0);
    CHECK_ERRNO(fork(), EAGAIN);
    reap(made);
    int again = fill();
    end(again);
    reap(again);
    return again;
}

/* Who becomes a user that has too many may not run programs. */
static int too_many(void)
{
    char *args[] = {"true", NULL};
    limit(RLIMIT_NPROC, 4);
    CHECK(setresuid(ONE, ONE, ONE) == 0);
    execv("/bin/true", args);
    return errno;
}

static void late(void)
{
    int status, made = 0;
    pid_t crowd = fork();
    if (crowd == 0) {
        CHECK(setresuid(ONE, ONE, ONE) == 0);
        for (; made < 8; made++)
            if ((sleepers[made] = fork()) == 0)
                for (;;)
                    pause();
        kill(getpid(), SIGSTOP);
        end(made);
        _exit(0);
    }
    CHECK(waitpid(crowd, &status, WUNTRACED) == crowd && WIFSTOPPED(status));
    printf("program of a user with too many processes: %s\n", as(0, too_many) == EAGAIN ? "EAGAIN" : "no EAGAIN");
    kill(crowd, SIGCONT);
    CHECK(waitpid(crowd, &status, 0) == crowd && status == 0);
}

/* ---- pipes, watches, queues, descriptors under way, locked segments ---- */

static int pipes(void)
{
    long pages = setting("/proc/sys/fs/pipe-user-pages-soft");
    long small = 0;
    int ends[2];
    for (long i = 0; i < pages / 16 + 2; i++) {
        CHECK(pipe(ends) == 0);
        small = fcntl(ends[0], F_GETPIPE_SZ);
        CHECK(i >= pages / 16 || small == 65536);
    }
    printf("a pipe beyond the soft limit: %ld bytes\n", small);
    CHECK_ERRNO(fcntl(ends[0], F_SETPIPE_SZ, 65536), EPERM);
    CHECK(fcntl(ends[0], F_SETPIPE_SZ, 4096) == 4096);
    return 0;
}

static int instances(void)
{
    long most = setting("/proc/sys/fs/inotify/max_user_instances");
    int last = -1;
    for (long i = 0; i < most; i++)
        CHECK((last = inotify_init()) >= 0);
    CHECK_ERRNO(inotify_init(), EMFILE);
    close(last);
    CHECK(inotify_init() >= 0);
    return 0;
}

static int one_instance(void)
{
    return inotify_init() < 0;
}

static mqd_t queue(const char *name, long messages)
{
    struct mq_attr attr = {.mq_maxmsg = messages, .mq_msgsize = 1024};
    mqd_t made = mq_open(name, O_CREAT | O_RDWR, 0600, &attr);
    int error = errno;
    mq_unlink(name);
    errno = error;
    return made;
}

static int queues(void)
{
    /* Each message costs its text and 48 bytes, each priority that they can have 48 more. */
    limit(RLIMIT_MSGQUEUE, 2 * 4 * (1024 + 96));
    mqd_t first = queue("/quotas-1", 4);
    CHECK(first >= 0);
    CHECK(queue("/quotas-2", 4) >= 0);
    CHECK_ERRNO(queue("/quotas-3", 1), EMFILE);
    mq_close(first);
    CHECK(queue("/quotas-3", 4) >= 0);
    CHECK_ERRNO(queue("/quotas-4", 1), EMFILE);
    return 0;
}

static int send_descriptors(int to, int count)
{
    char control[CMSG_SPACE(16 * sizeof(int))] = {0};
    struct iovec piece = {"x", 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memset(CMSG_DATA(header), 0, count * sizeof(int));
    return sendmsg(to, &message, MSG_DONTWAIT);
}

static int flights(void)
{
    int pair[2], sent = 0;
    limit(RLIMIT_NOFILE, 32);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    while (sent < 10 && send_descriptors(pair[0], 16) == 1)
        sent++;
    CHECK(sent >= 2 && sent < 10 && errno == ETOOMANYREFS);
    close(pair[0]);
    close(pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(send_descriptors(pair[0], 16) == 1);
    return 0;
}

static int segments(void)
{
    limit(RLIMIT_MEMLOCK, 8192);
    int first = shmget(IPC_PRIVATE, 8192, 0600), second = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(first >= 0 && second >= 0);
    CHECK(shmctl(first, SHM_LOCK, NULL) == 0 && shmctl(first, SHM_LOCK, NULL) == 0);
    CHECK_ERRNO(shmctl(second, SHM_LOCK, NULL), ENOMEM);
    CHECK(shmctl(first, SHM_UNLOCK, NULL) == 0);
    CHECK(shmctl(second, SHM_LOCK, NULL) == 0);
    CHECK(shmctl(first, IPC_RMID, NULL) == 0 && shmctl(second, IPC_RMID, NULL) == 0);
    return 0;
}

int main(void)
{
    struct rlimit files;
    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    printf("again: %d\n", as(ONE, few));
    CHECK(as(OTHER, few) == 5);
    late();
    CHECK(as(ONE, pipes) == 0);
    CHECK(as(ONE, instances) == 0);
    CHECK(as(OTHER, one_instance) == 0);
    CHECK(as(ONE, queues) == 0);
    CHECK(as(ONE, flights) == 0);
    CHECK(as(ONE, segments) == 0);
    DONE();
}
