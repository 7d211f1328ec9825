/* Core files: what they hold, how they are named, who leaves none. Changes kernel.core_pattern: for machines only. */
#define _GNU_SOURCE
#include "check.h"
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/procfs.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static char *shown, *hidden;

static void set(const char *name, const char *value) {
    int fd = open(name, O_WRONLY);
    CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value) && close(fd) == 0);
}

static void *rest(void *p) {
    for (;;) pause();
    return p;
}

/* A child that ends by `signo`; returns its status, and its id in `pid`. */
static int end(int signo, pid_t *pid) {
    *pid = fork();
    if (*pid == 0) {
        pthread_t thread;
        pthread_create(&thread, 0, rest, 0);
        usleep(20000);
        signal(signo, SIG_DFL);
        raise(signo);
        _exit(1);
    }
    int status = -1;
    CHECK(waitpid(*pid, &status, 0) == *pid && WIFSIGNALED(status) && WTERMSIG(status) == signo);
    return status;
}

static char *load(const char *name, size_t *size) {
    struct stat st;
    int fd = open(name, O_RDONLY);
    if (fd < 0 || fstat(fd, &st)) return 0;
    CHECK((st.st_mode & 07777) == 0600);
    char *data = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    *size = st.st_size;
    return data == MAP_FAILED ? 0 : data;
}

/* The bytes that the core holds of what was at `p`; 0 if none. */
static const char *at(const char *core, const void *p) {
    const Elf64_Ehdr *header = (void *)core;
    const Elf64_Phdr *h = (void *)(core + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++)
        if (h[i].p_type == PT_LOAD && h[i].p_vaddr <= (uintptr_t)p && (uintptr_t)p < h[i].p_vaddr + h[i].p_memsz)
            return (uintptr_t)p < h[i].p_vaddr + h[i].p_filesz ? core + h[i].p_offset + ((uintptr_t)p - h[i].p_vaddr) : 0;
    CHECK(!"an area of the process");
    return 0;
}

static void notes(const char *core, pid_t pid, int signo) {
    const Elf64_Ehdr *header = (void *)core;
    const Elf64_Phdr *h = (void *)(core + header->e_phoff);
    CHECK(h->p_type == PT_NOTE);
    int count[8] = {0};
    for (const char *at = core + h->p_offset; at < core + h->p_offset + h->p_filesz;) {
        const Elf64_Nhdr *note = (void *)at;
        const char *data = at + sizeof *note + (note->n_namesz + 3) / 4 * 4;
        const struct elf_prstatus *status = (void *)data;
        const struct elf_prpsinfo *info = (void *)data;
        switch (note->n_type) {
        case NT_PRSTATUS:
            CHECK(note->n_descsz == sizeof *status && status->pr_cursig == signo && status->pr_ppid == getpid());
            CHECK(count[0] > 0 || status->pr_pid == pid);
            CHECK(status->pr_reg[19] % 8 == 0 && status->pr_reg[19] != 0);
            count[0]++;
            break;
        case NT_PRPSINFO:
            CHECK(note->n_descsz == sizeof *info && info->pr_pid == pid && !strcmp(info->pr_fname, "cores"));
            count[1]++;
            break;
        case NT_SIGINFO:
            CHECK(((siginfo_t *)data)->si_signo == signo);
            count[2]++;
            break;
        case NT_AUXV:
            CHECK(note->n_descsz % 16 == 0);
            count[3]++;
            break;
        case NT_FILE:
            CHECK(((uint64_t *)data)[0] > 0 && ((uint64_t *)data)[1] == PAGE);
            count[4]++;
            break;
        case NT_FPREGSET:
            CHECK(note->n_descsz == 512);
            count[5]++;
            break;
        case NT_X86_XSTATE: count[6]++; break;
        default: count[7]++;
        }
        at = data + (note->n_descsz + 3) / 4 * 4;
    }
    int wanted[8] = {2, 1, 1, 1, 1, 2, 2, 0};
    CHECK(memcmp(count, wanted, sizeof count) == 0);
}

