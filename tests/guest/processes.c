/* fork, vfork, exec, wait in all its forms, process groups and sessions. */
#define _GNU_SOURCE
#include "check.h"
#include "cpus.h"
#include "bereaved.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void exit_statuses(void) {
    for (int code = 0; code < 300; code += 51) {
        pid_t child = fork();
        if (child == 0) _exit(code);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == (code & 255));
    }
    int fatal[] = {SIGKILL, SIGTERM, SIGUSR1, SIGALRM};
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0) {
            kill(getpid(), fatal[i]);
            _exit(1);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == fatal[i]);
    }
}

static void waits(void) {
    int status;
    CHECK_ERRNO(wait(&status), ECHILD);
    CHECK_ERRNO(waitpid(getpid(), &status, 0), ECHILD);
    CHECK_ERRNO(waitpid(-1, &status, 0x10000), EINVAL);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    CHECK(kill(child, SIGSTOP) == 0);
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(kill(child, SIGCONT) == 0);
    CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    CHECK(kill(child, SIGTERM) == 0);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_KILLED && info.si_status == SIGTERM && info.si_pid == child);
    struct rusage usage;
    CHECK(wait4(child, &status, 0, &usage) == child && WTERMSIG(status) == SIGTERM);
    CHECK_ERRNO(kill(child, 0), ESRCH);
}

static void orphans(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        pid_t me = getpid();
        if (fork() == 0) {
            while (getppid() == me) usleep(1000);
            char adopted = getppid() != me;
            _exit(write(ends[1], &adopted, 1) != 1);
        }
        _exit(0);
    }
    char adopted = 0;
    CHECK(waitpid(child, 0, 0) == child);
    CHECK(read(ends[0], &adopted, 1) == 1 && adopted == 1);
    close(ends[0]);
    close(ends[1]);
}

static void subreaper(void) {
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            usleep(20000);
            _exit(9);
        }
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(wait(&status) > 0 && WEXITSTATUS(status) == 9);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
}

static void groups_and_sessions(void) {
    pid_t child = fork();
    if (child == 0) {
        CHECK(setpgid(0, 0) == 0 && getpgrp() == getpid());
        CHECK_ERRNO(setsid(), EPERM);
        if (fork() == 0) {
            CHECK(setsid() == getpid());
            CHECK(getsid(0) == getpid() && getpgid(0) == getpid());
            CHECK_ERRNO(setpgid(0, 0), EPERM);
            _exit(check_failures);
        }
        int status;
        wait(&status);
        _exit(check_failures + WEXITSTATUS(status));
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_ERRNO(getpgid(999999), ESRCH);
    CHECK_ERRNO(setpgid(1 << 30, 0), ESRCH);
}

/* What a process has pending as a whole; its vfork child may ask. */
static unsigned long long pending_signals(pid_t pid) {
    char name[64], text[4096];
    snprintf(name, sizeof name, "/proc/%d/status", pid);
    int fd = open(name, O_RDONLY);
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    text[len > 0 ? len : 0] = 0;
    char *line = strstr(text, "ShdPnd:");
    return line ? strtoull(line + 7, NULL, 16) : 0;
}

static void vfork_shares_memory(void) {
    volatile int shared = 1;
    pid_t child = vfork();
    if (child == 0) {
        shared = 2;
        _exit(3);
    }
    CHECK(shared == 2);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int signo) {
    (void)signo;
    alarms++;
}

/* A signal that comes while a vfork child runs is taken as soon as its parent goes on. */
static void vfork_puts_signals_off(void) {
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART}, before;
    CHECK(sigaction(SIGALRM, &action, &before) == 0);
    struct itimerval soon = {.it_value.tv_usec = 10000};
    CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    pid_t child = vfork();
    if (child == 0) {
        while (!(pending_signals(getppid()) & 1ull << (SIGALRM - 1)))
            usleep(1000);
        /* Time for the parent to look at it, and to wait on. */
        usleep(10000);
        _exit(alarms);
    }
    CHECK(child > 0 && alarms == 1);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(sigaction(SIGALRM, &before, NULL) == 0);
}

static void execs(char *self) {
    char *arguments[] = {"renamed", "--child", "an argument", "", 0};
    char *environment[] = {"ONE=1", "TWO=", 0};
    pid_t child = fork();
    if (child == 0) {
        int kept = open("/dev/null", O_RDONLY), closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK(dup2(kept, 40) == 40 && dup3(closed, 41, O_CLOEXEC) == 41);
        signal(SIGUSR1, SIG_IGN);
        execve(self, arguments, environment);
        _exit(99);
    }
    int status;
    fflush(stdout);
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 0);
    CHECK_ERRNO(execve("/no/such", arguments, environment), ENOENT);
    CHECK_ERRNO(execve("/etc/passwd", arguments, environment), EACCES);
    CHECK_ERRNO(execve("/tmp", arguments, environment), EACCES);
    CHECK_ERRNO(syscall(SYS_execve, self, 8, environment), EFAULT);
}

