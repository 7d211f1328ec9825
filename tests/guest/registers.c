/* Every register survives system calls, interrupts, signals and moves between processors.
 *
 * Threads load random values into all general registers, flags, x87, MXCSR and vector registers, make a system call
 * (or compute), and compare. The context block is reached through gs, so that no register is spared. Meanwhile a timer
 * delivers a signal every 100 us, and the threads are moved from processor to processor. Usage: registers [SECONDS]. */
#define _GNU_SOURCE
#include "check.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 3, FLAGS = 0x200cd5 /* CF PF AF ZF SF DF OF ID */ };

struct state {
    uint64_t gpr[16]; /* rax rbx rcx rdx rsi rdi rbp rsp r8 … r15 */
    uint64_t flags, pad[7];
    uint8_t zmm[32][64];
    uint64_t k[8];
    uint8_t fx[512];
} __attribute__((aligned(64)));

struct context {
    uint64_t self, mode, vector; /* vector: 0 = SSE, 1 = AVX, 3 = AVX-512 */
    uint64_t saved_rsp, spins, pad[3];
    struct state in, out;
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct context, in) == 64 && offsetof(struct state, zmm) == 192 && offsetof(struct state, k) == 2240 &&
                   offsetof(struct state, fx) == 2304 && sizeof(struct state) == 2816, "the assembly below knows these");

void torture(struct context *); /* gs = context */
__asm__(
    ".set IN, 64\n .set OUT, 64 + 2816\n .set ZMM, 192\n .set K, 2240\n .set FX, 2304\n"
    ".text\n.globl torture\ntorture:\n"
    " push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    " mov %rsp, %gs:24\n"
    " fxrstor64 %gs:IN+FX\n"
    " testl $1, %gs:16\n jz 1f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu %gs:IN+ZMM+64*\\n, %ymm\\n\n .endr\n"
    "1: testl $2, %gs:16\n jz 1f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqu64 %gs:IN+ZMM+64*\\n, %zmm\\n\n .endr\n"
    ".irp n,0,1,2,3,4,5,6,7\n kmovq %gs:IN+K+8*\\n, %k\\n\n .endr\n"
    "1: mov %gs:8, %rax\n lea 10f(%rip), %rcx\n mov (%rcx,%rax,8), %rcx\n mov %rcx, %gs:56\n" /* where to go */
    " pushq %gs:IN+128\n popfq\n"
    " mov %gs:IN+0, %rax; mov %gs:IN+8, %rbx; mov %gs:IN+16, %rcx; mov %gs:IN+24, %rdx; mov %gs:IN+32, %rsi\n"
    " mov %gs:IN+40, %rdi; mov %gs:IN+48, %rbp; mov %gs:IN+56, %rsp; mov %gs:IN+64, %r8; mov %gs:IN+72, %r9\n"
    " mov %gs:IN+80, %r10; mov %gs:IN+88, %r11; mov %gs:IN+96, %r12; mov %gs:IN+104, %r13; mov %gs:IN+112, %r14\n"
    " mov %gs:IN+120, %r15\n"
    " jmp *%gs:56\n"
    "2: mov $110, %eax\n syscall\n jmp 9f\n"       /* a site that can be patched */
    "3: mov $110, %eax\n nop\n syscall\n jmp 9f\n" /* and one that cannot */
    "4: mov $13, %eax\n syscall\n jmp 9f\n"        /* rt_sigaction(wild registers): EINVAL or EFAULT */
    "5: mov %gs:32, %rcx\n"
    "6: lea -1(%rcx), %rcx\n jrcxz 9f\n jmp 6b\n"  /* no flag changes */
    "9: mov %rax, %gs:OUT+0; mov %rbx, %gs:OUT+8; mov %rcx, %gs:OUT+16; mov %rdx, %gs:OUT+24; mov %rsi, %gs:OUT+32\n"
    " mov %rdi, %gs:OUT+40; mov %rbp, %gs:OUT+48; mov %rsp, %gs:OUT+56; mov %r8, %gs:OUT+64; mov %r9, %gs:OUT+72\n"
    " mov %r10, %gs:OUT+80; mov %r11, %gs:OUT+88; mov %r12, %gs:OUT+96; mov %r13, %gs:OUT+104; mov %r14, %gs:OUT+112\n"
    " mov %r15, %gs:OUT+120\n"
    " mov %gs:24, %rsp\n pushfq\n popq %gs:OUT+128\n cld\n"
    " testl $2, %gs:16\n jz 1f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    " vmovdqu64 %zmm\\n, %gs:OUT+ZMM+64*\\n\n .endr\n"
    ".irp n,0,1,2,3,4,5,6,7\n kmovq %k\\n, %gs:OUT+K+8*\\n\n .endr\n jmp 7f\n"
    "1: testl $1, %gs:16\n jz 7f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu %ymm\\n, %gs:OUT+ZMM+64*\\n\n .endr\n"
    "7: fxsave64 %gs:OUT+FX\n fninit\n"
    " pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n ret\n"
    ".section .data.rel.ro\n .p2align 3\n10: .quad 2b, 3b, 4b, 5b\n.text\n");

