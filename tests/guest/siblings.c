/* Children call from a page of text in which their parent has made one call hot already, and each makes another one hot.
 * Usage: siblings CHILDREN CALLS. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* getpgrp at two sites of one page. */
__asm__(".text\n.p2align 12\n"
        "parents: nop\n mov $111, %eax\n syscall\n ret\n .p2align 6\n"
        "childs: nop\n mov $111, %eax\n syscall\n ret\n .p2align 12\n");
long parents(void), childs(void);

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    for (int i = 0; i < 100; i++)
        parents();
    int children = atoi(argv[1]), status, bad = 0;
    for (int c = 0; c < children; c++)
        if (fork() == 0) {
            for (int i = 0; i < atoi(argv[2]); i++)
                if (childs() != getpgrp())
                    _exit(1);
            _exit(0);
        }
    while (wait(&status) > 0)
        bad |= status;
    puts(bad ? "bad" : "ok");
    return bad != 0;
}
