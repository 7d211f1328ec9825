/* Borders between users, and between namespaces, that programs try to cross: each attempt must fail as it does on Linux. Root. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define USER 1000

static void become_user(void) {
    CHECK(setgid(USER) == 0 && setuid(USER) == 0);
    /* As after a login: others of this user may look into it. */
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

/* A child that does `prepare` and then sleeps until it is killed. */
static pid_t sleeper(void (*prepare)(void)) {
    int ready[2];
    char c;
    CHECK(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        prepare();
        fflush(stdout);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;) pause();
    }
    CHECK(read(ready[0], &c, 1) == 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void end(pid_t pid) {
    kill(pid, SIGKILL);
    CHECK(waitpid(pid, 0, 0) == pid);
}

static int put(pid_t pid, const char *file, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    int count = write(fd, text, strlen(text)), saved = errno;
    close(fd);
    errno = saved;
    return count < 0 ? -1 : 0;
}

static int open_of(pid_t pid, const char *file, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    return open(path, flags);
}

static void new_user(void) { CHECK(unshare(CLONE_NEWUSER) == 0); }

/* Ids between two lines of a map are nobody's inside, and are not had by a map of both. */
static void below(void) {
    CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
    prctl(PR_SET_DUMPABLE, 1);
    pid_t inner = sleeper(new_user);
    CHECK_ERRNO(put(inner, "uid_map", "0 0 4"), EPERM);
    CHECK_ERRNO(put(inner, "uid_map", "0 2 2"), EPERM);
    CHECK(put(inner, "uid_map", "0 0 1\n1 3 1\n") == 0);
    end(inner);
}

static void gaps(void) {
    int there[2], mapped[2];
    char c;
    CHECK(pipe(there) == 0 && pipe(mapped) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        check_failures = 0;
        new_user();
        CHECK(write(there[1], "x", 1) == 1 && read(mapped[0], &c, 1) == 1);
        below();
        fflush(stdout);
        _exit(check_failures);
    }
    CHECK(read(there[0], &c, 1) == 1);
    CHECK(put(pid, "gid_map", "0 5000 4") == 0);
    CHECK(put(pid, "uid_map", "0 5000 1\n3 5003 1\n") == 0);
    CHECK(write(mapped[1], "x", 1) == 1);
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* Who is root of a user namespace does not change the root directory of somebody outside. */
static int entering(void *pid) {
    int fd = open_of(*(pid_t *)pid, "ns/user", O_RDONLY);
    CHECK(fd >= 0);
    CHECK_ERRNO(setns(fd, CLONE_NEWUSER), EINVAL);
    CHECK(unshare(CLONE_FS) == 0 && setns(fd, CLONE_NEWUSER) == 0);
    fflush(stdout);
    return check_failures;
}

static void shared_places(void) {
    static char stack[65536];
    become_user();
    pid_t pid = sleeper(new_user), child;
    int status = -1;
    child = clone(entering, stack + sizeof stack, CLONE_FS | SIGCHLD, &pid);
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    end(pid);
}

/* Mounts of another name space stay there, and are not shown without what is on them. */
static void own_mounts(void) { CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0); }

static void foreign_mounts(void) {
    become_user();
    int proc = open("/proc", O_PATH), root = open("/", O_PATH);
    char path[64];
    own_mounts();
    snprintf(path, sizeof path, "/proc/self/fd/%d", root);
    CHECK_ERRNO(mount(path, "/tmp", 0, MS_BIND, 0), EINVAL);
    CHECK_ERRNO(mount(path, "/tmp", 0, MS_BIND | MS_REC, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_open_tree, root, "", AT_EMPTY_PATH | OPEN_TREE_CLONE), EINVAL);
    snprintf(path, sizeof path, "/proc/self/fd/%d", proc);
    CHECK_ERRNO(mount(path, "/tmp", 0, MS_MOVE, 0), EINVAL);
    CHECK_ERRNO(mount(0, path, 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0), EINVAL);
    CHECK_ERRNO(umount2(path, MNT_DETACH), EINVAL);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    CHECK_ERRNO(syscall(SYS_mount_setattr, proc, "", AT_EMPTY_PATH, &attr, sizeof attr), EINVAL);
    int config = syscall(SYS_fspick, proc, "", FSPICK_EMPTY_PATH);
    CHECK(config >= 0 && syscall(SYS_fsconfig, config, FSCONFIG_SET_FLAG, "ro", 0, 0) == 0);
    CHECK_ERRNO(syscall(SYS_fsconfig, config, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0), EPERM);
    CHECK(mount("none", "/tmp", "tmpfs", 0, 0) == 0 && mount("/tmp", "/tmp", 0, MS_BIND, 0) == 0);
    /* Nor as a layer. */
    if (mount("none", "/tmp", "overlay", 0, "lowerdir=/usr/share:/usr/lib") == 0) {
        CHECK_ERRNO(mount("none", "/tmp", "overlay", 0, "lowerdir=/usr/share:/"), EINVAL);
        snprintf(path, sizeof path, "lowerdir=/usr/share:/proc/self/fd/%d/usr", root);
        CHECK_ERRNO(mount("none", "/tmp", "overlay", 0, path), EINVAL);
    }
}

/* What somebody mounts in a name space of their own keeps nobody else from removing the names below it. */
static void busy_names(void) {
    own_mounts();
    CHECK(mount("none", "/tmp/borders-a", "tmpfs", 0, 0) == 0 && mount("none", "/tmp/borders-b", "tmpfs", 0, 0) == 0);
    CHECK(mount("/proc/version", "/tmp/borders-c", 0, MS_BIND, 0) == 0);
    CHECK_ERRNO(rmdir("/tmp/borders-a"), EBUSY);
    CHECK_ERRNO(rename("/tmp/borders-a", "/tmp/borders-e"), EBUSY);
    CHECK_ERRNO(unlink("/tmp/borders-c"), EBUSY);
}

static int mounts_seen_by(pid_t pid, const char *part) {
    char path[64], line[512];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/mounts", pid);
    FILE *file = fopen(path, "r");
    CHECK(file);
    while (file && fgets(line, sizeof line, file)) count += strstr(line, part) != 0;
    if (file) fclose(file);
    return count;
}

static void removing(void) {
    become_user();
    CHECK(mkdir("/tmp/borders-a", 0700) == 0 && mkdir("/tmp/borders-b", 0700) == 0 && mkdir("/tmp/borders-d", 0700) == 0);
    CHECK(close(creat("/tmp/borders-c", 0600)) == 0);
    pid_t pid = sleeper(busy_names);
    CHECK(mounts_seen_by(pid, "/tmp/borders-") == 3);
    CHECK(rmdir("/tmp/borders-a") == 0 && rename("/tmp/borders-d", "/tmp/borders-b") == 0);
    CHECK(unlink("/tmp/borders-c") == 0 && mounts_seen_by(pid, "/tmp/borders-") == 0);
    end(pid);
    CHECK(rmdir("/tmp/borders-b") == 0);
}

/* What shows other namespaces is mounted by who is privileged in these. */
static void foreign_systems(void) {
    become_user();
    own_mounts();
    static const char *const kinds[] = {"proc", "sysfs", "mqueue", "cgroup2", "devtmpfs"};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        CHECK_ERRNO(mount("none", "/tmp", kinds[i], 0, 0), EPERM);
    }
    CHECK(unshare(CLONE_NEWIPC) == 0 && mount("none", "/tmp", "mqueue", 0, 0) == 0);
}

