//! The host's own coreutils, findutils, grep, sed, awk, tar, gzip and xargs, unmodified: same output and status.

mod common;

use common::script_same_as_host;

#[track_caller]
fn same(script: &str) {
    // Each script starts in an empty directory of its own and leaves nothing.
    let script = format!(
        "LC_ALL=C; export LC_ALL; d=$(mktemp -d /tmp/t.XXXXXXXX); cd $d; {{ {script}\n}} 2>&1; cd /; rm -rf $d"
    );
    for cpus in [1, 2, 4, 16] {
        script_same_as_host(cpus, &script);
    }
}

#[test]
fn text_tools() {
    same(
        "seq 20 > n; head -n3 n; tail -n2 n; tac n | head -1; nl n | tail -1; paste -sd+ n | tee sum; cut -c1-5 sum; fold -w7 sum; expand n | cksum; od -c sum | head -2; md5sum n; sha256sum n; wc n; shuf -i 1-5 | sort; join n n | tail -1; comm -12 n n | wc -l; uniq -c <(printf 'a\\na\\nb\\n'); tr -d 1 < n | head -2; printf '%s\\n' c a b | sort -u; numfmt --to=iec 123456789; base64 sum; basename /a/b.c .c; dirname /a/b; factor 360; expr 3 + 4; seq -s, 5; split -l7 n part; ls; csplit -s n 5 10; ls; tsort <<< 'a b b c'; ptx <<< 'x y' | head -1; pr -t -2 n | head -2; sum n; b2sum n; fmt <<< 'a b'; unexpand -a <<< '        x' | od -c; truncate -s 10 n; wc -c n; dd if=n bs=4 count=2 status=none | od -c",
    );
}

#[test]
fn file_tools() {
    same(
        "mkdir -p a/b/c; touch -d '2020-01-02 03:04:05 UTC' a/f; stat -c '%n %s %a %F %Y' a/f; cp -a a x; ls -R x | head -20; ls -l --time-style=+%s x/f | cut -c1-10; mv x y; ls y; ln y/f hard; stat -c %h hard; ln -s y soft; ls -l soft | sed 's/.*soft/soft/'; readlink -f soft/b | sed 's,.*/,,'; realpath -m q/../z | sed 's,.*/,,'; chmod u+s,g-r hard; stat -c %a hard; install -m 640 hard inst; stat -c %a inst; rmdir a/b/c a/b; rm -r y; ls; mkfifo p; stat -c %F p; du -s --apparent-size . | wc -l; df . | wc -l; touch 'sp ace' $'new\\nline'; ls -b; rm -i hard < /dev/null; echo; mktemp -u t.XXX | wc -c; link inst other; unlink other; ls; test inst -ef inst && echo same; chmod 000 inst; ls -l inst | cut -c1-10; sync; dircolors | wc -l; vdir -d . | wc -l; shred -u inst; ls",
    );
}

#[test]
fn errors_are_the_hosts_errors() {
    same(
        "cat none; echo $?; mkdir /proc/x; echo $?; rmdir /; echo $?; cp a b; cd none; echo $?; rm none; ls none; echo $?; mkdir d; rmdir d/; touch f; cat f/g; echo $?; mkdir f; ln -s l l; cat l; echo $?; mv d none/x; touch $(printf 'x%.0s' $(seq 300)); echo $?; ./f; echo $?; chmod +x f; ./f; echo $?; /; echo $?; echo x > /dev/full; echo $?; kill 99999999; false; echo $?",
    );
}

#[test]
fn find_grep_sed_awk() {
    same(
        "mkdir -p s/t; for i in 1 2 3; do echo \"line $i foo\" > s/f$i; done; echo bar > s/t/g; find . -type f | sort; find s -name 'f[12]' -exec cat {} +; find . -newermt @0 -type f | wc -l; grep -rn foo s | sort; grep -c o s/f1; grep -E '(bar|none)' -l -r .; grep -q none s/f1; echo $?; sed -n 's/line \\([0-9]\\)/<\\1>/p' s/f*; sed -i s/foo/FOO/ s/f1; cat s/f1; awk '{ n += $2; print NR\": \"$NF } END { print n }' s/f1 s/f2 s/f3; awk 'BEGIN { while ((\"echo from a pipe\" | getline l) > 0) print l; printf \"%5.2f|%s\\n\", 3.14159, toupper(\"x\"); system(\"exit 3\") }'; find . -empty; find s -type f -delete; find . | sort",
    );
}

#[test]
fn tar_gzip_and_friends() {
    same(
        "mkdir -p t/u; seq 5000 > t/n; head -c 100000 /dev/zero > t/u/z; ln -s n t/l; tar cf a.tar t; tar tf a.tar | sort; gzip -k a.tar; gzip -l a.tar.gz | tail -1 | awk '{print $2}'; mkdir x; tar xzf a.tar.gz -C x; diff -r t x/t && echo equal; gzip -dc a.tar.gz | cmp - a.tar && echo same; gzip -t a.tar.gz; echo $?; head -c 1000 a.tar.gz > cut.gz; gzip -t cut.gz; echo $?; zcat a.tar.gz | tar tf - | wc -l",
    );
}

#[test]
fn xargs_in_parallel() {
    same(
        "seq 60 | xargs -P 4 -n 5 sh -c 'echo $#' _ | sort | uniq -c; seq 8 | xargs -P 8 -I{} sh -c 'sleep 0.01; echo {}' | sort -n; echo a b | xargs -n1 false; echo $?; printf 'a\\0b c\\0' | xargs -0 -n1 echo",
    );
}

#[test]
fn identity_and_time() {
    same(
        "id -u; id -g; whoami; groups; echo $(($(nice -n 5 nice) - $(nice))); env -i A=1 env; printenv HOME >/dev/null; echo $?; timeout 0.05 sleep 5; echo $?; { timeout -s KILL 0.05 sleep 5; } 2>/dev/null; echo $?; date -u -d @0; sleep 0; test $(date +%s) -gt 1600000000; echo $?; nohup echo hup 2>/dev/null; stdbuf -o0 echo x; getconf PAGESIZE; uname -s -m; arch; tty; hostid | wc -c; pathchk -p a; logname >/dev/null 2>&1 || true; chroot / /bin/echo rooted",
    );
}

#[test]
fn large_data_through_pipes() {
    same(
        "head -c 20000000 /dev/zero | cksum; seq 200000 | sort -R | sort -n | md5sum; yes | head -n 100000 | cksum; head -c 3000000 /dev/zero | tr '\\0' x | fold -w 99 | tail -1 | wc -c; seq 300000 | gzip -1 | gzip -d | md5sum",
    );
}
