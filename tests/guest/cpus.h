/* Where a program runs. For programs that define _GNU_SOURCE. */
#include <sched.h>

/* Runs on one processor from now on, if there are several. */
static void stay_on(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}
