//! bash in a machine does what bash does on the host: same output, same status, on 1, 2, 4 and 16 virtual CPUs.

mod common;

use common::{Run, script_same_as_host};

const CPUS: [u32; 4] = [1, 2, 4, 16];

#[track_caller]
fn same(script: &str) {
    for cpus in CPUS {
        script_same_as_host(cpus, script);
    }
}

#[test]
fn pipelines() {
    same(
        "seq 1 2000 | sort -r | head -3; printf 'b\\na\\nc\\n' | sort | tr a-z A-Z | rev; echo ${PIPESTATUS[@]}; false | true; echo $?; set -o pipefail; false | true; echo $?",
    );
}

#[test]
fn subshells_and_command_substitution() {
    same(
        "x=1; (x=2; echo in $x); echo out $x; y=$(echo a; exit 3); echo $? $y; echo $(echo $(echo deep)); echo <(true) >/dev/null && cat <(echo substituted)",
    );
}

#[test]
fn here_documents_and_strings() {
    same(
        "cat <<A; cat <<'B'; cat <<<\"$HOME\" >/dev/null\nval $((1+2))\nA\nraw $((1+2))\nB\nread -r l <<< 'one line'; echo $l",
    );
}

#[test]
fn traps() {
    same(
        "trap 'echo usr1' USR1; kill -USR1 $$; trap 'echo bye' EXIT; (trap 'echo sub' EXIT; true); trap '' TERM; kill -TERM $$; echo alive",
    );
}

#[test]
fn children_killed_by_signals() {
    same(
        "sh -c 'kill -TERM $$'; echo $?; sh -c 'kill -KILL $$' & wait $! 2>/dev/null; echo $?; sleep 100 & kill $!; wait $!; echo $?",
    );
}

#[test]
fn background_jobs_and_wait() {
    same(
        "for i in 1 2 3 4 5; do (exit $i) & p[$i]=$!; done; for i in 5 4 3 2 1; do wait ${p[$i]}; echo $?; done; sleep 0.01 & wait; echo done",
    );
}

#[test]
fn job_control_without_a_terminal() {
    same("set -m; sleep 60 & kill -STOP %1; sleep 0.05; jobs; kill -CONT %1; kill %1; wait %1 2>/dev/null; echo $?");
}

#[test]
fn redirections() {
    same(
        "d=$(mktemp -d); cd $d; echo a > f; echo b >> f; cat < f; exec 5<>f; read -u5 l; echo $l; echo c >&5; exec 5>&-; cat f; ls -la nofile 2>&1 | sed 's/.*: //'; { echo out; echo err >&2; } > both 2>&1; cat both; : > f; wc -c < f; set -C; echo x > f 2>/dev/null || echo clobber; rm -r $d",
    );
}

#[test]
fn variables_arrays_and_arithmetic() {
    same(
        "a=(x y z); echo ${#a[@]} ${a[-1]}; declare -A m=([k]=v); echo ${m[k]}; s=umbellifer; echo ${s:2:4} ${s/el/LE} ${s^^} ${#s}; for ((i=0;i<5;i++)); do printf '%d ' $((i**2)); done; echo; echo {a..e}{1,2}",
    );
}

#[test]
fn functions_loops_and_case() {
    same(
        "fib() { local n=$1; if ((n<2)); then echo $n; else echo $(( $(fib $((n-1))) + $(fib $((n-2))) )); fi; }; fib 9; for f in a.c b.h c.c; do case $f in *.c) echo source $f;; *) echo other $f;; esac; done; until ((++k>3)); do :; done; echo $k",
    );
}

#[test]
fn globbing_and_files() {
    same(
        "d=$(mktemp -d); cd $d; mkdir -p a/b c; touch a/b/x.txt a/y.txt c/z.md .hidden; echo *; echo a/*; shopt -s globstar dotglob; echo **; [[ -d a && ! -e q && -f c/z.md ]] && echo tests; ln -s a/y.txt l; readlink l; test -L l && echo link; rm -rf $d; test -e $d || echo gone",
    );
}

#[test]
fn standard_descriptors_are_not_terminals() {
    same("[ -t 0 ] || echo in; [ -t 1 ] || echo out; [ -t 2 ] || echo err; tty; test -p /dev/stdout && echo pipe");
}

#[test]
fn many_processes() {
    same(
        "for i in $(seq 60); do /bin/true || echo failed; done; for i in $(seq 20); do (sleep 0.0$((i%5)); exit 0) & done; wait; echo all",
    );
}

#[test]
fn limits_and_umask() {
    same(
        "umask 027; touch /tmp/u$$; stat -c %a /tmp/u$$; rm /tmp/u$$; ulimit -n 64; ulimit -n; ulimit -Sn 32; ulimit -n",
    );
}

#[test]
fn a_script_from_standard_input() {
    let script = "read line\nthe line read by read\necho \"<$line>\"; cat\nthe rest\n";
    let host = Run::on_host("/bin/bash", &[]).input(script).finish();
    let guest = Run::in_machine(2, "/bin/bash", &[]).input(script).finish();
    assert_eq!(guest, host);
}

#[test]
fn exec_replaces_the_shell() {
    same("exec -a other sh -c 'echo $0; exec true'; echo never");
}
