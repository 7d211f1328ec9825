/* What the debugger's test looks at. */
#include <pthread.h>
#include <stdio.h>

static int total;

__attribute__((noinline)) int add(int a, int b) {
    int sum = a + b;
    total += sum;
    return sum;
}

static void *work(void *p) {
    add(*(int *)p, 1);
    return 0;
}

int main(void) {
    int value = 40;
    value = add(value, 2);
    total *= 2; /* a second change that no other thread can precede */
    printf("value %d\n", value);
    pthread_t thread;
    pthread_create(&thread, 0, work, &value);
    pthread_join(thread, 0);
    printf("total %d\n", total);
    return value == 42 ? 0 : 1;
}
