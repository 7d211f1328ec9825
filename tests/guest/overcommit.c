/* What may be promised: Committed_AS, CommitLimit, and vm.overcommit_memory, which only a machine's own root changes. */
#define _GNU_SOURCE
#include "check.h"
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define SHARED (MAP_SHARED | MAP_ANONYMOUS)

static long meminfo(const char *name) {
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/meminfo", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':') value = atol(line + strlen(name) + 1);
    fclose(file);
    return value;
}

static int set(const char *name, const char *value) {
    char path[64];
    snprintf(path, sizeof path, "/proc/sys/vm/%s", name);
    FILE *file = fopen(path, "w");
    if (!file) return -1;
    int bad = fputs(value, file) < 0;
    return fclose(file) || bad ? -1 : 0;
}

/* Whether an area of so many MiB can be had; it is given back. */
static int fits(long mib, int prot, int flags) {
    void *m = mmap(0, mib << 20, prot, flags, -1, 0);
    if (m == MAP_FAILED) CHECK(errno == ENOMEM);
    return m != MAP_FAILED && munmap(m, mib << 20) == 0;
}

static void counted(void) {
    const long MIB = 1024, before = meminfo("Committed_AS");
    char *m = mmap(0, 64 << 20, RW, PRIVATE, -1, 0);
    CHECK(meminfo("Committed_AS") == before + 64 * MIB);
    CHECK(mprotect(m, 16 << 20, PROT_NONE) == 0 && munmap(m + (16 << 20), 16 << 20) == 0);
    CHECK(meminfo("Committed_AS") == before + 32 * MIB);
    munmap(m, 64 << 20);
    m = mmap(0, 64 << 20, PROT_READ, PRIVATE, -1, 0);
    void *reserve = mmap(0, 64 << 20, RW, PRIVATE | MAP_NORESERVE, -1, 0);
    CHECK(meminfo("Committed_AS") == before && mprotect(m, 1 << 20, RW) == 0 && meminfo("Committed_AS") == before + MIB);
    void *shared = mmap(0, 8 << 20, RW, SHARED, -1, 0);
    CHECK(meminfo("Committed_AS") == before + 9 * MIB);
    int ends[2], how;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        char go;
        close(ends[1]);
        _exit(read(ends[0], &go, 1) != 0);
    }
    CHECK(meminfo("Committed_AS") > before + 10 * MIB && munmap(shared, 8 << 20) == 0);
    CHECK(meminfo("Committed_AS") > before + 10 * MIB); /* the child has it, too */
    close(ends[1]);
    CHECK(waitpid(child, &how, 0) == child && how == 0);
    munmap(m, 64 << 20);
    munmap(reserve, 64 << 20);
    CHECK(meminfo("Committed_AS") == before);
}

static void limited(void) {
    const long total = meminfo("MemTotal") / 1024, beyond = total + 64;
    CHECK(set("overcommit_memory", "3") == -1 && set("overcommit_memory", "x") == -1);
    CHECK(!fits(beyond, RW, PRIVATE) && fits(beyond, PROT_NONE, PRIVATE) && fits(beyond, RW, PRIVATE | MAP_NORESERVE));
    CHECK(!fits(beyond, RW, SHARED));
    CHECK(set("overcommit_memory", "1") == 0 && fits(beyond, RW, PRIVATE));
    CHECK(set("overcommit_ratio", "40") == 0 && labs(meminfo("CommitLimit") - meminfo("MemTotal") / 10 * 4) < 1024);
    CHECK(set("overcommit_kbytes", "131072") == 0 && meminfo("CommitLimit") == 131072);
    CHECK(set("overcommit_memory", "2") == 0);
    CHECK(!fits(160, RW, PRIVATE) && !fits(160, RW, PRIVATE | MAP_NORESERVE) && fits(160, PROT_READ, PRIVATE));
    CHECK(!fits(160, RW, SHARED));
    char *m = mmap(0, 160 << 20, PROT_READ, PRIVATE, -1, 0);
    CHECK_ERRNO(mprotect(m, 160 << 20, RW), ENOMEM);
    CHECK(mprotect(m, 80 << 20, RW) == 0);
    CHECK_ERRNO(mremap(m, 80 << 20, 200 << 20, MREMAP_MAYMOVE), ENOMEM);
    CHECK_ERRNO(fork(), ENOMEM); /* twice 80 MiB is too much */
    CHECK(mprotect(m, 80 << 20, PROT_READ) == 0);
    CHECK(set("overcommit_memory", "0") == 0 && set("overcommit_ratio", "50") == 0);
}

int main(void) {
    counted();
    limited();
    DONE();
}
