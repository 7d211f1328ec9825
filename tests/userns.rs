//! User namespaces. Not every host's kernel has them, so these do not compare with the host.

mod common;

use common::Run;

/// What `script` prints in a machine, run by an ordinary user.
fn as_user(script: &str) -> String {
    let out = Run::umbel(&["run", "--cpus", "2", "--user", "1000:1000", "--", "/bin/sh", "-c", script]).finish();
    assert_eq!(out.status, 0, "{out:?}");
    out.stdout
}

#[test]
fn a_user_is_root_of_a_namespace_and_nowhere_else() {
    let out = as_user(
        "unshare -Ur sh -c 'id -u; id -g; stat -c %u:%g /etc; touch /tmp/mine; stat -c %u /tmp/mine; cat /proc/self/setgroups;
         cat /proc/self/uid_map; hostname other 2>/dev/null || echo refused; touch /etc/x 2>/dev/null || echo refused'
         stat -c %u /tmp/mine",
    );
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    let map = "0       1000          1";
    assert_eq!(lines, ["0", "0", "65534:65534", "0", "deny", map, "refused", "refused", "1000"], "{out}");
}

#[test]
fn names_belong_to_the_namespace_that_owns_them() {
    assert_eq!(as_user("unshare -Uru sh -c 'hostname inner; hostname'; hostname"), "inner\numbel\n");
}

#[test]
fn maps_are_written_once_and_by_the_right_ones() {
    let out = as_user(
        "unshare -U sleep 900 & p=$!; until [ $(readlink /proc/$p/ns/user) != $(readlink /proc/self/ns/user) ]; do :; done
         put() { echo \"$1\" 2>/dev/null >/proc/$p/$2 && echo yes || echo no; }
         put '0 0 1' uid_map; put '0 1000 2' uid_map; put '0 1000 1' gid_map; put '5 1000 1' uid_map
         put '6 1000 1' uid_map; put deny setgroups; put '0 1000 1' gid_map; put allow setgroups
         cat /proc/$p/uid_map; kill $p",
    );
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    assert_eq!(lines, ["no", "no", "no", "yes", "no", "yes", "yes", "no", "5       1000          1"], "{out}");
}

#[test]
fn mounts_of_ones_own_are_for_everybody_who_is_root_somewhere() {
    let out = as_user(
        "mkdir /tmp/m; unshare -Urm sh -c 'mount -t tmpfs none /tmp/m && echo x >/tmp/m/f && cat /tmp/m/f
         mkdir /tmp/m/old; mount --bind / /tmp/m/old 2>/dev/null || echo whole
         mount --rbind / /tmp/m/old && ls /tmp/m/old/bin/sh; chroot /tmp/m/old /bin/echo in'; ls /tmp/m
         mount -t tmpfs none /tmp/m 2>/dev/null || echo refused",
    );
    assert_eq!(out, "x\nwhole\n/tmp/m/old/bin/sh\nin\nrefused\n");
}

#[test]
fn bubblewrap_builds_sandboxes_for_everybody() {
    if !std::path::Path::new("/usr/bin/bwrap").exists() {
        eprintln!("skipped: bubblewrap: it is not on this host");
        return;
    }
    let script = "bwrap --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
         --proc /proc --dev /dev --tmpfs /tmp --unshare-all --die-with-parent --new-session --cap-drop ALL sh -c '
             echo x >/tmp/f; cat /tmp/f; id -u; echo $(ls /); grep -c CapEff:.0000000000000000 /proc/self/status
             grep -c : /proc/net/dev; echo >/dev/null && echo open; touch /usr/x 2>/dev/null || echo refused
             echo 1 2>/dev/null >/proc/sys/kernel/threads-max || echo refused'";
    for user in ["0:0", "1000:1000"] {
        let out = Run::umbel(&["run", "--cpus", "2", "--user", user, "--", "/bin/sh", "-c", script]).finish();
        let id = user.split(':').next().unwrap_or_default();
        let lines: Vec<_> = out.stdout.lines().collect();
        let wanted = ["x", id, "bin dev lib lib64 proc tmp usr", "1", "1", "open", "refused", "refused"];
        assert_eq!((out.status, &lines[..]), (0, &wanted[..]), "{out:?}");
    }
}
