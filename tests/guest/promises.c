/* What a program may gain that promised not to: by exec(2) nothing that it gave away before (PR_SET_NO_NEW_PRIVS), no memory that
 * is written and run (PR_SET_MDWE). */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <linux/capability.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned permitted(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    CHECK(syscall(SYS_capget, &header, data) == 0);
    return data[0].permitted;
}

/* Gives all away, and executes itself again; whether it has something then. */
static int gains(int promises) {
    pid_t child = fork();
    if (child == 0) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct none[2] = {0};
        CHECK(syscall(SYS_capset, &header, none) == 0 && permitted() == 0);
        CHECK(!promises || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        execl("/proc/self/exe", "promises", "look", (char *)0);
        _exit(9);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != 9);
    return WEXITSTATUS(status);
}

enum { SET_MDWE = 65, GET_MDWE, REFUSE = 1, NO_INHERIT = 2, GET_AUXV = 0x41555856 };

static int mdwe(int operation, unsigned long bits) {
    return prctl(operation, bits, 0, 0, 0);
}

/* What the next program has of it. */
static int after_exec(void) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "promises", "mdwe", (char *)0);
        _exit(9);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void *area(int prot) {
    return mmap(NULL, 8192, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void no_gain(void) {
    enum { R = PROT_READ, W = PROT_WRITE, X = PROT_EXEC };
    char *before = area(R | W | X), *written = area(R | W);
    CHECK_ERRNO(mdwe(SET_MDWE, 4), EINVAL);
    CHECK_ERRNO(mdwe(SET_MDWE, NO_INHERIT), EINVAL);
    CHECK_ERRNO(prctl(SET_MDWE, REFUSE, 1, 0, 0), EINVAL);
    CHECK_ERRNO(mdwe(GET_MDWE, 1), EINVAL);
    CHECK(mdwe(GET_MDWE, 0) == 0 && mdwe(SET_MDWE, 0) == 0);
    CHECK(mdwe(SET_MDWE, REFUSE) == 0 && mdwe(SET_MDWE, REFUSE) == 0 && mdwe(GET_MDWE, 0) == REFUSE);
    CHECK_ERRNO(mdwe(SET_MDWE, 0), EPERM);
    CHECK_ERRNO(mdwe(SET_MDWE, REFUSE | NO_INHERIT), EPERM);
    CHECK_ERRNO(area(R | W | X), EACCES);
    CHECK_ERRNO(area(W | X), EACCES);
    CHECK_ERRNO(mprotect(written, 4096, R | X), EACCES);
    CHECK_ERRNO(mprotect(written, 4096, X), EACCES);
    CHECK(mprotect(written, 4096, R) == 0 && mprotect(written, 4096, R | W) == 0);
    /* What could be run from the start may be; what has both keeps it until it asks. */
    char *run = area(R | X);
    CHECK(run != MAP_FAILED && mprotect(run, 4096, X) == 0 && mprotect(run, 4096, R | X) == 0);
    CHECK_ERRNO(mprotect(run, 4096, R | W | X), EACCES);
    CHECK(mprotect(run, 4096, R | W) == 0);
    CHECK_ERRNO(mprotect(run, 4096, R | X), EACCES);
    *before = 1;
    CHECK_ERRNO(mprotect(before, 8192, R | W | X), EACCES);
    CHECK(mprotect(before, 8192, R | X) == 0);
    CHECK(after_exec() == REFUSE);
}

static void no_gain_here(void) {
    CHECK(mdwe(SET_MDWE, REFUSE | NO_INHERIT) == 0 && mdwe(GET_MDWE, 0) == (REFUSE | NO_INHERIT));
    CHECK_ERRNO(area(PROT_WRITE | PROT_EXEC), EACCES);
    CHECK(after_exec() == 0);
}

static void no_gain_for_long(void) {
    CHECK(mdwe(SET_MDWE, REFUSE | NO_INHERIT) == 0);
    execl("/proc/self/exe", "promises", "mdwe", (char *)0);
}

/* The auxiliary vector, whole or cut short. */
static void vector(void) {
    unsigned long words[128] = {0};
    long len = prctl(GET_AUXV, words, sizeof words, 0, 0), at = 0;
    CHECK(len > 0 && len <= (long)sizeof words && len % 16 == 0);
    while (words[at] != AT_NULL && words[at] != AT_ENTRY) at += 2;
    CHECK(words[at] == AT_ENTRY && words[at + 1] == getauxval(AT_ENTRY));
    unsigned long one[2] = {0, 7};
    CHECK(prctl(GET_AUXV, one, 8, 0, 0) == len && one[0] == words[0] && one[1] == 7);
    CHECK_ERRNO(prctl(GET_AUXV, words, sizeof words, 1, 0), EINVAL);
    CHECK_ERRNO(prctl(GET_AUXV, 8, sizeof words, 0, 0), EFAULT);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "mdwe") == 0) return mdwe(GET_MDWE, 0);
    if (argc > 1) return permitted() != 0;
    in_child(no_gain);
    in_child(no_gain_here);
    in_child(no_gain_for_long);
    vector();
    CHECK(gains(1) == 0);
    CHECK(gains(0) == (geteuid() == 0));
    DONE();
}
