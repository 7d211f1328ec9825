/* Landlock: rulesets and their errors; files, moves, truncation, devices, ports, scopes, layers; what children and execve(2) keep. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* As version 6 has it, whatever the header knows. */
struct attr {
    unsigned long fs, net, scoped;
};
enum { EXECUTE = 1, WRITE = 2, READ = 4, READ_DIR = 8, REMOVE_DIR = 16, REMOVE = 32, MAKE_DIR = 128, MAKE_REG = 256, MAKE_SYM = 4096,
       REFER = 8192, TRUNCATE = 16384, IOCTL_DEV = 32768 };

static int create(struct attr attr) { return syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0); }

static int allow(int fd, const char *path, unsigned long rights) {
    struct __attribute__((packed)) {
        unsigned long rights;
        int parent;
    } rule = {rights, open(path, O_PATH)};
    int result = syscall(SYS_landlock_add_rule, fd, 1, &rule, 0), saved = errno;
    close(rule.parent);
    errno = saved;
    return result;
}

static int allow_port(int fd, unsigned long port, unsigned long rights) {
    unsigned long rule[2] = {rights, port};
    return syscall(SYS_landlock_add_rule, fd, 2, rule, 0);
}

static int restrict_self(int fd) { return syscall(SYS_landlock_restrict_self, fd, 0); }

static void enforce(int fd) {
    CHECK(fd >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && restrict_self(fd) == 0);
    close(fd);
}

static void touch(const char *path) { CHECK(close(open(path, O_CREAT | O_WRONLY, 0600)) == 0); }

static void errors(void) {
    struct attr attr = {.fs = EXECUTE}, bigger[2] = {{.fs = EXECUTE}, {.fs = 1}};
    CHECK(syscall(SYS_landlock_create_ruleset, 0, 0, 1) >= 1);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, &attr, 8, 1), EINVAL);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, &attr, 8, 1u << 31), EINVAL);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, 0, 8, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, &attr, 7, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, &attr, 4097, 0), E2BIG);
    CHECK_ERRNO(syscall(SYS_landlock_create_ruleset, bigger, sizeof bigger, 0), E2BIG);
    CHECK_ERRNO(create((struct attr){0}), ENOMSG);
    CHECK_ERRNO(create((struct attr){.fs = 1ul << 63}), EINVAL);
    CHECK_ERRNO(create((struct attr){.net = 1ul << 63}), EINVAL);
    CHECK_ERRNO(create((struct attr){.scoped = 1ul << 63}), EINVAL);
    int fd = create((struct attr){.fs = READ | READ_DIR, .net = 1}), file = open("/dev/null", O_RDWR);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK_ERRNO(allow(fd, "/", 0), ENOMSG);
    CHECK_ERRNO(allow(fd, "/", WRITE), EINVAL);
    CHECK_ERRNO(allow(fd, "/nowhere", READ), EBADF);
    CHECK_ERRNO(allow(fd, "/dev/null", READ_DIR), EINVAL);
    CHECK_ERRNO(allow(file, "/", READ), EBADFD);
    CHECK_ERRNO(allow(-1, "/", READ), EBADF);
    CHECK_ERRNO(allow_port(fd, 65536, 1), EINVAL);
    CHECK_ERRNO(allow_port(fd, 80, 2), EINVAL);
    CHECK_ERRNO(allow_port(fd, 80, 0), ENOMSG);
    CHECK_ERRNO(syscall(SYS_landlock_add_rule, fd, 1, 0, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_landlock_add_rule, fd, 1, 0, 1), EINVAL);
    CHECK_ERRNO(syscall(SYS_landlock_add_rule, fd, 9, 0, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_landlock_restrict_self, fd, 1u << 31), EINVAL);
    CHECK_ERRNO(restrict_self(file), EBADFD);
    CHECK_ERRNO(restrict_self(-1), EBADF);
    close(fd), close(file);
}

static void layers(void) {
    int fd = create((struct attr){.scoped = 2});
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    for (int i = 0; i < 16; i++) CHECK(restrict_self(fd) == 0);
    CHECK_ERRNO(restrict_self(fd), E2BIG);
}

