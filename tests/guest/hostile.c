/* Attacks of guest code on the kernel that shares its address space.
 *
 * Each runs in a process of its own, under a fast timer, while a bystander on another processor does honest work. An
 * attacker may be killed or go unharmed; it must never read or write kernel memory (status 66), and neither the bystander
 * nor the machine may notice. Everything is found by reading the gate's page: nothing rests on secret addresses.
 * Two pages of kernel memory are canaries, which nobody ever writes: they are attacked like the rest, and the machine looks
 * whether they change.
 * Usage: hostile HOT_BASE IMAGE_BASE SLOT_PAGE ENTRY_PAGE SIGNAL_STACK COLD_BASE HOT_CANARY COLD_CANARY HOT_LEN (hexadecimal;
 * see abi/src/machine/layout.rs). */
#define _GNU_SOURCE
#include "check.h"
#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { BROKEN = 66, PAGE = 4096 };
#define COLD_LEN 0x400000000ul

static uint64_t hot, image, slot_page, entry_page, signal_stack, cold, canaries[2], hot_len;
static uint64_t sites[64];
static int site_count;
static long attacks, killed, timed_out;
static sigjmp_buf escape;
static uint8_t scratch[65536] __attribute__((aligned(64)));

static void on_fault(int n) { siglongjmp(escape, n); }

static int readable(uint64_t at) {
    if (sigsetjmp(escape, 1)) return 0;
    (void)*(volatile uint8_t *)at;
    return 1;
}

static int writable(uint64_t at) {
    if (sigsetjmp(escape, 1)) return 0;
    *(volatile uint8_t *)at = 0;
    return 1;
}

/* Is kernel memory open? Called by an attacker that is still alive. */
static int open_memory(void) {
    signal(SIGSEGV, on_fault);
    return readable(hot) || readable(hot + 0x1000) || readable(hot + 0x200000) || readable(hot + 0x400000) || readable(hot + hot_len - 8) ||
           readable(cold) || readable(cold + 0x200000) || writable(slot_page) || writable(canaries[0]) || writable(canaries[1]);
}

static void run(const char *name, void (*attack)(uint64_t, uint64_t), uint64_t a, uint64_t b) {
    static const struct itimerval fast = {{0, 100}, {0, 100}};
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* or it would escape into its parent's loop */
        signal(SIGALRM, SIG_IGN);
        setitimer(ITIMER_REAL, &fast, 0);
        attack(a, b);
        _exit(open_memory() ? BROKEN : 0);
    }
    attacks++;
    static const struct timespec limit = {0, 30000000};
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD); /* blocked in main */
    int status = 0;
    while (waitpid(child, &status, WNOHANG) == 0)
        if (sigtimedwait(&ended, 0, &limit) < 0 && errno == EAGAIN) {
            timed_out++;
            kill(child, SIGKILL);
            CHECK(waitpid(child, &status, 0) == child);
            break;
        }
    if (WIFSIGNALED(status)) killed++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == BROKEN) {
        printf("KERNEL MEMORY IS OPEN after %s %lx %lx\n", name, a, b);
        check_failures++;
    }
}

/* ---- plain loads, stores and jumps ---- */

static void load(uint64_t at, uint64_t unused) {
    (void)unused;
    (void)*(volatile uint64_t *)at;
    _exit(BROKEN);
}
static void store(uint64_t at, uint64_t value) {
    *(volatile uint64_t *)at = value;
    _exit(BROKEN);
}

/* Jumps to `target` with registers chosen for an unlock, and a hostile stack. */
static uint64_t set_rax, set_rdi, set_rsi, set_rdx, set_r10, set_rsp, set_r12, set_r13, set_r14, set_flags = 0x202;
static void jump(uint64_t target, uint64_t unused) {
    (void)unused;
    __asm__ volatile("push %[flags]; popfq\n mov %[r12], %%r12; mov %[r13], %%r13; mov %[r14], %%r14; mov %[r10], %%r10\n"
                     " mov %[rsp], %%rsp\n jmp *%%rcx"
                     :
                     : "c"(target), "a"(set_rax), "D"(set_rdi), "S"(set_rsi), "d"(set_rdx), [r10] "m"(set_r10),
                       [rsp] "m"(set_rsp), [r12] "m"(set_r12), [r13] "m"(set_r13), [r14] "m"(set_r14), [flags] "m"(set_flags)
                     : "memory", "r10", "r12", "r13", "r14");
}
static void registers(uint64_t rax, uint64_t rdi, uint64_t rsi, uint64_t rdx) {
    set_rax = rax, set_rdi = rdi, set_rsi = rsi, set_rdx = rdx;
    set_rsp = (uint64_t)scratch + 32768, set_r10 = 0, set_flags = 0x202;
}

