/* Time namespaces: offsets of the clocks, who is in which, calls that are given times. */
#define _GNU_SOURCE
#include "check.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static ino_t number(const char *kind) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kind);
    return stat(path, &st) == 0 ? st.st_ino : 0;
}

static int offset(const char *text) {
    int fd = open("/proc/self/timens_offsets", O_RDWR);
    int result = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : errno;
    close(fd);
    return result;
}

static void offsets(char *text, size_t len) {
    int fd = open("/proc/self/timens_offsets", O_RDONLY);
    ssize_t got = read(fd, text, len - 1);
    text[got > 0 ? got : 0] = 0;
    close(fd);
}

static double read_clock(clockid_t clock) {
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double call_clock(clockid_t clock) {
    struct timespec now;
    CHECK(syscall(SYS_clock_gettime, clock, &now) == 0);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static int near(double a, double b) { return a - b < 30 && b - a < 30; }

static double mono, boot, real_time;

static void seen_inside(void) {
    CHECK(near(read_clock(CLOCK_MONOTONIC), mono + 10000) && near(call_clock(CLOCK_MONOTONIC), mono + 10000));
    CHECK(near(read_clock(CLOCK_MONOTONIC_RAW), mono + 10000) && near(read_clock(CLOCK_MONOTONIC_COARSE), mono + 10000));
    CHECK(near(read_clock(CLOCK_BOOTTIME), boot + 20000) && near(call_clock(CLOCK_BOOTTIME), boot + 20000));
    CHECK(near(read_clock(CLOCK_REALTIME), real_time) && near(time(0), real_time));
    struct sysinfo info;
    CHECK(sysinfo(&info) == 0 && info.uptime >= 20000);
    double up = 0;
    FILE *file = fopen("/proc/uptime", "r");
    CHECK(file && fscanf(file, "%lf", &up) == 1 && near(up, info.uptime));
    if (file)
        fclose(file);
}

static double took(double start) { return call_clock(CLOCK_REALTIME) - start; }

/* Absolute times are those that the caller sees. */
static void deadlines(void) {
    struct timespec at;
    double start = call_clock(CLOCK_REALTIME);
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += 20000000;
    if (at.tv_nsec >= 1000000000)
        at.tv_sec++, at.tv_nsec -= 1000000000;
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0) == 0 && took(start) > 0.015 && took(start) < 60);
    at.tv_sec++;
    struct itimerspec timer = {.it_value = at}, left;
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &timer, 0) == 0 && timerfd_gettime(fd, &left) == 0 && left.it_value.tv_sec <= 1);
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    CHECK(timer_create(CLOCK_BOOTTIME, &event, &id) == 0);
    clock_gettime(CLOCK_BOOTTIME, &timer.it_value);
    timer.it_value.tv_sec += 100;
    CHECK(timer_settime(id, TIMER_ABSTIME, &timer, 0) == 0 && timer_gettime(id, &left) == 0);
    CHECK(left.it_value.tv_sec >= 90 && left.it_value.tv_sec <= 100);
    int word = 0;
    start = call_clock(CLOCK_REALTIME);
    clock_gettime(CLOCK_MONOTONIC, &at);
    CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &at, 0, -1), ETIMEDOUT);
    CHECK(took(start) < 60);
}

static void inside(void) {
    char text[128];
    CHECK(number("time") == number("time_for_children") && number("time") != 4026531834UL);
    CHECK(offset("monotonic 1 0\n") == EACCES);
    offsets(text, sizeof text);
    CHECK(strcmp(text, "monotonic       10000         0\nboottime        20000         0\n") == 0);
    seen_inside();
    deadlines();
}

static int wait_for(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

/* A program that is executed goes into the namespace for children. */
static void executed(const char *self) {
    pid_t child = fork();
    if (child == 0) {
        CHECK(unshare(CLONE_NEWTIME) == 0 && offset("1 10000 0\n7 20000 0\n") == 0);
        char values[3][32];
        snprintf(values[0], 32, "%f", mono), snprintf(values[1], 32, "%f", boot), snprintf(values[2], 32, "%f", real_time);
        fflush(stdout);
        execl("/proc/self/exe", self, values[0], values[1], values[2], (char *)0);
        _exit(99);
    }
    CHECK(wait_for(child) == 0);
}

static void by_clone3(void) {
    struct clone_args args = {.flags = CLONE_NEWTIME, .exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    if (child == 0)
        _exit(number("time") == 4026531834UL || number("time") != number("time_for_children"));
    CHECK(child > 0 && wait_for(child) == 0);
}

static void joined(void) {
    int own = open("/proc/self/ns/time", O_RDONLY);
    CHECK(unshare(CLONE_NEWTIME) == 0 && offset("monotonic 500 0") == 0);
    int fd = open("/proc/self/ns/time_for_children", O_RDONLY);
    CHECK(near(read_clock(CLOCK_MONOTONIC), mono));
    CHECK(setns(fd, CLONE_NEWTIME) == 0 && near(read_clock(CLOCK_MONOTONIC), mono + 500));
    CHECK(setns(own, CLONE_NEWTIME) == 0 && near(read_clock(CLOCK_MONOTONIC), mono));
}

int main(int argc, char **argv) {
    if (argc == 4) {
        mono = atof(argv[1]), boot = atof(argv[2]), real_time = atof(argv[3]);
        inside();
        return check_failures;
    }
    char text[128];
    mono = read_clock(CLOCK_MONOTONIC), boot = read_clock(CLOCK_BOOTTIME), real_time = read_clock(CLOCK_REALTIME);
    CHECK(offset("monotonic 1 0\n") == EACCES);
    executed(argv[0]);
    by_clone3();
    pid_t child = fork();
    if (child == 0) {
        joined();
        fflush(stdout);
        _exit(check_failures);
    }
    CHECK(wait_for(child) == 0);
    CHECK(unshare(CLONE_NEWTIME) == 0);
    CHECK(number("time") == 4026531834UL && number("time_for_children") != number("time"));
    offsets(text, sizeof text);
    CHECK(strcmp(text, "monotonic           0         0\nboottime            0         0\n") == 0);
    CHECK(offset("monotonic 10000 0\nboottime 20000 0\n") == 0);
    CHECK(offset("realtime 1 0\n") == EINVAL && offset("monotonic 1\n") == EINVAL && offset("monotonic 1 1000000000\n") == EINVAL);
    CHECK(offset("monotonic -100000000 0\n") == ERANGE && offset("boottime 9223372036 0\n") == ERANGE);
    CHECK(near(read_clock(CLOCK_MONOTONIC), mono));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        inside();
        fflush(stdout);
        _exit(check_failures);
    }
    CHECK(wait_for(child) == 0);
    CHECK(offset("monotonic 1 0\n") == EACCES);
    DONE();
}
