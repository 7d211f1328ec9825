/* What a child does whose checks count as the program's. For programs that include check.h first. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* In the child. */
_Noreturn static void end_after(void (*body)(void)) {
    check_failures = 0;
    body();
    fflush(stdout);
    _exit(check_failures != 0);
}

static __attribute__((unused)) void in_child(void (*body)(void)) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) end_after(body);
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}
