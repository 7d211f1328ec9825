// Many processes at once, then many files at once: each does its part, and afterwards the memory is back.
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// Kilobytes that /proc/meminfo says for `name`.
static long meminfo(const char *name)
{
    FILE *file = fopen("/proc/meminfo", "r");
    char line[128];
    long kb = -1;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
            kb = atol(line + strlen(name) + 1);
    fclose(file);
    CHECK(kb >= 0);
    return kb;
}

// Starts `count` processes that wait for each other, lets all of them answer, and ends them.
static void processes(int count)
{
    int go[2], answer[2];
    CHECK(pipe(go) == 0 && pipe(answer) == 0);
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0) {
            printf("fork %d: %m\n", i);
            exit(1);
        }
        if (pid == 0) {
            char byte;
            close(go[1]);
            CHECK(write(answer[1], "a", 1) == 1);
            CHECK(read(go[0], &byte, 1) == 0);
            _exit(i % 100);
        }
    }
    char bytes[4096];
    for (int got = 0; got < count;) {
        ssize_t n = read(answer[0], bytes, sizeof bytes);
        CHECK(n > 0);
        got += n;
    }
    close(go[1]);
    close(go[0]);
    long sum = 0, want = 0;
    for (int i = 0; i < count; i++) {
        int status;
        CHECK(wait(&status) > 0 && WIFEXITED(status));
        sum += WEXITSTATUS(status);
        want += i % 100;
    }
    CHECK(sum == want);
    close(answer[0]);
    close(answer[1]);
}

// Makes `count` files in directories of 1000, reads some back, and removes all.
static void files(const char *base, int count)
{
    char path[256], text[32];
    CHECK(mkdir(base, 0700) == 0);
    for (int i = 0; i < count; i++) {
        if (i % 1000 == 0) {
            snprintf(path, sizeof path, "%s/%d", base, i / 1000);
            CHECK(mkdir(path, 0700) == 0);
        }
        snprintf(path, sizeof path, "%s/%d/file-%d", base, i / 1000, i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (fd < 0) {
            printf("file %d: %m\n", i);
            exit(1);
        }
        if (i % 100 == 0)
            CHECK(dprintf(fd, "%d", i) > 0);
        close(fd);
    }
    for (int i = 0; i < count; i += 100) {
        snprintf(path, sizeof path, "%s/%d/file-%d", base, i / 1000, i);
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0);
        ssize_t n = read(fd, text, sizeof text - 1);
        CHECK(n > 0);
        text[n] = 0;
        CHECK(atoi(text) == i);
        close(fd);
    }
    for (int i = count - 1; i >= 0; i--) {
        snprintf(path, sizeof path, "%s/%d/file-%d", base, i / 1000, i);
        CHECK(unlink(path) == 0);
        if (i % 1000 == 0) {
            snprintf(path, sizeof path, "%s/%d", base, i / 1000);
            CHECK(rmdir(path) == 0);
        }
    }
    CHECK(rmdir(base) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int guest = getenv("UMBEL_GUEST") != NULL;
    processes(10);
    files("/tmp/umbel-many", 10);
    long before = meminfo("Slab");
    processes(atoi(argv[1]));
    files("/tmp/umbel-many", atoi(argv[2]));
    processes(10); // files that are mapped forget spaces that are gone when they learn of new ones
    // What caches keep is little beside what all that took.
    long lost = meminfo("Slab") - before;
    for (int tries = 0; guest && lost > 8 << 10 && tries < 50; tries++) {
        usleep(100000); // what others still hold goes with them
        lost = meminfo("Slab") - before;
    }
    if (guest && lost > 8 << 10) {
        printf("%ld KiB did not come back\n", lost);
        return 1;
    }
    puts("ok");
    return 0;
}