static volatile long stop, signals;
static long bad;

static void on_signal(int n) { signals += n > 0; }

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17;
    return *seed;
}

static void fill(struct state *s, uint64_t *seed, unsigned vector) {
    static uint8_t clean[512] __attribute__((aligned(64)));
    __asm__ volatile("fninit; fxsave64 %0" : "=m"(clean));
    for (int i = 0; i < 16; i++) s->gpr[i] = next(seed);
    s->flags = (next(seed) & FLAGS) | 0x202;
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 8; j++) ((uint64_t *)s->zmm[i])[j] = next(seed);
    for (int i = 0; i < 8; i++) s->k[i] = next(seed);
    if (next(seed) & 1) /* upper halves in their initial state: the save area leaves them out */
        for (int i = 0; i < 16; i++) memset(s->zmm[i] + 16, 0, 48);
    memcpy(s->fx, clean, 512);
    *(uint16_t *)s->fx = 0x037f ^ (next(seed) & 0xf00);
    *(uint16_t *)(s->fx + 2) = (next(seed) & 7) << 11;
    s->fx[4] = next(seed);
    *(uint32_t *)(s->fx + 24) = 0x1f80 | (next(seed) & 0xe03f);
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < 10; j++) s->fx[32 + 16 * i + j] = next(seed);
        s->fx[32 + 16 * i + 7] |= 0x80;
    }
    if (!vector)
        for (int i = 0; i < 16; i++) memcpy(s->fx + 160 + 16 * i, s->zmm[i], 16);
}

/* Which register differs: 0 none, otherwise a code that names it. */
static int differs(const struct context *c) {
    const struct state *a = &c->in, *b = &c->out;
    int call = c->mode < 3;
    if (call && c->mode < 2 && b->gpr[0] != (uint64_t)getppid()) return 1;
    if (c->mode == 2 && b->gpr[0] != -14ul && b->gpr[0] != -22ul) return 2;
    for (int i = 0; i < 16; i++)
        if (!(i == 0 && call) && i != 2 && !(i == 11 && call) && a->gpr[i] != b->gpr[i]) return 10 + i;
    if ((a->flags ^ b->flags) & ~0x10000ul) return 30;
    if (memcmp(a->fx, b->fx, 5) || memcmp(a->fx + 24, b->fx + 24, 4)) return 31;
    for (int i = 0; i < 8; i++)
        if (memcmp(a->fx + 32 + 16 * i, b->fx + 32 + 16 * i, 10)) return 40 + i;
    int size = c->vector & 2 ? 64 : c->vector & 1 ? 32 : 16, count = c->vector & 2 ? 32 : 16;
    for (int i = 0; i < count; i++)
        if (memcmp(a->zmm[i], size == 16 ? b->fx + 160 + 16 * i : b->zmm[i], size)) return 100 + i;
    if ((c->vector & 2) && memcmp(a->k, b->k, 64)) return 50;
    return 0;
}

static void *worker(void *argument) {
    static char stacks[THREADS][65536];
    long me = (long)argument;
    stack_t alternate = {.ss_sp = stacks[me], .ss_size = sizeof stacks[me]};
    sigaltstack(&alternate, 0);
    struct context *c = aligned_alloc(64, sizeof *c);
    memset(c, 0, sizeof *c);
    c->vector = __builtin_cpu_supports("avx512bw") ? 3 : __builtin_cpu_supports("avx") ? 1 : 0;
    syscall(SYS_arch_prctl, ARCH_SET_GS, c);
    uint64_t seed = 88172645463325252ul + me * 7919;
    int processors = sysconf(_SC_NPROCESSORS_ONLN);
    for (long i = 0; !stop; i++) {
        if (i % 512 == 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(i / 512 % processors, &set);
            sched_setaffinity(0, sizeof set, &set);
        }
        fill(&c->in, &seed, c->vector);
        c->mode = next(&seed) & 3;
        c->spins = 200 + next(&seed) % 20000;
        if (c->mode == 2) c->in.gpr[5] = 99 + (c->in.gpr[5] & 7); /* no such signal */
        torture(c);
        int code = differs(c);
        if (code && __atomic_add_fetch(&bad, 1, __ATOMIC_SEQ_CST) < 10)
            printf("thread %ld round %ld mode %lu: register code %d: rsp %lx/%lx flags %lx/%lx rax %lx\n", me, i, c->mode, code,
                   c->in.gpr[7], c->out.gpr[7], c->in.flags, c->out.flags, c->out.gpr[0]);
    }
    return 0;
}

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 2;
    setvbuf(stdout, 0, _IOLBF, 0);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaction(SIGALRM, &action, 0);
    struct itimerval every = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, 0);
    pthread_t threads[THREADS];
    sigset_t alarm;
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGALRM);
    for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], 0, worker, (void *)i) == 0);
    pthread_sigmask(SIG_BLOCK, &alarm, 0); /* the workers take the signals */
    struct timespec rest = {seconds, 0};
    nanosleep(&rest, 0);
    stop = 1;
    for (long i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], 0) == 0);
    setitimer(ITIMER_REAL, &never, 0);
    CHECK(bad == 0 && signals > 0);
    DONE();
}
