/* Shared memory, of nobody and of a file in RAM, touched from end to end by two processes: each finds what the other wrote. */
#define _GNU_SOURCE
#include "check.h"
#include "child.h"
#include <sys/mman.h>

enum { PAGES = 4096, PAGE = 4096 };

static char *memory;

static void write_all(int value) {
    for (long i = 0; i < PAGES; i++) memory[i * PAGE + value] = (char)(i * 7 + value);
}

static void check_all(int value) {
    int wrong = 0;
    for (long i = 0; i < PAGES; i++) wrong += memory[i * PAGE + value] != (char)(i * 7 + value);
    CHECK(wrong == 0);
}

static void answer(void) {
    check_all(1);
    write_all(2);
}

static void of(int fd, int flags) {
    memory = mmap(0, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(memory != MAP_FAILED);
    write_all(1);
    in_child(answer);
    check_all(1);
    check_all(2);
    unsigned char in[PAGES];
    int there = 0;
    CHECK(mincore(memory, (size_t)PAGES * PAGE, in) == 0);
    for (int i = 0; i < PAGES; i++) there += in[i] & 1;
    CHECK(there == PAGES);
}

int main(void) {
    of(-1, MAP_SHARED | MAP_ANONYMOUS);
    int fd = memfd_create("shared", 0);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)PAGES * PAGE) == 0);
    of(fd, MAP_SHARED);
    /* A second mapping of what is there. */
    of(fd, MAP_SHARED);
    CHECK(munmap(memory, (size_t)PAGES * PAGE) == 0);
    DONE();
}
