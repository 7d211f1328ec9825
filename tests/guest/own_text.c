/* Text that runs hot system calls reads as its file has it through /proc/self/mem and process_vm_readv, and where it is mapped
 * to be looked at before it is run, as valgrind maps its client's. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

extern const char hot[], hot_end[];
__asm__(".text\n.globl hot, hot_end\n.p2align 6\nhot: mov $111, %eax\nsyscall\nret\n.fill 32, 1, 0xcc\nhot_end:\n");

static int same(const unsigned char *bytes)
{
    static const unsigned char wanted[] = {0xb8, 111, 0, 0, 0, 0x0f, 0x05, 0xc3};
    return !memcmp(bytes, wanted, sizeof wanted);
}

static int looks_original(void)
{
    unsigned char bytes[64] = {0};
    int mem = open("/proc/self/mem", O_RDONLY);
    struct iovec to = {bytes, sizeof bytes}, from = {(void *)hot, sizeof bytes};
    if (pread(mem, bytes, 64, (long)hot) != 64 || !same(bytes))
        return puts("/proc/self/mem shows other bytes"), 0;
    memset(bytes, 0, 64);
    if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != 64 || !same(bytes))
        return puts("process_vm_readv shows other bytes"), 0;
    return close(mem) == 0;
}

/* The file's text once more, as a loader maps it. */
static int mapped_original(void)
{
    int self = open("/proc/self/exe", O_RDONLY);
    extern const char __ehdr_start[];
    long page = sysconf(_SC_PAGESIZE), at = (hot - __ehdr_start) / page * page;
    char *text = mmap(NULL, 2 * page, PROT_READ | PROT_EXEC, MAP_PRIVATE, self, at);
    if (text == MAP_FAILED || !same((unsigned char *)text + (long)hot % page))
        return puts("a mapping of the file shows other bytes"), 0;
    return munmap(text, 2 * page) == 0 && close(self) == 0;
}

static int runs(void)
{
    for (int i = 0; i < 2000; i++)
        if (((long (*)(void))hot)() != getpgrp())
            return 0;
    return 1;
}

/* The second program of the same file may find the first one's text prepared: it, too, must look as the file does. */
int main(int argc, char **argv)
{
    if (!looks_original() || !runs() || !looks_original() || !mapped_original() || !runs())
        return 1;
    if (argc == 1) {
        execl("/proc/self/exe", argv[0], "again", NULL);
        return 1;
    }
    puts("ok");
    return 0;
}
