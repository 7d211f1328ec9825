//! Standard streams that are no terminal: files, pipes, closed ends.

mod common;

use common::{Run, shell_status, umbel};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("streams-{name}"))
}

/// Bytes of every value in no simple order.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn files_go_in_and_out_unchanged() {
    let (input, output) = (scratch("in"), scratch("out"));
    let data = bytes(3_000_000);
    fs::write(&input, &data).expect("scratch");
    let status = Command::new(umbel())
        .args(["run", "--", "cat"])
        .stdin(fs::File::open(&input).expect("scratch"))
        .stdout(fs::File::create(&output).expect("scratch"))
        .status()
        .expect("umbel");
    assert_eq!(shell_status(status), 0);
    assert!(fs::read(&output).expect("scratch") == data);
}

#[test]
fn a_file_keeps_its_position_between_programs_and_machines() {
    let input = scratch("position");
    fs::write(&input, "one\ntwo\nthree\n").expect("scratch");
    let file = fs::File::open(&input).expect("scratch");
    let read_line = || {
        let stdin = file.try_clone().expect("descriptors");
        let run = Command::new(umbel()).args(["run", "--", "sh", "-c", "read x; echo $x"]).stdin(stdin).output();
        String::from_utf8_lossy(&run.expect("umbel").stdout).into_owned()
    };
    assert_eq!(read_line(), "one\n");
    assert_eq!(read_line(), "two\n");
}

#[test]
fn appending_appends() {
    let output = scratch("append");
    fs::write(&output, "first\n").expect("scratch");
    let file = fs::OpenOptions::new().append(true).open(&output).expect("scratch");
    let status = Command::new(umbel()).args(["run", "--", "echo", "second"]).stdout(file).status().expect("umbel");
    assert_eq!(shell_status(status), 0);
    assert_eq!(fs::read_to_string(&output).expect("scratch"), "first\nsecond\n");
}

#[test]
fn output_and_error_in_one_pipe_keep_their_order() {
    let script = "for i in 1 2 3 4 5 6 7 8; do echo out $i; echo err $i >&2; done";
    let run = Command::new("sh")
        .args(["-c", "\"$0\" run --cpus 2 -- sh -c \"$1\" 2>&1 | cat"])
        .arg(umbel())
        .arg(script)
        .output()
        .expect("umbel");
    let wanted: String = (1..=8).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&run.stdout), wanted);
}

#[test]
fn a_reader_that_leaves_ends_the_writer_by_sigpipe() {
    let mut child = Command::new(umbel()).args(["run", "--", "yes"]).stdout(Stdio::piped()).spawn().expect("umbel");
    let mut start = [0; 4];
    child.stdout.take().expect("piped").read_exact(&mut start).expect("output");
    assert_eq!(&start, b"y\ny\n");
    let status = common::wait_until(&mut child, common::PATIENCE).expect("umbel ends");
    assert_eq!(shell_status(status), 141);
}

#[test]
fn input_that_comes_late_is_waited_for() {
    let script = "(sleep 0.5; echo late) | \"$0\" run -- sh -c 'read x; echo got $x'";
    let run = Command::new("sh").args(["-c", script]).arg(umbel()).output().expect("umbel");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "got late\n");
}

#[test]
fn kinds_are_told_as_they_are() {
    let input = scratch("kind");
    fs::write(&input, "12345").expect("scratch");
    let run = Command::new(umbel())
        .args([
            "run",
            "--",
            "sh",
            "-c",
            "stat -L -c '%F %s' /dev/stdin; stat -L -c %F /dev/stdout; test -t 0 || echo no",
        ])
        .stdin(fs::File::open(&input).expect("scratch"))
        .output()
        .expect("umbel");
    assert_eq!(String::from_utf8_lossy(&run.stdout), "regular file 5\nfifo\nno\n");
}

#[test]
fn streams_are_opened_by_their_names() {
    let script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr; echo more | cat /dev/stdin - > /proc/self/fd/1; \
                  cat < /dev/fd/0; (echo no > /dev/stdin) 2> /dev/null || echo refused";
    for place in [Run::on_host("/bin/sh", &["-c", script]), Run::in_machine(2, "/bin/sh", &["-c", script])] {
        let outcome = place.input("in\n").finish();
        let (out, err) = (outcome.stdout.replace("refused\n", ""), outcome.stderr.as_str());
        assert_eq!((out.as_str(), err), ("in\nout\nmore\n", "err\n"), "{outcome:#?}");
    }
    let (input, output) = (scratch("named-in"), scratch("named-out"));
    fs::write(&input, "file\n").expect("scratch");
    let status = Command::new(umbel())
        .args(["run", "--", "/bin/sh", "-c", "cat /dev/stdin > /dev/stdout"])
        .stdin(fs::File::open(&input).expect("scratch"))
        .stdout(fs::File::create(&output).expect("scratch"))
        .status()
        .expect("umbel");
    assert_eq!((shell_status(status), fs::read(&output).expect("scratch")), (0, b"file\n".to_vec()));
}

