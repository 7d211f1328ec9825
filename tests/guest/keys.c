/* Keys and keyrings: types, permissions, possession, whose rings go where, timeouts, revocation, limits. */
#define _GNU_SOURCE
#include "check.h"
#include <linux/keyctl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREAD KEY_SPEC_THREAD_KEYRING
#define PROCESS KEY_SPEC_PROCESS_KEYRING
#define SESSION KEY_SPEC_SESSION_KEYRING

static long add(const char *type, const char *name, const void *payload, size_t len, int ring) {
    return syscall(SYS_add_key, type, name, payload, len, ring);
}
static long request(const char *type, const char *name, const char *callout, int ring) {
    return syscall(SYS_request_key, type, name, callout, ring);
}
#define keyctl(...) syscall(SYS_keyctl, __VA_ARGS__)

static int described(int key, const char *wanted) {
    char text[200] = "", mine[200];
    long length = keyctl(KEYCTL_DESCRIBE, key, text, sizeof text);
    snprintf(mine, sizeof mine, wanted, getuid(), getgid());
    if (length != (long)strlen(mine) + 1 || strcmp(text, mine)) printf("%s is not %s\n", text, mine);
    return length == (long)strlen(mine) + 1 && !strcmp(text, mine);
}

/* What nobody holds goes, on Linux a little later. */
static int gone(int key) {
    for (int i = 0; i < 500; i++, usleep(10000))
        if (keyctl(KEYCTL_DESCRIBE, key, 0, 0) == -1 && errno == ENOKEY) return 1;
    return 0;
}

