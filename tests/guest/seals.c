/* memfd_create(2): flags, modes, seals, and what seals forbid to writes, sizes and mappings. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#define MFD_EXEC 16u
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 32
#endif

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)

static int sealable(unsigned flags) {
    int fd = memfd_create("sealed", flags | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, 2 * PAGE) == 0);
    return fd;
}

static int seals(int fd) {
    return fcntl(fd, F_GET_SEALS);
}

static int seal(int fd, int seals) {
    return fcntl(fd, F_ADD_SEALS, seals);
}

static mode_t mode(int fd) {
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_mode & 07777;
}

static void made(void) {
    int fd = memfd_create("plain", 0);
    CHECK(seals(fd) == F_SEAL_SEAL && mode(fd) == 0777 && fcntl(fd, F_GETFD) == 0);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EPERM);
    CHECK_ERRNO(seal(fd, 0), EPERM);
    CHECK_ERRNO(seal(fd, 0x1000), EINVAL);
    close(fd);
    fd = memfd_create("", MFD_CLOEXEC | MFD_EXEC);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && seals(fd) == F_SEAL_SEAL && mode(fd) == 0777);
    close(fd);
    fd = memfd_create("noexec", MFD_NOEXEC_SEAL);
    CHECK(seals(fd) == F_SEAL_EXEC && mode(fd) == 0666);
    CHECK_ERRNO(fchmod(fd, 0777), EPERM);
    CHECK(fchmod(fd, 0600) == 0 && mode(fd) == 0600 && seal(fd, F_SEAL_SEAL) == 0);
    close(fd);
    fd = memfd_create("both", MFD_ALLOW_SEALING | MFD_EXEC);
    CHECK(seals(fd) == 0 && seal(fd, 0) == 0 && seals(fd) == 0);
    close(fd);
    CHECK_ERRNO(memfd_create("x", MFD_EXEC | MFD_NOEXEC_SEAL), EINVAL);
    CHECK_ERRNO(memfd_create("x", 0x100), EINVAL);
    CHECK_ERRNO(memfd_create("x", 21u << 26), EINVAL);
    CHECK_ERRNO(memfd_create((char *)1, 0), EFAULT);
    char name[251];
    memset(name, 'n', 250);
    name[250] = 0;
    CHECK_ERRNO(memfd_create(name, 0), EINVAL);
    name[249] = 0;
    fd = memfd_create(name, 0);
    CHECK(fd >= 0);
    close(fd);
}

static void others(void) {
    int pipes[2], fd = open("/dev/shm/umbel-seals", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && seals(fd) == F_SEAL_SEAL);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EPERM);
    close(fd);
    unlink("/dev/shm/umbel-seals");
    CHECK(pipe(pipes) == 0);
    CHECK_ERRNO(seals(pipes[0]), EINVAL);
    CHECK_ERRNO(seal(pipes[1], 0), EINVAL);
    fd = open("/etc/passwd", O_RDONLY);
    CHECK_ERRNO(seals(fd), EINVAL);
    close(fd);
    fd = sealable(0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY);
    CHECK_ERRNO(seal(reader, F_SEAL_GROW), EPERM);
    CHECK(seal(fd, F_SEAL_GROW) == 0 && seals(reader) == F_SEAL_GROW);
    int pathed = open(path, O_PATH);
    CHECK_ERRNO(seals(pathed), EBADF);
    close(pathed);
    close(reader);
    close(fd);
}

static void sizes(void) {
    char data[3 * PAGE] = "data";
    int fd = sealable(0);
    CHECK(seal(fd, F_SEAL_GROW) == 0);
    CHECK_ERRNO(ftruncate(fd, 2 * PAGE + 1), EPERM);
    CHECK_ERRNO(fallocate(fd, 0, PAGE, 2 * PAGE), EPERM);
    CHECK_ERRNO(fallocate(fd, FALLOC_FL_KEEP_SIZE, PAGE, 2 * PAGE), EPERM);
    CHECK(fallocate(fd, 0, 0, 2 * PAGE) == 0 && pwrite(fd, data, PAGE, PAGE) == PAGE);
    CHECK(pwrite(fd, data, 3 * PAGE, 0) == 2 * PAGE);
    CHECK(pwrite(fd, data, 10, 2 * PAGE - 5) == 5);
    CHECK_ERRNO(pwrite(fd, data, 1, 2 * PAGE), EPERM);
    CHECK(pwrite(fd, data, 0, 2 * PAGE) == 0 && ftruncate(fd, 100) == 0);
    CHECK_ERRNO(pwrite(fd, data, 101, 0), EPERM);
    CHECK(pwrite(fd, data, 100, 0) == 100);
    CHECK(seal(fd, F_SEAL_SHRINK) == 0 && seals(fd) == (F_SEAL_SHRINK | F_SEAL_GROW));
    CHECK_ERRNO(ftruncate(fd, 0), EPERM);
    CHECK(ftruncate(fd, 100) == 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_ERRNO(open(path, O_RDWR | O_TRUNC), EPERM);
    CHECK_ERRNO(truncate(path, 1), EPERM);
    CHECK(seal(fd, F_SEAL_SEAL) == 0);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EPERM);
    close(fd);
}

static void writing(void) {
    int fd = sealable(0);
    char *private, *shared = mmap(0, PAGE, RW, MAP_SHARED, fd, 0);
    memcpy(shared, "before", 7);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE | F_SEAL_GROW), EBUSY);
    CHECK(seals(fd) == 0 && mprotect(shared, PAGE, PROT_READ) == 0);
    /* Readable now, but it may become writable again. */
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EBUSY);
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        char go;
        close(ends[1]);
        _exit(read(ends[0], &go, 1) != 0);
    }
    munmap(shared, PAGE);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EBUSY); /* the child's */
    close(ends[1]);
    CHECK(waitpid(child, 0, 0) == child);
    private = mmap(0, PAGE, RW, MAP_PRIVATE, fd, 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reader = open(path, O_RDONLY);
    char *shown = mmap(0, PAGE, PROT_READ, MAP_SHARED, reader, 0);
    CHECK(private != MAP_FAILED && shown != MAP_FAILED && seal(fd, F_SEAL_WRITE) == 0);
    CHECK(seal(fd, F_SEAL_WRITE) == 0 && seals(fd) == F_SEAL_WRITE);
    CHECK_ERRNO(write(fd, "x", 1), EPERM);
    CHECK(write(fd, "x", 0) == 0);
    CHECK_ERRNO(pwrite(fd, "x", 1, PAGE), EPERM);
    CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), EPERM);
    CHECK_ERRNO(sendfile(fd, open("/etc/passwd", O_RDONLY), 0, 1), EPERM);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED, fd, 0), EPERM);
    private[0] = 'B';
    CHECK(strcmp(private, "Before") == 0 && strcmp(shown, "before") == 0);
    char *later = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(later != MAP_FAILED && strcmp(later, "before") == 0);
    CHECK_ERRNO(mprotect(later, PAGE, RW), EACCES);
    CHECK(ftruncate(fd, 3 * PAGE) == 0); /* sizes are sealed apart */
    int writer = open(path, O_RDWR);
    CHECK(writer >= 0);
    CHECK_ERRNO(write(writer, "x", 1), EPERM);
    close(fd);
}