static void find_sites(void) {
    const volatile uint8_t *gate = (const volatile uint8_t *)image;
    for (int i = 0; i + 1 < PAGE && site_count < 64; i++)
        if (gate[i] == 0x0f && gate[i + 1] == 0x05) sites[site_count++] = image + i;
    CHECK(site_count > 0);
}

static void gate_sites(void) {
    const struct {
        uint64_t nr, a, b, c, d;
    } calls[] = {
        {10, 0x400000, PAGE, 7, 0}, {10, 1, hot_len, 7, 0}, {10, 1, hot_len, 1, 0}, {10, 1, hot_len, 3 | 1ul << 32, 0},
        {10, 1, PAGE, 3, 0}, {10, 1, hot_len * 2ul, 3, 0}, {59, 2, 0, 0, 0}, {62, 0, 9, 0, 0}, {15, 0, 0, 0, 0}, {231, 77, 0, 0, 0},
        {157, 59, 0, 0, 0}, {335, 0, 0, 0, 0}, {336, 0, 0, 0, 0}, {0x40000000 | 10, 1, hot_len, 3, 0}, {9, 0x10000, PAGE, 7, 0x32},
        {317, 1, 0, 0, 0}, {101, 0, 0, 0, 0}, {56, 0x100, 0, 0, 0},
    };
    for (int s = 0; s < site_count; s++)
        for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
            registers(calls[i].nr, calls[i].a == 1 ? hot : calls[i].a == 2 ? (uint64_t)"/bin/true" : calls[i].a, calls[i].b, calls[i].c);
            set_r10 = calls[i].d;
            run("gate call", jump, sites[s], calls[i].nr);
        }
}

/* A frame as the host would write it, anywhere the attacker likes. */
static void forge(uint64_t at, int sig, int code, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t fp) {
    ucontext_t *u = (ucontext_t *)at;
    memset((void *)at, 0, 1024);
    u->uc_mcontext.gregs[REG_RIP] = rip;
    u->uc_mcontext.gregs[REG_RSP] = rsp;
    u->uc_mcontext.gregs[REG_EFL] = flags;
    u->uc_mcontext.gregs[REG_CSGSFS] = cs;
    u->uc_mcontext.fpregs = (void *)fp;
    int *info = (int *)(at + 512);
    info[0] = sig, info[2] = code;
    info[7] = 0xc000003e;
    set_rdi = set_r12 = sig, set_rsi = set_r13 = (uint64_t)info, set_rdx = set_r14 = at;
}

static void everywhere_in_the_gate(void) {
    const volatile uint8_t *gate = (const volatile uint8_t *)image;
    int used = PAGE;
    while (used > 0 && (gate[used - 1] == 0xcc || gate[used - 1] == 0)) used--;
    for (int variant = 0; variant < 4; variant++)
        for (int i = 0; i < used; i++) {
            registers(10, hot, hot_len, 3);
            uint64_t frame = signal_stack + 0x4000;
            switch (variant) {
            case 1: set_rsp = hot + 0x10010; break;
            case 2:
                forge(frame, SIGALRM, -2, (uint64_t)_exit, 0x33, 0x202, (uint64_t)scratch + 32768, frame + 0x1000);
                set_rsp = frame - 8;
                break;
            case 3:
                forge(frame, SIGSYS, 2, image + i, 0x33, 0xfffffffffffffffful, hot + 64, hot + 0x1000);
                set_rsp = hot;
                break;
            }
            run("jump into the gate", jump, image + i, variant);
        }
}

