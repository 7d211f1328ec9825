/* Bombs: each takes one kind of object until the kernel refuses. The refusal is an error of the call, or the death of the
 * bomber; afterwards another process still works, and what the kernel's heap held is back.
 *
 * Arguments: kinds of bombs (all without). After `--as-user` the bomber is an ordinary user, and while it holds all it got
 * another ordinary user, and root, work as if nothing were. Only for machines with little memory. */
#define _GNU_SOURCE
#include "bombs.h"
#include "check.h"
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What the kernel's heap may hold more afterwards: magazines, caches of names. */
#define SLACK_KIB 4096
#define PATIENCE_S 120

extern char **environ;

static long meminfo(const char *what)
{
    static char text[4096];
    int fd = open("/proc/meminfo", O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *at = strstr(text, what);
    return at ? strtol(at + strlen(what) + 1, NULL, 10) : -1;
}

/* A process that has nothing to do with the bomb: fork, exec, files, pipes, memory. */
static void neighbour(void)
{
    char *args[] = {"/bin/sh", "-c", "cd $(mktemp -d) && echo x > n && cat n | cat > m && rm n m && rmdir $PWD", NULL};
    pid_t child;
    int status = -1;
    CHECK(posix_spawn(&child, args[0], NULL, NULL, args, environ) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    char *page = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && memset(page, 1, 4 << 20));
    munmap(page, 4 << 20);
}

static void adjust(const char *value)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    CHECK(fd >= 0 && write(fd, value, strlen(value)) > 0);
    close(fd);
}

static void raise_limits(void)
{
    struct rlimit nofile = {1 << 20, 1 << 20}, all = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_NOFILE, &nofile);
    setrlimit(RLIMIT_NPROC, &all);
    setrlimit(RLIMIT_SIGPENDING, &all);
    setrlimit(RLIMIT_MSGQUEUE, &all);
    setrlimit(RLIMIT_MEMLOCK, &all);
}

/* The users of `--as-user`: the bomber, and another one. */
enum { BOMBER = 1000, OTHER = 1001 };
static int as_user;

static void become(int uid)
{
    CHECK(setgroups(0, NULL) == 0 && setresgid(uid, uid, uid) == 0 && setresuid(uid, uid, uid) == 0);
}

/* Texts about what the bomber has are as long as that, or refused. */
static void read_about_it(void)
{
    static const char *const names[] = {"/proc/net/unix", "/proc/net/tcp", "/proc/net/udp", "/proc/locks",
                                        "/proc/self/mountinfo", "/proc/self/mounts", "/proc/self/smaps", "/proc/self/maps"};
    static char text[65536];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int fd = open(names[i], O_RDONLY);
        ssize_t n = 1;
        while (fd >= 0 && n > 0)
            n = read(fd, text, sizeof text);
        CHECK(fd >= 0 && n == 0 ? 1 : errno == ENOMEM);
        close(fd);
    }
}

/* While the bomber holds all that it is given, nobody else lacks anything. */
static void others_work(void)
{
    int status = -1;
    pid_t other = fork();
    if (other == 0) {
        become(OTHER);
        neighbour();
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(other > 0 && waitpid(other, &status, 0) == other && status == 0);
    neighbour();
    read_about_it();
}

/* While the bomber holds all it got: calls fail or not, and come back. */
static void neighbour_under_pressure(void)
{
    int status, pipes[2];
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    CHECK(child > 0 ? waitpid(child, &status, 0) == child : errno == EAGAIN || errno == ENOMEM);
    if (pipe(pipes) == 0)
        close(pipes[0]), close(pipes[1]);
    CHECK(getppid() >= 0 && access("/", F_OK) == 0);
    read_about_it();
}

/* Where the bomber tells what stopped it: a write to a pipe would be refused, too. */
static volatile int *told;

/* Runs the bomb in a process group of its own; the errno that stopped it, or minus the signal that killed it. */
static int explode(const struct bomb *bomb)
{
    const int untold = -1000;
    int status;
    *told = untold;
    pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        raise_limits();
        adjust("0");
        if (as_user)
            become(BOMBER);
        *told = bomb->run();
        for (;;)
            pause();
    }
    CHECK(child > 0);
    setpgid(child, child);
    pid_t gone = 0;
    while (*told == untold && (gone = waitpid(child, &status, WNOHANG)) == 0)
        usleep(5000);
    if (gone == 0) {
        if (as_user)
            others_work();
        else
            neighbour_under_pressure();
        kill(-child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child);
    } else {
        kill(-child, SIGKILL);
    }
    return *told != untold ? *told : WIFSIGNALED(status) ? -WTERMSIG(status) : untold;
}

/* A short life on each of the first CPUs in turn: what a sleeping CPU has in stock comes back when it works again. Names that
 * were looked up lately are not what a bomb took. */
static void stir(void)
{
    static int cpu;
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    CHECK(fd < 0 || write(fd, "2", 1) == 1 || errno == ENOMEM);
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        sched_setaffinity(0, sizeof one, &one);
        _exit(0);
    }
    cpu ^= 1;
    /* While what was killed is still there, there may be no room. */
    CHECK(child > 0 ? waitpid(child, 0, 0) == child : errno == EAGAIN || errno == ENOMEM);
}

static void until_back(const char *what, long before, int sign, long slack)
{
    time_t end = time(NULL) + PATIENCE_S;
    while (sign * (meminfo(what) - before) > slack && time(NULL) < end)
        stir(), usleep(10000);
    long now = meminfo(what);
    if (sign * (now - before) > slack)
        printf("%s was %ld kB, is %ld kB\n", what, before, now), check_failures++;
}

static void one(const struct bomb *bomb)
{
    long heap = meminfo("Slab:"), held = meminfo("MemFree:");
    time_t start = time(NULL);
    int failures = check_failures;
    int end = explode(bomb);
    const int *good = bomb->ends;
    while (*good != END && *good != end)
        good++;
    /* What faults when nothing is left is killed, too. */
    CHECK(*good == end || end == KILLED);
    until_back("Slab:", heap, 1, SLACK_KIB);
    until_back("MemFree:", held, -1, bomb->rest_mib << 10);
    neighbour();
    fprintf(stderr, "%s: %d (%s), %ld s, slab %ld -> %ld, free %ld -> %ld\n", bomb->name, end, end > 0 ? strerror(end) : "",
            (long)(time(NULL) - start), heap, meminfo("Slab:"), held, meminfo("MemFree:"));
    if (check_failures != failures)
        printf("... with %s, end %d\n", bomb->name, end);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    /* Whoever lacks memory shall not take the judge. */
    adjust("-1000");
    told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(told != MAP_FAILED);
    for (const struct bomb *bomb = bombs; bomb->name; bomb++) {
        int wanted = argc == 1;
        for (int i = 1; i < argc; i++)
            wanted |= strcmp(argv[i], bomb->name) == 0;
        as_user = argc > 1 && strcmp(argv[1], "--as-user") == 0;
        if (wanted)
            one(bomb);
    }
    DONE();
}