static void future(void) {
    int fd = sealable(0);
    char *shared = mmap(0, PAGE, RW, MAP_SHARED, fd, 0);
    CHECK(seal(fd, F_SEAL_FUTURE_WRITE) == 0 && seals(fd) == F_SEAL_FUTURE_WRITE);
    strcpy(shared, "still");
    char text[6] = "";
    CHECK(pread(fd, text, 6, 0) == 6 && strcmp(text, "still") == 0);
    CHECK_ERRNO(pwrite(fd, "x", 1, 0), EPERM);
    CHECK_ERRNO(mmap(0, PAGE, RW, MAP_SHARED, fd, 0), EPERM);
    char *later = mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(later != MAP_FAILED && strcmp(later, "still") == 0);
    CHECK_ERRNO(mprotect(later, PAGE, RW), EACCES);
    CHECK_ERRNO(seal(fd, F_SEAL_WRITE), EBUSY);
    CHECK(munmap(shared, PAGE) == 0 && seal(fd, F_SEAL_WRITE) == 0);
    close(fd);
}

static void executable(void) {
    int fd = sealable(0);
    CHECK(seal(fd, F_SEAL_EXEC) == 0);
    CHECK(seals(fd) == (F_SEAL_EXEC | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
    CHECK_ERRNO(fchmod(fd, 0666), EPERM);
    CHECK(fchmod(fd, 0511 | 0111) == 0);
    close(fd);
    fd = sealable(MFD_NOEXEC_SEAL);
    CHECK(seal(fd, F_SEAL_EXEC) == 0 && seals(fd) == F_SEAL_EXEC && write(fd, "x", 1) == 1);
    close(fd);
}

int main(void) {
    made();
    others();
    sizes();
    writing();
    future();
    executable();
    DONE();
}
