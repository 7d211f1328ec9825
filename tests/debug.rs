//! strace(1) and gdb(1) inside a machine, on programs of the host. Where a machine lacks them the tests say so and pass.

mod common;

use common::{Outcome, Run, guest_program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the host has the tool; says so if not.
fn has(tool: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).exists()));
    if !found {
        println!("skipped: no {tool} here");
    }
    found
}

/// `script` in the shell, in a machine of two virtual CPUs.
fn shell(script: &str) -> Outcome {
    Run::in_machine(2, "/bin/sh", &["-c", script]).finish()
}

#[test]
fn strace_follows_the_processes_of_a_pipeline() {
    if !has("strace") {
        return;
    }
    let out =
        shell("strace -f -e trace=execve,pipe2,exit_group -o /tmp/log sh -c 'echo b a | tr a c | cat'; cat /tmp/log");
    assert_eq!(out.status, 0, "{out:?}");
    let (first, log) = out.stdout.split_once('\n').unwrap_or_default();
    assert_eq!(first, "b c");
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("execve(\"/usr/bin/tr\""), 1, "{log}");
    assert_eq!(count("+++ exited with 0 +++"), count("exit_group(0"), "{log}");
    assert!(count("+++ exited with 0 +++") >= 3 && count("pipe2(") >= 2, "{log}");
}

#[test]
fn strace_attaches_to_what_runs_and_lets_it_go() {
    if !has("strace") {
        return;
    }
    let script = "while :; do :; done & p=$!; sleep 0.3; timeout -s INT 1 strace -o /tmp/log -p $p; \
                  kill -0 $p && echo alive; kill $p; wait $p; echo $?";
    let out = shell(script);
    assert_eq!(out.stdout, "alive\n143\n", "{out:?}");
}

/// `tests/guest/debuggee.c` with debug information.
fn debuggee(name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/debuggee.c");
    let program = guest_program("hello", true).with_file_name(name);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(compiler).args(["-g", "-O0", "-pthread", "-o"]).arg(&program).arg(&source).status();
    assert!(status.expect("a C compiler").success());
    program
}

/// What gdb prints of `commands` on `program`, without numbers that differ from run to run.
fn gdb(run: impl Fn(&str, &[&str]) -> Run, program: &Path, commands: &[&str]) -> String {
    let program = program.to_str().expect("UTF-8");
    let mut args = vec!["-q", "-nx", "-batch", "-ex", "set debuginfod enabled off"];
    args.extend(commands.iter().flat_map(|command| ["-ex", command]));
    args.push(program);
    let out = run("/usr/bin/gdb", &args).finish();
    let steady = |line: &&str| !line.contains("LWP") && !line.contains("process ") && !line.contains("0x");
    out.stdout.lines().filter(steady).collect::<Vec<_>>().join("\n")
}

#[test]
fn gdb_breaks_steps_looks_and_calls_as_on_the_host() {
    if !has("gdb") {
        return;
    }
    let program = debuggee("debuggee");
    let commands = [
        "break add",
        "run",
        "bt",
        "print a",
        "next",
        "step",
        "print sum",
        "finish",
        "continue",
        "bt 1",
        "print total",
        "delete",
        "print add(1, 2)",
        "continue",
    ];
    let host = gdb(|tool, args| Run::on_host(tool, args), &program, &commands);
    let guest = gdb(|tool, args| Run::in_machine(2, tool, args), &program, &commands);
    assert!(host.contains("value 42") && host.contains("$1 = 40"), "{host}");
    assert_eq!(guest, host);
}

#[test]
fn gdb_watches_a_variable_by_stepping() {
    if !has("gdb") {
        return;
    }
    let program = debuggee("debuggee.watch");
    // Both changes are the first thread's: when the stepping sees another thread's depends on time.
    let commands = ["set can-use-hw-watchpoints 0", "break main", "run", "watch total", "continue", "continue"];
    let host = gdb(|tool, args| Run::on_host(tool, args), &program, &commands);
    let guest = gdb(|tool, args| Run::in_machine(1, tool, args).limit(120), &program, &commands);
    assert!(host.contains("New value = 42") && host.contains("New value = 84"), "{host}");
    assert_eq!(guest, host);
}
