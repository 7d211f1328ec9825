//! The C programs of `tests/guest/`: each prints the same on the host and in machines of 1, 2 and 4 virtual CPUs.

mod common;

use common::{Run, guest_program, is_root, same_as_host};

#[test]
fn hello() {
    same_as_host("hello");
}

#[test]
fn processes() {
    same_as_host("processes");
}

#[test]
fn signals() {
    same_as_host("signals");
}

#[test]
fn turns() {
    same_as_host("turns");
}

#[test]
fn flushes() {
    same_as_host("flushes");
}

#[test]
fn threads() {
    same_as_host("threads");
}

#[test]
fn memory() {
    same_as_host("memory");
}

#[test]
fn seals() {
    same_as_host("seals");
}

#[test]
fn shared_memory() {
    same_as_host("shared_memory");
}

#[test]
fn resident() {
    same_as_host("resident");
}

#[test]
fn written() {
    same_as_host("written");
}

#[test]
fn inspected() {
    same_as_host("inspected");
}

#[test]
fn mappings() {
    same_as_host("mappings");
}

#[test]
fn mapped() {
    if is_root() {
        same_as_host("mapped");
    }
}

#[test]
fn files() {
    same_as_host("files");
}

#[test]
fn pipes() {
    same_as_host("pipes");
}

#[test]
fn clocks() {
    same_as_host("clocks");
}

#[test]
fn steps() {
    same_as_host("steps");
}

#[test]
fn breakpoints() {
    same_as_host("breakpoints");
}

#[test]
fn watchpoints() {
    same_as_host("watchpoints");
}

/// In machines only: the host's name for cores is not to be changed.
#[test]
fn cores() {
    let outcome = Run::in_machine(2, guest_program("cores", false), &[]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:?}");
}

#[test]
fn timers() {
    same_as_host("timers");
}

#[test]
fn timer_storms() {
    same_as_host("timer_storms");
}

#[test]
fn events() {
    same_as_host("events");
}

#[test]
fn jobs() {
    same_as_host("jobs");
}

#[test]
fn aio() {
    same_as_host("aio");
}

#[test]
fn keys() {
    same_as_host("keys");
}

#[test]
fn numa() {
    same_as_host("numa");
}

#[test]
fn accounting() {
    if is_root() {
        same_as_host("accounting");
    }
}

#[test]
fn fresh() {
    same_as_host("fresh");
}

/// On the host, too, where they can be mounted; the controllers in machines only, as the host's may be in other hierarchies.
#[test]
fn cgroups() {
    if !is_root() {
        return;
    }
    let program = guest_program("cgroups", false);
    if Run::on_host(&program, &["probe"]).finish().status == 0 {
        same_as_host("cgroups");
    }
    for cpus in [1, 2, 4] {
        let outcome = Run::in_machine(cpus, &program, &["machine"]).finish();
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:?}");
    }
}

/// On the host, too, where there is such memory.
#[test]
fn secrets() {
    let program = guest_program("secrets", false);
    if Run::on_host(&program, &["probe"]).finish().status == 0 {
        same_as_host("secrets");
    }
    let outcome = Run::in_machine(2, &program, &[]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:?}");
}

#[test]
fn quotas() {
    if is_root() {
        same_as_host("quotas");
    }
}

#[test]
fn userfault() {
    if is_root() {
        same_as_host("userfault");
    }
}

#[test]
fn fanotify() {
    if is_root() {
        same_as_host("fanotify");
    }
}

#[test]
fn fids() {
    if is_root() {
        same_as_host("fids");
    }
}

#[test]
fn queuefs() {
    if is_root() {
        same_as_host("queuefs");
    }
}

#[test]
fn overlay() {
    if is_root() {
        same_as_host("overlay");
    }
}

#[test]
fn locked() {
    if is_root() {
        same_as_host("locked");
    }
}

#[test]
fn watching() {
    if is_root() {
        same_as_host("watching");
    }
}

#[test]
fn sysv() {
    if is_root() {
        same_as_host("sysv");
    }
}

#[test]
fn names() {
    if is_root() {
        same_as_host("names");
    }
}

#[test]
fn transfers() {
    same_as_host("transfers");
}

