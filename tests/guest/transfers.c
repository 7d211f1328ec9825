/* Moving data: pipes in packet mode and of other sizes, splice, tee, vmsplice, copies, placed writes, holes, limits, locks. */
#define _GNU_SOURCE
#include "asleep.h"
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[] = "/dev/shm/umbel-transfers-XXXXXX";
static char big[200000], back[200000];

static void packets(void) {
    int p[2];
    char buf[100];
    CHECK(pipe2(p, O_DIRECT) == 0 && (fcntl(p[1], F_GETFL) & O_DIRECT));
    CHECK(write(p[1], "one", 3) == 3 && write(p[1], "second", 6) == 6 && write(p[1], "3", 1) == 1);
    CHECK(read(p[0], buf, sizeof buf) == 3 && read(p[0], buf, 2) == 2 && !memcmp(buf, "se", 2) && read(p[0], buf, 9) == 1);
    CHECK(write(p[1], big, 5000) == 5000 && read(p[0], back, 5000) == 4096 && read(p[0], back, 5000) == 904);
    CHECK(fcntl(p[1], F_SETFL, 0) == 0 && write(p[1], "ab", 2) == 2 && write(p[1], "cd", 2) == 2 && read(p[0], buf, 9) == 4);
    CHECK(fcntl(p[1], F_SETFL, O_DIRECT) == 0 && write(p[1], "x", 1) == 1 && fcntl(p[1], F_SETFL, 0) == 0);
    CHECK(write(p[1], "yz", 2) == 2 && read(p[0], buf, 9) == 1 && read(p[0], buf, 9) == 2);
    close(p[0]), close(p[1]);
    CHECK(pipe(p) == 0 && fcntl(p[0], F_GETPIPE_SZ) == 65536 && fcntl(p[0], F_SETPIPE_SZ, 5000) == 8192);
    CHECK(fcntl(p[0], F_SETPIPE_SZ, 1) == 4096 && fcntl(p[0], F_SETPIPE_SZ, 100000) == 131072);
    CHECK(write(p[1], big, 100000) == 100000);
    CHECK_ERRNO(fcntl(p[0], F_SETPIPE_SZ, 4096), EBUSY);
    CHECK_ERRNO(pipe2(p, 0x1000), EINVAL);
    close(p[0]), close(p[1]);
}

