/* What the guest test programs share: a check that names its line, and deterministic output. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures __attribute__((unused));

/* Records a failure; the program goes on, and its status tells. */
#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            printf("%s:%d: %s failed, errno %s\n", __func__, __LINE__, #condition, strerror(errno)); \
            check_failures++;                                                                     \
        }                                                                                         \
    } while (0)

/* A call that must fail with this errno. */
#define CHECK_ERRNO(call, wanted)                                                                 \
    do {                                                                                          \
        errno = 0;                                                                                \
        long result_ = (long)(call);                                                              \
        if (result_ != -1 || errno != (wanted)) {                                                 \
            printf("%s:%d: %s gave %ld, errno %d (%s), not %s\n", __func__, __LINE__, #call, result_, errno, \
                   strerror(errno), #wanted);                                                     \
            check_failures++;                                                                     \
        }                                                                                         \
    } while (0)

#define DONE()                                                                                    \
    do {                                                                                          \
        printf(check_failures ? "%d failures\n" : "ok\n", check_failures);                        \
        return check_failures != 0;                                                               \
    } while (0)

#endif
