//! /proc, /sys, /dev: what programs read there.

mod common;

use common::{Run, is_root, script_same_as_host};

/// What a script prints in a machine of `cpus` virtual CPUs and 256 MiB.
fn inside(cpus: u32, script: &str) -> String {
    let cpus = cpus.to_string();
    let run = Run::umbel(&["run", "--cpus", &cpus, "--mem", "256M", "--", "/bin/bash", "-c", script]).finish();
    assert_eq!(run.status, 0, "{script}: {run:#?}");
    run.stdout
}

#[test]
fn processors_and_memory_are_those_of_the_machine() {
    for cpus in [1, 3] {
        let script = "grep -c ^processor /proc/cpuinfo; nproc; getconf _NPROCESSORS_ONLN; lscpu -p=CPU | grep -vc '#'";
        assert_eq!(inside(cpus, script), format!("{cpus}\n").repeat(4));
    }
    assert_eq!(
        inside(2, "cat /sys/devices/system/cpu/online; ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l"),
        "0-1\n2\n"
    );
    assert_eq!(
        inside(1, "head -1 /proc/meminfo | tr -s ' '; free -m | awk '/^Mem/ {print $2}'"),
        "MemTotal: 262144 kB\n256\n"
    );
}

#[test]
fn a_process_sees_itself() {
    let script = "echo $$; cut -d' ' -f1,2,4,5,6 /proc/$$/stat; sed -n 's/^PPid:\t//p' /proc/self/status; \
                  tr '\\0' ' ' < /proc/$$/cmdline | cut -c-14; readlink /proc/$$/exe; readlink /proc/$$/cwd; ls /proc/self/task | wc -l";
    let shown = inside(2, script);
    let lines: Vec<&str> = shown.lines().collect();
    let pid = lines[0];
    assert_eq!(lines[1], format!("{pid} (bash) 1 {pid} {pid}"));
    assert_eq!(lines[2], pid);
    assert_eq!(lines[3], "/bin/bash -c e");
    assert!(lines[4].ends_with("bash"), "{shown}");
    assert!(lines[5].starts_with('/'), "{shown}");
    assert_eq!(lines[6], "1");
}

#[test]
fn ps_shows_the_tree_with_states_and_terminals() {
    let shown = inside(
        2,
        "sleep 500 & until grep -q 'sleep) S' /proc/$!/stat; do :; done; kill -STOP $!; \
           until grep -q ') T' /proc/$!/stat; do :; done; ps -o pid,ppid,stat,tty,comm -e; kill -9 $!",
    );
    assert!(shown.contains("init"), "{shown}");
    let stopped = shown.lines().find(|line| line.contains("sleep")).unwrap_or_else(|| panic!("{shown}"));
    assert!(stopped.contains(" T") && stopped.contains('?'), "{shown}");
    assert!(shown.lines().any(|line| line.contains(" R") && line.ends_with("ps")), "{shown}");
}

#[test]
fn zombies_are_shown_as_such() {
    let script = "sh -c 'sleep 0.1 & exec sleep 500' & until ps -o stat --ppid $! | grep -q Z; do :; done; \
                  ps -o stat,comm --ppid $! | tail -1; kill $!";
    assert_eq!(inside(2, script), "Z    sleep\n");
}

#[test]
fn open_files_are_links() {
    let script = "exec 5</etc/passwd; readlink /proc/$$/fd/5; grep -c pos /proc/$$/fdinfo/5; head -c 4 <&5; echo; \
                  grep pos /proc/$$/fdinfo/5; ls /proc/self/fd | head -3 | tr '\\n' ' '";
    let shown = inside(1, script);
    assert!(shown.starts_with("/etc/passwd\n1\nroot\npos:\t4\n0 1 2 "), "{shown}");
}

#[test]
fn maps_name_files_heap_and_stack() {
    let script = "m=$(cat /proc/self/maps); echo \"$m\" | grep -cE '^[0-9a-f]{8,16}-[0-9a-f]{8,16} [r-][w-][x-][ps] \
                  [0-9a-f]{8} [0-9a-f]{2,}:[0-9a-f]{2,} [0-9]+ '; echo \"$m\" | wc -l; \
                  echo \"$m\" | grep -oE '(heap|stack|libc[.]so[.]6)' | sort -u | tr '\\n' ' '";
    let shown = inside(1, script);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], lines[1], "{shown}");
    assert_eq!(lines[2], "heap libc.so.6 stack ");
}

#[test]
fn devices_do_what_their_names_say() {
    for script in [
        "head -c 5 /dev/zero | od -An -tx1; cat /dev/null; echo x > /dev/null; echo $?",
        "echo x > /dev/full; echo $?",
        "head -c 100000 /dev/urandom | wc -c; a=$(head -c 16 /dev/urandom | od -An -tx8); b=$(head -c 16 /dev/random | od -An -tx8); [ \"$a\" != \"$b\" ] && echo differ",
        "stat -c '%F %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
    ] {
        script_same_as_host(2, script);
    }
}

#[test]
fn settings_can_be_read() {
    let script = "cat /proc/sys/kernel/ostype; uname -r | diff - /proc/sys/kernel/osrelease && echo same; \
                  wc -c < /proc/sys/kernel/random/uuid; [ $(cat /proc/sys/kernel/random/boot_id) = $(cat /proc/sys/kernel/random/boot_id) ] && echo kept";
    assert_eq!(inside(1, script), "Linux\nsame\n37\nkept\n");
}

#[test]
fn the_kernel_log_is_readable_and_writable() {
    if !is_root() {
        return;
    }
    let shown = inside(1, "echo '<4>from a test' > /dev/kmsg; dmesg | grep -c 'virtual CPUs'; dmesg | tail -1");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].ends_with("from a test"), "{shown}");
}

