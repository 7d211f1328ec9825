/* Process accounting, and facts of file systems and of pages in memory: acct, ustat, cachestat. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <sys/acct.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char name[] = "/dev/shm/umbel-acct-XXXXXX";

/* The record of a process, which others may stand around. */
static int find(pid_t pid, struct acct_v3 *record) {
    int fd = open(name, O_RDONLY), found = 0;
    while (read(fd, record, sizeof *record) == sizeof *record)
        if (record->ac_pid == (uint32_t)pid) {
            found = 1;
            break;
        }
    close(fd);
    return found;
}

static pid_t run(int exec, int signal) {
    pid_t child = fork();
    if (child == 0) {
        if (signal) kill(getpid(), signal);
        if (exec) execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(3);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return child;
}

static void records(void) {
    struct acct_v3 record;
    CHECK(sizeof record == 64);
    CHECK_ERRNO(acct("/dev/null"), EACCES);
    CHECK_ERRNO(acct("/dev/shm"), EISDIR);
    CHECK_ERRNO(acct("/dev/shm/none/none"), ENOENT);
    CHECK_ERRNO(acct((void *)8), EFAULT);
    uint32_t before = time(NULL);
    CHECK(acct(name) == 0);
    pid_t forked = run(0, 0), execed = run(1, 0), killed = run(0, SIGKILL);
    CHECK(acct(NULL) == 0);
    pid_t unseen = run(0, 0);
    CHECK(find(forked, &record) && record.ac_version == 3 && record.ac_exitcode == 3 << 8 && (record.ac_flag & AFORK));
    CHECK(record.ac_uid == getuid() && record.ac_gid == getgid() && record.ac_ppid == (uint32_t)getpid());
    CHECK(record.ac_btime + 1 >= before && record.ac_btime <= before + 60 && record.ac_etime >= 0 && record.ac_etime < 6000);
    CHECK(find(execed, &record) && record.ac_exitcode == 7 << 8 && !(record.ac_flag & AFORK) && !strcmp(record.ac_comm, "sh"));
    CHECK(find(killed, &record) && record.ac_exitcode == SIGKILL && (record.ac_flag & AXSIG));
    CHECK(!find(unseen, &record));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(4242) == 0);
        CHECK_ERRNO(acct(NULL), EPERM);
        CHECK_ERRNO(acct(name), EPERM);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void devices(void) {
    struct stat s;
    struct { int free; unsigned long inodes; char name[6], pack[6]; } facts;
    CHECK(stat("/dev/shm", &s) == 0 && syscall(SYS_ustat, (unsigned)s.st_dev, &facts) == 0 && facts.free > 0);
    CHECK_ERRNO(syscall(SYS_ustat, -1, &facts), EINVAL);
    CHECK_ERRNO(syscall(SYS_ustat, (unsigned)s.st_dev, (void *)8), EFAULT);
}

static void cache(int fd) {
    uint64_t range[2] = {0, 0}, stat[5];
    char page[4096] = {1};
    CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, 100 * 4096) == 0);
    CHECK(pwrite(fd, page, 4096, 0) == 4096 && pwrite(fd, page, 4096, 50 * 4096) == 4096 && pwrite(fd, page, 1, 51 * 4096) == 1);
#define cachestat(fd, range, stat, flags) syscall(451, fd, range, stat, flags)
    CHECK(cachestat(fd, range, stat, 0) == 0 && stat[0] == 3 && stat[3] == 0);
    range[0] = 50 * 4096 + 5, range[1] = 1;
    CHECK(cachestat(fd, range, stat, 0) == 0 && stat[0] == 1);
    range[0] = 1 * 4096, range[1] = 49 * 4096;
    CHECK(cachestat(fd, range, stat, 0) == 0 && stat[0] == 0);
    range[0] = 1000 * 4096, range[1] = 0;
    CHECK(cachestat(fd, range, stat, 0) == 0 && stat[0] == 0);
    CHECK_ERRNO(cachestat(fd, range, stat, 1), EINVAL);
    CHECK_ERRNO(cachestat(-1, range, stat, 0), EBADF);
    CHECK_ERRNO(cachestat(fd, (void *)8, stat, 0), EFAULT);
    CHECK_ERRNO(cachestat(fd, range, (void *)8, 0), EFAULT);
}

int main(void) {
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    records();
    devices();
    cache(fd);
    unlink(name);
    DONE();
}
