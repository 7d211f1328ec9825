# strace and gdb inside: what they say about a small program.
cat > p.c <<'C'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
int seen;
int step(int n) { seen += n; return seen * 2; }
static void *thread(void *x) { return (void *)(long)step((int)(long)x); }
int main(int n, char **v) {
    pthread_t t;
    (void)v;
    for (int i = 0; i < 3; i++) step(i);
    pthread_create(&t, 0, thread, (void *)5L);
    pthread_join(t, 0);
    if (fork() == 0) _exit(3);
    wait(0);
    printf("seen %d\n", seen);
    fflush(stdout);
    if (n > 1) *(volatile int *)16 = 1;
    raise(SIGUSR1);
    return 0;
}
C
gcc -g -O0 -pthread -o p p.c
strace -o t -e trace=write,exit_group ./p; echo "status $?"; sed 's/si_pid=[0-9]*/si_pid=N/; s/si_utime=.*}/si_utime=N}/' t | sed 's/[0-9]\{3,\}/N/g'
# Not how they end: a thread that has just ended when the process is killed may show either, on Linux too: wait4
# tells of the process's end once it has begun.
strace -f -o t -e trace=clone,clone3,fork,wait4,write ./p; echo "status $?"; cut -d' ' -f2- t | sed 's/[0-9]\{2,\}/N/g; s/N, *//' | grep -oE '^ *(write|wait4|--- SIG[A-Z0-9]*)' | tr -d ' ' | sort | uniq -c
strace -c -o t -f ./p > /dev/null; grep -cE ' (clone3|wait4|write)$' t
strace -o t -e inject=write:error=ENOSPC ./p; echo "status $?"; grep -c INJECTED t
sleep 30 & s=$!; timeout 3 strace -p $s -o t; echo "status $?"; kill $s; grep -c 'clock_nanosleep\|restart_syscall' t
cat > c.gdb <<'G'
set pagination off
set confirm off
set width 0
set debuginfod enabled off
set auto-load safe-path /
set can-use-hw-watchpoints 0
break step
commands 1
silent
printf "step %d\n", n
continue
end
run
G
gdb -q -batch -nx -x c.gdb ./p 2>&1 | grep -E '^(step|seen|Old|New|\$|Thread.*received|Value)'
gdb -q -batch -nx -ex 'set debuginfod enabled off' -ex 'set can-use-hw-watchpoints 0' -ex 'break step if n == 5' -ex run -ex 'info threads' -ex 'set scheduler-locking on' -ex 'watch seen' -ex continue -ex 'print seen' -ex next -ex stepi -ex finish -ex delete -ex 'set scheduler-locking off' -ex continue ./p 2>&1 | grep -E '^(seen|Old|New|[$]|Value|Run|Thread.*(received|hit))|^[0-9]' | sed 's/0x[0-9a-f]*/X/g'
gdb -q -batch -nx -ex 'set debuginfod enabled off' -ex run -ex bt -ex 'print seen' -ex "$CALL" -ex 'info registers rip' -ex kill --args ./p crash 2>&1 | grep -E '^(#|\$|Thread.*received)' | sed 's/0x[0-9a-f]*/X/g; s/argv=X//; s/v=X/v/'
./p & wait $! 2>/dev/null; sleep 20 & s=$!; gdb -q -batch -nx -p $s -ex 'print $_siginfo.si_signo' -ex 'info inferiors' -ex detach 2>/dev/null | grep -c process; kill $s
