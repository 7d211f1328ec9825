//! The rules of this repository that a compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates from the bottom up: each may use only those before it. The machine sees plain data alone.
const CRATES: [&str; 6] = ["abi", "host", "smp", "mm", "gate", "kernel"];

/// What each module of the kernel uses. Those that name each other are one layer; a new edge is a decision, made here.
const KERNEL_MODULES: &[(&str, &str)] = &[
    ("boot", "drivers fs ipc loader machine random sched signal stats task time tty vm"),
    ("bpf", "random"),
    ("cgroup", "fs sched signal task"),
    ("drivers", "fs log machine random sched signal syscall task time tty vm"),
    ("fs", "cgroup drivers ipc keys landlock machine net random sched setting signal stats syscall task time tty vm"),
    ("futex", "sched signal task time"),
    ("id", ""),
    ("ipc", "fs landlock net sched setting signal task time vm"),
    ("keys", "random sched setting task time"),
    ("landlock", "fs"),
    ("loader", "fs landlock machine random task vm"),
    ("log", "drivers task time"),
    ("machine", ""),
    ("net", "bpf fs ipc landlock random sched setting signal syscall task time vm"),
    ("random", "fs sched"),
    ("sched", "drivers machine setting signal stats task time"),
    ("setting", ""),
    ("signal", "fs landlock sched task time"),
    ("stats", "syscall"),
    ("syscall", "cgroup fs futex ipc keys landlock loader log net random sched signal task time tty vm"),
    (
        "task",
        "boot bpf cgroup fs futex ipc keys landlock loader machine net random sched setting signal stats syscall time tty vm",
    ),
    ("time", "fs signal task"),
    ("tty", "fs signal task time"),
    ("vm", "setting stats"),
];

/// Longest file, lines.
const FILE_LINES: usize = 1000;
/// 95th percentile of file lengths, lines.
const FILE_LINES_95: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` with this extension, build output left out.
fn files(dir: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable tree") {
        let path = entry.expect("readable tree").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if path.is_dir() {
            if name != "target" && !name.starts_with(".git") {
                files(&path, extension, into);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            into.push(path);
        }
    }
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let mut paths = Vec::new();
    files(&root(), "rs", &mut paths);
    paths.into_iter().map(|p| (p.clone(), fs::read_to_string(p).expect("UTF-8"))).collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

#[test]
fn crates_use_only_what_lies_below() {
    for (level, name) in CRATES.iter().enumerate() {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("manifest");
        for above in &CRATES[level..] {
            assert!(!manifest.contains(&format!("umbel-{above}.")), "{name} must not depend on {above}");
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("manifest");
    let package = manifest.split("[package]").nth(1).expect("root package");
    for name in &CRATES[1..] {
        assert!(!package.contains(&format!("umbel-{name}.")), "the machine must not depend on {name}");
    }
}

/// The modules that a file names after `crate::`, alone or in braces.
fn modules_named(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            found.push(word(after));
            continue;
        };
        let mut depth = 1;
        let inside = group.chars().take_while(|c| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth > 0
        });
        let mut depth = 0;
        let flat = inside.filter(|c| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        });
        found.extend(flat.collect::<String>().split(',').map(|item| word(item.trim())));
    }
    found
}

#[test]
fn kernel_modules_use_only_what_the_table_says() {
    for (path, text) in rust_files() {
        let name = relative(&path);
        let Some((own, _)) = name.strip_prefix("kernel/src/").and_then(|rest| rest.split_once(['/', '.'])) else {
            continue;
        };
        let allowed = KERNEL_MODULES.iter().find(|(module, _)| *module == own).map_or("", |(_, uses)| uses);
        for used in modules_named(&text) {
            let is_module = KERNEL_MODULES.iter().any(|(module, _)| *module == used);
            let listed =
                used == own || allowed.split(' ').any(|allowed| allowed == used) || matches!(own, "lib" | "main");
            assert!(!is_module || listed, "{name} uses {used}: not in the table of tests/tidy.rs");
        }
    }
}

#[test]
fn unsafe_code_keeps_to_its_places() {
    for (path, text) in rust_files() {
        let name = relative(&path);
        let allowed = [
            "host/",
            "smp/",
            "mm/",
            "gate/",
            "src/os/",
            "abi/src/machine/",
            "kernel/src/main.rs",
            "kernel/src/image/",
            "loom-tests/",
        ];
        let needs_none = name.starts_with("src/") || name.starts_with("kernel/") || name.starts_with("abi/");
        if needs_none && !allowed.iter().any(|prefix| name.starts_with(prefix)) {
            let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{name}: unsafe outside its places");
        }
    }
    let kernel = fs::read_to_string(root().join("kernel/src/lib.rs")).expect("kernel");
    assert!(kernel.contains("#![deny(unsafe_code)]") || kernel.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn files_stay_short() {
    let mut lengths: Vec<(usize, String)> =
        rust_files().iter().map(|(path, text)| (text.lines().count(), relative(path))).collect();
    lengths.sort();
    let (longest, name) = lengths.last().expect("some files");
    assert!(*longest <= FILE_LINES, "{name}: {longest} lines");
    let (length, name) = &lengths[lengths.len() * 95 / 100];
    assert!(*length <= FILE_LINES_95, "one file in twenty is longer than {name}: {length} lines");
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in rust_files() {
        let first = text.lines().find(|l| !l.starts_with("#!")).unwrap_or("");
        assert!(first.starts_with("//!"), "{}: no head", relative(&path));
    }
}

#[test]
fn nothing_stands_for_work_not_done() {
    // Split, so that this file does not find itself.
    let words = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("#[ig", "nore")];
    for (path, text) in rust_files() {
        for word in words {
            assert!(!text.contains(word), "{}: {word}", relative(&path));
        }
    }
}

#[test]
fn every_guest_program_is_tested() {
    let mut programs = Vec::new();
    files(&root().join("tests/guest"), "c", &mut programs);
    let mut sources = Vec::new();
    files(&root().join("tests"), "rs", &mut sources);
    let tests: String = sources.iter().map(|p| fs::read_to_string(p).expect("UTF-8")).collect();
    for program in programs {
        let name = program.file_stem().expect("name").to_string_lossy().into_owned();
        assert!(tests.contains(&format!("\"{name}\"")), "tests/guest/{name}.c is run by no test");
    }
}

#[test]
fn documents_name_files_that_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap_or_else(|_| panic!("{document} is missing"));
        for word in text.split('`').skip(1).step_by(2) {
            let looks_like_a_path = word.contains('/')
                && word.ends_with(".rs")
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if looks_like_a_path {
                assert!(root().join(word).exists(), "{document} names {word}, which does not exist");
            }
        }
    }
}

/// The linker takes names that nothing bears in silence: what each call runs would lose its place.
#[test]
fn what_each_call_runs_exists() {
    let script = fs::read_to_string(root().join("build.rs")).expect("build.rs");
    let list = script.split("const EACH_CALL").nth(1).and_then(|rest| rest.split("];").next()).expect("the list");
    let sources: String = rust_files().into_iter().map(|(_, text)| text).collect();
    for name in list.split('"').skip(1).step_by(2) {
        let whole = name.trim_end_matches("17h");
        let last = whole.rsplit(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
        let known = [format!("fn {last}("), format!("fn {last}<"), format!("struct {last} ")];
        assert!(known.iter().any(|text| sources.contains(text)), "EACH_CALL: nothing is called {last}");
    }
}
