//! The command line: statuses, messages, arguments that are wrong.

mod common;

use common::{Run, guest_program};
use std::os::unix::ffi::OsStrExt;
use umbel_abi::machine::layout;

#[track_caller]
fn refused(args: &[&str], names: &str) {
    let outcome = Run::umbel(args).finish();
    assert_eq!(outcome.status, 2, "{args:?}: {outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line wanted: {outcome:#?}");
    assert!(outcome.stderr.contains(names), "{names} is not named: {outcome:#?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn zero_cpus_are_refused() {
    refused(&["run", "--cpus", "0", "/bin/true"], "--cpus");
}

#[test]
fn too_many_cpus_are_refused() {
    refused(&["run", "--cpus", "257", "/bin/true"], "--cpus");
}

#[test]
fn a_byte_of_memory_is_refused() {
    refused(&["run", "--mem", "1", "/bin/true"], "--mem");
}

#[test]
fn an_unreadable_size_is_refused() {
    refused(&["run", "--mem", "lots", "/bin/true"], "--mem");
}

#[test]
fn a_root_that_is_not_there_is_refused() {
    refused(&["run", "--root", "/no/such/root", "/bin/true"], "--root");
}

#[test]
fn an_unknown_option_is_refused() {
    refused(&["run", "--no-such-option", "/bin/true"], "--no-such-option");
}

#[test]
fn a_directory_that_the_guest_lacks_is_refused() {
    for wrong in ["/no/such/directory", "/etc/passwd", "/etc/passwd/x", &"/a".repeat(5000), "two\nlines"] {
        refused(&["run", "--workdir", wrong, "/bin/true"], "--workdir");
    }
    let outcome = Run::umbel(&["run", "--workdir", "/proc/sys/kernel", "/bin/pwd"]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "/proc/sys/kernel\n"), "{outcome:#?}");
}

#[test]
fn bad_values_are_named_with_their_option() {
    let many = "1".repeat(100_000);
    let long = many.as_str();
    let bad: [(&str, &[&str]); 10] = [
        ("--cpus", &["", "-1", "1.5", "99999999999999999999", long, "two"]),
        ("--max-cpus", &["", "-1", "0", "257", long]),
        ("--mem", &["", "-1", "-64M", "31M", "2000G", "99999999999999999999", long]),
        ("--user", &["", "-1", "-1:-1", "1:", ":1", "1:2:3", "root", "4294967295", "4294967296", long]),
        ("--env", &["", "=value"]),
        ("--name", &["", "12", "a/b", "a b", long]),
        ("--root", &["", "/no/such/root", "/etc/passwd", "/etc/passwd/x"]),
        ("--workdir", &[""]),
        ("--report", &["", "/no/such/directory/file", "/etc"]),
        ("--log", &["", "x", "INFO", "-1", "6"]),
    ];
    for (option, values) in bad {
        for value in values {
            refused(&["run", option, value, "--", "/bin/true"], option);
        }
    }
    for option in ["--cpus", "--max-cpus", "--mem", "--user", "--name", "--root", "--workdir", "--report", "--log"] {
        refused(&["run", option, "1", option, "1", "--", "/bin/true"], option);
    }
    assert!(Run::umbel(&["run", "--log", "x", "true"]).finish().stderr.contains("debug"), "levels are named");
}