/* What a privileged process has brought into a user namespace is not for those who are root there. */
static void not_dumpable(void) {
    new_user();
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static void looking(void) {
    become_user();
    pid_t pid = sleeper(not_dumpable);
    int fd = syscall(SYS_pidfd_open, pid, 0);
    CHECK_ERRNO(syscall(SYS_pidfd_getfd, fd, 0, 0), EPERM);
    CHECK_ERRNO(setns(fd, CLONE_NEWUSER), EPERM);
    CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM);
    close(fd);
    end(pid);
    pid = sleeper(own_mounts);
    fd = syscall(SYS_pidfd_open, pid, 0);
    CHECK(setns(fd, CLONE_NEWUSER | CLONE_NEWNS) == 0);
    end(pid);
}

static int entered_by_root[2];

static void visitor(void) {
    int fd;
    CHECK(read(entered_by_root[0], &fd, sizeof fd) == sizeof fd);
    fd = open_of(fd, "ns/user", O_RDONLY);
    CHECK(fd >= 0 && setns(fd, CLONE_NEWUSER) == 0 && prctl(PR_GET_DUMPABLE) != 1);
}

static void host(void) {
    become_user();
    new_user();
}

static void visit(void) {
    int resident = sleeper(host);
    CHECK(pipe(entered_by_root) == 0 && write(entered_by_root[1], &resident, sizeof resident) == sizeof resident);
    pid_t pid = sleeper(visitor);
    int fd = open_of(resident, "ns/user", O_RDONLY);
    pid_t child = fork();
    if (child == 0) {
        check_failures = 0;
        become_user();
        CHECK(setns(fd, CLONE_NEWUSER) == 0);
        CHECK_ERRNO(ptrace(PTRACE_ATTACH, pid, 0, 0), EPERM);
        CHECK_ERRNO(open_of(pid, "mem", O_RDWR), EACCES);
        fflush(stdout);
        _exit(check_failures);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    end(pid);
    end(resident);
}

/* Nor where it lies in memory. */
static void addresses(void) {
    pid_t root = getppid();
    for (int other = 0; other < 2; other++) {
        char path[64], text[1024] = "";
        unsigned long field[64] = {0}, count = 0, unknown = other ? 1 : 0;
        snprintf(path, sizeof path, "/proc/%d/stat", other ? root : getpid());
        FILE *file = fopen(path, "r");
        CHECK(file && fgets(text, sizeof text, file));
        fclose(file);
        for (char *at = strrchr(text, ')') + 3; at && count < 61; at = strchr(at, ' '), at += at != 0) {
            field[count++ + 3] = strtoul(at, 0, 10);
        }
        CHECK((field[26] == 1) == unknown && (field[27] == 1) == unknown && (field[28] == 0) == unknown);
        for (int i = 45; i <= 51; i++) CHECK((field[i] == 0) == unknown);
        if (!other) become_user();
    }
}

/* A program that may be executed only is not read through the process. */
static void unreadable(void) {
    char directory[] = "/tmp/bordersXXXXXX", path[64];
    CHECK(mkdtemp(directory) && chmod(directory, 0755) == 0);
    snprintf(path, sizeof path, "%s/copy", directory);
    int from = open("/proc/self/exe", O_RDONLY), to = open(path, O_WRONLY | O_CREAT, 0111);
    char buffer[65536];
    ssize_t count;
    while ((count = read(from, buffer, sizeof buffer)) > 0) CHECK(write(to, buffer, count) == count);
    CHECK(fchmod(to, 0111) == 0);
    close(from);
    close(to);
    for (int readable = 0; readable < 2; readable++) {
        CHECK(chmod(path, readable ? 0555 : 0111) == 0);
        int out[2];
        CHECK(pipe(out) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            become_user();
            dup2(out[1], 1);
            execl(path, path, "sleep", (char *)0);
            _exit(1);
        }
        CHECK(read(out[0], buffer, 1) == 1);
        pid_t child = fork();
        if (child == 0) {
            check_failures = 0;
            become_user();
            if (readable) {
                CHECK(open_of(pid, "mem", O_RDONLY) >= 0);
            } else {
                CHECK_ERRNO(open_of(pid, "mem", O_RDONLY), EACCES);
                CHECK_ERRNO(ptrace(PTRACE_SEIZE, pid, 0, 0), EPERM);
            }
            fflush(stdout);
            _exit(check_failures);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        end(pid);
        close(out[0]);
        close(out[1]);
    }
    /* Set-id bits count in the caller's own tree of mounts. */
    CHECK(chmod(path, 04755) == 0);
    for (int other = 0; other < 2; other++) {
        int fd = open(path, O_RDONLY), status = -1;
        pid_t pid = fork();
        if (pid == 0) {
            if (other) CHECK(unshare(CLONE_NEWNS) == 0);
            become_user();
            char *const arguments[] = {path, "user", 0}, *const none[] = {0};
            fexecve(fd, arguments, none);
            _exit(1);
        }
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == (other ? 11 : 10));
        close(fd);
    }
    CHECK(unlink(path) == 0 && rmdir(directory) == 0);
}

/* Ids that are given are those of the giver's user namespace. */
static void raw_ids(void) {
    int pair[2], one = 1, file = open("/tmp/borders-root", O_CREAT | O_RDWR, 0600);
    struct shmid_ds segment;
    CHECK(file >= 0 && close(file) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
    become_user();
    CHECK_ERRNO(open("/tmp/borders-root", O_RDWR), EACCES);
    new_user();
    CHECK(setfsuid(0) == 65534 && setfsgid(0) == 65534 && setfsuid(-1) == 65534);
    CHECK_ERRNO(open("/tmp/borders-root", O_RDWR), EACCES);
    struct {
        struct cmsghdr head;
        struct ucred who;
    } control = {{CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS}, {getpid(), 0, 0}};
    struct iovec text = {"x", 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    CHECK_ERRNO(sendmsg(pair[1], &message, 0), EINVAL);
    int id = shmget(IPC_PRIVATE, 4096, 0600);
    CHECK(shmctl(id, IPC_STAT, &segment) == 0 && segment.shm_perm.uid == 65534);
    segment.shm_perm.uid = segment.shm_perm.gid = 0;
    CHECK_ERRNO(shmctl(id, IPC_SET, &segment), EINVAL);
    CHECK(shmctl(id, IPC_RMID, 0) == 0);
    CHECK(put(getpid(), "setgroups", "deny") == 0 && put(getpid(), "gid_map", "0 1000 1") == 0);
    CHECK(put(getpid(), "uid_map", "0 1000 1") == 0 && setfsuid(0) == 0 && setfsuid(-1) == 0);
    CHECK(sendmsg(pair[1], &message, 0) == 1);
    CHECK_ERRNO(open("/tmp/borders-root", O_RDWR), EACCES);
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK_ERRNO(mount("none", "/tmp", "tmpfs", 0, "uid=5"), EINVAL);
    CHECK(mount("none", "/tmp", "tmpfs", 0, "uid=0") == 0);
}

/* Many questions in one message are not answered beyond what the receive buffer takes. */
static void many_questions(void) {
    enum { COUNT = 1600 };
    static struct {
        struct nlmsghdr header;
        struct rtgenmsg about;
    } ask[COUNT];
    static char answer[65536];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    for (int i = 0; i < COUNT; i++) {
        ask[i].header = (struct nlmsghdr){sizeof ask[i], RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, i, 0};
    }
    CHECK(send(fd, ask, sizeof ask, 0) == sizeof ask);
    ssize_t count, sum = 0;
    while ((count = recv(fd, answer, sizeof answer, MSG_DONTWAIT)) >= 0 || errno == ENOBUFS) sum += count > 0 ? count : 0;
    CHECK(sum > 0 && sum < 1 << 20);
}

/* What is locked of how root is treated stays. */
static void locked_bits(void) {
    CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 1 << 12), EPERM);
    CHECK(prctl(PR_SET_SECUREBITS, 0x3) == 0 && prctl(PR_SET_KEEPCAPS, 1) == 0);
    CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 0x2), EPERM);
    CHECK_ERRNO(prctl(PR_SET_SECUREBITS, 0x1), EPERM);
    CHECK(prctl(PR_SET_SECUREBITS, 0x23) == 0 && prctl(PR_GET_SECUREBITS) == 0x23);
    CHECK_ERRNO(prctl(PR_SET_KEEPCAPS, 1), EPERM);
    CHECK_ERRNO(prctl(PR_SET_KEEPCAPS, 2), EINVAL);
}