#[test]
fn attributes() {
    if is_root() {
        same_as_host("attributes");
    }
}

#[test]
fn leases() {
    same_as_host("leases");
}

#[test]
fn plain() {
    same_as_host("plain");
}

/// In a directory of the host. What a machine changes there is its own.
#[test]
fn ahead() {
    let program = guest_program("ahead", false);
    let make = |name: &str| {
        let dir = program.with_file_name(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..64 {
            std::fs::write(dir.join(format!("file{file:03}.txt")), vec![b'x'; file * 7 + 1]).unwrap();
        }
        dir.to_string_lossy().into_owned()
    };
    let host = Run::on_host(&program, &[&make("ahead-host")]).finish();
    assert_eq!(host.status, 0, "{host:#?}");
    let dir = make("ahead-machine");
    for cpus in [1, 2, 4] {
        assert_eq!(Run::in_machine(cpus, &program, &[&dir]).finish(), host, "on {cpus} virtual CPUs");
    }
    let looks = Run::umbel(&["run", "--stats", "--", &program.to_string_lossy(), &dir, "look"]).finish();
    let line = looks.stderr.lines().find_map(|line| line.strip_prefix("attributes told by the gate"));
    let told: u64 = line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("{looks:#?}"));
    assert!(told > 1000, "{told} of 2560 looks");
}

#[test]
fn registrations() {
    same_as_host("registrations");
}

#[test]
fn mounts() {
    if is_root() {
        same_as_host("mounts");
    }
}

#[test]
fn mqueue() {
    same_as_host("mqueue");
}

#[test]
fn ptys() {
    same_as_host("ptys");
}

#[test]
fn sockets() {
    same_as_host("sockets");
}

#[test]
fn scheduling() {
    same_as_host("scheduling");
}

#[test]
fn promises() {
    same_as_host("promises");
}

#[test]
fn pidfds() {
    same_as_host("pidfds");
}

#[test]
fn rseq() {
    same_as_host("rseq");
}

#[test]
fn ptracing() {
    same_as_host("ptracing");
}

#[test]
fn seccomp() {
    same_as_host("seccomp");
}

#[test]
fn dispatch() {
    same_as_host("dispatch");
}

#[test]
fn unotify() {
    same_as_host("unotify");
}

#[test]
fn namespaces() {
    same_as_host("namespaces");
}

#[test]
fn pidns() {
    same_as_host("pidns");
}

#[test]
fn timens() {
    same_as_host("timens");
}

#[test]
fn sigio() {
    same_as_host("sigio");
}

#[test]
fn boost() {
    same_as_host("boost");
}

#[test]
fn oddities() {
    same_as_host("oddities");
}

/// Only inside: the host may lack the driver or lend its devices to nobody.
#[test]
fn loops() {
    let outcome = Run::in_machine(2, guest_program("loops", false), &[]).finish();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
}

/// Only inside: it changes what the whole machine promises, and counts what nobody else changes.
#[test]
fn overcommit() {
    if is_root() {
        let outcome = Run::in_machine(2, guest_program("overcommit", false), &[]).finish();
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
    }
}

/// Only inside: what the host has promised others is not known. It passes there alone, too.
#[test]
fn deadlines() {
    if is_root() {
        let outcome = Run::in_machine(2, guest_program("deadlines", false), &[]).finish();
        assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{outcome:#?}");
    }
}

/// As above.
#[test]
fn loans() {
    if is_root() {
        for cpus in [1, 2] {
            let outcome = Run::in_machine(cpus, guest_program("loans", false), &[]).finish();
            assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "ok\n"), "{cpus}: {outcome:#?}");
        }
    }
}

#[test]
fn vsyscall() {
    same_as_host("vsyscall");
}

#[test]
fn own_text() {
    same_as_host("own_text");
}

#[test]
fn futexes() {
    same_as_host("futexes");
}

#[test]
fn landlock() {
    same_as_host("landlock");
}

#[test]
fn borders() {
    if is_root() {
        same_as_host("borders");
    }
}

#[test]
fn nested() {
    same_as_host("nested");
}

#[test]
fn hidden() {
    if is_root() {
        same_as_host("hidden");
    }
}