static void files(void) {
    int fd = create((struct attr){.fs = READ | WRITE | READ_DIR | MAKE_REG | MAKE_DIR | MAKE_SYM | REMOVE | REMOVE_DIR});
    CHECK(allow(fd, "in", READ | WRITE | READ_DIR | MAKE_REG | REMOVE) == 0 && allow(fd, "in/deep", MAKE_DIR) == 0);
    CHECK(allow(fd, "out/read", READ) == 0);
    int before = open("out/file", O_RDWR);
    enforce(fd);
    struct stat attr;
    CHECK(write(before, "x", 1) == 1 && stat("out/file", &attr) == 0);
    CHECK_ERRNO(open("out/file", O_RDONLY), EACCES);
    CHECK_ERRNO(open("out/file", O_WRONLY), EACCES);
    CHECK_ERRNO(open("out", O_RDONLY), EACCES);
    CHECK(open("out/file", O_PATH) >= 0 && open("out/read", O_RDONLY) >= 0);
    CHECK_ERRNO(open("out/read", O_RDWR), EACCES);
    CHECK_ERRNO(open("out/new", O_CREAT | O_WRONLY, 0600), EACCES);
    CHECK(open("in/file", O_RDWR) >= 0 && open("in", O_RDONLY) >= 0 && open("in/deep/new", O_CREAT | O_WRONLY, 0600) >= 0);
    CHECK(mkdir("in/deep/dir", 0700) == 0);
    CHECK_ERRNO(mkdir("in/dir", 0700), EACCES);
    CHECK_ERRNO(symlink("a", "in/link"), EACCES);
    CHECK_ERRNO(rmdir("in/deep/dir"), EACCES);
    CHECK(unlink("in/deep/new") == 0);
    CHECK_ERRNO(unlink("out/read"), EACCES);
    CHECK(mkfifo("in/fifo", 0600) == 0);
    CHECK(rename("in/file", "in/other") == 0);
    /* Other directories are out of reach without the right to refer. */
    CHECK_ERRNO(rename("in/other", "in/deep/other"), EXDEV);
    CHECK_ERRNO(rename("in/other", "out/other"), EACCES);
    CHECK_ERRNO(link("in/other", "in/deep/other"), EXDEV);
    CHECK(link("in/other", "in/further") == 0);
    CHECK_ERRNO(mount("none", "in", "tmpfs", 0, 0), EPERM);
    int pipes[2];
    char name[64];
    CHECK(pipe(pipes) == 0 && snprintf(name, sizeof name, "/proc/self/fd/%d", pipes[1]) > 0);
    /* A second layer takes away more, for its children, too. */
    fd = create((struct attr){.fs = READ});
    CHECK(allow(fd, "in/deep", READ) == 0);
    enforce(fd);
    CHECK_ERRNO(open("in/other", O_RDONLY), EACCES);
    CHECK(open("in/other", O_WRONLY) >= 0);
    pid_t pid = fork();
    if (pid == 0) _exit(open("in/other", O_RDONLY) == -1 && errno == EACCES ? 0 : 1);
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void moves(void) {
    touch("in/a"), touch("out/b"), touch("third/c");
    int fd = create((struct attr){.fs = READ | WRITE | REFER});
    CHECK(allow(fd, "in", REFER | READ) == 0 && allow(fd, "out", REFER) == 0 && allow(fd, "in/deep", WRITE) == 0);
    enforce(fd);
    CHECK(rename("in/a", "out/a") == 0);
    /* It could be read there. */
    CHECK_ERRNO(rename("out/a", "in/a"), EXDEV);
    CHECK_ERRNO(link("out/a", "in/a"), EXDEV);
    CHECK_ERRNO(rename("out/a", "third/a"), EXDEV);
    CHECK_ERRNO(syscall(SYS_renameat2, AT_FDCWD, "out/b", AT_FDCWD, "third/c", 2), EXDEV);
    CHECK(rename("out/a", "out/aa") == 0);
}

static void contents(void) {
    touch("in/t"), touch("out/t");
    int fd = create((struct attr){.fs = TRUNCATE | IOCTL_DEV | WRITE}), count;
    CHECK(allow(fd, "in", TRUNCATE | WRITE) == 0 && allow(fd, "out", WRITE) == 0 && allow(fd, "/dev", WRITE) == 0);
    int before = open("/dev/tty", O_RDWR), old = open("out/t", O_RDWR);
    enforce(fd);
    CHECK(truncate("in/t", 3) == 0 && ftruncate(open("in/t", O_WRONLY), 2) == 0 && open("in/t", O_WRONLY | O_TRUNC) >= 0);
    CHECK_ERRNO(truncate("out/t", 3), EACCES);
    CHECK_ERRNO(ftruncate(open("out/t", O_WRONLY), 2), EACCES);
    CHECK_ERRNO(open("out/t", O_WRONLY | O_TRUNC), EACCES);
    CHECK(ftruncate(old, 1) == 0);
    int device = open("/dev/zero", O_RDONLY), on = 1;
    CHECK(ioctl(device, FIONBIO, &on) == 0 && ioctl(device, FIOCLEX) == 0);
    CHECK_ERRNO(ioctl(device, FIONREAD, &count), EACCES);
    CHECK(ioctl(old, FIONREAD, &count) == 0);
    close(before);
}

static int bind_to(int family, int port) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(family, SOCK_STREAM, 0);
    int result = family == AF_INET ? bind(fd, (void *)&four, sizeof four) : bind(fd, (void *)&six, sizeof six), saved = errno;
    if (result == 0) return fd;
    close(fd);
    errno = saved;
    return -1;
}

