/* Every system call with arguments that nobody means: bad pointers, lengths, flags, descriptors, enormous and negative
 * sizes, from racing threads and processes, as root and as an ordinary user.
 *
 * Usage: fuzz_syscalls SEED SECONDS [NUMBER...]: the calls of these numbers are left out. Only the kernel is under test: workers may die as they like and are replaced. Run it in a
 * machine of its own, as process 2, for it kills, unmounts and changes the clock. Prints "ok" when the machine still works and
 * has lost no memory. */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LAST_CALL = 470, WORKERS = 4, THREADS = 3, ROUND_MS = 700, TICK_MS = 5 };

struct random { uint64_t state; };

/* Where each worker's threads are, shared with the parent, which interrupts those that do not get on. */
struct note { pid_t tid; unsigned long calls, seen; };

/* splitmix64 */
static uint64_t next(struct random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t below(struct random *r, uint64_t n) { return next(r) % n; }

static char *arena; /* 64 KiB with a hole behind it */
enum { ARENA = 65536 };

/* Fills a piece of the arena with what structures may contain: numbers small and large, pointers, names. */
static unsigned long pointer(struct random *r) {
    static const char *const names[] = {"/", "/tmp/f", "/proc/self/mem", "/proc/self/fd/3", "/dev/null", "/tmp/d/e", "..", "", "/dev/zero",
                                        "/proc/self/status", "/tmp/l", "/dev/ptmx", "/bin/true", "user.x", "tmpfs", "/sys/class"};
    unsigned long at = (unsigned long)arena + below(r, ARENA - 512);
    switch (below(r, 12)) {
    case 0: return 0;
    case 1: return next(r);
    case 2: return 0xffffffff80000000u | next(r);
    case 3: return (unsigned long)arena + ARENA - below(r, 64);   /* runs into the hole */
    case 4: return 0x7fffff000000u + below(r, 0x2000000);          /* around the end of user space */
    case 5: return 1 + below(r, 4096);
    case 6:
    case 7: strcpy((char *)at, names[below(r, sizeof names / sizeof *names)]); return at;
    default: break;
    }
    at &= ~7ul;
    int words = below(r, 24);
    for (int i = 0; i < words; i++) {
        uint64_t word = next(r);
        switch (below(r, 6)) {
        case 0: word = 0; break;
        case 1: word &= 0xff; break;
        case 2: word = (unsigned long)arena + word % ARENA; break;
        case 3: word = -(word & 0xff); break;
        case 4: word &= 0x0000000f0000000full; break;
        default: break;
        }
        memcpy((char *)at + 8 * i, &word, 8);
    }
    return at;
}

static unsigned long argument(struct random *r) {
    switch (below(r, 14)) {
    case 0:
    case 1:
    case 2: return below(r, 48);                         /* a descriptor, a small number */
    case 3: return -below(r, 200);                       /* AT_FDCWD, -1 */
    case 4: return 1ul << below(r, 64);                  /* one flag */
    case 5: return (1ul << below(r, 64)) - 1;
    case 6: return below(r, 65537);
    case 7: return next(r);
    case 8: return next(r) & 0xffffffff;
    case 9: return 4096 * below(r, 32);
    default: return pointer(r);
    }
}

/* Calls that would only end the worker or wait for ever are made seldom. */
static int is_dull(long nr) {
    switch (nr) {
    case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_rt_sigsuspend: case SYS_rt_sigreturn: case SYS_vfork: case SYS_fork:
    case SYS_clone: case SYS_clone3: case SYS_reboot: case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_execve: case SYS_execveat:
    case SYS_munmap: case SYS_seccomp: case SYS_setrlimit: case SYS_prlimit64: case SYS_select: case SYS_poll: case SYS_nanosleep:
    case SYS_clock_nanosleep: case SYS_close_range: case SYS_vhangup: return 1;
    default: return 0;
    }
}

static char left_out[LAST_CALL];

/* What is never called: the end of the machine is not a failure of it; a stopped worker would need its parent. */
static int is_left_out(long nr, const unsigned long *a) {
    if (nr == SYS_reboot || (nr >= 0 && nr < LAST_CALL && left_out[nr])) return 1;
    int to = nr == SYS_kill || nr == SYS_tkill || nr == SYS_tgkill || nr == SYS_rt_sigqueueinfo || nr == SYS_rt_tgsigqueueinfo;
    int pid = (int)a[0];
    /* The workers' parent and everybody at once. */
    return to && (pid == -1 || pid == (int)getppid() || -pid == (int)getpgid(getppid()) || pid == 1 || pid == 2);
}

struct thread { struct random random; struct note *note; };

static void *hammer(void *of) {
    struct thread *t = of;
    t->note->tid = (pid_t)syscall(SYS_gettid);
    struct random *r = &t->random;
    for (;;) {
        long nr = below(r, 64) ? (long)below(r, LAST_CALL) : (long)next(r);
        if (is_dull(nr) && below(r, 40)) continue;
        unsigned long a[6];
        for (int i = 0; i < 6; i++) a[i] = argument(r);
        if (is_left_out(nr, a)) continue;
        t->note->calls++;
        /* A child would run this loop too, on whatever stack: it only ends. */
        if (nr == SYS_vfork) nr = SYS_fork;
        if (nr == SYS_clone) a[1] = 0, a[0] &= ~(unsigned long)CLONE_VM;
        if (nr == SYS_clone3) a[1] = below(r, 8); /* too short */
        long result = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        if ((nr == SYS_fork || nr == SYS_clone) && result == 0) syscall(SYS_exit_group, 0);
    }
    return 0;
}

/* Descriptors of every kind, so that small numbers mean something. */
static void open_things(void) {
    int fds[2];
    close(0);
    open("/dev/null", O_RDWR);
    open("/tmp/f", O_RDWR | O_CREAT, 0666);
    open("/tmp", O_RDONLY | O_DIRECTORY);
    open("/dev/zero", O_RDWR);
    open("/dev/ptmx", O_RDWR | O_NOCTTY);
    open("/proc/self/status", O_RDONLY);
    open("/tmp/p", O_RDWR | O_NONBLOCK);
    open("/", O_PATH);
    if (pipe2(fds, O_NONBLOCK)) return;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds)) return;
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds)) return;
    (void)!socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)!socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    (void)!socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0);
    epoll_create1(0);
    eventfd(0, EFD_NONBLOCK);
    timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    memfd_create("m", MFD_ALLOW_SEALING);
    (void)!syscall(SYS_pidfd_open, getpid(), 0);
    (void)!syscall(SYS_inotify_init1, O_NONBLOCK);
}

