/* What a program finds in its registers and its memory before its first instruction: nothing of those who ran before.
 *
 * Half the children put a mark into all they have: general and vector registers, fs and gs base, the stack and pages of memory;
 * and die. The others run a copy of this program whose first instruction stores every register before anything changes them, and
 * look for the mark there, around the stack pointer and in new memory. */
#define _GNU_SOURCE
#include "check.h"
#include <asm/prctl.h>
#include <cpuid.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HALF 0x5a17c0deu
#define OTHER 0x00005eedu /* a canonical address in all */
#define PAGES 512

static volatile unsigned half = HALF; /* a whole mark is never stored in the file */

/* ---- in the fresh program: no C library yet ---- */

static unsigned char state[16384] __attribute__((aligned(64), used));
static unsigned long general[18] __attribute__((used));

static long host(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(nr) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return nr;
}

static int marked(const volatile unsigned *at, unsigned long bytes)
{
    for (unsigned long i = 0; i + 1 < bytes / 4; i++)
        if (at[i] == half && at[i + 1] == OTHER)
            return 1;
    return 0;
}

__attribute__((used, noreturn)) static void look(unsigned char *sp)
{
    unsigned char *page = (unsigned char *)((unsigned long)sp & ~4095ul);
    int found = 0;
    found |= marked((void *)general, sizeof general) << 0;
    found |= marked((void *)state, sizeof state) << 1;
    /* The stack below, as far as it grows by itself, and the rest of its page. */
    for (int i = 0; i < 16; i++)
        found |= marked((void *)(page - i * 4096), i ? 4096 : sp - page) << 2;
    unsigned char *memory = (void *)host(SYS_mmap, 0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < PAGES; i++) {
        if (i % 2)
            memory[i * 4096] = 1; /* written before it is read, or read first */
        found |= marked((void *)(memory + i * 4096), 4096) << 3;
    }
    host(SYS_exit_group, found, 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

/* Stores all registers; xsave's mask is rdx:rax, which are stored before. */
__attribute__((naked, used)) static void fresh(void)
{
    __asm__("mov %rax, general(%rip)\n mov %rbx, general+8(%rip)\n mov %rcx, general+16(%rip)\n mov %rdx, general+24(%rip)\n"
            "mov %rsi, general+32(%rip)\n mov %rdi, general+40(%rip)\n mov %rbp, general+48(%rip)\n mov %r8, general+56(%rip)\n"
            "mov %r9, general+64(%rip)\n mov %r10, general+72(%rip)\n mov %r11, general+80(%rip)\n mov %r12, general+88(%rip)\n"
            "mov %r13, general+96(%rip)\n mov %r14, general+104(%rip)\n mov %r15, general+112(%rip)\n"
            "mov $7, %eax\n xor %edx, %edx\n xsave64 state(%rip)\n"
            "rdfsbase %rax\n mov %rax, general+120(%rip)\n rdgsbase %rax\n mov %rax, general+128(%rip)\n"
            "mov %rsp, %rdi\n and $-16, %rsp\n call look\n ud2");
}

/* ---- those who leave marks ---- */

/* Loads the mark into all registers, stays in guest mode for some ticks, and dies of a fault. */
__attribute__((naked)) static void mark_registers(unsigned *pattern, int avx, unsigned long mark)
{
    (void)pattern, (void)avx, (void)mark;
    __asm__("movups (%rdi), %xmm0\n movups (%rdi), %xmm7\n movups (%rdi), %xmm15\n"
            "test %esi, %esi\n jz 1f\n vmovups (%rdi), %ymm0\n vmovups (%rdi), %ymm7\n vmovups (%rdi), %ymm15\n"
            "1: fldl (%rdi)\n fldl (%rdi)\n mov %rdx, %rax\n mov %rdx, %rbx\n mov %rdx, %rcx\n mov %rdx, %rsi\n mov %rdx, %rdi\n"
            "mov %rdx, %r8\n mov %rdx, %r9\n mov %rdx, %r10\n mov %rdx, %r11\n mov %rdx, %r12\n mov %rdx, %r13\n mov %rdx, %r14\n"
            "mov %rdx, %r15\n wrfsbase %rax\n mov $3000000, %ebp\n 2: dec %ebp\n jnz 2b\n mov %rdx, %rbp\n movb $0, 1\n ud2");
}

static void leave_marks(void)
{
    static unsigned pattern[8];
    unsigned long *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile unsigned long stack[8192];
    unsigned long mark = half | (unsigned long)OTHER << 32;
    for (int i = 0; i < PAGES * 512; i++)
        memory[i] = mark;
    for (int i = 0; i < 8192; i++)
        stack[i] = mark;
    for (int i = 0; i < 8; i += 2)
        pattern[i] = half, pattern[i + 1] = OTHER;
    syscall(SYS_arch_prctl, ARCH_SET_GS, mark);
    unsigned eax, ebx, ecx, edx;
    int avx = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx & bit_AVX && ecx & bit_OSXSAVE;
    mark_registers(pattern, avx, mark);
    (void)stack[7];
}

/* A copy of this program that begins at `fresh`. */
static void make_fresh(const char *to)
{
    static char bytes[4 << 20];
    int from = open("/proc/self/exe", O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0700);
    ssize_t len = read(from, bytes, sizeof bytes);
    CHECK(from >= 0 && out >= 0 && len > 0 && len < (ssize_t)sizeof bytes);
    ((Elf64_Ehdr *)bytes)->e_entry = (unsigned long)fresh;
    CHECK(write(out, bytes, len) == len);
    close(from), close(out);
}

int main(void)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/fresh-%d", getpid());
    make_fresh(path);
    for (int i = 0; i < 120; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            if (i % 2 == 0)
                leave_marks();
            char *args[] = {path, NULL};
            execve(path, args, args + 1);
            _exit(99);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        if (i % 2 && status != 0)
            printf("child %d found something: status %x\n", i, status), check_failures++;
        if (i % 2 == 0 && !WIFSIGNALED(status))
            printf("child %d: status %x\n", i, status), check_failures++;
    }
    unlink(path);
    DONE();
}