#[test]
fn strangers_secrets_stay_hidden() {
    if !is_root() {
        return;
    }
    let script = "setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'cat /proc/$PPID/environ || cat /proc/$PPID/maps || ls /proc/$PPID/fd || echo refused' 2>/dev/null";
    assert_eq!(inside(1, script), "refused\n");
}

#[test]
fn oom_scores_are_kept_inherited_and_lowered_by_root_alone() {
    let script = "exec 2>/dev/null; cd /proc/$$; echo 500 > oom_score_adj; cat oom_score_adj oom_adj; (cat /proc/self/oom_score_adj); \
                  echo -1000 > oom_score_adj; cat oom_score_adj oom_adj; echo 15 > oom_adj; cat oom_score_adj; echo 300 > oom_score_adj; \
                  echo 1001 > oom_score_adj; cat oom_score_adj; \
                  setpriv --reuid 1000 --clear-groups sh -c 'cd /proc/$$; for i in 400 300 299; do echo $i > oom_score_adj; done; cat oom_score_adj'";
    assert_eq!(inside(2, script), "500\n8\n500\n-1000\n-17\n1000\n300\n300\n");
}

#[test]
fn who_waits_is_shown_asleep_at_once() {
    let script = "for i in {1..300}; do sleep 500 & while ! grep -q ') S' /proc/$!/stat; do :; done; kill $!; wait; done 2>/dev/null; echo done";
    assert_eq!(inside(2, script), "done\n");
}

#[test]
fn build_options_are_a_gzip_file() {
    assert_eq!(inside(1, "zcat /proc/config.gz | grep -x CONFIG_EPOLL=y"), "CONFIG_EPOLL=y\n");
}

#[test]
fn a_name_space_has_no_more_mounts_than_it_may() {
    let script = "m=/proc/sys/fs/mount-max; cat $m; mkdir /tmp/m /tmp/n; mount --make-rprivate /; \
                  have=$(wc -l < /proc/self/mountinfo); echo 50 > $m; n=0; \
                  while mount -t tmpfs x /tmp/m 2>/tmp/refused; do n=$((n+1)); done; grep -o 'No space left' /tmp/refused; \
                  [ $n -le 50 ] && [ $((n+have)) -ge 45 ] && echo bounded; mount --bind /tmp /tmp/n 2>/dev/null || echo full; \
                  mount --move /tmp/m /tmp/n && umount /tmp/n && mount -t tmpfs x /tmp/m && echo again; \
                  unshare -m wc -l < /proc/self/mountinfo | grep -c .; (echo 0 > $m) 2>/dev/null || echo invalid; cat $m; \
                  echo 51 > $m; mount -t tmpfs x /tmp/m && ! mount -t tmpfs x /tmp/m 2>/dev/null && echo one";
    assert_eq!(inside(2, script), "100000\nNo space left\nbounded\nfull\nagain\n1\ninvalid\n50\none\n");
}

#[test]
fn locks_and_counts_of_reads_are_shown() {
    let script = "f=/tmp/locked; exec 9>$f; flock 9; grep -o 'FLOCK  ADVISORY  WRITE' /proc/$$/fdinfo/9 /proc/locks; \
                  grep flags /proc/$$/fdinfo/9; flock -u 9; wc -l < /proc/locks; \
                  a=$(sed -n 's/rchar: //p' /proc/$$/io); read line < /etc/passwd; b=$(sed -n 's/rchar: //p' /proc/$$/io); \
                  [ $b -gt $a ] && echo counted; head -c 4000000 /dev/zero > /tmp/big; grep -c 'Shmem: *39[0-9][0-9]' /proc/meminfo";
    let lock = "FLOCK  ADVISORY  WRITE";
    let wanted = format!("/proc/2/fdinfo/9:{lock}\n/proc/locks:{lock}\nflags:\t0100001\n0\ncounted\n1\n");
    assert_eq!(inside(2, script), wanted);
}

#[test]
fn what_virtual_cpus_did_is_counted() {
    // Switches and time are of each virtual CPU; ticks come where two take turns.
    let script = "look() { cat /proc/schedstat /proc/interrupts; grep ctxt /proc/stat; }
                  look; (while :; do :; done) & (while :; do :; done) & (while :; do :; done) & sleep 0.5; look; kill $(jobs -p)";
    let shown = inside(2, script);
    let sums = |name: &str| -> Vec<u64> {
        let lines = shown.lines().filter_map(|line| line.strip_prefix(name)).map(|line| line.split_whitespace());
        lines.map(|words| words.map_while(|word| word.parse::<u64>().ok()).sum()).collect()
    };
    for name in ["cpu0", "cpu1", "LOC:", "ctxt"] {
        let counts = sums(name);
        assert!(counts.len() == 2 && counts[0] < counts[1], "{name}: {shown}");
    }
    assert_eq!(sums("RES:").len(), 2, "{shown}");
}

#[test]
fn the_sixty_fifth_virtual_cpu_has_counts_of_its_own() {
    let script = "taskset -c 64 true; taskset -c 0 bash -c 'for i in {1..200}; do sleep 0; done'; \
                  sed -En 's/^cpu(0|64) .* //p' /proc/schedstat";
    let shown = inside(66, script);
    let switches: Vec<u64> = shown.lines().filter_map(|line| line.parse().ok()).collect();
    let &[zeroth, later] = &switches[..] else { panic!("{shown}") };
    assert!(zeroth >= 200 && (1..zeroth / 2).contains(&later), "{shown}");
}
