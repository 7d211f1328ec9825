/* What a program may gain by exec(2) that promised not to (PR_SET_NO_NEW_PRIVS): nothing that it gave away before. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/capability.h>
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

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return permitted() != 0;
    CHECK(gains(1) == 0);
    CHECK(gains(0) == (geteuid() == 0));
    DONE();
}
