/* What one process had in its registers is not found by the next one on the pages that the kernel shares with guest code.
 *
 * Arguments: address and length, hexadecimal, of each such page range. Half the children load every register with a mark
 * and trap in all ways; the others look for the mark, without ever holding it themselves. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HALF 0x5a17c0de00000000UL
#define OTHER 0x00000000f00dfeedUL

static volatile unsigned long low = OTHER;

static void leave_marks(void)
{
    unsigned long mark = HALF | low;
    for (int round = 0; round < 50; round++)
        __asm__ volatile(
            "mov %0, %%rax\nmovq %%rax, %%xmm0\npunpcklqdq %%xmm0, %%xmm0\n"
            "movdqa %%xmm0, %%xmm1\nmovdqa %%xmm0, %%xmm5\nmovdqa %%xmm0, %%xmm9\nmovdqa %%xmm0, %%xmm15\n"
            "mov %%rax, %%rbx\nmov %%rax, %%rdi\nmov %%rax, %%rsi\nmov %%rax, %%rdx\nmov %%rax, %%r8\nmov %%rax, %%r9\n"
            "mov %%rax, %%r10\nmov %%rax, %%r12\nmov %%rax, %%r13\nmov %%rax, %%r14\nmov %%rax, %%r15\n"
            "mov $111, %%eax\nsyscall\n"                /* getpgrp */
            "mov $2000, %%ecx\n1: dec %%ecx\njnz 1b\n"
            :
            : "r"(mark)
            : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
              "xmm1", "xmm5", "xmm9", "xmm15", "memory");
    __asm__ volatile("mov %0, (%1)" : : "r"(mark), "r"(8UL) : "memory"); /* the last trap is a fault */
}

static int found(char **args)
{
    for (; args[0] && args[1]; args += 2) {
        volatile unsigned long *at = (void *)strtoul(args[0], NULL, 16);
        unsigned long words = strtoul(args[1], NULL, 16) / 8;
        for (unsigned long i = 0; i < words; i++)
            if ((at[i] >> 32) == HALF >> 32 && (unsigned)at[i] == (unsigned)low)
                return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    (void)argc;
    for (int i = 0; i < 400; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            if (i % 2 == 0)
                leave_marks();
            _exit(i % 2 ? found(argv + 1) : 0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child)
            return puts("fork"), 1;
        if (i % 2 && status != 0)
            return printf("child %d: status %x\n", i, status), 1;
    }
    puts("ok");
    return 0;
}
