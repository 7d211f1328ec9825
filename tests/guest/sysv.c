/* System V IPC: shared memory, semaphores, message queues. */
#define _GNU_SOURCE
#include "check.h"
#include <sched.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEY 0x554d4245

static void *volatile nowhere = (void *)8;

static void nothing(int signal) { (void)signal; }

static int status_of(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static int attached(int id) {
    struct shmid_ds s;
    CHECK(shmctl(id, IPC_STAT, &s) == 0);
    return (int)s.shm_nattch;
}

static void memory(void) {
    struct shmid_ds s;
    CHECK_ERRNO(shmget(KEY, 100, 0), ENOENT);
    CHECK_ERRNO(shmget(IPC_PRIVATE, 0, 0600), EINVAL);
    int id = shmget(KEY, 10000, IPC_CREAT | IPC_EXCL | 0640);
    CHECK(id >= 0 && shmget(KEY, 10000, 0) == id && shmget(KEY, 0, 0) == id);
    CHECK_ERRNO(shmget(KEY, 100, IPC_CREAT | IPC_EXCL), EEXIST);
    CHECK_ERRNO(shmget(KEY, 20000, 0), EINVAL);
    char *a = shmat(id, 0, 0), *b = shmat(id, 0, SHM_RDONLY);
    CHECK(a != (void *)-1 && b != (void *)-1 && a != b);
    strcpy(a + 5000, "shared");
    CHECK(!strcmp(b + 5000, "shared") && a[9999] == 0 && attached(id) == 2);
    CHECK(shmctl(id, IPC_STAT, &s) == 0 && s.shm_segsz == 10000 && s.shm_perm.mode == 0640 && s.shm_perm.uid == 0);
    CHECK(s.shm_cpid == getpid() && s.shm_lpid == getpid() && s.shm_atime != 0 && s.shm_dtime == 0);
    CHECK_ERRNO((long)shmat(id, a + 1, 0), EINVAL);
    CHECK_ERRNO((long)shmat(id, a, 0), EINVAL);
    CHECK_ERRNO((long)shmat(id + 4096, 0, 0), EINVAL);
    CHECK_ERRNO((long)shmat(-1, 0, 0), EINVAL);
    CHECK(shmat(id, a + 100, SHM_RND | SHM_REMAP) == a && attached(id) == 2);
    pid_t child = fork();
    if (child == 0) {
        a[0] = 'c';
        _exit(attached(id) != 4 || shmdt(a) != 0 || attached(id) != 3);
    }
    CHECK(status_of(child) == 0 && a[0] == 'c' && attached(id) == 2);
    CHECK(munmap(b, 4096) == 0 && attached(id) == 2 && shmdt(b) == 0 && attached(id) == 1);
    CHECK_ERRNO(shmdt(b), EINVAL);
    CHECK(shmctl(id, IPC_STAT, &s) == 0 && s.shm_dtime != 0);
    s.shm_perm.mode = 0600;
    CHECK(shmctl(id, IPC_SET, &s) == 0 && shmctl(id, IPC_STAT, &s) == 0 && s.shm_perm.mode == 0600);
    CHECK(shmctl(id, SHM_LOCK, 0) == 0 && shmctl(id, IPC_STAT, &s) == 0 && s.shm_perm.mode == (0600 | SHM_LOCKED));
    CHECK(shmctl(id, SHM_UNLOCK, 0) == 0);
    fflush(stdout);
    child = fork();
    if (child == 0) {
        CHECK(setgid(1000) == 0 && setuid(1000) == 0);
        CHECK_ERRNO((long)shmat(id, 0, 0), EACCES);
        CHECK_ERRNO(shmget(KEY, 0, 0400), EACCES);
        CHECK_ERRNO(shmctl(id, IPC_STAT, &s), EACCES);
        CHECK_ERRNO(shmctl(id, IPC_RMID, 0), EPERM);
        CHECK_ERRNO(shmctl(id, SHM_LOCK, 0), EPERM);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    CHECK(status_of(child) == 0);
    CHECK(shmctl(id, IPC_RMID, 0) == 0 && shmctl(id, IPC_STAT, &s) == 0 && s.shm_perm.mode == (0600 | SHM_DEST));
    CHECK_ERRNO(shmget(KEY, 0, 0), ENOENT);
    int other = shmget(KEY, 100, IPC_CREAT | IPC_EXCL | 0600);
    CHECK(other >= 0 && other != id && shmctl(id, IPC_RMID, 0) == 0 && shmget(KEY, 0, 0) == other);
    CHECK(shmctl(other, IPC_RMID, 0) == 0);
    char *again = shmat(id, 0, 0);
    CHECK(again != (void *)-1 && !strcmp(again + 5000, "shared") && shmdt(again) == 0);
    CHECK(shmdt(a) == 0);
    CHECK_ERRNO(shmctl(id, IPC_STAT, &s), EINVAL);
    /* Mapped anew it would be gone meanwhile, if it was removed and is nowhere else. */
    id = shmget(KEY, 8192, IPC_CREAT | 0600);
    CHECK((a = shmat(id, 0, 0)) != (void *)-1 && syscall(SYS_remap_file_pages, a, 8192, 0, 0, 0) == 0 && attached(id) == 1);
    CHECK(shmctl(id, IPC_RMID, 0) == 0 && syscall(SYS_remap_file_pages, a, 8192, 0, 0, 0) == -1 && (errno == EINVAL || errno == EIDRM));
    CHECK_ERRNO(shmctl(id, IPC_STAT, &s), EINVAL);
    struct shminfo info;
    CHECK(shmctl(0, IPC_INFO, (void *)&info) >= 0);
    printf("shm %lu %lu %lu %lu %lu\n", info.shmmax, info.shmmin, info.shmmni, info.shmseg, info.shmall);
}

static int op(int id, int num, int change, int flags) {
    struct sembuf one = {(unsigned short)num, (short)change, (short)flags};
    return semop(id, &one, 1);
}

static void semaphores(void) {
    struct semid_ds s;
    unsigned short values[4];
    CHECK_ERRNO(semget(KEY, 1, 0), ENOENT);
    CHECK_ERRNO(semget(KEY, 0, IPC_CREAT), EINVAL);
    CHECK_ERRNO(semget(KEY, 40000, IPC_CREAT), EINVAL);
    int id = semget(KEY, 4, IPC_CREAT | 0600);
    CHECK(id >= 0 && semget(KEY, 4, 0) == id && semget(KEY, 0, 0) == id);
    CHECK_ERRNO(semget(KEY, 5, 0), EINVAL);
    CHECK(semctl(id, 0, SETVAL, 2) == 0 && semctl(id, 0, GETVAL) == 2 && semctl(id, 0, GETPID) == getpid());
    CHECK_ERRNO(semctl(id, 0, SETVAL, 40000), ERANGE);
    CHECK_ERRNO(semctl(id, 0, SETVAL, -1), ERANGE);
    CHECK_ERRNO(semctl(id, 4, GETVAL), EINVAL);
    CHECK_ERRNO(semctl(id, -1, GETVAL), EINVAL);
    CHECK_ERRNO(semctl(id, 0, 99), EINVAL);
    CHECK_ERRNO(semctl(id, 0, GETALL, nowhere), EFAULT);
    CHECK(op(id, 0, -1, 0) == 0 && op(id, 0, -1, 0) == 0);
    CHECK_ERRNO(op(id, 0, -1, IPC_NOWAIT), EAGAIN);
    CHECK(op(id, 0, 0, IPC_NOWAIT) == 0);
    CHECK_ERRNO(op(id, 4, 1, 0), EFBIG);
    CHECK_ERRNO(semop(id, 0, 0), EINVAL);
    CHECK_ERRNO(semop(id, nowhere, 1), EFAULT);
    CHECK_ERRNO(semop(id, nowhere, 501), E2BIG);
    CHECK_ERRNO(op(id + 4096, 0, 1, 0), EINVAL);
    struct sembuf both[2] = {{0, 3, 0}, {1, -1, IPC_NOWAIT}};
    CHECK_ERRNO(semop(id, both, 2), EAGAIN);
    CHECK(semctl(id, 0, GETALL, values) == 0 && values[0] == 0 && values[1] == 0);
    struct timespec short_time = {0, 20000000};
    CHECK_ERRNO(semtimedop(id, both + 1, 1, &short_time), EAGAIN);
    both[1].sem_flg = 0;
    CHECK_ERRNO(semtimedop(id, both + 1, 1, &short_time), EAGAIN);
    values[0] = 1, values[1] = 2, values[2] = 3, values[3] = 4;
    CHECK(semctl(id, 0, SETALL, values) == 0 && semctl(id, 3, GETVAL) == 4);
    CHECK(semctl(id, 0, IPC_STAT, &s) == 0 && s.sem_nsems == 4 && s.sem_perm.mode == 0600 && s.sem_otime != 0);
    CHECK_ERRNO(op(id, 3, 32767, 0), ERANGE);
    pid_t child = fork();
    if (child == 0) _exit(op(id, 3, -4, SEM_UNDO) || op(id, 2, -1, 0) || op(id, 1, 5, SEM_UNDO));
    CHECK(status_of(child) == 0 && semctl(id, 3, GETVAL) == 4 && semctl(id, 2, GETVAL) == 2 && semctl(id, 1, GETVAL) == 2);
    CHECK(semctl(id, 3, GETPID) == child);
    child = fork();
    if (child == 0) _exit(op(id, 0, -2, 0) != 0);
    while (semctl(id, 0, GETNCNT) != 1) usleep(1000);
    CHECK(semctl(id, 0, GETZCNT) == 0 && op(id, 0, 1, 0) == 0 && status_of(child) == 0 && semctl(id, 0, GETVAL) == 0);
    child = fork();
    if (child == 0) _exit(op(id, 1, 0, 0) != 0);
    while (semctl(id, 1, GETZCNT) != 1) usleep(1000);
    CHECK(semctl(id, 1, SETVAL, 0) == 0 && status_of(child) == 0);
    child = fork();
    if (child == 0) {
        signal(SIGALRM, nothing);
        struct sigaction restarting = {.sa_handler = nothing, .sa_flags = SA_RESTART};
        sigaction(SIGALRM, &restarting, 0);
        ualarm(20000, 20000);
        _exit(!(op(id, 0, -1, 0) == -1 && errno == EINTR));
    }
    CHECK(status_of(child) == 0);
    child = fork();
    if (child == 0) _exit(!(op(id, 0, -1, 0) == -1 && errno == EIDRM));
    while (semctl(id, 0, GETNCNT) != 1) usleep(1000);
    CHECK(semctl(id, 0, IPC_RMID) == 0 && status_of(child) == 0);
    CHECK_ERRNO(semctl(id, 0, GETVAL), EINVAL);
    struct seminfo info;
    CHECK(semctl(0, 0, IPC_INFO, &info) >= 0);
    printf("sem %d %d %d %d %d\n", info.semmni, info.semmns, info.semmsl, info.semopm, info.semvmx);
}

/* What a process took comes back from each set that is still there when it ends, or goes to other sets. */
static void adjustments(void) {
    int sets[3], go[2], gone[2];
    char byte;
    for (int i = 0; i < 3; i++) {
        sets[i] = semget(IPC_PRIVATE, 1, 0600);
        CHECK(sets[i] >= 0 && semctl(sets[i], 0, SETVAL, 5) == 0);
    }
    CHECK(pipe(go) == 0 && pipe(gone) == 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 3; i++)
            if (op(sets[i], 0, -1 - i, SEM_UNDO) != 0) _exit(1);
        if (write(gone[1], "", 1) != 1 || read(go[0], &byte, 1) != 1) _exit(2);
        if (unshare(CLONE_NEWIPC) != 0) _exit(3);
        if (write(gone[1], "", 1) != 1 || read(go[0], &byte, 1) != 1) _exit(4);
        _exit(0);
    }
    CHECK(read(gone[0], &byte, 1) == 1 && semctl(sets[0], 0, GETVAL) == 4 && semctl(sets[2], 0, GETVAL) == 2);
    CHECK(semctl(sets[1], 0, IPC_RMID) == 0 && write(go[1], "", 1) == 1 && read(gone[0], &byte, 1) == 1);
    CHECK(semctl(sets[0], 0, GETVAL) == 5 && semctl(sets[2], 0, GETVAL) == 5);
    CHECK(write(go[1], "", 1) == 1 && status_of(child) == 0);
    CHECK(semctl(sets[0], 0, GETVAL) == 5 && semctl(sets[0], 0, IPC_RMID) == 0 && semctl(sets[2], 0, IPC_RMID) == 0);
}

struct message {
    long type;
    char text[64];
};

static void queues(void) {
    struct message m = {1, "one"};
    struct msqid_ds s;
    CHECK_ERRNO(msgget(KEY, 0), ENOENT);
    int id = msgget(KEY, IPC_CREAT | 0600);
    CHECK(id >= 0 && msgget(KEY, 0) == id);
    CHECK_ERRNO(msgget(KEY, IPC_CREAT | IPC_EXCL), EEXIST);
    CHECK(msgsnd(id, &m, 4, 0) == 0);
    m.type = 3, strcpy(m.text, "three");
    CHECK(msgsnd(id, &m, 6, 0) == 0);
    m.type = 2, strcpy(m.text, "two");
    CHECK(msgsnd(id, &m, 4, 0) == 0);
    m.type = 0;
    CHECK_ERRNO(msgsnd(id, &m, 4, 0), EINVAL);
    m.type = 1;
    CHECK_ERRNO(msgsnd(id, &m, 9000, 0), EINVAL);
    CHECK_ERRNO(msgsnd(id, nowhere, 4, 0), EFAULT);
    CHECK_ERRNO(msgsnd(-1, &m, 4, 0), EINVAL);
    CHECK(msgctl(id, IPC_STAT, &s) == 0 && s.msg_qnum == 3 && s.msg_cbytes == 14 && s.msg_lspid == getpid());
    printf("msg %lu\n", s.msg_qbytes);
    CHECK_ERRNO(msgrcv(id, &m, 3, 0, 0), E2BIG);
    CHECK(msgrcv(id, &m, sizeof m.text, -2, 0) == 4 && m.type == 1 && !strcmp(m.text, "one"));
    CHECK(msgrcv(id, &m, sizeof m.text, 3, MSG_EXCEPT) == 4 && m.type == 2);
    CHECK(msgrcv(id, &m, 2, 3, MSG_NOERROR) == 2 && m.type == 3);
    CHECK_ERRNO(msgrcv(id, &m, 2, 0, IPC_NOWAIT), ENOMSG);
    pid_t child = fork();
    if (child == 0) _exit(!(msgrcv(id, &m, sizeof m.text, 7, 0) == 3 && m.type == 7));
    usleep(20000);
    m.type = 6;
    CHECK(msgsnd(id, &m, 3, 0) == 0);
    m.type = 7;
    CHECK(msgsnd(id, &m, 3, 0) == 0 && status_of(child) == 0 && msgrcv(id, &m, 9, 0, 0) == 3 && m.type == 6);
    CHECK(msgctl(id, IPC_STAT, &s) == 0);
    s.msg_qbytes = 64;
    CHECK(msgctl(id, IPC_SET, &s) == 0 && msgsnd(id, &m, 60, 0) == 0);
    CHECK_ERRNO(msgsnd(id, &m, 60, IPC_NOWAIT), EAGAIN);
    child = fork();
    if (child == 0) _exit(msgsnd(id, &m, 60, 0) != 0);
    usleep(20000);
    CHECK(msgrcv(id, &m, 60, 0, 0) == 60 && status_of(child) == 0 && msgrcv(id, &m, 60, 0, 0) == 60);
    child = fork();
    if (child == 0) _exit(!(msgrcv(id, &m, 60, 0, 0) == -1 && errno == EIDRM));
    usleep(20000);
    CHECK(msgctl(id, IPC_RMID, 0) == 0 && status_of(child) == 0);
    CHECK_ERRNO(msgctl(id, IPC_STAT, &s), EINVAL);
}

int main(void) {
    memory();
    semaphores();
    adjustments();
    queues();
    DONE();
}