/* A child sends the program that its parent becomes no signal of the old one's choice. */
static void chosen_signal(void) {
    int status = -1, hold[2];
    CHECK(pipe(hold) == 0);
    for (int execs = 0; execs < 2; execs++) {
        pid_t pid = fork();
        if (pid == 0) {
            char wait[16], *const arguments[] = {"borders", "wait", wait, 0}, *const none[] = {0};
            pid_t child = syscall(SYS_clone, (long)SIGUSR1, 0, 0, 0, 0);
            if (child == 0) {
                /* Until the parent waits, as one or the other program. */
                CHECK(read(hold[0], wait, 1) == 1);
                _exit(0);
            }
            snprintf(wait, sizeof wait, "%d", hold[1]);
            if (execs) execve("/proc/self/exe", arguments, none);
            CHECK(write(hold[1], "x", 1) == 1);
            for (;;) pause();
        }
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(execs ? WIFEXITED(status) && WEXITSTATUS(status) == 0 : WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
    }
}

/* Whoever changes a set-id program that is not theirs, in whatever way, takes the bits away. */
static void changed_programs(void) {
    struct stat st;
    int files[3];
    char path[32];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "/tmp/borders-%d", i);
        files[i] = open(path, O_CREAT | O_RDWR, 0600);
        CHECK(write(files[i], "text", 4) == 4 && fchmod(files[i], 06777) == 0);
    }
    CHECK(setgid(USER) == 0 && setuid(USER) == 0);
    CHECK(write(files[0], "x", 1) == 1 && ftruncate(files[1], 1) == 0);
    CHECK(fallocate(files[2], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
    for (int i = 0; i < 3; i++) CHECK(fstat(files[i], &st) == 0 && (st.st_mode & 07777) == 0777);
    CHECK_ERRNO(mknod("/tmp/borders-w", S_IFCHR | 0600, 1 << 8 | 3), EPERM);
    CHECK(mknod("/tmp/borders-w", S_IFCHR | 0600, 0) == 0 && unlink("/tmp/borders-w") == 0);
}

/* Requests for a great many pages end when the program is to end, and others run meanwhile. */
static void endless(void) {
    unsigned long long length = 1ull << 38;
    char *pages = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int fd = syscall(SYS_userfaultfd, 1);
    struct uffdio_api api = {.api = UFFD_API, .features = 1 << 14};
    struct uffdio_register area = {{(unsigned long)pages, length}, UFFDIO_REGISTER_MODE_MISSING, 0};
    struct {
        struct uffdio_range range;
        unsigned long long mode;
        long long done;
    } bad = {area.range, 0, 0};
    CHECK(pages != MAP_FAILED && ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &area) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        usleep(50000);
        kill(getppid(), SIGKILL);
        _exit(0);
    }
    ioctl(fd, 0xc020aa08, &bad);
}