static void splices(void) {
    int p[2], q[2];
    char buf[100];
    loff_t at = 5, end = 0;
    for (int i = 0; i < (int)sizeof big; i++) big[i] = (char)(i * 7 + i / 256);
    int fd = open("s", O_RDWR | O_CREAT, 0600), out = open("o", O_RDWR | O_CREAT, 0600);
    CHECK(write(fd, big, sizeof big) == sizeof big && pipe(p) == 0 && pipe(q) == 0);
    CHECK(splice(fd, &at, p[1], 0, 50, 0) == 50 && at == 55 && lseek(fd, 0, SEEK_CUR) == sizeof big);
    CHECK(tee(p[0], q[1], 20, 0) == 20 && read(q[0], buf, 100) == 20 && !memcmp(buf, big + 5, 20));
    CHECK(splice(p[0], 0, q[1], 0, 30, 0) == 30 && splice(p[0], 0, out, &end, 100, 0) == 20 && end == 20);
    CHECK(pread(out, buf, 100, 0) == 20 && !memcmp(buf, big + 35, 20) && read(q[0], buf, 100) == 30);
    CHECK_ERRNO(splice(p[0], 0, q[1], 0, 10, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_ERRNO(tee(p[0], q[1], 10, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_ERRNO(splice(fd, 0, out, 0, 10, 0), EINVAL);
    CHECK_ERRNO(splice(p[0], 0, p[1], 0, 10, 0), EINVAL);
    CHECK_ERRNO(tee(p[0], p[1], 10, 0), EINVAL);
    CHECK_ERRNO(tee(fd, p[1], 10, 0), EINVAL);
    CHECK_ERRNO(splice(p[0], &at, out, 0, 10, 0), ESPIPE);
    CHECK_ERRNO(splice(p[1], 0, q[1], 0, 10, 0), EBADF);
    CHECK_ERRNO(splice(99, 0, q[1], 0, 10, 0), EBADF);
    CHECK_ERRNO(splice(fd, 0, p[1], 0, 10, 0x100), EINVAL);
    CHECK(splice(fd, 0, p[1], 0, 0, 0) == 0 && splice(fd, 0, p[1], 0, 10, 0) == 0);
    struct iovec v[2] = {{"abc", 3}, {"de", 2}};
    CHECK(vmsplice(p[1], v, 2, 0) == 5 && read(p[0], buf, 100) == 5 && !memcmp(buf, "abcde", 5));
    CHECK_ERRNO(vmsplice(fd, v, 2, 0), EBADF);
    CHECK_ERRNO(vmsplice(p[1], v, 2000, 0), EINVAL);
    v[0].iov_base = buf, v[0].iov_len = 10;
    CHECK_ERRNO(vmsplice(p[0], v, 1, SPLICE_F_NONBLOCK), EAGAIN);
    at = 10;
    CHECK(sendfile(out, fd, &at, 100000) == 100000 && at == 100010 && lseek(fd, 0, SEEK_CUR) == sizeof big);
    CHECK(pread(out, back, 100000, 0) == 100000 && !memcmp(back, big + 10, 100000));
    CHECK_ERRNO(sendfile(fd, p[0], 0, 10), ESPIPE == 0 ? 0 : EINVAL);
    at = -1;
    CHECK_ERRNO(sendfile(out, fd, &at, 10), EINVAL);
    loff_t from = 100, to = 7;
    CHECK(copy_file_range(fd, &from, out, &to, 1000, 0) == 1000 && from == 1100 && to == 1007);
    CHECK(pread(out, back, 1000, 7) == 1000 && !memcmp(back, big + 100, 1000));
    from = 0, to = 500;
    CHECK_ERRNO(copy_file_range(fd, &from, fd, &to, 1000, 0), EINVAL);
    CHECK(copy_file_range(fd, &from, fd, &to, 500, 0) == 500);
    CHECK_ERRNO(copy_file_range(fd, &from, out, &to, 10, 1), EINVAL);
    CHECK_ERRNO(copy_file_range(fd, 0, p[1], 0, 10, 0), EINVAL);
    CHECK_ERRNO(copy_file_range(open(".", O_RDONLY), 0, out, 0, 10, 0), EISDIR);
    from = sizeof big;
    CHECK(copy_file_range(fd, &from, out, &to, 10, 0) == 0);
    int append = open("o", O_WRONLY | O_APPEND);
    CHECK_ERRNO(copy_file_range(fd, 0, append, 0, 10, 0), EBADF);
    CHECK_ERRNO(sendfile(append, fd, 0, 10), EINVAL);
    CHECK_ERRNO(splice(p[0], 0, append, 0, 10, 0), EINVAL);
    close(fd), close(out), close(append), close(p[0]), close(p[1]), close(q[0]), close(q[1]);
    CHECK(unlink("s") == 0 && unlink("o") == 0);
}

static void placed(void) {
    struct stat s;
    char buf[20] = "";
    int fd = open("p", O_RDWR | O_CREAT, 0600);
    struct iovec v = {"abcdef", 6}, in = {buf, 6};
    CHECK(pwritev2(fd, &v, 1, 0, 0) == 6 && pwritev2(fd, &v, 1, 2, RWF_APPEND) == 6 && fstat(fd, &s) == 0 && s.st_size == 12);
    CHECK(lseek(fd, 0, SEEK_CUR) == 0 && pwritev2(fd, &v, 1, -1, RWF_APPEND) == 6 && lseek(fd, 0, SEEK_CUR) == 18);
    CHECK(preadv2(fd, &in, 1, 3, RWF_HIPRI) == 6 && !memcmp(buf, "defabc", 6) && lseek(fd, 1, SEEK_SET) == 1);
    CHECK(preadv2(fd, &in, 1, -1, 0) == 6 && lseek(fd, 0, SEEK_CUR) == 7 && pwritev2(fd, &v, 1, 0, RWF_DSYNC | RWF_SYNC) == 6);
    CHECK_ERRNO(preadv2(fd, &in, 1, 0, 0x4000), EOPNOTSUPP);
    CHECK_ERRNO(pwritev2(fd, &in, 1, 0, 0x4000), EOPNOTSUPP);
    CHECK_ERRNO(preadv2(fd, &in, 1, -2, 0), EINVAL);
    /* holes */
    CHECK(ftruncate(fd, 0) == 0 && pwrite(fd, "x", 1, 40960) == 1 && ftruncate(fd, 81920) == 0);
    CHECK(lseek(fd, 0, SEEK_DATA) == 40960 && lseek(fd, 40960, SEEK_HOLE) == 45056 && lseek(fd, 0, SEEK_HOLE) == 0);
    CHECK_ERRNO(lseek(fd, 50000, SEEK_DATA), ENXIO);
    CHECK_ERRNO(lseek(fd, 81920, SEEK_HOLE), ENXIO);
    CHECK(fallocate(fd, 0, 0, 8192) == 0 && fstat(fd, &s) == 0 && s.st_size == 81920 && s.st_blocks == 24);
    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 81920, 4096) == 0 && fstat(fd, &s) == 0 && s.st_size == 81920 && s.st_blocks == 32);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 45056) == 0 && fstat(fd, &s) == 0 && s.st_blocks == 8);
    CHECK(fallocate(fd, 0, 81920, 100) == 0 && fstat(fd, &s) == 0 && s.st_size == 82020);
    CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP);
    CHECK_ERRNO(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP);
    CHECK_ERRNO(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096), EOPNOTSUPP);
    CHECK_ERRNO(fallocate(fd, 0, -1, 1), EINVAL);
    CHECK_ERRNO(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_ERRNO(fallocate(fd, 0x800, 0, 1), EOPNOTSUPP);
    CHECK_ERRNO(fallocate(fd, 0, 0x7fffffffffffffff, 1), EFBIG);
    close(fd), unlink("p");
}

