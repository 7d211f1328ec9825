/* What is in memory: /proc/self/smaps, smaps_rollup, pagemap, clear_refs, status, statm, mincore(2). */
#define _GNU_SOURCE
#include "check.h"
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 };
#define RW (PROT_READ | PROT_WRITE)
#define PRESENT (1ull << 63)
#define OF_FILE (1ull << 61)
#define EXCLUSIVE (1ull << 56)

struct area {
    long size, rss, pss, dirty, anonymous, referenced, locked;
    char flags[200];
};

static void field(const char *line, const char *name, long *value) {
    size_t len = strlen(name);
    if (!strncmp(line, name, len) && line[len] == ':') *value = atol(line + len + 1);
}

/* What smaps (or smaps_rollup, for address 0) says of the area that begins at `start`, in KiB. */
static struct area area_at(const char *path, const void *start) {
    char line[512];
    struct area area = {-1, -1, -1, -1, -1, -1, -1, ""};
    unsigned long from, to;
    int inside = 0;
    FILE *file = fopen(path, "r");
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) inside = !start || from == (unsigned long)start;
        if (!inside) continue;
        field(line, "Size", &area.size);
        field(line, "Rss", &area.rss);
        field(line, "Pss", &area.pss);
        field(line, "Private_Dirty", &area.dirty);
        field(line, "Anonymous", &area.anonymous);
        field(line, "Referenced", &area.referenced);
        field(line, "Locked", &area.locked);
        if (!strncmp(line, "VmFlags: ", 9)) strcpy(area.flags, line + 8);
    }
    fclose(file);
    return area;
}

static struct area smaps(const void *start) {
    return area_at("/proc/self/smaps", start);
}

static int has(struct area area, const char *flag) {
    char word[8];
    snprintf(word, sizeof word, " %s ", flag);
    return strstr(area.flags, word) != 0;
}

static long status(const char *name) {
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file)) field(line, name, &value);
    fclose(file);
    return value;
}