static int child_after_exec(int argc, char **argv, char **environment) {
    CHECK(argc == 4 - 0 && !strcmp(argv[0], "renamed") && !strcmp(argv[2], "an argument") && !argv[3][0]);
    CHECK(!strcmp(environment[0], "ONE=1") && !strcmp(environment[1], "TWO=") && !environment[2]);
    CHECK(fcntl(40, F_GETFD) == 0);
    CHECK_ERRNO(fcntl(41, F_GETFD), EBADF);
    struct sigaction action;
    CHECK(sigaction(SIGUSR1, 0, &action) == 0 && action.sa_handler == SIG_IGN);
    char name[16];
    CHECK(prctl(PR_GET_NAME, name) == 0);
    fflush(stdout);
    return check_failures;
}

static int in_clone(void *argument) {
    *(int *)argument = 7;
    return 5;
}

static void clones(void) {
    static char stack[65536] __attribute__((aligned(16)));
    int written = 0, status;
    int pid = clone(in_clone, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, &written);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5 && written == 7);
    CHECK_ERRNO(clone(in_clone, stack + sizeof stack, CLONE_SIGHAND | SIGCHLD, &written), EINVAL);
    CHECK_ERRNO(clone(in_clone, stack + sizeof stack, CLONE_THREAD | SIGCHLD, &written), EINVAL);
}

static void many(void) {
    enum { N = 100 };
    pid_t children[N];
    for (int i = 0; i < N; i++) {
        children[i] = fork();
        if (children[i] == 0) _exit(i);
    }
    for (int i = N - 1; i >= 0; i--) {
        int status;
        CHECK(waitpid(children[i], &status, 0) == children[i] && WEXITSTATUS(status) == i);
    }
}

static void touch_much(void) {
    volatile char *memory = malloc(48 << 20);
    for (int i = 0; i < 48 << 20; i += 4096) memory[i] = 1;
    _exit(0);
}

/* Children nobody waits for are in nobody's account. */
static void ignored_children(void) {
    struct rusage before, after;
    signal(SIGCHLD, SIG_IGN);
    getrusage(RUSAGE_CHILDREN, &before);
    if (fork() == 0) {
        touch_much();
    }
    CHECK_ERRNO(wait(0), ECHILD);
    getrusage(RUSAGE_CHILDREN, &after);
    CHECK(after.ru_maxrss == before.ru_maxrss && after.ru_minflt == before.ru_minflt);
    signal(SIGCHLD, SIG_DFL);
    if (fork() == 0) {
        touch_much();
    }
    CHECK(wait(0) > 0 && getrusage(RUSAGE_CHILDREN, &after) == 0 && after.ru_maxrss > 40 << 10);
}

/* Who has been told of a child's end by a call has its signal, too, however soon it asked. */
static void signal_before_end(void) {
    ask_from_one_processor();
    for (int i = 0; i < 500; i++) {
        pid_t child = fork();
        if (child == 0) {
            stay_on(1);
            _exit(0);
        }
        finds_end_with_signal(child);
        takes_signal();
    }
    ask_no_more();
}

static ino_t directory_of(pid_t pid) {
    char name[40];
    struct stat st = {0};
    snprintf(name, sizeof name, "/proc/%d", pid);
    CHECK(stat(name, &st) == 0);
    return st.st_ino;
}

/* The directory of a process is another one when another process has its number. Who may not choose numbers does not see. */
static void numbers_again(void) {
    pid_t first = fork();
    if (first == 0) pause();
    ino_t before = directory_of(first);
    CHECK(before == directory_of(first) && kill(first, SIGKILL) == 0 && waitpid(first, 0, 0) == first);
    unsigned long wanted[] = {first}, args[11] = {0, 0, 0, 0, SIGCHLD, 0, 0, 0, (unsigned long)wanted, 1};
    pid_t second = syscall(SYS_clone3, args, sizeof args);
    if (second == 0) pause(), _exit(0);
    if (second < 0) return;
    CHECK(second == first && directory_of(second) != before);
    CHECK(kill(second, SIGKILL) == 0 && waitpid(second, 0, 0) == second);
}

static unsigned long counter(void) { return __builtin_ia32_rdtsc(); }

/* PR_SET_TSC: for the thread and what it makes; reading the counter is SIGSEGV. */
static void time_stamp_counter(void) {
    int mode = 0, status;
    CHECK(prctl(PR_GET_TSC, &mode) == 0 && mode == PR_TSC_ENABLE);
    CHECK_ERRNO(prctl(PR_SET_TSC, 0), EINVAL);
    CHECK_ERRNO(prctl(PR_SET_TSC, 3), EINVAL);
    if (fork() == 0) {
        CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0 && prctl(PR_GET_TSC, &mode) == 0 && mode == PR_TSC_SIGSEGV);
        if (fork() == 0) _exit((int)counter() & 1);
        CHECK(wait(&status) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        CHECK(prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0 && counter() < counter());
        _exit(check_failures);
    }
    CHECK(wait(&status) > 0 && status == 0);
    CHECK(counter() < counter());
}

int main(int argc, char **argv, char **environment) {
    if (argc > 1 && !strcmp(argv[1], "--child")) return child_after_exec(argc, argv, environment);
    setvbuf(stdout, 0, _IOLBF, 0);
    numbers_again();
    signal_before_end();
    ignored_children();
    time_stamp_counter();
    exit_statuses();
    waits();
    orphans();
    subreaper();
    groups_and_sessions();
    vfork_shares_memory();
    vfork_puts_signals_off();
    execs("/proc/self/exe");
    clones();
    many();
    DONE();
}