static void types(void) {
    static char big[1 << 20];
    char buf[16] = "";
    memset(big, 'x', sizeof big);
    CHECK_ERRNO(add("user", "a", 0, 0, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", "a", big, 32768, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", "a", big, 1 << 20, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", "", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", 0, "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", "a", (void *)8, 1, PROCESS), EFAULT);
    CHECK_ERRNO(add("user", (void *)8, "x", 1, PROCESS), EFAULT);
    CHECK_ERRNO(add((void *)8, "a", "x", 1, PROCESS), EFAULT);
    CHECK_ERRNO(add("", "a", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add(".x", "a", "x", 1, PROCESS), EPERM);
    CHECK_ERRNO(add("none", "a", "x", 1, PROCESS), ENODEV);
    CHECK_ERRNO(add("0123456789012345678901234567890123456789", "a", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("keyring", ".a", 0, 0, PROCESS), EPERM);
    CHECK_ERRNO(add("keyring", "a", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("logon", "a", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("logon", ":a", "x", 1, PROCESS), EINVAL);
    CHECK_ERRNO(add("user", "a", "x", 1, 0), EINVAL);
    CHECK_ERRNO(add("user", "a", "x", 1, -6), EINVAL);
    CHECK_ERRNO(add("user", "a", "x", 1, -7), ENOKEY);
    CHECK_ERRNO(add("user", "a", "x", 1, -99), EINVAL);
    CHECK_ERRNO(add("user", "a", "x", 1, 2), ENOKEY);
    int key = add("user", "a", "hello", 5, PROCESS), logon = add("logon", "me:a", "x", 1, PROCESS);
    CHECK(key > 0 && described(key, "user;%d;%d;3f010000;a") && described(logon, "logon;%d;%d;3d010000;me:a"));
    CHECK_ERRNO(add("user", "b", "x", 1, key), ENOTDIR);
    CHECK(keyctl(KEYCTL_READ, key, buf, sizeof buf) == 5 && !memcmp(buf, "hello", 5));
    memset(buf, 0, sizeof buf);
    CHECK(keyctl(KEYCTL_READ, key, buf, 4) == 5 && !buf[0] && keyctl(KEYCTL_READ, key, 0, 0) == 5);
    CHECK_ERRNO(keyctl(KEYCTL_READ, logon, buf, sizeof buf), EOPNOTSUPP);
    CHECK(keyctl(KEYCTL_DESCRIBE, key, buf, 3) > 3 && !buf[0]);
    CHECK_ERRNO(keyctl(KEYCTL_DESCRIBE, key, (void *)8, 200), EFAULT);
    /* Of one name there is one: added again, it is updated. */
    CHECK(add("user", "a", "other", 5, PROCESS) == key && keyctl(KEYCTL_READ, key, buf, 16) == 5 && !memcmp(buf, "other", 5));
    CHECK(keyctl(KEYCTL_UPDATE, key, "new", 3) == 0 && keyctl(KEYCTL_READ, key, buf, 16) == 3 && !memcmp(buf, "new", 3));
    CHECK_ERRNO(keyctl(KEYCTL_UPDATE, key, "", 0), EINVAL);
    CHECK_ERRNO(keyctl(KEYCTL_UPDATE, key, big, 4097), EINVAL);
    CHECK_ERRNO(keyctl(KEYCTL_UPDATE, PROCESS, "x", 1), EOPNOTSUPP);
    CHECK(keyctl(KEYCTL_GET_SECURITY, key, buf, 16) >= 1);
    CHECK_ERRNO(keyctl(99, key), EOPNOTSUPP);
    CHECK_ERRNO(keyctl(KEYCTL_INSTANTIATE, key, "x", 1, 0), EPERM);
    CHECK_ERRNO(keyctl(KEYCTL_NEGATE, key, 1, 0), EPERM);
    CHECK(keyctl(KEYCTL_ASSUME_AUTHORITY, 0) == 0);
    CHECK_ERRNO(keyctl(KEYCTL_ASSUME_AUTHORITY, -1), EINVAL);
    CHECK_ERRNO(keyctl(KEYCTL_ASSUME_AUTHORITY, key), ENOKEY);
    CHECK(keyctl(KEYCTL_CAPABILITIES, buf, 1) >= 1 && (buf[0] & 1));
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
    CHECK(gone(key));
}

static void rings(void) {
    int32_t ids[8];
    int one = add("keyring", "one", 0, 0, PROCESS), two = add("keyring", "two", 0, 0, one);
    CHECK(described(one, "keyring;%d;%d;3f010000;one"));
    int key = add("user", "k", "x", 1, two);
    CHECK(keyctl(KEYCTL_READ, one, ids, sizeof ids) == 4 && ids[0] == two);
    CHECK_ERRNO(keyctl(KEYCTL_LINK, one, two), EDEADLK);
    CHECK_ERRNO(keyctl(KEYCTL_LINK, one, one), EDEADLK);
    CHECK_ERRNO(keyctl(KEYCTL_LINK, key, key), ENOTDIR);
    CHECK_ERRNO(keyctl(KEYCTL_CLEAR, key), ENOTDIR);
    CHECK(keyctl(KEYCTL_SEARCH, PROCESS, "user", "k", 0) == key && keyctl(KEYCTL_SEARCH, one, "keyring", "two", 0) == two);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "user", "none", 0), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "none", "k", 0), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, key, "user", "k", 0), ENOTDIR);
    CHECK(keyctl(KEYCTL_SEARCH, PROCESS, "user", "k", one) == key && keyctl(KEYCTL_READ, one, ids, sizeof ids) == 8);
    CHECK(keyctl(KEYCTL_UNLINK, key, two) == 0);
    CHECK_ERRNO(keyctl(KEYCTL_UNLINK, key, two), ENOENT);
    CHECK(keyctl(KEYCTL_MOVE, key, one, two, 0) == 0 && keyctl(KEYCTL_READ, two, ids, sizeof ids) == 4 && ids[0] == key);
    CHECK_ERRNO(keyctl(KEYCTL_MOVE, key, one, two, 0), ENOENT);
    int same = add("user", "k", "y", 1, one);
    CHECK(same != key);
    CHECK_ERRNO(keyctl(KEYCTL_MOVE, same, one, two, KEYCTL_MOVE_EXCL), EEXIST);
    CHECK(keyctl(KEYCTL_LINK, same, two) == 0);
    CHECK(gone(key));
    /* A ring added again is another one, in the place of the first. */
    int again = add("keyring", "one", 0, 0, PROCESS);
    CHECK(again != one);
    CHECK(gone(one));
    CHECK(keyctl(KEYCTL_RESTRICT_KEYRING, again, 0, 0) == 0);
    CHECK_ERRNO(add("user", "k", "x", 1, again), EPERM);
    /* Searches descend only so far. */
    int ring = add("keyring", "deep", 0, 0, PROCESS), depth = 0, last = ring;
    for (; depth < 20 && ring > 0; depth++, last = ring > 0 ? ring : last) ring = add("keyring", "deeper", 0, 0, last);
    printf("depth %d %s\n", depth, strerror(errno));
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
}

