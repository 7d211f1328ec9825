//! Programs that take the whole screen, driven through a pseudo-terminal, on the host and in a machine: vim, less, top, tmux.
//!
//! What a host lacks is skipped by name on standard error.

mod common;

use common::session::Session;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// A bash in an empty directory that says when it waits for a command.
const SHELL: &str = "d=$(mktemp -d /tmp/screens.XXXXXXXX); cd $d; HOME=$d; export HOME; trap 'cd /; rm -rf $d' EXIT; PS1='rea''dy> '; unset PROMPT_COMMAND";

/// Runs `drive` on the host and in a machine; it ends with the shell.
#[track_caller]
fn on_both(program: &str, drive: impl Fn(&mut Session)) {
    if !["/usr/bin", "/bin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(program).exists()) {
        eprintln!("skipped: {program} is not on this host");
        return;
    }
    let bash = ["/bin/bash", "--norc", "--noprofile", "--noediting", "-i"];
    for (side, mut session) in [("host", Session::on_host(&bash)), ("machine", Session::start(&bash))] {
        println!("on the {side}");
        session.expect("# |$ ");
        session.keys(&format!("{SHELL}\n"));
        session.expect("ready> ");
        drive(&mut session);
        session.keys("exit 3\n");
        assert_eq!(session.finish(), 3);
    }
}

/// Time for a program to take keys that it does not answer visibly.
fn moment() {
    sleep(Duration::from_millis(500));
}

#[test]
fn vim_edits_runs_commands_and_is_suspended() {
    on_both("vim", |session| {
        session.keys("vim -u NONE -N -n file\n");
        session.expect("[New]|[New File]");
        moment();
        session.keys("ione two\x1b");
        session.keys("yy3p:%s/two/2/\n");
        session.keys("Gdd");
        session.keys(":r !seq 3 | tac\n");
        session.expect("3");
        moment();
        session.keys(":w\n");
        session.expect("written");
        session.keys("\x1a");
        session.expect("Stopped");
        session.expect("ready> ");
        session.keys("cat file | tr '\\n' '|'; echo\n");
        session.expect("one 2|one 2|one 2|3|2|1|\r\n");
        session.keys("fg\n");
        session.expect("one 2");
        moment();
        session.resize(30, 100);
        moment();
        session.keys("ggdGione\x1b:wq\n");
        session.expect("4B written");
        session.expect("ready> ");
        session.keys("wc -c < file; stty size\n");
        session.expect("4\r\n30 100\r\n");
    });
}

#[test]
fn less_pages_searches_and_follows() {
    on_both("less", |session| {
        session.keys("seq 1000 > n; less n\n");
        session.expect("22\r\n23");
        session.keys(" ");
        session.expect("46");
        session.keys("/77$\n");
        session.expect("77");
        session.keys("G");
        session.expect("1000");
        session.keys("g");
        session.expect("1");
        session.keys("F");
        session.expect("Waiting for data");
        session.keys("\x03");
        moment();
        session.keys("q");
        session.expect("ready> ");
        session.keys("seq 100 | less -F | tail -1; man() { seq 500 | less; }; man\n");
        session.expect("100\r\n");
        session.expect("22");
        session.keys("q");
        session.expect("ready> ");
    });
}

#[test]
fn top_shows_processes_until_told_to_end() {
    on_both("top", |session| {
        session.keys("top -d 0.5\n");
        session.expect("Tasks:");
        session.expect("PID");
        session.expect("bash|top");
        session.keys("1");
        session.expect("Cpu0|%Cpu");
        session.keys("c");
        session.expect("PID|Tasks:");
        moment();
        session.keys("q");
        session.expect("ready> ");
        session.keys(
            "top -b -n 1 | grep -c 'load average'; sleep 77 & kill $(pgrep -f 'sleep 7[7]'); wait; echo killed\n",
        );
        session.expect("1\r\n");
        session.expect("killed\r\n");
        session.expect("ready> ");
    });
}

/// A key after tmux's prefix: typed apart, or tmux takes them for pasted text.
fn prefix(session: &Session, key: &str) {
    session.keys("\x02");
    sleep(Duration::from_millis(100));
    session.keys(key);
}

#[test]
fn tmux_holds_sessions() {
    on_both("tmux", |session| {
        session.keys(
            "export TMUX_TMPDIR=$PWD; unset TMUX; echo 'set -g assume-paste-time 0' > conf; tmux -f conf new -s one 'PS1=inner%; export PS1; exec sh'\n",
        );
        session.expect("[one]");
        moment();
        session.keys("echo in $((6*7)) $TERM\n");
        session.expect("in 42 screen|in 42 tmux");
        prefix(session, "\"");
        moment();
        session.keys("tty; echo pane $((40+2))\n");
        session.expect("pane 42");
        prefix(session, "d");
        session.expect("[detached (from session one)]");
        session.expect("ready> ");
        session.keys("tmux ls | cut -d: -f1; tmux list-panes -t one | wc -l; tmux send-keys -t one 'echo sent > sent' Enter; until test -s sent; do sleep 0.1; done; cat sent\n");
        session.expect("one\r\n2\r\nsent\r\n");
        session.keys("tmux attach -t one\n");
        session.expect("pane 42");
        session.resize(40, 120);
        moment();
        session.keys("stty size\n");
        session.expect(" 120");
        prefix(session, ":");
        moment();
        session.keys("kill-server\n");
        session.expect("ready> ");
        // The server ends a moment after its client.
        session.keys("until tmux ls 2>&1 | grep -q 'no server'; do sleep 0.1; done; echo go''ne\n");
        session.expect("gone\r\n");
    });
}