/* A descriptor that an ordinary user opened does not become mightier by being given to root. */
static void lent(void) {
    pid_t pid = sleeper(host);
    CHECK(seteuid(USER) == 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
    int map = open(path, O_WRONLY);
    CHECK(seteuid(0) == 0);
    CHECK_ERRNO(write(map, "0 0 1", 5), EPERM);
    CHECK(write(map, "0 1000 1", 8) == 8);
    close(map);
    end(pid);

    CHECK(unshare(CLONE_NEWNET) == 0 && seteuid(USER) == 0);
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), own;
    CHECK(seteuid(0) == 0);
    own = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    for (int i = 0; i < 2; i++) {
        struct {
            struct nlmsghdr header;
            struct ifinfomsg link;
        } up = {{sizeof up, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0}, {.ifi_index = 1}};
        struct {
            struct nlmsghdr header;
            struct nlmsgerr error;
            char more[64];
        } answer;
        up.link.ifi_flags = up.link.ifi_change = IFF_UP;
        int socket = i ? own : fd;
        CHECK(send(socket, &up, sizeof up, 0) == sizeof up && recv(socket, &answer, sizeof answer, 0) > 0);
        CHECK(answer.header.nlmsg_type == NLMSG_ERROR && answer.error.error == (i ? 0 : -EPERM));
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "sleep") == 0) {
        if (write(1, "x", 1) == 1) pause();
        return 0;
    }
    if (argc > 2 && strcmp(argv[1], "wait") == 0) {
        CHECK(write(atoi(argv[2]), "x", 1) == 1);
        return waitpid(-1, 0, __WALL) > 0 ? check_failures : 1;
    }
    if (argc > 1 && strcmp(argv[1], "user") == 0) return geteuid() == 0 ? 10 : 11;
    in_child(gaps);
    in_child(shared_places);
    in_child(foreign_mounts);
    in_child(removing);
    in_child(foreign_systems);
    in_child(looking);
    in_child(visit);
    in_child(addresses);
    in_child(unreadable);
    in_child(lent);
    in_child(raw_ids);
    in_child(many_questions);
    in_child(locked_bits);
    in_child(chosen_signal);
    in_child(changed_programs);
    CHECK(unlink("/tmp/borders-0") == 0 && unlink("/tmp/borders-1") == 0 && unlink("/tmp/borders-2") == 0);
    CHECK(unlink("/tmp/borders-root") == 0);
    pid_t pid = fork();
    if (pid == 0) {
        endless();
        _exit(1);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    DONE();
}