static void frames(void) {
    uint64_t at = signal_stack + 0x4000, fp = at + 0x1000, targets[] = {image, hot, 0x8000000000000000ul, (uint64_t)_exit, slot_page};
    int numbers[] = {SIGSEGV, SIGALRM, SIGSYS, SIGTRAP, SIGFPE, SIGUSR1, SIGIO, 0, 64, -1};
    for (int s = 0; s < site_count; s++)
        for (int n = 0; n < 10; n++)
            for (int t = 0; t < 5; t++) {
                registers(10, hot, hot_len, 3);
                forge(at, numbers[n], n % 2 ? 2 : 0, targets[t], t % 2 ? 0x10 : 0x33, t == 2 ? ~0ul : 0x202, targets[4 - t], fp);
                memset((void *)(fp + 512), 0xff, 64); /* a hostile XSAVE header */
                *(uint32_t *)(fp + 24) = 0xffffffff;  /* and MXCSR */
                uint64_t rdi = hot, rsi = hot_len;
                set_rdi = rdi, set_rsi = rsi, set_rdx = 3;
                run("unlock with a forged frame", jump, sites[s], n * 16 + t);
            }
}

static void kernel_text(void) {
    /* Every syscall instruction of the image, with calls that would hurt. */
    int found = 0;
    for (uint64_t p = image + PAGE; p < image + 0x400000 && found < 400; p++) {
        if (p % PAGE == 0 && !readable(p)) break;
        if (((volatile uint8_t *)p)[0] != 0x0f || ((volatile uint8_t *)p)[1] != 0x05) continue;
        found++;
        registers(found % 3 == 0 ? 231 : found % 3 == 1 ? 10 : 11, found % 3 ? hot : 77, hot_len, 3);
        run("kernel system call", jump, p, found % 3);
    }
    CHECK(found > 0);
    uint64_t seed = 88172645463325252ul;
    for (int i = 0; i < 300; i++) {
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        registers(seed, hot + seed % 4096, hot_len, 3);
        set_rsp = i % 2 ? hot + 0x8000 : (uint64_t)scratch + 4096;
        run("jump into kernel text", jump, image + PAGE + seed % 0x80000, i);
    }
}

static int matches(uint64_t at, const uint8_t *code, int len) {
    for (int i = 0; i < len; i++)
        if (((volatile const uint8_t *)at)[i] != code[i]) return 0;
    return 1;
}

/* The next place of `code` in kernel text, 0 if there is none. */
static uint64_t find(volatile uint64_t at, const uint8_t *code, int len) {
    enum { STEP = 1024, LONGEST = 16 };
    for (; at < image + 0x4000000; at++) {
        if (at % STEP == 0 && !readable(at + STEP + LONGEST)) return 0;
        if (matches(at, code, len)) return at;
    }
    return 0;
}

/* ---- the way out ---- */

static void outside(void) { _exit(open_memory() ? BROKEN : 0); }

/* Jumps to a lock, or past it, with an exit page of its own making: both exits take all registers from there. */
static void leave(uint64_t site, uint64_t variant) {
    uint64_t rips[] = {(uint64_t)outside, 0x8000000000000000ul, hot + 0x1000, image + 0x20, slot_page, 0};
    uint64_t stacks[] = {(uint64_t)scratch + 32760, hot + 64, 0x8000000000000000ul, entry_page + 256, 0};
    static const uint64_t flags[] = {0x202, 0x3202, 0x40602, 0x302, ~0ul}, codes[] = {0x33, 0x10, 0x23, 0}, datas[] = {0x2b, 0x18, 0};
    volatile uint64_t *page = (volatile uint64_t *)entry_page;
    uint64_t rip = rips[variant % 6], rsp = stacks[variant % 5], rflags = flags[variant / 2 % 5];
    for (int i = 16; i < 64; i++) page[i] = variant % 2 ? hot + 8 * i : 0;
    page[19] = rflags, page[22] = rsp, page[24] = rip; /* the fast one */
    page[48] = rip, page[49] = codes[variant % 4], page[50] = rflags, page[51] = rsp, page[52] = datas[variant % 3];
    registers(10, hot, hot_len, variant % 7 == 0 ? 3 : 0);
    jump(site + (variant % 4 == 3 ? 2 : 0), 0);
}