static void ports(void) {
    int server = bind_to(AF_INET, 0), other = bind_to(AF_INET, 0);
    struct sockaddr_in name, wrong;
    socklen_t len = sizeof name;
    CHECK(listen(server, 5) == 0 && listen(other, 5) == 0 && getsockname(server, (void *)&name, &len) == 0);
    CHECK(getsockname(other, (void *)&wrong, &len) == 0);
    int fd = create((struct attr){.net = 3});
    CHECK(allow_port(fd, ntohs(name.sin_port), 2) == 0 && allow_port(fd, 0, 1) == 0);
    enforce(fd);
    int client = socket(AF_INET, SOCK_STREAM, 0), dgram = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_ERRNO(connect(client, (void *)&wrong, sizeof wrong), EACCES);
    CHECK(connect(client, (void *)&name, sizeof name) == 0);
    CHECK(connect(dgram, (void *)&wrong, sizeof wrong) == 0);
    CHECK_ERRNO(bind_to(AF_INET, 4000), EACCES);
    CHECK_ERRNO(bind_to(AF_INET6, 4000), EACCES);
    CHECK(bind_to(AF_INET, 0) >= 0 && bind_to(AF_INET6, 0) >= 0);
}

static socklen_t abstract(struct sockaddr_un *addr) {
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    return offsetof(struct sockaddr_un, sun_path) + 1 + sprintf(addr->sun_path + 1, "landlock-%d", getppid());
}

static void scopes(void) {
    struct sockaddr_un addr, own;
    socklen_t len = abstract(&addr), own_len = len;
    own = addr, own.sun_path[1] = 'L';
    int server = socket(AF_UNIX, SOCK_STREAM, 0), inner = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(server, (void *)&addr, len) == 0 && listen(server, 5) == 0);
    enforce(create((struct attr){.scoped = 3}));
    CHECK_ERRNO(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&addr, len), EPERM);
    close(inner), inner = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(inner, (void *)&own, own_len) == 0 && listen(inner, 5) == 0);
    CHECK(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&own, own_len) == 0);
    CHECK_ERRNO(kill(getppid(), 0), EPERM);
    CHECK(kill(getpid(), 0) == 0);
    CHECK_ERRNO(ptrace(PTRACE_SEIZE, getppid(), 0, 0), EPERM);
    pid_t pid = fork();
    if (pid == 0) pause();
    int status = -1;
    CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, &status, 0) == pid && status == SIGKILL);
}

static void programs(void) {
    int fd = create((struct attr){.fs = EXECUTE});
    CHECK(allow(fd, "/bin", EXECUTE) == 0 && allow(fd, "/usr", EXECUTE) == 0);
    CHECK(access("/lib64", F_OK) != 0 || allow(fd, "/lib64", EXECUTE) == 0);
    enforce(fd);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "./in/run 2>/dev/null; test $? = 126", (char *)0);
        _exit(9);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    char dir[] = "/tmp/landlock-XXXXXX";
    CHECK(mkdtemp(dir) && chdir(dir) == 0);
    CHECK(mkdir("in", 0700) == 0 && mkdir("in/deep", 0700) == 0 && mkdir("out", 0700) == 0 && mkdir("third", 0700) == 0);
    touch("in/file"), touch("out/file"), touch("out/read");
    int run = open("in/run", O_CREAT | O_WRONLY, 0755);
    CHECK(write(run, "#!/bin/true\n", 12) == 12 && close(run) == 0);
    errors();
    in_child(layers);
    in_child(files);
    in_child(moves);
    in_child(contents);
    in_child(ports);
    in_child(scopes);
    in_child(programs);
    CHECK(system("rm -rf \"$PWD\"") == 0);
    DONE();
}