static void nothing(int signal) { (void)signal; }

static _Noreturn void work(uint64_t seed, int ordinary, struct note *notes) {
    setpgid(0, 0);
    /* Nothing that a call may write through lies beside the arena. */
    arena = mmap(0, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct rlimit cpu = {2, 3}, size = {1 << 24, 1 << 24}, space = {1ul << 30, 1ul << 30};
    setrlimit(RLIMIT_CPU, &cpu);
    setrlimit(RLIMIT_FSIZE, &size);
    setrlimit(RLIMIT_AS, &space);
    int nowhere = open("/dev/null", O_RDWR);
    dup2(nowhere, 1);
    dup2(nowhere, 2);
    open_things();
    if (ordinary && (setgroups(0, 0) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))) _exit(3);
    for (int signal = 1; signal < 32; signal++)
        if (signal != SIGSEGV && signal != SIGBUS && signal != SIGILL && signal != SIGFPE) sigaction(signal, &(struct sigaction){.sa_handler = signal == SIGUSR1 ? nothing : SIG_IGN}, 0);
    static struct thread threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        threads[i] = (struct thread){{seed + 1000003u * i}, &notes[i]};
        pthread_t id;
        if (i && pthread_create(&id, 0, hammer, &threads[i])) _exit(4);
    }
    hammer(&threads[0]);
    _exit(0);
}