/* Frames that say that the host interrupted the exit, beside the last call of kernel text before it, which unmasks signals. */
static void interrupted_exits(void) {
    static const uint8_t unmask[] = {0xb8, 14, 0, 0, 0}; /* mov eax, rt_sigprocmask */
    uint64_t at = signal_stack + 0x4000;
    int windows = 0;
    for (uint64_t p = image + PAGE; windows < 8 && (p = find(p, unmask, sizeof unmask)); p++) {
        int found = 0;
        for (int i = 0; i < 48; i++) found |= matches(p + i, (const uint8_t *)"\x0f\x05", 2);
        windows += found;
        for (int i = 0; found && i < 128; i += 8)
            for (int n = 0; n < 2; n++) {
                registers(10, hot, hot_len, 3);
                forge(at, n ? SIGSEGV : SIGALRM, n ? 1 : -2, p + i, 0x33, 0x202, (uint64_t)scratch + 32768, at + 0x1000);
                set_rdi = hot, set_rsi = hot_len, set_rdx = 3;
                run("frame in the exit", jump, sites[0], i);
            }
    }
    CHECK(windows > 0);
}

/* ---- processor state ---- */

#define STATE(name, code)                                                                            \
    static void name(uint64_t v, uint64_t unused) {                                                  \
        (void)unused;                                                                                \
        __asm__ volatile(code                                                                        \
                         " mov $110, %%r10d; mov %%r10, %%rax; syscall; mov $110, %%eax; syscall\n"  \
                         :                                                                           \
                         : "D"(v)                                                                    \
                         : "rax", "rcx", "rdx", "r10", "r11", "r12", "memory", "cc");                \
        _exit(0);                                                                                    \
    }
STATE(with_flags, " push %%rdi; popfq\n")
STATE(with_rsp, " mov %%rdi, %%rsp\n")
STATE(with_bases, " wrfsbase %%rdi; wrgsbase %%rdi\n")
STATE(with_segments, " mov %%edi, %%ds; mov %%edi, %%es; mov %%edi, %%fs; mov %%edi, %%gs\n")
STATE(with_ss, " mov %%edi, %%ss\n")
STATE(with_x87, " fninit; push %%rdi; fldcw (%%rsp); fld1; fldz; fdivrp\n")
STATE(with_mxcsr, " push %%rdi; ldmxcsr (%%rsp); mov $0x7f800001, %%eax; movd %%eax, %%xmm3; addss %%xmm3, %%xmm3\n")
STATE(with_int80, " mov %%edi, %%eax; int $0x80\n")
STATE(with_sysenter, " mov $20, %%eax; mov %%rsp, %%rbp; sysenter\n")
STATE(with_pkru, " xor %%ecx, %%ecx; xor %%edx, %%edx; mov %%edi, %%eax; wrpkru\n")
STATE(with_vsyscall, " sub $8, %%rsp; call *%%rdi; xor %%edi, %%edi\n")
STATE(with_cli, " cli\n")
STATE(with_trap, " int3; int $4; int1\n")

