/* Loop devices: binding, reading, writing, sizes, status, letting go. Run as root in a machine: the host may have none. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether a file of sysfs has just this line. */
static int says(const char *file, const char *line) {
    char text[200] = "";
    int fd = open(file, O_RDONLY), count = read(fd, text, sizeof text - 1);
    close(fd);
    return count > 0 && text[count - 1] == '\n' && (text[count - 1] = 0, !strcmp(text, line));
}

int main(void) {
    int sector = 0;
    int control = open("/dev/loop-control", O_RDWR);
    int free = ioctl(control, LOOP_CTL_GET_FREE);
    CHECK(free == 0);
    int loop = open("/dev/loop0", O_RDWR);
    struct stat st;
    CHECK(fstat(loop, &st) == 0 && S_ISBLK(st.st_mode));
    struct loop_info64 info;
    CHECK_ERRNO(ioctl(loop, LOOP_GET_STATUS64, &info), ENXIO);
    CHECK_ERRNO(ioctl(loop, LOOP_CLR_FD), ENXIO);
    CHECK_ERRNO(ioctl(loop, LOOP_SET_FD, 99), EBADF);
    CHECK_ERRNO(ioctl(loop, LOOP_SET_FD, loop), EINVAL);
    char text[8] = "";
    int file = open("/tmp/image", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(ftruncate(file, 4096 + 300) == 0);
    CHECK(ioctl(loop, LOOP_SET_FD, file) == 0);
    CHECK_ERRNO(ioctl(loop, LOOP_SET_FD, file), EBUSY);
    CHECK(ioctl(control, LOOP_CTL_GET_FREE) == 1);
    unsigned long long size = 0;
    CHECK(ioctl(loop, BLKGETSIZE64, &size) == 0 && size == 4096);
    CHECK(lseek(loop, 0, SEEK_END) == 4096);
    CHECK_ERRNO(write(loop, "beyond", 6), ENOSPC);
    CHECK(pwrite(loop, "inside", 6, 4092) == 4 && pread(file, text, 6, 4092) == 6 && !memcmp(text, "insi\0", 6));
    CHECK_ERRNO(ioctl(loop, LOOP_SET_STATUS64, (void *)8), EFAULT);
    CHECK(ioctl(loop, LOOP_GET_STATUS64, &info) == 0);
    info.lo_offset = 4090;
    strcpy((char *)info.lo_file_name, "image");
    CHECK(ioctl(loop, LOOP_SET_STATUS64, &info) == 0 && ioctl(loop, BLKGETSIZE64, &size) == 0 && size == 0);
    info.lo_offset = 1024;
    info.lo_sizelimit = 1024;
    CHECK(ioctl(loop, LOOP_SET_STATUS64, &info) == 0 && ioctl(loop, BLKGETSIZE64, &size) == 0 && size == 1024);
    memset(&info, 0, sizeof info);
    CHECK(ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && info.lo_offset == 1024 && !strcmp((char *)info.lo_file_name, "image"));
    CHECK(says("/sys/block/loop0/size", "2") && says("/sys/block/loop0/ro", "0") && says("/sys/block/loop0/loop/offset", "1024"));
    CHECK(says("/sys/block/loop0/loop/backing_file", "/tmp/image") && says("/sys/block/loop0/loop/autoclear", "0"));
    CHECK_ERRNO(ioctl(loop, LOOP_CHANGE_FD, file), EINVAL); /* it may be written to */
    CHECK_ERRNO(ioctl(loop, LOOP_SET_BLOCK_SIZE, 1000), EINVAL);
    CHECK(ioctl(loop, LOOP_SET_BLOCK_SIZE, 1024) == 0 && ioctl(loop, BLKSSZGET, &sector) == 0 && sector == 1024);
    CHECK(pwrite(loop, "there", 5, 0) == 5 && pread(file, text, 5, 1024) == 5 && !memcmp(text, "there", 5));
    CHECK(pread(loop, text, 5, 1022) == 2 && pread(loop, text, 5, 1024) == 0 && pread(loop, text, 5, 1ull << 62) == 0);
    CHECK(ioctl(loop, LOOP_CLR_FD) == 0);
    CHECK_ERRNO(access("/sys/block/loop0/loop", F_OK), ENOENT);
    CHECK_ERRNO(ioctl(loop, LOOP_GET_STATUS64, &info), ENXIO);
    /* Bound through a descriptor that only reads; let go with the last open. */
    int reader = open("/tmp/image", O_RDONLY), other = open("/dev/loop0", O_RDONLY), only = -1;
    CHECK(ioctl(loop, LOOP_SET_FD, reader) == 0 && ioctl(loop, BLKROGET, &only) == 0 && only == 1);
    CHECK_ERRNO(write(loop, "x", 1), EPERM);
    int small = open("/tmp/small", O_RDWR | O_CREAT, 0600), same = open("/tmp/same", O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(same, 4096 + 300) == 0 && pwrite(same, "there", 5, 1024) == 5);
    CHECK_ERRNO(ioctl(loop, LOOP_CHANGE_FD, small), EINVAL);
    CHECK(ioctl(loop, LOOP_CHANGE_FD, same) == 0 && says("/sys/block/loop0/loop/backing_file", "/tmp/same"));
    CHECK(says("/sys/block/loop0/ro", "1"));
    CHECK(ioctl(loop, LOOP_CLR_FD) == 0 && pread(other, text, 5, 1024) == 5 && !memcmp(text, "there", 5));
    close(other);
    close(loop);
    loop = open("/dev/loop0", O_RDONLY);
    CHECK_ERRNO(ioctl(loop, LOOP_GET_STATUS64, &info), ENXIO);
    DONE();
}