#[test]
fn large_input_through_a_pipe_arrives_whole() {
    let run = Run::in_machine(2, "/usr/bin/md5sum", &[]).input(bytes(5_000_000)).finish();
    let host = Run::on_host("/usr/bin/md5sum", &[]).input(bytes(5_000_000)).finish();
    assert_eq!(run, host);
}

/// Runs a bash script whose `"$@"` stands before each command: on the host, and with it in a machine. Wants the same outcome.
#[track_caller]
fn same_with_streams(script: &str) {
    let program = umbel();
    let machine = [program.to_str().expect("a name"), "run", "--cpus", "1", "--"];
    let run = |prefix: &[&str]| Run::on_host("/bin/bash", &[&["-c", script, "bash"], prefix].concat()).finish();
    assert_eq!(run(&machine), run(&["env"]), "{script}");
}

#[test]
fn output_that_finds_no_room_fails() {
    same_with_streams("\"$@\" /bin/echo x > /dev/full");
    same_with_streams("\"$@\" sh -c '/bin/echo x; echo $?; echo $? >&2' > /dev/full");
    same_with_streams("\"$@\" sh -c '/bin/echo x >&2; echo $?' 2> /dev/full");
    same_with_streams("\"$@\" stat -L -c '%F %t %T' /dev/stdin < /dev/full");
    same_with_streams(
        "\"$@\" head -c 4 < /dev/zero | od; \"$@\" head -c 4 < /dev/urandom | wc -c; \"$@\" wc -c < /dev/null",
    );
}

#[test]
fn closed_streams_are_closed() {
    same_with_streams("\"$@\" /bin/echo x >&-");
    same_with_streams("\"$@\" cat <&-");
    same_with_streams("\"$@\" sh -c '/bin/echo x; echo $?' 2>&-");
    same_with_streams("\"$@\" sh -c 'for i in 0 1 2 3; do test -e /proc/$$/fd/$i; echo $?; done' <&- 3<&-");
    same_with_streams("\"$@\" sh -c '/bin/echo x >&2; exit $?' <&- >&- 2>&-");
}

#[test]
fn streams_are_open_for_what_they_are() {
    same_with_streams("\"$@\" /bin/echo x 1< /etc/passwd");
    same_with_streams("\"$@\" cat 0> /dev/null");
    same_with_streams("exec 3< <(sleep 1); \"$@\" /bin/echo x 1<&3");
    same_with_streams("exec 3> >(cat); \"$@\" cat 0>&3");
    same_with_streams("\"$@\" cat < /");
}

#[test]
fn readers_that_are_gone_are_missed_at_once() {
    // The reader is gone before the start; while the writer sleeps; while it ignores the signal.
    same_with_streams("{ sleep 0.3; \"$@\" /bin/echo x; echo $? >&2; } | true");
    same_with_streams("{ \"$@\" sh -c 'sleep 1; /bin/echo x; echo $? >&2'; } | true");
    same_with_streams("{ \"$@\" sh -c 'trap \"\" PIPE; sleep 1; /bin/echo x; echo $? >&2'; } | true");
    same_with_streams("{ { sleep 0.3; \"$@\" /bin/echo x; echo $? >&2; } 3>&1 >&- 2>&3 | cat; } 2>&1");
    same_with_streams("{ \"$@\" sh -c 'sleep 1; /bin/echo x >&2; echo $?'; } 2> >(true)");
}

#[test]
fn the_machine_itself_does_not_mind_streams_that_take_nothing() {
    let program = umbel();
    let shell = |script: &str| Run::on_host("/bin/bash", &["-c", script, program.to_str().expect("a name")]).finish();
    for command in ["--help", "--version", "check", "ps"] {
        let outcome = shell(&format!("\"$0\" {command} > /dev/full"));
        assert_eq!((outcome.status, outcome.stderr.lines().count()), (125, 1), "{command}: {outcome:#?}");
        assert!(outcome.stderr.contains("No space left on device"), "{outcome:#?}");
        let outcome = shell(&format!("{{ sleep 0.2; \"$0\" {command}; echo $? >&2; }} | true"));
        assert_eq!(outcome.stderr, "141\n", "{command}");
    }
    assert_eq!(shell("\"$0\" run --stats -- sh -c 'exit 7' 2> /dev/full").status, 7);
    assert_eq!(shell("\"$0\" run --stats -- sh -c 'exit 7' 2>&-").status, 7);
    assert_eq!(shell("\"$0\" run --no-such-option 2> /dev/full").status, 2);
}