static void contents(void) {
    pid_t pid;
    char name[64];
    size_t size = 0;
    set("/proc/sys/kernel/core_pattern", "c.%p.%s.%e.%%");
    CHECK(WCOREDUMP(end(SIGABRT, &pid)));
    snprintf(name, sizeof name, "c.%d.6.cores.%%", pid);
    char *core = load(name, &size);
    CHECK(core != 0);
    if (!core) return;
    const Elf64_Ehdr *header = (void *)core;
    CHECK(!memcmp(header->e_ident, ELFMAG "\2\1\1", 7) && header->e_type == ET_CORE && header->e_machine == EM_X86_64);
    const char *found = at(core, shown + PAGE);
    CHECK(found && !memcmp(found, "to be found", 12) && at(core, shown)[0] == 0 && at(core, hidden) == 0);
    CHECK(at(core, &check_failures) && at(core, contents) == 0); /* written data, but no code */
    notes(core, pid, SIGABRT);
    munmap(core, size);
    CHECK(unlink(name) == 0);
}

static void names(void) {
    pid_t pid;
    char name[64];
    set("/proc/sys/kernel/core_pattern", "core");
    set("/proc/sys/kernel/core_uses_pid", "1");
    CHECK(WCOREDUMP(end(SIGQUIT, &pid)));
    snprintf(name, sizeof name, "core.%d", pid);
    CHECK(unlink(name) == 0);
    set("/proc/sys/kernel/core_uses_pid", "0");
    CHECK(symlink("elsewhere", "core") == 0 && !WCOREDUMP(end(SIGQUIT, &pid)) && unlink("core") == 0);
    CHECK(mkdir("core", 0700) == 0 && !WCOREDUMP(end(SIGQUIT, &pid)) && rmdir("core") == 0);
    CHECK(WCOREDUMP(end(SIGSEGV, &pid)) && link("core", "second") == 0);
    CHECK(!WCOREDUMP(end(SIGSEGV, &pid)) && unlink("core") == 0 && unlink("second") == 0);
    int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);
    CHECK_ERRNO(write(fd, "|/bin/true", 10), EINVAL);
    close(fd);
}

static void limits(void) {
    pid_t pid;
    struct stat st;
    CHECK(!WCOREDUMP(end(SIGTERM, &pid)) && access("core", F_OK) != 0);
    struct rlimit limit = {8 * PAGE, RLIM_INFINITY};
    /* What is cut off is a core, too. */
    CHECK(setrlimit(RLIMIT_CORE, &limit) == 0 && WCOREDUMP(end(SIGABRT, &pid)));
    CHECK(stat("core", &st) == 0 && st.st_size <= 8 * PAGE && st.st_size > 4 * PAGE && unlink("core") == 0);
    limit.rlim_cur = 0;
    CHECK(setrlimit(RLIMIT_CORE, &limit) == 0 && !WCOREDUMP(end(SIGABRT, &pid)) && access("core", F_OK) != 0);
    limit.rlim_cur = RLIM_INFINITY;
    CHECK(setrlimit(RLIMIT_CORE, &limit) == 0 && prctl(PR_SET_DUMPABLE, 0) == 0);
    CHECK(!WCOREDUMP(end(SIGABRT, &pid)) && access("core", F_OK) != 0);
}

int main(void) {
    char directory[] = "/tmp/cores-XXXXXX";
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK(mkdtemp(directory) && chdir(directory) == 0 && setrlimit(RLIMIT_CORE, &limit) == 0);
    shown = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    hidden = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(shown + PAGE, "to be found");
    strcpy(hidden, "to be hidden");
    CHECK(madvise(hidden, PAGE, MADV_DONTDUMP) == 0);
    contents();
    names();
    limits();
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
    DONE();
}
