/* A fork bomb under a limit: each process forks again and again, and computes in between, for ever. Says "full" once a
 * process was refused. Argument: how many processes there may be. Only for machines. */
#define _GNU_SOURCE
#include <grp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* Root is not limited. */
enum { USER = 1000 };

int main(int argc, char **argv)
{
    rlim_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    struct rlimit most = {count, count};
    atomic_int *told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (told == MAP_FAILED || setgroups(0, NULL) != 0 || setresgid(USER, USER, USER) != 0 ||
        setresuid(USER, USER, USER) != 0 || setrlimit(RLIMIT_NPROC, &most) != 0)
        return 1;
    for (;;) {
        if (fork() < 0 && atomic_exchange(told, 1) == 0 && write(STDOUT_FILENO, "full\n", 5) != 5)
            return 1;
        for (volatile int i = 0; i < 1000000; i++)
            ;
    }
}