static int past_limit;

static void over(int signal) {
    (void)signal;
    past_limit++;
}

static void sizes(void) {
    int fd = open("z", O_RDWR | O_CREAT, 0600), in = open("y", O_RDWR | O_CREAT, 0600);
    CHECK(write(in, big, 5000) == 5000 && lseek(in, 0, SEEK_SET) == 0);
    struct rlimit limit = {1000, RLIM_INFINITY};
    signal(SIGXFSZ, over);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    struct iovec v[2] = {{big, 600}, {big, 600}};
    CHECK(writev(fd, v, 2) == 1000);
    CHECK_ERRNO(write(fd, "x", 1), EFBIG);
    CHECK(past_limit == 1 && pwrite(fd, big, 900, 500) == 500);
    CHECK_ERRNO(pwrite(fd, "x", 1, 1000), EFBIG);
    CHECK_ERRNO(ftruncate(fd, 1001), EFBIG);
    CHECK_ERRNO(truncate("z", 1001), EFBIG);
    CHECK_ERRNO(fallocate(fd, 0, 0, 1001), EFBIG);
    CHECK(past_limit == 5 && ftruncate(fd, 900) == 0 && lseek(fd, 900, SEEK_SET) == 900 && sendfile(fd, in, 0, 3000) == 100);
    CHECK_ERRNO(pwritev2(fd, v, 1, -1, RWF_APPEND), EFBIG);
    CHECK(past_limit >= 6); /* the copy may have met the limit, too */
    limit.rlim_cur = RLIM_INFINITY;
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    close(fd), close(in), unlink("z"), unlink("y");
}

static int lock(int fd, int command, short kind, off_t start, off_t length) {
    struct flock l = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int result = fcntl(fd, command, &l);
    return command == F_GETLK || command == F_OFD_GETLK ? (result ? -1 : l.l_type) : result;
}