#[test]
fn values_need_not_be_text_where_names_are_bytes() {
    let no_text = std::ffi::OsStr::from_bytes(b"\xff").to_owned();
    let run = |args: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new(common::umbel()).args(args).output().expect("umbel");
        (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let word = std::ffi::OsStr::new;
    for option in ["--cpus", "--max-cpus", "--mem", "--user", "--name", "--root", "--workdir", "--log"] {
        let (status, _, error) = run(&[word("run"), word(option), &no_text, word("/bin/true")]);
        assert_eq!((status, error.lines().count()), (Some(2), 1), "{option}: {error}");
        assert!(error.contains(option), "{error}");
    }
    let setting = std::ffi::OsStr::from_bytes(b"BYTES=\xff\xfe");
    let (status, output, error) = run(&[word("run"), word("--env"), setting, word("printenv"), word("BYTES")]);
    assert_eq!((status, output.as_slice()), (Some(0), &b"\xff\xfe\n"[..]), "{error}");
}

#[test]
fn a_missing_command_is_status_127() {
    let outcome = Run::umbel(&["run", "--", "/no/such/command"]).finish();
    assert_eq!(outcome.status, 127, "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("/no/such/command"), "{outcome:#?}");
}

#[test]
fn no_command_is_named_by_nothing() {
    let outcome = Run::umbel(&["run", "--", ""]).finish();
    assert_eq!((outcome.status, outcome.stderr.lines().count()), (127, 1), "{outcome:#?}");
}

#[test]
fn a_command_that_is_not_executable_is_status_126() {
    let outcome = Run::umbel(&["run", "--", "/etc/passwd"]).finish();
    assert_eq!(outcome.status, 126, "{outcome:#?}");
}

#[test]
fn the_status_is_the_commands() {
    assert_eq!(Run::umbel(&["run", "/bin/sh", "-c", "exit 37"]).finish().status, 37);
}

#[test]
fn a_death_by_signal_is_128_plus_its_number() {
    assert_eq!(Run::umbel(&["run", "/bin/sh", "-c", "kill -SEGV $$"]).finish().status, 128 + 11);
}

#[test]
fn the_machine_has_the_processors_and_memory_asked_for() {
    let script = "nproc; grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo";
    let outcome = Run::umbel(&["run", "--cpus", "3", "--mem", "64M", "/bin/sh", "-c", script]).finish();
    assert_eq!(outcome.stdout, "3\n3\nMemTotal:          65536 kB\n", "{outcome:#?}");
}

#[test]
fn a_machine_has_as_many_processors_as_asked_for_however_few_the_host_has() {
    let outcome = Run::umbel(&["run", "--cpus", "256", "--mem", "256M", "nproc"]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "256\n"), "{outcome:#?}");
}

#[test]
fn a_panic_of_the_kernel_is_status_70_with_the_names_of_those_who_called() {
    let script = "echo c > /proc/sysrq-trigger";
    let args = ["run", "--cpus", "1", "--user", "0", "--debug-stall", "/bin/sh", "-c", script];
    let outcome = Run::umbel(&args).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (70, ""), "{outcome:#?}");
    assert!(outcome.stderr.starts_with("umbel: kernel panic: panicked at kernel/src/"), "{outcome:#?}");
    let named = |name: &str| outcome.stderr.lines().any(|line| line.contains(": 0x") && line.contains(name));
    assert!(named("umbel_kernel::task::run::") && named("umbel_kernel::syscall::"), "{outcome:#?}");
}

#[test]
fn version_and_help_are_on_standard_output() {
    for option in ["--version", "--help"] {
        let outcome = Run::umbel(&[option]).finish();
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
        assert!(outcome.stdout.contains("umbel"), "{outcome:#?}");
    }
}

#[test]
fn pipes_are_binary_clean() {
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sum = |run: Run| run.input(bytes.clone()).finish().stdout;
    assert_eq!(sum(Run::umbel(&["run", "cksum"])), sum(Run::on_host("cksum", &[])));
}

#[test]
fn environment_and_directory_are_as_asked() {
    let outcome =
        Run::umbel(&["run", "--env", "FLOWER=umbel", "--workdir", "/usr", "/bin/sh", "-c", "echo $FLOWER; pwd"])
            .finish();
    assert_eq!(outcome.stdout, "umbel\n/usr\n", "{outcome:#?}");
}

#[test]
fn the_user_is_as_asked() {
    let outcome = Run::umbel(&["run", "--user", "1234:567", "/usr/bin/id"]).finish();
    assert_eq!(outcome.stdout, "uid=1234 gid=567 groups=567\n", "{outcome:#?}");
}

#[test]
fn nothing_is_written_to_the_host() {
    let mark = format!("/usr/umbel-test-{}", std::process::id());
    let script =
        format!("touch {mark} && echo text > {mark} && cat {mark} && rm -r /usr/bin/env && test ! -e /usr/bin/env");
    let outcome = Run::umbel(&["run", "--user", "0", "/bin/sh", "-c", &script]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "text\n"), "{outcome:#?}");
    assert!(!std::path::Path::new(&mark).exists());
    assert!(std::path::Path::new("/usr/bin/env").exists());
}

#[test]
fn strace_names_calls_and_results() {
    let program = guest_program("hello", false);
    let outcome = Run::umbel(&["run", "--strace", "--", &program.to_string_lossy()]).finish();
    assert_eq!(outcome.stdout, "hello\n");
    assert!(outcome.stderr.contains("write(1, \"hello\\n\", 6) = 6"), "{outcome:#?}");
}

#[test]
fn the_kernels_log_is_shown_down_to_the_level_asked_for() {
    let script = "for i in 3 4 6 7; do echo \"<$i>of level $i\" > /dev/kmsg; done; dmesg | grep -c 'of level'";
    for (level, shown) in [("off", 0), ("error", 1), ("warn", 2), ("info", 3), ("debug", 4), ("trace", 4)] {
        let outcome = Run::umbel(&["run", "--user", "0", "--log", level, "/bin/sh", "-c", script]).finish();
        // dmesg inside has all of them.
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "4\n"), "{level}: {outcome:#?}");
        let lines = |text: &str| outcome.stderr.lines().filter(|line| line.contains(text)).count();
        assert_eq!(lines("of level"), shown, "{level}: {outcome:#?}");
        assert_eq!(lines("Linux version"), usize::from(shown >= 3), "{level}: {outcome:#?}");
        assert!(shown > 0 || outcome.stderr.is_empty(), "{outcome:#?}");
    }
    let help = Run::umbel(&["run", "--help"]).finish().stdout;
    assert!(help.contains("--log <LEVEL>") && help.contains("kernel's log"), "{help}");
}

