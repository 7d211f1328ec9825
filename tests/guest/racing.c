/* Threads that race: what comes out is the schedule. With "x" one of them also computes for long, with "p" they do not only
 * run beside each other but wait for each other, in pairs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static int pipes[8][2];
static int paired;

/* Says that it was here to its partner, and waits for the partner's word. */
static void meet(long number) {
    char byte;
    if (paired && (write(pipes[number ^ 1][1], "", 1) != 1 || read(pipes[number][0], &byte, 1) != 1))
        exit(1);
}

static void *body(void *number) {
    char letter = 'a' + (long)number;
    for (int i = 0; i < 40; i++) {
        meet((long)number);
        if (write(1, &letter, 1) != 1)
            exit(1);
        for (long k = 0; k < (i * 7 + (long)number * 13) % 11; k++)
            getppid();
        if (i % 5 == 0)
            free(malloc(300000));
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[8];
    paired = argc > 1 && argv[1][0] == 'p';
    for (int i = 0; i < 8; i++)
        if (pipe(pipes[i]))
            return 1;
    for (long i = 0; i < 8; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)i))
            return 1;
    if (argc > 1 && !paired)
        for (volatile long i = 0; i < 100000000; i++)
            ;
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