static void permissions(void) {
    char buf[8];
    int key = add("user", "p", "x", 1, PROCESS), inner = add("keyring", "inner", 0, 0, PROCESS);
    CHECK_ERRNO(keyctl(KEYCTL_SETPERM, key, 0x40), EINVAL);
    CHECK(keyctl(KEYCTL_SETPERM, key, 0x20200000) == 0);
    CHECK_ERRNO(keyctl(KEYCTL_DESCRIBE, key, 0, 0), EACCES);
    CHECK_ERRNO(keyctl(KEYCTL_UPDATE, key, "y", 1), EACCES);
    CHECK_ERRNO(keyctl(KEYCTL_LINK, key, inner), EACCES);
    CHECK_ERRNO(add("user", "p", "y", 1, PROCESS), EACCES);
    CHECK_ERRNO(request("user", "p", 0, 0), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "user", "p", 0), EACCES);
    CHECK(keyctl(KEYCTL_SETPERM, key, 0x28200000) == 0 && request("user", "p", 0, 0) == key);
    /* What can be found can be read. */
    CHECK(keyctl(KEYCTL_READ, key, buf, 8) == 1);
    CHECK(keyctl(KEYCTL_SETPERM, key, 0x3f3f0000) == 0);
    CHECK(keyctl(KEYCTL_CHOWN, key, -1, -1) == 0 && keyctl(KEYCTL_CHOWN, key, getuid(), getgid()) == 0);
    CHECK(keyctl(KEYCTL_LINK, key, inner) == 0 && keyctl(KEYCTL_SETPERM, inner, 0x3b010000) == 0);
    CHECK_ERRNO(add("user", "n", "x", 1, inner), EACCES);
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
    /* Who does not possess it has what the owner has. */
    key = add("user", "q", "x", 1, SESSION);
    CHECK(keyctl(KEYCTL_SETPERM, key, 0x3f0b0000) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK(keyctl(KEYCTL_UPDATE, key, "y", 1) == 0);
        CHECK(keyctl(KEYCTL_JOIN_SESSION_KEYRING, 0) > 0);
        CHECK(keyctl(KEYCTL_READ, key, buf, 8) == 1 && keyctl(KEYCTL_DESCRIBE, key, 0, 0) > 0);
        CHECK_ERRNO(keyctl(KEYCTL_UPDATE, key, "z", 1), EACCES);
        CHECK_ERRNO(keyctl(KEYCTL_SETPERM, key, 0x3f3f3f3f), EACCES);
        CHECK_ERRNO(request("user", "q", 0, 0), ENOKEY);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(keyctl(KEYCTL_READ, key, buf, 8) == 1 && buf[0] == 'y');
    CHECK(keyctl(KEYCTL_UNLINK, key, SESSION) == 0);
}

static void *in_thread(void *process) {
    /* The process's ring is shared with new threads, the thread's ring is not; who has one gives its children a fresh one. */
    CHECK(keyctl(KEYCTL_GET_KEYRING_ID, PROCESS, 0) == *(long *)process);
    CHECK(keyctl(KEYCTL_GET_KEYRING_ID, THREAD, 0) > 0);
    CHECK_ERRNO(request("user", "t", 0, 0), ENOKEY);
    return NULL;
}

