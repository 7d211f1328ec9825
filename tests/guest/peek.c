/* Tries every way into another process that a user may have to one of his own. Prints those that are open. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64];

static const char *of(const char *pid, const char *name)
{
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    return path;
}

int main(int argc, char **argv)
{
    char buf[64];
    for (int i = 1; i < argc; i++) {
        const char *pid = argv[i];
        struct iovec to = {buf, 8}, from = {(void *)0x7f807f800000UL, 8};
        if (open(of(pid, "mem"), O_RDWR) >= 0 || open(of(pid, "mem"), O_RDONLY) >= 0)
            printf("%s mem\n", pid);
        if (readlink(of(pid, "root"), buf, 64) >= 0 || readlink(of(pid, "cwd"), buf, 64) >= 0 ||
            readlink(of(pid, "exe"), buf, 64) >= 0)
            printf("%s links\n", pid);
        if (opendir(of(pid, "fd")) || opendir(of(pid, "map_files")))
            printf("%s descriptors\n", pid);
        if (process_vm_readv(atoi(pid), &to, 1, &from, 1, 0) >= 0)
            printf("%s memory\n", pid);
        if (ptrace(PTRACE_SEIZE, atoi(pid), 0, 0) == 0)
            printf("%s ptrace\n", pid);
    }
    puts("ok");
    return 0;
}