static long free_kib(void) {
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    long kib = -1;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemFree: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib;
}

static pid_t start(struct random *r, int i, struct note *notes) {
    uint64_t seed = next(r);
    memset(notes + i * THREADS, 0, sizeof *notes * THREADS);
    pid_t worker = fork();
    if (worker == 0) work(seed, i % 2, notes + i * THREADS);
    CHECK(worker > 0);
    return worker;
}

/* Interrupts the threads that wait, and replaces the workers that died. */
static void keep_busy(struct random *r, pid_t *workers, struct note *notes) {
    for (int i = 0; i < WORKERS; i++) {
        for (struct note *n = notes + i * THREADS; n < notes + (i + 1) * THREADS; n++) {
            if (n->tid > 2 && n->calls == n->seen) syscall(SYS_tgkill, workers[i], n->tid, SIGUSR1);
            n->seen = n->calls;
        }
        if (waitpid(workers[i], 0, WNOHANG) == workers[i]) {
            kill(-workers[i], SIGKILL);
            workers[i] = start(r, i, notes);
        }
    }
}

/* One round: workers of fresh seeds, killed after a while with all that they started. */
static void round_of(struct random *r, struct note *notes) {
    pid_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) workers[i] = start(r, i, notes);
    for (int ticks = ROUND_MS / TICK_MS + below(r, 16); ticks > 0; ticks--) {
        usleep(1000 * TICK_MS);
        keep_busy(r, workers, notes);
    }
    for (int i = 0; i < WORKERS; i++) {
        kill(-workers[i], SIGKILL);
        kill(workers[i], SIGKILL);
        int status;
        CHECK(waitpid(workers[i], &status, 0) == workers[i]);
    }
    while (waitpid(-1, 0, WNOHANG) > 0) {}
}

/* Ends what calls have started outside the workers' groups: orphans come here, and what they hold is not lost. */
static void end_the_rest(void) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    for (;;) {
        int fd = open(path, O_RDONLY);
        ssize_t count = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0) close(fd);
        text[count > 0 ? count : 0] = 0;
        char *at = text, *end;
        for (long pid; (pid = strtol(at, &end, 10)) > 0 && *end; at = end) kill(pid, SIGKILL);
        if (at == text) return;
        /* One may have to be waited for by another one that traces it. */
        usleep(1000);
        while (waitpid(-1, 0, WNOHANG | __WALL) > 0) {}
    }
}

/* The machine still does what programs need. */
static void still_works(void) {
    int fd = open("/tmp/still", O_RDWR | O_CREAT | O_TRUNC, 0600);
    char text[6] = "";
    CHECK(fd >= 0 && write(fd, "still", 5) == 5 && pread(fd, text, 5, 0) == 5 && !strcmp(text, "still"));
    close(fd);
    unlink("/tmp/still");
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "fuzz_syscalls", "--nothing", (char *)0);
        _exit(9);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--nothing")) return 0;
    if (argc < 3) return 2;
    for (int i = 3; i < argc; i++)
        if (atoi(argv[i]) >= 0 && atoi(argv[i]) < LAST_CALL) left_out[atoi(argv[i])] = 1;
    struct random r = {strtoull(argv[1], 0, 0)};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    umask(0);
    mkfifo("/tmp/p", 0666);
    size_t size = sizeof(struct note) * WORKERS * THREADS;
    struct note *notes = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC_RAW, &end);
    end.tv_sec += atoi(argv[2]);
    int rounds = 0;
    long before = 0;
    do {
        round_of(&r, notes);
        still_works();
        if (rounds == 2) end_the_rest();
        if (++rounds == 3) before = free_kib(); /* caches are filled */
        clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    } while (now.tv_sec < end.tv_sec && !check_failures);
    end_the_rest();
    long lost = before - free_kib();
    fprintf(stderr, "%d rounds, %ld KiB lost\n", rounds, rounds > 3 ? lost : 0);
    DONE();
}