#[test]
fn stats_counts_everything_that_it_names() {
    let program = guest_program("tally", false);
    assert_eq!(Run::on_host(&program, &[]).finish().stdout, "ok\n");
    let outcome = Run::umbel(&["run", "--stats", "--cpus", "2", "--", &program.to_string_lossy()]).finish();
    assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
    // What the program does is counted once, but for what goes another way until a call's site is patched.
    let likely = |name, least, most| {
        let count = outcome.counted(name);
        assert!((least..=most).contains(&count), "{name}: {count}, not {least} to {most}: {outcome:#?}");
    };
    likely("system calls by patched call site", 20_000, 60_000);
    likely("system calls by signal", 10, 5000);
    likely("system calls answered read-only", 39_900, 41_000);
    likely("clocks told by the vDSO", 20_000, 21_000);
    likely("faults", 100, 100_000);
    likely("pages mapped by faults", outcome.counted("faults"), 1_000_000);
    likely("teleports", 20, 100_000);
    likely("cross-calls", 1, 1_000_000);
    likely("shootdowns", 1500, 20_000);
    likely("log wraps", 1, 1000);
    likely("ticks", 1, 1_000_000);
    likely("idle time, ns", 1, 600_000_000_000);
    likely("dead slots", 0, 0);
    let line = |name: &str| outcome.stderr.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let per_fault = line("pages per fault").and_then(|text| text.parse::<f64>().ok());
    assert!(per_fault.is_some_and(|pages| (1.0..1000.0).contains(&pages)), "{outcome:#?}");
    let huge = line("huge pages mapped per slot").expect("a line of its own");
    // Slots of an ordinary user are closed to him.
    let by_slot = huge.split(' ').map(|count| count.parse::<u64>().ok());
    assert!(!common::is_root() || by_slot.clone().count() >= 2 && by_slot.flatten().sum::<u64>() > 0, "{outcome:#?}");
    let missing: Vec<_> = outcome.stderr.lines().filter_map(|line| line.strip_prefix("missing system call")).collect();
    assert_eq!(missing.iter().map(|text| text.trim()).collect::<Vec<_>>(), ["400 (1)", "512 or more (1)"]);
}

#[test]
fn a_guest_that_lies_about_what_it_counts_lies_about_nothing_else() {
    let program = guest_program("tally", false);
    let place = format!("{:x}", layout::ENTRY_PAGE + layout::READS);
    let args = ["run", "--stats", "--cpus", "2", "--", &program.to_string_lossy(), &place];
    let outcome = Run::umbel(&args).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
    assert!(outcome.counted("system calls answered read-only") > 1 << 40, "{outcome:#?}");
    assert!(outcome.counted("system calls by patched call site") < 10_000, "{outcome:#?}");
}

#[test]
fn a_page_of_shared_memory_is_mapped_about_once() {
    let program = guest_program("shared_memory", false);
    let outcome = Run::umbel(&["run", "--stats", "--cpus", "2", "--", &program.to_string_lossy()]).finish();
    assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
    let (faults, pages) = (outcome.counted("faults"), outcome.counted("pages mapped by faults"));
    // Six mappings of 4,096 pages. Those of a file that has none yet come one by one.
    assert!(pages < 3 * 6 * 4096, "{pages}");
    assert!(faults < 2 * 4096, "{faults}");
}

#[test]
fn the_gate_notes_registrations() {
    let program = guest_program("registrations", false);
    let outcome = Run::umbel(&["run", "--stats", "--cpus", "2", "--", &program.to_string_lossy()]).finish();
    assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
    let noted = outcome.counted("registrations noted by the gate");
    assert!(noted > 10_000, "{noted} of 50,000");
}

#[test]
fn calls_of_siblings_are_patched_in_each_of_them() {
    let program = guest_program("siblings", false);
    let outcome = Run::umbel(&["run", "--stats", "--", &program.to_string_lossy(), "8", "1000"]).finish();
    assert_eq!(outcome.stdout, "ok\n", "{outcome:#?}");
    let by_signal = outcome.counted("system calls by signal");
    assert!(by_signal < 1500, "{by_signal} of 16,000");
}

#[test]
fn an_ordinary_user_can_run_it() {
    if !common::is_root() {
        return; // every other test of this file shows it
    }
    let script = "id -u; echo $((6*7))";
    let outcome = Run::umbel(&["run", "--cpus", "2", "/bin/sh", "-c", script]).user(65534).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "0\n42\n"), "{outcome:#?}");
}
