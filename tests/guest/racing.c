/* Threads that race: what comes out is the schedule. With an argument one of them also computes for long. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *body(void *number) {
    char letter = 'a' + (long)number;
    for (int i = 0; i < 40; i++) {
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
    (void)argv;
    for (long i = 0; i < 8; i++)
        if (pthread_create(&threads[i], NULL, body, (void *)i))
            return 1;
    if (argc > 1)
        for (volatile long i = 0; i < 100000000; i++)
            ;
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
