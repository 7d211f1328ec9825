//! The command line: statuses, messages, arguments that are wrong.

mod common;

use common::{Run, guest_program};
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
fn a_missing_command_is_status_127() {
    let outcome = Run::umbel(&["run", "--", "/no/such/command"]).finish();
    assert_eq!(outcome.status, 127, "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    assert!(outcome.stderr.contains("/no/such/command"), "{outcome:#?}");
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
