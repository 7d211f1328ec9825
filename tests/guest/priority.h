/* The real-time priority that a thread of this process runs with. */
#include <stdio.h>
#include <sys/types.h>

/* Field 18 of stat: -1 - priority, -101 with a deadline. */
static int shown_priority(pid_t tid) {
    char path[64];
    int priority = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "r");
    int got = file ? fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*u %*u %d", &priority) : 0;
    if (file)
        fclose(file);
    return got == 1 ? -1 - priority : -1;
}
