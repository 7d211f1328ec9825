/* RAM used up: the process dies whose end frees most, not the one that happens to fault. Arguments: MiB of the big one. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1 << 20)

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static long get(pid_t pid, const char *name)
{
    char path[64], text[32] = {0};
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    return strtol(text, NULL, 10);
}

static volatile int *ready;

/* Takes so much memory and keeps it. */
static pid_t hold(size_t mib, const char *adjust)
{
    int before = *ready;
    pid_t pid = fork();
    if (pid == 0) {
        put("/proc/self/oom_score_adj", adjust);
        char *at = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < mib * MIB; i += 4096)
            at[i] = 1;
        (*ready)++;
        for (;;)
            pause();
    }
    while (*ready == before && waitpid(pid, NULL, WNOHANG) == 0)
        usleep(1000);
    return pid;
}

static int end_of(pid_t pid)
{
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

int main(int argc, char **argv)
{
    size_t big_mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 40;
    ready = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    put("/proc/self/oom_score_adj", "-1000");
    CHECK(get(getpid(), "oom_score") == 0);

    /* Small ones fault while the big one holds what they lack. */
    pid_t big = hold(big_mib, "0"), small = hold(4, "0");
    CHECK(get(big, "oom_score") > get(small, "oom_score") && get(small, "oom_score") >= 666);
    pid_t others[16];
    int made = 0;
    while (made < 16 && waitpid(big, NULL, WNOHANG) == 0)
        others[made++] = hold(4, "0");
    CHECK(made < 16 && kill(small, 0) == 0 && waitpid(small, NULL, WNOHANG) == 0);
    for (int i = 0; i < made; i++)
        CHECK(waitpid(others[i], NULL, WNOHANG) == 0);
    for (int i = 0; i < made; i++)
        kill(others[i], SIGKILL), end_of(others[i]);

    /* Who is adjusted down to -1000 stays; who is adjusted up goes first, small as it is. */
    big = hold(big_mib, "-1000");
    pid_t marked = hold(4, "1000");
    CHECK(get(big, "oom_score") == 0);
    for (made = 0; made < 16 && waitpid(marked, NULL, WNOHANG) == 0; made++)
        others[made] = hold(4, "0");
    CHECK(made < 16 && waitpid(big, NULL, WNOHANG) == 0);
    for (int i = 0; i < made; i++)
        kill(others[i], SIGKILL), end_of(others[i]);
    kill(small, SIGKILL), end_of(small);

    /* A call that copies to memory that is not there yet waits for it, too. */
    kill(big, SIGKILL), end_of(big);
    big = hold(big_mib, "0");
    int zero = open("/dev/zero", O_RDONLY);
    size_t len = 32 * MIB;
    char *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t done = 0; done < len;) {
        ssize_t n = read(zero, at + done, len - done);
        CHECK(n > 0);
        if (n <= 0)
            break;
        done += n;
    }
    CHECK(end_of(big) == SIGKILL);
    DONE();
}
