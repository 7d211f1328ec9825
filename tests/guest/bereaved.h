/* A parent on one processor whose children end on another, and who asks all the time whether they have: the end comes with its
 * signal. For programs that include check.h and cpus.h first. */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static sigset_t ends;
static cpu_set_t processors;

static void ask_from_one_processor(void) {
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    CHECK(sigprocmask(SIG_BLOCK, &ends, 0) == 0);
    CHECK(sched_getaffinity(0, sizeof processors, &processors) == 0);
    stay_on(0);
}

static void finds_end_with_signal(pid_t child) {
    sigset_t pending;
    while (waitpid(child, 0, WNOHANG) == 0) {
    }
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGCHLD));
}

static void takes_signal(void) {
    CHECK(sigtimedwait(&ends, 0, &(struct timespec){0, 0}) == SIGCHLD);
}

static void ask_no_more(void) {
    CHECK(sigprocmask(SIG_UNBLOCK, &ends, 0) == 0 && sched_setaffinity(0, sizeof processors, &processors) == 0);
}
