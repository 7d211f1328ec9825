# valgrind translates a program instead of running it, and reads the text of its libraries, of which the machine has patched some.
for _ in $(seq 30); do /bin/true; done
cat > p.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void *thread(void *x) { return malloc(*(int *)x); }
int main(void) {
    int size = 40;
    void *block;
    pthread_t other;
    pthread_create(&other, NULL, thread, &size);
    pthread_join(other, &block);
    if (fork() == 0) _exit(((char *)block)[40] != 0);
    wait(NULL);
    puts("end");
    return 0;
}
C
gcc -O0 -g -o p p.c -lpthread || exit 1
valgrind -q --leak-check=full --error-exitcode=9 --log-file=log.%p ./p
echo $?
cat log.* | grep -cE 'Invalid read|definitely lost'
valgrind -q /bin/ls /usr/share/common-licenses | head -3