static void whose(void) {
    CHECK_ERRNO(keyctl(KEYCTL_GET_KEYRING_ID, THREAD, 0), ENOKEY);
    long thread = keyctl(KEYCTL_GET_KEYRING_ID, THREAD, 1), process = keyctl(KEYCTL_GET_KEYRING_ID, PROCESS, 1);
    long session = keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0), user = keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 0);
    CHECK(thread > 0 && described(thread, "keyring;%d;%d;3f010000;_tid") && described(process, "keyring;%d;%d;3f010000;_pid"));
    CHECK(session > 0 && described(session, "keyring;%d;%d;3f030000;_ses"));
    CHECK(user > 0 && keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1) == user);
    CHECK(keyctl(KEYCTL_SEARCH, KEY_SPEC_USER_SESSION_KEYRING, "keyring", "none", 0) == -1);
    CHECK_ERRNO(keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_REQKEY_AUTH_KEY, 1), ENOKEY);
    CHECK(add("user", "t", "x", 1, THREAD) > 0);
    pthread_t other;
    pthread_create(&other, NULL, in_thread, &process);
    pthread_join(other, NULL);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        CHECK_ERRNO(keyctl(KEYCTL_GET_KEYRING_ID, THREAD, 0), ENOKEY);
        CHECK_ERRNO(keyctl(KEYCTL_GET_KEYRING_ID, PROCESS, 0), ENOKEY);
        CHECK(keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0) == session);
        char name[40];
        snprintf(name, sizeof name, "umbel-test-%d", getpid());
        long named = keyctl(KEYCTL_JOIN_SESSION_KEYRING, name);
        CHECK(named > 0 && keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0) == named);
        CHECK_ERRNO(keyctl(KEYCTL_JOIN_SESSION_KEYRING, ".x"), EPERM);
        CHECK_ERRNO(keyctl(KEYCTL_JOIN_SESSION_KEYRING, (void *)8), EFAULT);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    /* Exec drops the rings of thread and process. */
    child = fork();
    if (child == 0) {
        char text[32];
        keyctl(KEYCTL_GET_KEYRING_ID, PROCESS, 1);
        snprintf(text, sizeof text, "%ld", session);
        execl("/proc/self/exe", "keys", text, NULL);
        _exit(3);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void requests(void) {
    int32_t ids[4];
    char buf[8];
    int key = add("user", "r", "x", 1, PROCESS);
    CHECK(request("user", "r", 0, 0) == key && request("user", "r", 0, THREAD) == key);
    CHECK(keyctl(KEYCTL_READ, THREAD, ids, sizeof ids) >= 4);
    CHECK_ERRNO(request("user", "none", 0, 0), ENOKEY);
    CHECK_ERRNO(request("none", "r", 0, 0), ENOKEY);
    CHECK_ERRNO(request(".user", "r", 0, 0), EPERM);
    CHECK_ERRNO(request("user", (void *)8, 0, 0), EFAULT);
    CHECK_ERRNO(request("user", "r", (void *)8, 0), EFAULT);
    CHECK_ERRNO(request("keyring", "none", "ask", 0), EPERM);
    CHECK(keyctl(KEYCTL_SET_REQKEY_KEYRING, -1) == 0 && keyctl(KEYCTL_SET_REQKEY_KEYRING, 2) == 0 && keyctl(KEYCTL_SET_REQKEY_KEYRING, 0) == 2);
    CHECK_ERRNO(keyctl(KEYCTL_SET_REQKEY_KEYRING, 6), EINVAL);
    CHECK_ERRNO(keyctl(KEYCTL_SET_REQKEY_KEYRING, 9), EINVAL);
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
    if (access("/sbin/request-key", F_OK) == 0) return;
    /* Nobody can make it: a negative key says so for a while. */
    CHECK_ERRNO(request("user", "made", "ask", PROCESS), ENOENT);
    CHECK(keyctl(KEYCTL_READ, PROCESS, ids, sizeof ids) == 4);
    CHECK_ERRNO(request("user", "made", 0, 0), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_READ, ids[0], buf, 8), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "user", "made", 0), ENOKEY);
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
}

static void ends(void) {
    char buf[8];
    int key = add("user", "e", "x", 1, PROCESS), late = add("user", "late", "x", 1, PROCESS), dead = add("user", "gone", "x", 1, PROCESS);
    CHECK(keyctl(KEYCTL_SET_TIMEOUT, late, 1) == 0 && keyctl(KEYCTL_REVOKE, key) == 0);
    CHECK_ERRNO(keyctl(KEYCTL_REVOKE, key), EKEYREVOKED);
    CHECK_ERRNO(keyctl(KEYCTL_READ, key, buf, 8), EKEYREVOKED);
    CHECK_ERRNO(keyctl(KEYCTL_DESCRIBE, key, 0, 0), EKEYREVOKED);
    CHECK_ERRNO(request("user", "e", 0, 0), ENOKEY);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "user", "e", 0), EKEYREVOKED);
    int fresh = add("user", "e", "x", 1, PROCESS);
    CHECK(fresh != key && request("user", "e", 0, 0) == fresh);
    CHECK(keyctl(KEYCTL_INVALIDATE, dead) == 0);
    CHECK(gone(dead));
    CHECK_ERRNO(request("user", "gone", 0, 0), ENOKEY);
    CHECK(keyctl(KEYCTL_READ, late, buf, 8) == 1);
    usleep(1100000);
    CHECK_ERRNO(keyctl(KEYCTL_READ, late, buf, 8), EKEYEXPIRED);
    CHECK_ERRNO(keyctl(KEYCTL_SEARCH, PROCESS, "user", "late", 0), EKEYEXPIRED);
    CHECK(keyctl(KEYCTL_SET_TIMEOUT, fresh, 1) == 0 && keyctl(KEYCTL_SET_TIMEOUT, fresh, 0) == 0);
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
}

