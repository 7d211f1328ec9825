/* Nanoseconds per operation of what a kernel does for a program: one static program, run unchanged on the host and in
 * a machine. Usage: ops [OPERATION…]; prints "NAME NANOSECONDS" lines, the best of several timed rounds each. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

static char *self;
static char block[65536];
static int zero_fd, null_fd, file_fd, self_pipe[2], ping[2], pong[2], socket_pair[2];
static int futex_go[16], futex_done[16];

static void op_getppid(void) { syscall(SYS_getppid); }
static void op_getpid(void) { getpid(); }
static void op_clock_gettime(void) { now(); }
static void op_read_zero_1(void) { must(read(zero_fd, block, 1) == 1, "read"); }
static void op_write_null_1(void) { must(write(null_fd, block, 1) == 1, "write"); }
static void op_stat(void) {
    struct stat s;
    must(stat("/tmp", &s) == 0, "stat");
}
static void op_open_close(void) {
    int fd = open("/tmp", O_RDONLY);
    must(fd >= 0 && close(fd) == 0, "open");
}
static void op_pread_4k(void) { must(pread(file_fd, block, 4096, 8192) == 4096, "pread"); }
static void op_pread_64k(void) { must(pread(file_fd, block, 65536, 65536) == 65536, "pread"); }
static void op_pwrite_4k(void) { must(pwrite(file_fd, block, 4096, 8192) == 4096, "pwrite"); }
static void op_create_unlink(void) {
    int fd = open("/tmp/umbel-ops.new", O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && close(fd) == 0 && unlink("/tmp/umbel-ops.new") == 0, "create");
}
static void op_pipe_self_1(void) {
    must(write(self_pipe[1], block, 1) == 1 && read(self_pipe[0], block, 1) == 1, "pipe");
}
static volatile int signals;
static void on_signal(int n) { signals += n; }
static void op_signal_self(void) { kill(getpid(), SIGUSR1); }
static void op_pipe_pingpong(void) {
    must(write(ping[1], block, 1) == 1 && read(pong[0], block, 1) == 1, "pipe");
}
static void op_unix_pingpong(void) {
    must(write(socket_pair[0], block, 1) == 1 && read(socket_pair[0], block, 1) == 1, "socketpair");
}
static long futex(int *word, int op, int value) { return syscall(SYS_futex, word, op, value, 0, 0, 0); }
static void *futex_partner(void *unused) {
    for (;;) {
        int v;
        while ((v = __atomic_exchange_n(futex_go, 0, __ATOMIC_SEQ_CST)) == 0) futex(futex_go, FUTEX_WAIT_PRIVATE, 0);
        if (v == 2) return unused;
        __atomic_store_n(futex_done, 1, __ATOMIC_SEQ_CST);
        futex(futex_done, FUTEX_WAKE_PRIVATE, 1);
    }
}
static void op_futex_pingpong(void) {
    __atomic_store_n(futex_go, 1, __ATOMIC_SEQ_CST);
    futex(futex_go, FUTEX_WAKE_PRIVATE, 1);
    while (!__atomic_load_n(futex_done, __ATOMIC_SEQ_CST)) futex(futex_done, FUTEX_WAIT_PRIVATE, 0);
    __atomic_store_n(futex_done, 0, __ATOMIC_SEQ_CST);
}
static void op_mmap_munmap_16p(void) {
    char *m = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(m != MAP_FAILED, "mmap");
    m[0] = 1;
    munmap(m, 65536);
}
static void op_first_touch_4096p(void) {
    size_t length = 16 << 20;
    char *m = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(m != MAP_FAILED, "mmap");
    for (size_t i = 0; i < length; i += 4096) m[i] = 1;
    munmap(m, length);
}
static void *no_work(void *unused) { return unused; }
static void op_pthread_create_join(void) {
    pthread_t t;
    must(pthread_create(&t, 0, no_work, 0) == 0, "pthread_create");
    pthread_join(t, 0);
}
static void op_fork_exit_wait(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    must(child > 0 && waitpid(child, 0, 0) == child, "fork");
}
static void op_fork_exec_wait(void) {
    pid_t child = fork();
    if (child == 0) {
        execl(self, "ops", "--nothing", (char *)0);
        _exit(1);
    }
    must(child > 0 && waitpid(child, 0, 0) == child, "fork");
}
static void op_vfork_exec_wait(void) {
    pid_t child = vfork();
    if (child == 0) {
        execl(self, "ops", "--nothing", (char *)0);
        _exit(1);
    }
    must(child > 0 && waitpid(child, 0, 0) == child, "vfork");
}

static const struct op ops[] = {
    {"getppid", op_getppid, 1000},
    {"getpid", op_getpid, 1000},
    {"clock_gettime", op_clock_gettime, 1000},
    {"read_zero_1", op_read_zero_1, 100},
    {"write_null_1", op_write_null_1, 100},
    {"stat", op_stat, 100},
    {"open_close", op_open_close, 100},
    {"pread_4k", op_pread_4k, 100},
    {"pread_64k", op_pread_64k, 100},
    {"pwrite_4k", op_pwrite_4k, 100},
    {"create_unlink", op_create_unlink, 100},
    {"pipe_self_1", op_pipe_self_1, 100},
    {"signal_self", op_signal_self, 100},
    {"pipe_pingpong", op_pipe_pingpong, 100},
    {"unix_pingpong", op_unix_pingpong, 100},
    {"futex_pingpong", op_futex_pingpong, 100},
    {"mmap_munmap_16p", op_mmap_munmap_16p, 10},
    {"first_touch_4096p", op_first_touch_4096p, 1},
    {"pthread_create_join", op_pthread_create_join, 10},
    {"fork_exit_wait", op_fork_exit_wait, 10},
    {"fork_exec_wait", op_fork_exec_wait, 10},
    {"vfork_exec_wait", op_vfork_exec_wait, 10},
};

static pid_t echo_child(int in, int out) {
    pid_t child = fork();
    if (child == 0) {
        char c;
        while (read(in, &c, 1) == 1 && write(out, &c, 1) == 1) {
        }
        _exit(0);
    }
    return child;
}

int main(int argc, char **argv) {
    self = "/proc/self/exe";
    if (argc > 1 && !strcmp(argv[1], "--nothing")) return 0;
    pthread_t partner;
    pid_t children[2] = {0, 0};
    zero_fd = open("/dev/zero", O_RDWR);
    null_fd = open("/dev/null", O_RDWR);
    file_fd = open("/tmp/umbel-ops.file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    must(zero_fd >= 0 && null_fd >= 0 && file_fd >= 0, "open");
    unlink("/tmp/umbel-ops.file");
    for (int i = 0; i < 4; i++) must(write(file_fd, block, sizeof block) == sizeof block, "write");
    must(pipe(self_pipe) == 0 && pipe(ping) == 0 && pipe(pong) == 0, "pipe");
    signal(SIGUSR1, on_signal);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const struct op *op = &ops[i];
        if (!wanted(op->name, argc, argv)) continue;
        if (op->run == op_pipe_pingpong) children[0] = echo_child(ping[0], pong[1]);
        if (op->run == op_unix_pingpong) {
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, socket_pair)) continue;
            children[1] = echo_child(socket_pair[1], socket_pair[1]);
        }
        if (op->run == op_futex_pingpong) must(pthread_create(&partner, 0, futex_partner, 0) == 0, "pthread_create");
        measure(op);
        if (op->run == op_futex_pingpong) {
            __atomic_store_n(futex_go, 2, __ATOMIC_SEQ_CST);
            futex(futex_go, FUTEX_WAKE_PRIVATE, 1);
            pthread_join(partner, 0);
        }
        for (int c = 0; c < 2; c++)
            if (children[c] > 0) {
                kill(children[c], SIGKILL);
                waitpid(children[c], 0, 0);
                children[c] = 0;
            }
    }
    return 0;
}
