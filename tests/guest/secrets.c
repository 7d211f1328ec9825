/* Memory that nobody reaches from outside: memfd_secret(2). With the argument "probe": whether there is any. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

static int secret(unsigned flags) {
    return syscall(SYS_memfd_secret, flags);
}

static void file(void) {
    char byte = 0;
    struct stat st;
    CHECK_ERRNO(secret(1), EINVAL);
    int fd = secret(O_CLOEXEC);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(fstat(fd, &st) == 0 && st.st_size == 0);
    CHECK_ERRNO(read(fd, &byte, 1), EINVAL);
    CHECK_ERRNO(write(fd, &byte, 1), EINVAL);
    CHECK(ftruncate(fd, 8192) == 0 && fstat(fd, &st) == 0 && st.st_size == 8192);
    CHECK_ERRNO(ftruncate(fd, 4096), EINVAL);
    CHECK_ERRNO(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0, EINVAL);
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = epoll_create1(0);
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EPERM);
    close(epoll);
    close(fd);
}

/* What can be done with it from inside, and not from outside. */
static void memory(void) {
    int fd = secret(0), pipes[2];
    CHECK(ftruncate(fd, 8192) == 0 && pipe(pipes) == 0);
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), copy[8] = "", byte;
    CHECK(map != MAP_FAILED && map[0] == 0);
    strcpy(map + 4096, "hidden");
    CHECK(write(pipes[1], map + 4096, 7) == 7 && read(pipes[0], copy, 7) == 7 && strcmp(copy, "hidden") == 0);
    struct iovec to = {copy, 7}, from = {map + 4096, 7};
    CHECK_ERRNO(process_vm_readv(getpid(), &to, 1, &from, 1, 0), EFAULT);
    int mem = open("/proc/self/mem", O_RDWR);
    CHECK_ERRNO(pread(mem, copy, 7, (off_t)(map + 4096)), EIO);
    close(mem);
    pid_t pid = fork();
    if (pid == 0) {
        /* It is shared. */
        strcpy(map, "child");
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(strcmp(map + 4096, "hidden") != 0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
    CHECK_ERRNO(ptrace(PTRACE_PEEKDATA, pid, map, 0), EIO);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0 && waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(strcmp(map, "child") == 0);
    pid = fork();
    if (pid == 0) {
        /* Beyond the end. */
        char *beyond = mmap(NULL, 12288, PROT_READ, MAP_SHARED, fd, 0);
        byte = *(volatile char *)(beyond + 8192);
        _exit(byte);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    CHECK(munlock(map, 8192) == 0 && munmap(map, 8192) == 0);
    close(fd);
    close(pipes[0]);
    close(pipes[1]);
}

/* It counts as locked. */
static void limited(void) {
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit limit = {8192, 8192};
        int fd = secret(0);
        CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && (getuid() != 0 || setuid(12345) == 0));
        CHECK(ftruncate(fd, 65536) == 0);
        void *map = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(map != MAP_FAILED);
        CHECK_ERRNO(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 8192) == MAP_FAILED ? -1 : 0, EAGAIN);
        CHECK(munmap(map, 8192) == 0 && mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 8192) != MAP_FAILED);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "probe") == 0)
        return secret(0) < 0;
    setvbuf(stdout, NULL, _IONBF, 0);
    file();
    memory();
    limited();
    DONE();
}
