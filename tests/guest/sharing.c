/* Who shares a processor with whom: sessions, users, nice values of sessions; slices. As root in a machine. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PARTIES = 2, MOST = 8, STRIDE = 64 };

/* How many busy processes, as whom, in a session of its own (or each in its own), and at which nice value of that. */
struct party {
    int processes;
    uid_t user;
    enum { ONE, OWN, EACH } sessions;
    const char *nice;
};

static volatile long *work;

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static void start(const struct party *party, int which) {
    if (fork()) return;
    if (party->sessions == OWN && setsid() < 0) _exit(1);
    if (party->nice && put("/proc/self/autogroup", party->nice)) _exit(1);
    if (party->user && setuid(party->user)) _exit(1);
    for (int i = 0; i < party->processes; i++) {
        if (fork()) continue;
        if (party->sessions == EACH && setsid() < 0) _exit(1);
        for (;;) work[(which * MOST + i) * STRIDE]++;
    }
    for (;;) pause();
}

static long done_by(int which) {
    long sum = 0;
    for (int i = 0; i < MOST; i++) sum += work[(which * MOST + i) * STRIDE];
    return sum;
}

/* How much the second party does beside the first, of 100: in two seconds, or as many more as it takes to be from `least` to
 * `most`. A host that stands still takes its time from whoever runs just then; it evens out, what is wrong does not. */
static long compete(struct party first, struct party second, long least, long most) {
    fflush(stdout);
    pid_t referee = fork();
    if (referee == 0) {
        struct sched_param parameter = {.sched_priority = 50};
        CHECK(setpgid(0, 0) == 0);
        start(&first, 0);
        start(&second, 1);
        CHECK(sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameter) == 0);
        usleep(300000);
        long before[PARTIES] = {done_by(0), done_by(1)};
        long percent = -1;
        for (int i = 0; i < 60 && (i < 4 || percent < least || percent > most); i++) {
            usleep(500000);
            long got[PARTIES] = {done_by(0) - before[0], done_by(1) - before[1]};
            percent = got[1] * 100 / (got[0] + got[1] + 1);
        }
        _exit((int)percent);
    }
    int status;
    CHECK(waitpid(referee, &status, 0) == referee && WIFEXITED(status));
    kill(-1, SIGKILL);
    while (wait(0) > 0) {
    }
    memset((void *)work, 0, PARTIES * MOST * STRIDE * sizeof *work);
    return WEXITSTATUS(status);
}

static void within(const char *what, struct party first, struct party second, long least, long most) {
    long percent = compete(first, second, least, most);
    if (percent >= least && percent <= most) return;
    printf("%s: %ld %%, not %ld to %ld\n", what, percent, least, most);
    check_failures++;
}

static void groups(void) {
    struct party one = {1, 0, OWN, 0}, four = {4, 0, OWN, 0};
    within("four processes of one session beside one", one, four, 35, 65);
    struct party kind = {1, 0, OWN, "5"};
    within("a session of nice 5", one, kind, 12, 38);
    struct party alice = {1, 1001, ONE, 0}, bob = {4, 1002, EACH, 0};
    within("four sessions of one user beside another's", alice, bob, 35, 65);
    CHECK(put("/proc/sys/kernel/sched_autogroup_enabled", "0\n") == 0);
    within("without groups", one, four, 68, 92);
    CHECK_ERRNO(put("/proc/sys/kernel/sched_autogroup_enabled", "2\n"), EINVAL);
    CHECK(put("/proc/sys/kernel/sched_autogroup_enabled", "1\n") == 0);
}

static void autogroup(void) {
    char text[64] = "";
    CHECK(setsid() > 0 || errno == EPERM);
    int fd = open("/proc/self/autogroup", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && strstr(text, " nice 0\n"));
    close(fd);
    CHECK_ERRNO(put("/proc/self/autogroup", "20"), EINVAL);
    CHECK_ERRNO(put("/proc/self/autogroup", "x"), EINVAL);
    if (fork() == 0) {
        CHECK(setuid(1001) == 0);
        /* Or its files in /proc would be root's. */
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        CHECK_ERRNO(put("/proc/self/autogroup", "-1"), EPERM);
        CHECK(put("/proc/self/autogroup", "3") == 0);
        CHECK_ERRNO(put("/proc/self/autogroup", "4"), EAGAIN);
        _exit(check_failures);
    }
    int status;
    CHECK(wait(&status) > 0 && status == 0);
}

/* Sets the slice of the caller and tells what it is then, us. */
static long slice_us(uint64_t ns) {
    /* struct sched_attr, which not every C library has. */
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {.size = sizeof attr, .runtime = ns};
    CHECK(syscall(SYS_sched_setattr, 0, &attr, 0) == 0);
    CHECK(syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0);
    return (long)(attr.runtime / 1000);
}

/* How often one of two busy processes with this slice loses the processor in so many milliseconds. */
static long switches(uint64_t ns, int ms) {
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (children[i]) continue;
        slice_us(ns);
        for (;;) {
        }
    }
    usleep(ms * 1000);
    struct rusage usage;
    kill(children[0], SIGKILL);
    CHECK(wait4(children[0], 0, 0, &usage) == children[0]);
    kill(children[1], SIGKILL);
    CHECK(wait(0) == children[1]);
    return usage.ru_nivcsw;
}

static void slices(void) {
    CHECK(slice_us(5000000) == 5000);
    CHECK(slice_us(1) == 100 && slice_us(1000000000) == 100000);
    long usual = slice_us(0);
    CHECK(usual > 100 && usual < 100000);
    /* Longer where the host gives so little time that there are few of either. */
    long many = 0, few = 1;
    for (int ms = 500; ms <= 8000 && many < 4 * few; ms *= 2) many = switches(1000000, ms), few = switches(50000000, ms);
    if (many < 4 * few) printf("%ld and %ld switches\n", many, few);
    CHECK(many >= 4 * few);
}

int main(void) {
    work = mmap(0, PARTIES * MOST * STRIDE * sizeof *work, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(work != MAP_FAILED);
    autogroup();
    slices();
    groups();
    DONE();
}