/* Whichever descriptor of a file is closed, the process's locks on it go; those of a description stay. */
static void locks_end_with_a_close(int fd) {
    int probe = open("k", O_RDWR), extra = -1;
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0 && lock(fd, F_OFD_SETLK, F_WRLCK, 20, 10) == 0);
    CHECK(lock(probe, F_OFD_GETLK, F_WRLCK, 0, 10) == F_WRLCK);
    CHECK(close(open("k", O_RDONLY)) == 0 && lock(probe, F_OFD_GETLK, F_WRLCK, 0, 10) == F_UNLCK);
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0 && (extra = open("k", O_RDONLY)) >= 0 && dup2(0, extra) == extra);
    CHECK(lock(probe, F_OFD_GETLK, F_WRLCK, 0, 10) == F_UNLCK);
    CHECK(lock(probe, F_OFD_GETLK, F_WRLCK, 20, 10) == F_WRLCK && lock(fd, F_OFD_SETLK, F_UNLCK, 0, 0) == 0);
    close(extra), close(probe);
}

static void locks(void) {
    int fd = open("k", O_RDWR | O_CREAT, 0600), other = open("k", O_RDWR), status;
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0 && lock(other, F_GETLK, F_WRLCK, 0, 10) == F_UNLCK);
    CHECK(lock(other, F_OFD_GETLK, F_WRLCK, 5, 1) == F_WRLCK);
    CHECK_ERRNO(lock(other, F_OFD_SETLK, F_RDLCK, 9, 1), EAGAIN);
    CHECK(lock(other, F_OFD_SETLK, F_WRLCK, 10, 0) == 0 && lock(fd, F_GETLK, F_RDLCK, 0, 0) == F_WRLCK);
    CHECK_ERRNO(lock(fd, F_SETLK, 9, 0, 0), EINVAL);
    CHECK_ERRNO(lock(fd, F_SETLK, F_WRLCK, -1, 0), EINVAL);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        /* holds 20..29, then waits for the parent's 0..9: the parent's wait for 20 would be a circle */
        int own = open("k", O_RDWR);
        close(other);
        _exit(lock(own, F_SETLK, F_WRLCK, 30, 10) != -1 || errno != EAGAIN);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(other);
    fd = open("k", O_RDWR);
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0);
    int go[2];
    CHECK(pipe(go) == 0);
    child = fork();
    if (child == 0) {
        int own = open("k", O_RDWR);
        if (lock(own, F_SETLK, F_WRLCK, 20, 10)) _exit(1);
        if (write(go[1], "", 1) != 1) _exit(2);
        _exit(lock(own, F_SETLKW, F_WRLCK, 0, 10) != 0);
    }
    char byte;
    CHECK(read(go[0], &byte, 1) == 1);
    until_asleep(child, child);
    CHECK_ERRNO(lock(fd, F_SETLKW, F_WRLCK, 20, 10), EDEADLK);
    CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0 && waitpid(child, &status, 0) == child && status == 0);
    locks_end_with_a_close(fd);
    other = open("k", O_RDWR);
    CHECK(flock(fd, LOCK_SH) == 0 && flock(other, LOCK_SH | LOCK_NB) == 0);
    CHECK_ERRNO(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_ERRNO(flock(other, LOCK_NB), EINVAL);
    CHECK(flock(fd, LOCK_UN) == 0 && flock(other, LOCK_EX | LOCK_NB) == 0);
    CHECK(fcntl(fd, F_GETLEASE) == F_UNLCK && fcntl(fd, F_NOTIFY, DN_MULTISHOT) == 0);
    struct f_owner_ex owner = {F_OWNER_PID, getpid()}, seen;
    CHECK(fcntl(fd, F_SETOWN_EX, &owner) == 0 && fcntl(fd, F_GETOWN) == getpid());
    CHECK(fcntl(fd, F_GETOWN_EX, &seen) == 0 && seen.type == F_OWNER_PID && seen.pid == getpid());
    CHECK(fcntl(fd, F_SETOWN, -getpgrp()) == 0 && fcntl(fd, F_GETOWN_EX, &seen) == 0 && seen.type == F_OWNER_PGRP && seen.pid == getpgrp());
    CHECK(fcntl(fd, F_SETSIG, SIGUSR1) == 0 && fcntl(fd, F_GETSIG) == SIGUSR1);
    CHECK_ERRNO(fcntl(fd, F_SETSIG, 65), EINVAL);
    close(fd), close(other), unlink("k");
}

int main(void) {
    CHECK(mkdtemp(directory) && chdir(directory) == 0);
    packets();
    splices();
    placed();
    sizes();
    locks();
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
    DONE();
}