static void compat(uint64_t which, uint64_t unused) {
    (void)unused;
    static const uint8_t codes[4][9] = {{0xb8, 1, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b}, {0xb8, 20, 0, 0, 0, 0x0f, 0x34, 0x0f, 0x0b},
                                        {0xb8, 20, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b}, {0xeb, 0xfe}};
    uint8_t *low = mmap((void *)0x30000000, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    mmap((void *)0x5fff0000, 65536, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memcpy(low, codes[which], 9);
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) far;
    far.offset = 0x30000000, far.selector = 0x23;
    __asm__ volatile("mov $0x5fff8000, %%esp; ljmp *(%0)" ::"r"(&far) : "memory");
}

/* ---- the kernel's own unlock of cold memory, in its text ---- */

static void after_cold(void) { _exit(open_memory() ? BROKEN : 0); }

/* Calls kernel text with `rdi`, so that a return comes back to us. */
static void call_text(uint64_t target, uint64_t rdi) {
    registers(10, rdi, COLD_LEN, 3);
    set_rsp -= 8;
    *(uint64_t *)set_rsp = (uint64_t)after_cold;
    jump(target, 0);
}

/* Finds the routine by its first bytes and enters it at every byte, with the arguments that it expects. */
static void cold_unlock(void) {
    static const uint8_t protect[] = {0x89, 0xfa, 0xb8, 10, 0, 0, 0, 0x48, 0xbf}; /* mov edx, edi; mov eax, 10; movabs rdi */
    int routines = 0;
    for (uint64_t at = image + PAGE; (at = find(at, protect, sizeof protect)); at++) {
        routines++;
        for (int i = 0; i < 32; i++) run("cold unlock", call_text, at + i, i < 2 ? 3 : cold);
    }
    CHECK(routines > 0);
}

/* ---- the call by which the kernel drops its mappings of hot memory ---- */

static uint64_t thin_stack;

/* Calls `target` with the arguments of an madvise(2) of `advice`, and comes back if it returns. */
static void call_thin(uint64_t target, uint64_t advice) {
    registers(28, hot, hot_len, advice);
    set_rsp -= 8;
    *(uint64_t *)set_rsp = (uint64_t)after_cold;
    if (thin_stack) set_rsp = thin_stack;
    jump(target, 0);
}

/* Other calls at the same instruction, of a range that is not the one. */
static void call_at_thin(uint64_t target, uint64_t which) {
    static const uint64_t calls[][2] = {{28, 4}, {28, 8}, {28, 9}, {28, 25}, {28, 100}, {10, 3}, {11, 0}, {25, PAGE}, {15, 0}, {231, 77}};
    uint64_t ranges[][2] = {{image, PAGE}, {entry_page, PAGE}, {signal_stack, 0x10000}, {slot_page, PAGE}, {cold, COLD_LEN},
                            {hot, PAGE}, {hot, hot_len + PAGE}, {hot + PAGE, hot_len}, {0x10000, 0x7f7fffff0000ul}, {hot, hot_len}};
    const uint64_t *call = calls[which % 10], *range = ranges[which / 10];
    registers(call[0], range[0], range[1], call[1]);
    jump(target, 0);
}

/* Kernel memory is closed after each of many calls, in some of which its mappings are dropped, and works. */
static int through_thinning(void) {
    static const struct itimerval fast = {{0, 100}, {0, 100}};
    signal(SIGALRM, SIG_IGN);
    setitimer(ITIMER_REAL, &fast, 0);
    pid_t parent = getppid();
    for (int i = 0; i < 5000; i++) {
        if (syscall(SYS_getppid) != parent) return 1;
        if (readable(hot) || readable(hot + 0x200000) || readable(canaries[0]) || readable(cold)) return BROKEN;
    }
    return open_memory() ? BROKEN : 0;
}

static void thin(void) {
    static const uint8_t advise[] = {0xba, 4, 0, 0, 0, 0xb8, 28, 0, 0, 0, 0x0f, 0x05}; /* mov edx, 4; mov eax, 28; syscall */
    enum { CALL = 10, BEFORE = 24, AFTER = 13 };
    uint64_t stacks[] = {0, hot + 0x8000, signal_stack + 0x8000, entry_page + 0x800, slot_page + 64, canaries[0] + 0x800, canaries[1] + 0x800};
    int routines = 0;
    for (uint64_t at = image + PAGE; (at = find(at, advise, sizeof advise)); at++) {
        routines++;
        for (int s = 0; s < 7; s++) {
            thin_stack = stacks[s];
            for (int i = 0; i < BEFORE + AFTER; i++) run("thinning", call_thin, at - BEFORE + i, 4);
        }
        for (int i = 0; i < 100; i++) run("call at the thinning", call_at_thin, at + CALL, i);
    }
    CHECK(routines == 1);
    pid_t child = fork();
    if (child == 0) _exit(through_thinning());
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- system calls ---- */

static void calls(uint64_t which, uint64_t hot) {
    int zero = open("/dev/zero", O_RDWR), p[2];
    if (pipe(p)) _exit(1);
    struct iovec v = {(void *)hot, 64};
    long r = -1;
    switch (which) {
    case 0: r = syscall(SYS_read, zero, hot, 64); break;
    case 1: r = syscall(SYS_write, p[1], hot, 64); break;
    case 2: r = syscall(SYS_mprotect, hot, hot_len, 3); break;
    case 3: r = syscall(SYS_munmap, image, PAGE); break;
    case 4: r = syscall(SYS_mmap, image, PAGE, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (long)image ? 0 : -1; break;
    case 5: r = syscall(SYS_mmap, hot, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (long)hot ? 0 : -1; break;
    case 6: r = syscall(SYS_madvise, hot, hot_len, MADV_DONTNEED); break;
    case 7: r = syscall(SYS_mremap, hot, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0x30000000) == 0x30000000 ? 0 : -1; break;
    case 8: r = syscall(SYS_futex, hot, FUTEX_WAKE_OP, 1, 1, hot + 4, 0); break;
    case 9: r = syscall(SYS_readv, zero, &v, 1); break;
    case 10: r = syscall(SYS_writev, p[1], &v, 1); break;
    case 11: r = syscall(SYS_process_vm_readv, getpid(), &v, 1, &v, 1, 0); break;
    case 12: syscall(SYS_set_tid_address, hot), syscall(SYS_exit, 0); break;
    case 13: syscall(SYS_set_robust_list, hot, 24), syscall(SYS_exit, 0); break;
    case 14: r = syscall(SYS_read, zero, signal_stack - 4096, 65536); break; /* across private pages */
    case 15: r = syscall(SYS_munmap, 0, 0x7ffffffff000); break;
    case 16: r = syscall(SYS_mprotect, slot_page, PAGE, 3); break;
    case 17: r = syscall(SYS_clock_gettime, 1, hot); break;
    case 18: {
        stack_t s = {.ss_sp = (void *)hot, .ss_size = 65536};
        sigaltstack(&s, 0);
        struct sigaction a = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
        sigaction(SIGUSR2, &a, 0);
        kill(getpid(), SIGUSR2);
        r = 0;
        break;
    }
    case 19: syscall(SYS_arch_prctl, ARCH_SET_FS, hot); break;
    case 20: r = syscall(SYS_arch_prctl, ARCH_GET_FS, hot); break;
    case 21: {
        int fd = open("/proc/self/mem", O_RDWR);
        char c;
        r = fd < 0 ? -1 : pread(fd, &c, 1, (off_t)hot) == 1 || pwrite(fd, &c, 1, (off_t)image) == 1 ? 0 : -1;
        break;
    }
    case 23: r = syscall(SYS_read, zero, cold, 64); break;
    case 24: r = syscall(SYS_mprotect, cold, COLD_LEN, 3); break;
    case 25: r = syscall(SYS_write, p[1], cold, 64); break;
    case 22: syscall(SYS_clone, CLONE_VM | SIGCHLD, hot + 4096, 0, 0, 0); wait(0); break;
    }
    if (r >= 0 && which != 8 && which != 18) _exit(BROKEN);
}

static void bad_sigreturn(uint64_t which, uint64_t value) {
    static ucontext_t u;
    getcontext(&u);
    greg_t *g = u.uc_mcontext.gregs;
    g[REG_RIP] = (greg_t)_exit, g[REG_RDI] = 0;
    g[REG_RSP] = (greg_t)scratch + 32768;
    switch (which) {
    case 0: g[REG_CSGSFS] = value; break;
    case 1: g[REG_RIP] = value; break;
    case 2: g[REG_RSP] = value; break;
    case 3: g[REG_EFL] = value; break;
    case 4: u.uc_mcontext.fpregs = (void *)value; break;
    case 5:
        memset(scratch, 0xff, 4096);
        u.uc_mcontext.fpregs = (void *)scratch;
    }
    __asm__ volatile("mov %0, %%rsp; mov $15, %%eax; syscall" ::"r"(&u) : "memory");
}

/* Notes on the entry page that say that the gate closed descriptors; `value` in each. Those it cannot have closed stay open. */
static void forged_closes(uint64_t value, uint64_t rounds) {
    int p[2], plain = open("/", O_RDONLY), shared = open("/", O_RDONLY);
    if (pipe(p) || dup(shared) < 0) return;
    pid_t sharer = fork(); /* from now on none is plain but what is opened later */
    if (sharer == 0) pause();
    for (uint64_t i = 0; i < rounds; i++) {
        int fresh = open("/", O_RDONLY);
        memset((void *)(entry_page + 1024), (int)value, 256);
        char c = 'x';
        if (write(p[1], &c, 1) != 1 || read(p[0], &c, 1) != 1 || fcntl(shared, F_GETFD) < 0 || fcntl(plain, F_GETFD) < 0) _exit(BROKEN);
        close(fresh);
    }
    kill(sharer, SIGKILL);
}

/* Notes that say that the gate was asked to change what epoll watches: `op` for each descriptor, whatever is registered. */
static void forged_watches(uint64_t op, uint64_t rounds) {
    struct epoll_event event = {.events = 0}, found;
    int watched = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK), never = eventfd(0, EFD_NONBLOCK);
    int mine = epoll_create1(0), shared = epoll_create1(0);
    if (epoll_ctl(shared, EPOLL_CTL_ADD, other, &event)) return;
    pid_t sharer = fork(); /* has `shared`, and waits for what is not to happen there */
    if (sharer == 0) _exit(epoll_wait(shared, &found, 1, -1) >= 0);
    for (uint64_t i = 0; i < rounds; i++) {
        epoll_ctl(mine, EPOLL_CTL_ADD, watched, &event);
        for (int j = 0; j < 5; j++)
            epoll_ctl(mine, EPOLL_CTL_MOD, watched, &event), epoll_ctl(shared, EPOLL_CTL_MOD, other, &event);
        uint8_t *notes = (uint8_t *)entry_page;
        for (int fd = 0; fd < 64; fd++) {
            ((volatile uint32_t *)(notes + 1280))[fd] = i % 2 ? 0 : ~fd;
            ((volatile uint32_t *)(notes + 1536))[fd] = i % 3 ? EPOLLOUT : ~0u;
            ((volatile uint64_t *)(notes + 1792))[fd] = hot;
            notes[1152 + fd] = op;
        }
        notes[1024] = 1;
        /* What is registered elsewhere, or nowhere, is as before. */
        if (epoll_wait(shared, &found, 1, 0) != 0 || epoll_ctl(mine, EPOLL_CTL_DEL, never, 0) == 0) _exit(BROKEN);
        if (epoll_wait(mine, &found, 1, 0) > 0 && found.events != EPOLLOUT) _exit(BROKEN);
        epoll_ctl(mine, EPOLL_CTL_DEL, watched, 0);
    }
    int status;
    if (waitpid(sharer, &status, WNOHANG) != 0) _exit(BROKEN);
    kill(sharer, SIGKILL);
}

/* ---- the honest neighbour ---- */

static int bystander(int go) {
    uint64_t sum = 0;
    char text[32];
    long rounds = 0;
    fcntl(go, F_SETFL, O_NONBLOCK);
    do {
        int p[2];
        if (pipe(p)) return 1;
        for (int i = 0; i < 200; i++) {
            uint64_t word = i * 0x9e3779b97f4a7c15ul + rounds, back = 0;
            if (write(p[1], &word, 8) != 8 || read(p[0], &back, 8) != 8 || back != word) return 2;
            sum += back;
        }
        close(p[0]), close(p[1]);
        pid_t child = fork();
        if (child == 0) _exit(sum & 63);
        int status;
        if (waitpid(child, &status, 0) != child || WEXITSTATUS(status) != (int)(sum & 63)) return 3;
        rounds++;
    } while (read(go, text, 1) < 0);
    return rounds < 2 ? 4 : 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    if (argc != 10) return 2;
    hot = strtoul(argv[1], 0, 16), image = strtoul(argv[2], 0, 16), slot_page = strtoul(argv[3], 0, 16);
    entry_page = strtoul(argv[4], 0, 16), signal_stack = strtoul(argv[5], 0, 16), cold = strtoul(argv[6], 0, 16);
    canaries[0] = strtoul(argv[7], 0, 16), canaries[1] = strtoul(argv[8], 0, 16), hot_len = strtoul(argv[9], 0, 16);
    int go[2];
    CHECK(pipe(go) == 0);
    pid_t honest = fork();
    if (honest == 0) {
        close(go[1]);
        _exit(bystander(go[0]));
    }
    close(go[0]);
    signal(SIGSEGV, on_fault);
    find_sites();
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ended, 0);

    uint64_t places[] = {hot, hot + 8, hot + 0x1000, hot + 0x1ff00, hot + 0x200000, hot + 0x400000, hot + hot_len - 8,
                         hot + hot_len, cold, cold + 0x1000, cold + 0x200000, cold + COLD_LEN - 8,
                         canaries[0], canaries[0] + 0x7f8, canaries[1], canaries[1] + 0x7f8};
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) {
        run("load", load, places[i], 0);
        run("store", store, places[i], 0x41);
    }
    run("store to the slot page", store, slot_page, 0);
    run("store to the gate", store, image + 0x20, 0x90);
    run("store to kernel text", store, image + 0x2000, 0x90);
    gate_sites();
    frames();
    everywhere_in_the_gate();
    kernel_text();
    cold_unlock();
    thin();
    for (int i = 0; i < site_count; i++)
        for (int variant = 0; variant < 60; variant++) run("forged exit", leave, sites[i], variant);
    interrupted_exits();
    uint64_t flags[] = {0x40202, 0x4602, 0x302, 0x3202, 0x44702, 0x200202, 0x10202, 0x40302};
    for (int i = 0; i < 8; i++) run("flags", with_flags, flags[i], 0);
    uint64_t stacks[] = {0, 8, 0x8000000000000000ul, hot + 0x10010, signal_stack + 0x100, signal_stack + 0x8000, signal_stack + 0x10000, entry_page + 0x800, slot_page + 64, ~0ul,
                         canaries[0] + 0x800, canaries[1] + 0x800};
    for (int i = 0; i < 12; i++) run("rsp", with_rsp, stacks[i], 0);
    run("bases", with_bases, hot, 0);
    run("bases", with_bases, 0x7ffffffff000, 0);
    run("bases", with_bases, canaries[0], 0);
    uint64_t selectors[] = {0, 3, 0x2b, 0x23, 0x33, 0x10};
    for (int i = 0; i < 6; i++) run("segments", with_segments, selectors[i], 0), run("ss", with_ss, selectors[i], 0);
    run("x87", with_x87, 0x340, 0);
    run("mxcsr", with_mxcsr, 0, 0);
    run("int 0x80", with_int80, 1, 0);
    run("int 0x80", with_int80, 125, 0);
    run("sysenter", with_sysenter, 0, 0);
    run("pkru", with_pkru, 0xffffffff, 0);
    run("pkru", with_pkru, 0x55555556, 0);
    for (uint64_t offset = 0; offset <= 0x800; offset += 0x200) run("vsyscall", with_vsyscall, 0xffffffffff600000ul + offset, 0);
    run("cli", with_cli, 0, 0);
    run("trap", with_trap, 0, 0);
    for (int i = 0; i < 4; i++) run("compatibility mode", compat, i, 0);
    for (int i = 0; i <= 25; i++) run("system call", calls, i, hot);
    for (int i = 0; i <= 22; i++) run("system call", calls, i, canaries[0]), run("system call", calls, i, canaries[1]);
    for (int i = 0; i < 4; i++) run("forged closes", forged_closes, (uint64_t[]){1, 0x80, 0xff, 0x7f}[i], 50);
    for (int i = 0; i < 6; i++) run("forged watches", forged_watches, (uint64_t[]){1, 2, 3, 4, 0x80, 0xff}[i], 50);
    uint64_t values[] = {hot, image, canaries[0], canaries[1], 0x10, 0x33, 0x23, 0x8000000000000000ul, ~0ul, 0x3302, 0x44702};
    for (int w = 0; w < 6; w++)
        for (int i = 0; i < 11; i++) run("sigreturn", bad_sigreturn, w, values[i]);

    close(go[1]); /* the bystander stops */
    int status = -1;
    CHECK(waitpid(honest, &status, 0) == honest && status == 0);
    CHECK(!open_memory());
    printf("%ld attacks, %ld killed, %ld stopped\n", attacks, killed, timed_out);
    DONE();
}
