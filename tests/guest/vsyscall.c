/* The vsyscall page, by which old programs ask for the time: gettimeofday, time, getcpu at fixed addresses. */
#include <stdio.h>
#include <sys/time.h>
#include <time.h>

#define AT(type, offset) ((type)(0xffffffffff600000UL + (offset)))

int main(void)
{
    struct timeval tv = {0, 0};
    time_t out = 0;
    unsigned cpu = ~0U, node = ~0U;
    for (int i = 0; i < 100; i++) {
        time_t before = time(NULL);
        int r = AT(int (*)(struct timeval *, void *), 0)(&tv, NULL);
        time_t t = AT(time_t (*)(time_t *), 0x400)(&out);
        long c = AT(long (*)(unsigned *, unsigned *, void *), 0x800)(&cpu, &node, NULL);
        time_t after = time(NULL);
        if (r || tv.tv_sec < before - 1 || tv.tv_sec > after || t != out || t < before - 1 || t > after || c || cpu > 255) {
            printf("round %d: %d %ld %ld %ld %u\n", i, r, (long)tv.tv_sec, (long)t, c, cpu);
            return 1;
        }
    }
    puts("ok");
    return 0;
}
