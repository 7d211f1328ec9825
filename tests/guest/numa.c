/* Memory policies of tasks and areas, and the node of pages. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/mempolicy.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

static long set(int mode, unsigned long *nodes, unsigned long max) { return syscall(SYS_set_mempolicy, mode, nodes, max); }
static long get(int *mode, unsigned long *nodes, unsigned long max, void *addr, int flags) {
    return syscall(SYS_get_mempolicy, mode, nodes, max, addr, flags);
}
static long bind(void *addr, size_t len, int mode, unsigned long *nodes, unsigned long max, int flags) {
    return syscall(SYS_mbind, addr, len, mode, nodes, max, flags);
}

static void tasks(void) {
    unsigned long zero[16] = {1}, far[16] = {1UL << 60}, none[16] = {0}, out[16];
    int mode = -1;
    CHECK(get(&mode, NULL, 0, NULL, 0) == 0 && mode == MPOL_DEFAULT);
    memset(out, 255, sizeof out);
    CHECK(get(&mode, out, 1024, NULL, MPOL_F_MEMS_ALLOWED) == 0 && mode == 0 && out[0] == 1 && out[1] == 0);
    CHECK_ERRNO(get(&mode, out, 1024, NULL, MPOL_F_MEMS_ALLOWED | MPOL_F_NODE), EINVAL);
    CHECK_ERRNO(get(&mode, out, 0, NULL, 0), EINVAL);
    CHECK_ERRNO(get(&mode, NULL, 0, NULL, 99), EINVAL);
    CHECK_ERRNO(get(&mode, NULL, 0, zero, 0), EINVAL);
    CHECK_ERRNO(get((void *)8, NULL, 0, NULL, 0), EFAULT);
    CHECK_ERRNO(get(&mode, NULL, 0, NULL, MPOL_F_NODE), EINVAL);
    CHECK_ERRNO(get(&mode, NULL, 0, (void *)8, MPOL_F_ADDR), EFAULT);
    CHECK_ERRNO(set(77, NULL, 0), EINVAL);
    CHECK_ERRNO(set(-1, NULL, 0), EINVAL);
    CHECK_ERRNO(set(MPOL_DEFAULT, zero, 1024), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND, NULL, 0), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND, none, 1024), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND, far, 64), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND, zero, 100000), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND, (void *)8, 64), EFAULT);
    CHECK_ERRNO(set(MPOL_LOCAL, zero, 64), EINVAL);
    CHECK_ERRNO(set(MPOL_BIND | MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES, zero, 64), EINVAL);
    CHECK(set(MPOL_INTERLEAVE, zero, 64) == 0 && get(&mode, out, 64, NULL, 0) == 0 && mode == MPOL_INTERLEAVE && out[0] == 1);
    CHECK(get(&mode, NULL, 0, NULL, MPOL_F_NODE) == 0 && mode == 0);
    CHECK(set(MPOL_BIND | MPOL_F_STATIC_NODES, zero, 64) == 0 && get(&mode, out, 64, NULL, 0) == 0);
    CHECK(mode == (MPOL_BIND | MPOL_F_STATIC_NODES) && out[0] == 1);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(get(&mode, NULL, 0, NULL, 0) != 0 || mode != (MPOL_BIND | MPOL_F_STATIC_NODES));
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(set(MPOL_PREFERRED, NULL, 0) == 0 && get(&mode, out, 64, NULL, 0) == 0 && mode == MPOL_LOCAL && out[0] == 0);
    CHECK(set(MPOL_DEFAULT, NULL, 0) == 0 && get(&mode, NULL, 0, NULL, 0) == 0 && mode == MPOL_DEFAULT);
}

static void areas(void) {
    unsigned long zero = 1, out = 77;
    int mode = -1;
    char *area = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(get(&mode, &out, 64, area, MPOL_F_ADDR) == 0 && mode == MPOL_DEFAULT && out == 0);
    CHECK(bind(area + 2 * PAGE, 2 * PAGE, MPOL_BIND, &zero, 64, MPOL_MF_STRICT | MPOL_MF_MOVE) == 0);
    CHECK(get(&mode, &out, 64, area + 3 * PAGE + 5, MPOL_F_ADDR) == 0 && mode == MPOL_BIND && out == 1);
    CHECK(get(&mode, &out, 64, area + 4 * PAGE, MPOL_F_ADDR) == 0 && mode == MPOL_DEFAULT);
    CHECK(get(&mode, &out, 64, area + 3 * PAGE, MPOL_F_ADDR | MPOL_F_NODE) == 0 && mode == 0);
    CHECK_ERRNO(bind(area + 1, PAGE, MPOL_BIND, &zero, 64, 0), EINVAL);
    CHECK_ERRNO(bind(area, PAGE, MPOL_BIND, &zero, 64, 99), EINVAL);
    CHECK_ERRNO(bind(area, PAGE, MPOL_BIND, NULL, 0, 0), EINVAL);
    CHECK_ERRNO(bind(area, PAGE, MPOL_DEFAULT, &zero, 64, 0), EINVAL);
    CHECK_ERRNO(bind(area, PAGE, MPOL_BIND, (void *)8, 64, 0), EFAULT);
    CHECK_ERRNO(bind(area, PAGE, 77, (void *)8, 64, 0), EINVAL);
    CHECK_ERRNO(bind(area, -PAGE, MPOL_BIND, &zero, 64, 0), EINVAL);
    CHECK(bind(area, 0, MPOL_BIND, &zero, 64, 0) == 0);
    CHECK(munmap(area + 6 * PAGE, PAGE) == 0);
    CHECK_ERRNO(bind(area, 8 * PAGE, MPOL_INTERLEAVE, &zero, 64, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_set_mempolicy_home_node, area + 7 * PAGE, PAGE, 0, 0), ENOENT);
    CHECK_ERRNO(syscall(SYS_set_mempolicy_home_node, area, PAGE, 1000, 0), EINVAL);
    CHECK_ERRNO(syscall(SYS_set_mempolicy_home_node, area, PAGE, 0, 1), EINVAL);
    CHECK(syscall(SYS_set_mempolicy_home_node, area + 2 * PAGE, PAGE, 0, 0) == 0);
    CHECK(bind(area, PAGE, MPOL_INTERLEAVE, &zero, 64, 0) == 0);
    CHECK_ERRNO(syscall(SYS_set_mempolicy_home_node, area, PAGE, 0, 0), EOPNOTSUPP);
    area[2 * PAGE] = 1;
    char line[500], start[40];
    int seen = 0;
    snprintf(start, sizeof start, "%lx bind:0 ", (unsigned long)area + 2 * PAGE);
    FILE *file = fopen("/proc/self/numa_maps", "r");
    while (file && fgets(line, sizeof line, file)) seen += !strncmp(line, start, strlen(start)) && strstr(line, " anon=1 ") && strstr(line, " N0=1 ");
    CHECK(seen == 1);
    if (file) fclose(file);
    munmap(area, 8 * PAGE);
}

static void pages(void) {
    char *area = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *empty = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    area[0] = area[PAGE] = 1;
    CHECK(munmap(area + 3 * PAGE, PAGE) == 0);
    void *list[4] = {area, area + PAGE + 8, empty, area + 3 * PAGE};
    int nodes[4] = {0, 0, 0, 0}, wrong[4] = {0, 999, 0, 0}, status[4];
#define move(pid, nodes, flags) syscall(SYS_move_pages, pid, 4, list, nodes, status, flags)
    CHECK(move(0, NULL, 0) == 0 && status[0] == 0 && status[1] == 0 && status[2] == -ENOENT && status[3] == -EFAULT);
    CHECK(move(getpid(), nodes, MPOL_MF_MOVE) == 0 && status[0] == 0 && status[2] == -ENOENT && status[3] == -EFAULT);
    CHECK_ERRNO(move(0, wrong, MPOL_MF_MOVE), ENODEV);
    CHECK_ERRNO(move(0, nodes, 99), EINVAL);
    CHECK_ERRNO(move(-5, nodes, 0), ESRCH);
    CHECK_ERRNO(syscall(SYS_move_pages, 0, 4, list, NULL, (void *)8, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_move_pages, 0, 4, (void *)8, NULL, status, 0), EFAULT);
    CHECK_ERRNO(syscall(SYS_move_pages, 0, 4, list, (void *)8, status, MPOL_MF_MOVE), EFAULT);
    CHECK(syscall(SYS_move_pages, 0, 0, list, NULL, status, 0) == 0);
    unsigned long zero = 1, none = 0;
    CHECK(syscall(SYS_migrate_pages, 0, 64, &zero, &zero) == 0 && syscall(SYS_migrate_pages, getpid(), 64, &zero, &zero) == 0);
    CHECK_ERRNO(syscall(SYS_migrate_pages, 0, 64, &zero, &none), EINVAL);
    CHECK_ERRNO(syscall(SYS_migrate_pages, -1, 64, &zero, &zero), ESRCH);
    CHECK_ERRNO(syscall(SYS_migrate_pages, 0, -1, &zero, &zero), EINVAL);
    CHECK_ERRNO(syscall(SYS_migrate_pages, 0, 64, (void *)8, &zero), EFAULT);
    munmap(area, 4 * PAGE);
}

/* A host with more nodes answers otherwise. */
static int single(void) {
    char text[20] = "";
    FILE *file = fopen("/sys/devices/system/node/online", "r");
    int one = file && fgets(text, sizeof text, file) && !strcmp(text, "0\n");
    if (file) fclose(file);
    return one;
}

int main(void) {
    if (single()) {
        tasks();
        areas();
        pages();
    }
    DONE();
}