static void private(void) {
    char *m = mmap(0, PAGES * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* Apart from what lies beside it. */
    CHECK(madvise(m, PAGES * PAGE, MADV_DONTDUMP) == 0);
    struct area area = smaps(m);
    CHECK(area.size == PAGES * 4 && area.rss == 0 && area.pss == 0 && area.locked == 0);
    for (int i = 0; i < 8; i++) m[i * PAGE] = 'a';
    area = smaps(m);
    CHECK(area.rss == 32 && area.pss == 32 && area.dirty == 32 && area.anonymous == 32 && area.referenced == 32);
    CHECK(has(area, "rd") && has(area, "wr") && has(area, "mw") && has(area, "ac") && has(area, "dd"));
    CHECK(!has(area, "sh") && !has(area, "ex") && !has(area, "lo") && !has(area, "gd"));
    pid_t child = fork();
    if (child == 0) {
        area = smaps(m);
        _exit(area.rss == 32 && area.pss >= 16 && area.pss <= 32 && area.anonymous == 32 ? 0 : 1);
    }
    int how;
    CHECK(waitpid(child, &how, 0) == child && how == 0);
    unsigned char in[PAGES];
    CHECK(mincore(m, PAGES * PAGE, in) == 0);
    for (int i = 0; i < PAGES; i++) CHECK((in[i] & 1) == (i < 8));
    long locked = status("VmLck");
    CHECK(mlock(m, 16 * PAGE) == 0 && status("VmLck") == locked + 64);
    area = smaps(m);
    CHECK(area.size == 64 && area.rss == 64 && area.locked == 64 && has(area, "lo"));
    CHECK(munlock(m, 16 * PAGE) == 0 && status("VmLck") == locked);
    munmap(m, PAGES * PAGE);
}

static void shared(void) {
    char *m = mmap(0, PAGES * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long shmem = status("RssShmem");
    for (int i = 0; i < 4; i++) m[i * PAGE] = 0;
    struct area area = smaps(m);
    CHECK(area.rss == 16 && area.pss == 16 && area.anonymous == 0 && has(area, "sh") && has(area, "ms"));
    CHECK(status("RssShmem") == shmem + 16);
    unsigned char in[PAGES];
    CHECK(mincore(m, PAGES * PAGE, in) == 0);
    for (int i = 0; i < PAGES; i++) CHECK((in[i] & 1) == (i < 4));
    munmap(m, PAGES * PAGE);
}

/* Without the bit of pages that were written (see written.c), which not all kernels have. */
static uint64_t entry(int fd, const char *at) {
    uint64_t value = 0;
    CHECK(pread(fd, &value, 8, (uintptr_t)at / PAGE * 8) == 8);
    return value & ~(1ull << 55);
}

static void pagemap(void) {
    int fd = open("/proc/self/pagemap", O_RDONLY);
    char *m = mmap(0, PAGES * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *s = mmap(0, PAGES * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(fd >= 0 && entry(fd, m) == 0 && entry(fd, s) == 0);
    m[0] = s[0] = 'x';
    const uint64_t bits = PRESENT | OF_FILE | EXCLUSIVE;
    CHECK((entry(fd, m) & bits) == (PRESENT | EXCLUSIVE) && entry(fd, m + PAGE) == 0);
    CHECK((entry(fd, s) & bits) == bits && entry(fd, s + PAGE) == 0);
    if (geteuid() == 0) CHECK((entry(fd, m) & ((1ull << 55) - 1)) != 0);
    int how;
    uint64_t two[2];
    CHECK_ERRNO(pread(fd, two, 7, 8), EINVAL);
    CHECK_ERRNO(pread(fd, two, 8, 4), EINVAL);
    CHECK(pread(fd, two, 0, 8) == 0 && pread(fd, two, 8, 1ul << 60) == 0);
    CHECK(pread(fd, two, 8, (1ul << 47) / PAGE * 8 - 8) == 0);
    CHECK(pread(fd, two, 16, (1ul << 47) / PAGE * 8 - 16) == 8);
    CHECK_ERRNO(write(fd, two, 8), EBADF);
    if (geteuid() == 0 && fork() == 0) {
        /* Frames are for the privileged. */
        int own = setresuid(65534, 65534, 65534);
        CHECK(own == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
        int plain = open("/proc/self/pagemap", O_RDONLY);
        CHECK(plain >= 0 && (entry(plain, m) & PRESENT) && (entry(plain, m) & ((1ull << 55) - 1)) == 0);
        _exit(check_failures);
    }
    CHECK(geteuid() != 0 || (wait(&how) > 0 && how == 0));
    munmap(m, PAGES * PAGE);
    munmap(s, PAGES * PAGE);
    close(fd);
}

static void sums(void) {
    long pages[7];
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(fscanf(file, "%ld %ld %ld %ld %ld %ld %ld", pages, pages + 1, pages + 2, pages + 3, pages + 4, pages + 5,
                 pages + 6) == 7);
    fclose(file);
    CHECK(pages[0] * 4 == status("VmSize") && pages[1] > pages[2] && pages[3] > 0 && pages[4] == 0);
    CHECK(pages[5] * 4 == status("VmData") + status("VmStk") && pages[6] == 0 && pages[3] * 4 == status("VmExe"));
    CHECK(status("VmRSS") == status("RssAnon") + status("RssFile") + status("RssShmem"));
    CHECK(status("VmPeak") >= status("VmSize") && status("VmHWM") >= status("VmRSS") && status("VmPTE") > 0);
    CHECK(status("VmSwap") == 0 && status("RssFile") > 0 && status("RssAnon") > 0);
    long peak = status("VmPeak");
    void *m = mmap(0, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(m, 64 << 20);
    CHECK(status("VmPeak") >= status("VmSize") + 65536 && status("VmPeak") >= peak);
    struct area all = area_at("/proc/self/smaps_rollup", 0);
    CHECK(all.rss > 0 && all.pss > 0 && all.pss <= all.rss && all.anonymous > 0 && all.size == -1);
}

/* The processor notes the next access: it forgets what it knows of these pages. */
static void renew(char *m) {
    CHECK(mprotect(m, 32 * PAGE, PROT_NONE) == 0 && mprotect(m, 32 * PAGE, RW) == 0);
}

static void cleared(void) {
    char *m = mmap(0, 32 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(madvise(m, 32 * PAGE, MADV_DONTDUMP) == 0);
    memset(m, 'x', 32 * PAGE);
    CHECK(smaps(m).referenced == 128);
    int fd = open("/proc/self/clear_refs", O_WRONLY);
    CHECK(fd >= 0 && write(fd, "1\n", 2) == 2);
    CHECK(smaps(m).referenced == 0 && smaps(m).rss == 128);
    renew(m);
    for (int i = 0; i < 8; i += 2) m[i * PAGE]++;
    CHECK(smaps(m).referenced == 16 && smaps(m).rss == 128);
    CHECK(write(fd, "2", 1) == 1 && smaps(m).referenced == 0);
    renew(m);
    m[PAGE]++;
    CHECK(write(fd, "3", 1) == 1 && smaps(m).referenced == 4);
    CHECK_ERRNO(write(fd, "6", 1), EINVAL);
    CHECK_ERRNO(write(fd, "0", 1), EINVAL);
    CHECK_ERRNO(write(fd, "x", 1), EINVAL);
    munmap(m, 32 * PAGE);
    m = mmap(0, 32 << 20, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(m, 'x', 32 << 20);
    munmap(m, 32 << 20);
    CHECK(status("VmHWM") > status("VmRSS") + 30000);
    CHECK(write(fd, "5", 1) == 1 && status("VmHWM") < status("VmRSS") + 10000);
    close(fd);
    int other = open("/proc/self/clear_refs", O_RDWR);
    char byte;
    if (other >= 0) CHECK_ERRNO(read(other, &byte, 1), EINVAL);
}

struct procmap {
    uint64_t size, flags, addr, start, end, properties, page_size, offset, inode;
    uint32_t major, minor, name_size, id_size;
    uint64_t name, id;
};
#define PROCMAP _IOWR('f', 17, struct procmap)

/* Areas by question, as the lines of maps tell them. */
static void asked(void) {
    char *m = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mprotect(m + 2 * PAGE, PAGE, PROT_READ) == 0 && munmap(m + 4 * PAGE, PAGE) == 0);
    int fd = open("/proc/self/maps", O_RDONLY);
    struct procmap q = {.size = sizeof q, .addr = (uintptr_t)m + 2 * PAGE + 5};
    CHECK(ioctl(fd, PROCMAP, &q) == 0 && q.start == (uintptr_t)m + 2 * PAGE && q.end == q.start + PAGE);
    CHECK(q.properties == 1 && q.page_size == PAGE && q.inode == 0 && q.name_size == 0);
    q = (struct procmap){.size = sizeof q, .addr = (uintptr_t)m + 4 * PAGE};
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), ENOENT);
    q.flags = 16;
    CHECK(ioctl(fd, PROCMAP, &q) == 0 && q.start == (uintptr_t)m + 5 * PAGE);
    q = (struct procmap){.size = sizeof q, .addr = (uintptr_t)m + 2 * PAGE, .flags = 2};
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), ENOENT);
    q.flags = 2 | 16;
    CHECK(ioctl(fd, PROCMAP, &q) == 0 && q.start == (uintptr_t)m + 3 * PAGE && q.properties == 3);
    char name[200], self[200] = "";
    q = (struct procmap){.size = sizeof q, .addr = (uintptr_t)&asked, .flags = 32, .name = (uintptr_t)name, .name_size = sizeof name};
    struct stat st;
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0 && stat(self, &st) == 0);
    CHECK(ioctl(fd, PROCMAP, &q) == 0 && !strcmp(name, self) && q.name_size == strlen(self) + 1 && q.inode == st.st_ino);
    CHECK((q.properties & 5) == 5);
    q.name_size = 3;
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), ENAMETOOLONG);
    q.name_size = 0;
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), EINVAL);
    q = (struct procmap){.size = 8};
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), EINVAL);
    q.size = 5000;
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), E2BIG);
    q = (struct procmap){.size = sizeof q, .flags = 64};
    CHECK_ERRNO(ioctl(fd, PROCMAP, &q), EINVAL);
    CHECK_ERRNO(ioctl(fd, PROCMAP, (void *)8), EFAULT);
    CHECK_ERRNO(ioctl(fd, PROCMAP + 1, &q), ENOTTY);
    close(fd);
    munmap(m, 8 * PAGE);
}

int main(void) {
    asked();
    private();
    shared();
    pagemap();
    sums();
    cleared();
    DONE();
}