/* Bytes that /proc/key-users counts for this user. */
static int counted(int *max) {
    char line[200];
    int found = -1, uid, keys, bytes;
    FILE *file = fopen("/proc/key-users", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%d: %*d %*d/%*d %d/%*d %d/%d", &uid, &keys, &bytes, max) == 4 && uid == (int)getuid()) found = bytes;
    if (file) fclose(file);
    return found;
}

static void limits(void) {
    static char payload[32000];
    int max = 0, before = counted(&max);
    CHECK(before > 0 && max >= 20000);
    int key = add("user", "limit", payload, 1000, PROCESS);
    CHECK(counted(&max) == before + 1000 + 6 + 4);
    CHECK(keyctl(KEYCTL_UPDATE, key, payload, 10) == 0 && counted(&max) == before + 10 + 6 + 4);
    CHECK(keyctl(KEYCTL_UNLINK, key, PROCESS) == 0);
    char line[300];
    int shown = 0;
    key = add("user", "shown", "abc", 3, PROCESS);
    FILE *file = fopen("/proc/keys", "r");
    while (file && fgets(line, sizeof line, file)) {
        unsigned id, perm;
        char type[20], rest[100];
        if (sscanf(line, "%x I--Q--- %*d perm %x %*d %*d %19s %99[^\n]", &id, &perm, type, rest) == 4 && (int)id == key)
            shown = perm == 0x3f010000 && !strcmp(type, "user") && !strcmp(rest, "shown: 3");
    }
    CHECK(shown);
    if (file) fclose(file);
    if (getuid() == 0) return;
    int i = 0;
    for (char name[20]; i < 300; i++) {
        snprintf(name, sizeof name, "many%d", i);
        if (add("user", name, payload, 1000, PROCESS) < 0) break;
    }
    CHECK(errno == EDQUOT && i < 20);
    CHECK(keyctl(KEYCTL_CLEAR, PROCESS) == 0);
}

/* A child gives its session keyring to its parent, if that may have it. */
static void given(void) {
    int gives[2], own = keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0), status, serial = 0;
    CHECK(own > 0 && pipe(gives) == 0);
    for (int turn = 0; turn < 3; turn++) {
        pid_t pid = fork();
        if (pid == 0) {
            if (turn == 0) {
                /* It is the parent's already. */
                _exit(keyctl(KEYCTL_SESSION_TO_PARENT) != 0);
            }
            serial = keyctl(KEYCTL_JOIN_SESSION_KEYRING, 0);
            int left = write(gives[1], &serial, sizeof serial) != sizeof serial;
            if (turn == 1) {
                /* A child of two users at once. */
                left |= setresuid(-1, -1, 12345) == 0 && setresgid(-1, 12345, -1) == 0 &&
                        (keyctl(KEYCTL_SESSION_TO_PARENT) != -1 || errno != EPERM);
                _exit(left);
            }
            _exit(left || keyctl(KEYCTL_SESSION_TO_PARENT) != 0);
        }
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        CHECK(turn == 0 || read(gives[0], &serial, sizeof serial) == sizeof serial);
        CHECK(keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0) == (turn == 2 ? serial : own));
    }
    close(gives[0]);
    close(gives[1]);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        CHECK_ERRNO(keyctl(KEYCTL_GET_KEYRING_ID, PROCESS, 0), ENOKEY);
        CHECK(keyctl(KEYCTL_GET_KEYRING_ID, SESSION, 0) == atol(argv[1]));
        return check_failures != 0;
    }
    CHECK(keyctl(KEYCTL_JOIN_SESSION_KEYRING, 0) > 0);
    types();
    rings();
    permissions();
    whose();
    requests();
    ends();
    limits();
    given();
    DONE();
}
