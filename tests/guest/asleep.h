/* Waiting until somebody else waits, instead of for some time. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Waits until a thread sleeps, or is there no longer. */
static void until_asleep(pid_t process, pid_t thread) {
    char name[64], line[256];
    snprintf(name, sizeof name, "/proc/%d/task/%d/stat", process, thread);
    for (;; usleep(1000)) {
        FILE *file = fopen(name, "r");
        if (!file) return;
        char *got = fgets(line, sizeof line, file);
        fclose(file);
        if (!got || strstr(line, ") S") || strstr(line, ") Z")) return;
    }
}
