//! Watches a running machine: its end, its signals, its last words.

use crate::canary::Canary;
use crate::console::{Console, Interrupt};
use crate::control;
use crate::image;
use crate::os::futex;
use crate::out;
use crate::report;
use crate::stats;
use crate::watchdog;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::Duration;
use thiserror::Error;
use umbel_abi::machine::{BootInfo, Control, ControlState, Mailbox};

/// How long an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a machine cannot be watched.
#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error("cannot set up the supervisor: {0}")]
    Host(#[from] nix::Error),
    #[error("cannot start the console: {0}")]
    Console(#[from] io::Error),
}

/// Signals that the supervisor's thread takes.
const SIGNALS: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
];

/// How a machine ended.
pub struct End {
    /// Exit status.
    pub status: u8,
    /// What `--stats` and `--lockstat` say.
    pub report: String,
}

/// A machine about to run.
pub struct Supervisor {
    control: &'static Control,
    canary: Arc<Canary>,
    signals: SigSet,
}

impl Supervisor {
    /// Before the zygote is forked: signals wait for us, orphans come to us.
    pub fn prepare(control: &'static Control, canary: Canary) -> Result<Supervisor, SupervisorError> {
        let signals = SIGNALS.into_iter().collect::<SigSet>();
        signals.thread_block()?;
        prctl::set_child_subreaper(true)?;
        Ok(Supervisor { control, canary: Arc::new(canary), signals })
    }

    /// Starts the devices and waits for the end; returns how it ended.
    pub fn run(self, zygote: i32) -> Result<End, SupervisorError> {
        let control = self.control;
        let interrupt: Interrupt = Arc::new(move || control::interrupt(control, 0, Mailbox::DEVICE));
        let console = Arc::new(Console::start(control, interrupt)?);
        let watcher = Watcher { control, zygote, console: Arc::downgrade(&console), signals: self.signals };
        thread::Builder::new().name("signals".into()).spawn(move || watcher.watch())?;
        watchdog::start(control, Arc::clone(&self.canary))?;
        let state = wait_for_end(control);
        let huge = if control.boot.options & BootInfo::STATS != 0 { stats::huge_pages(control) } else { String::new() };
        end_all(zygote);
        if let Some(console) = Arc::into_inner(console) {
            console.finish();
        }
        let damage = self.canary.damage();
        let mut end = last_words(control, state, damage);
        end.report += &huge;
        Ok(end)
    }
}

fn wait_for_end(control: &Control) -> u32 {
    loop {
        let state = control.state.load(Acquire);
        if state >= ControlState::Finished as u32 {
            return state;
        }
        futex::wait(&control.state, state);
    }
}

/// Ends the zygote, by which all parents and slots die, and waits until the last is gone.
fn end_all(zygote: i32) {
    let _ = kill(Pid::from_raw(zygote), Signal::SIGKILL);
    while !matches!(waitpid(None, None), Err(nix::Error::ECHILD)) {}
}

fn last_words(control: &Control, state: u32, damage: Option<String>) -> End {
    let report = control::report(control);
    if let Some(damage) = damage {
        out::say(&format!("umbel: kernel panic: {damage}\n"));
        return End { status: report::STATUS_PANIC, report: String::new() };
    }
    if state == ControlState::Panicked as u32 {
        let backtrace = report::backtrace(image::KERNEL, &control::backtrace(control));
        out::say(&format!("umbel: kernel panic: {report}\n{backtrace}"));
        return End { status: report::STATUS_PANIC, report: String::new() };
    }
    End { status: control.exit_status.load(Acquire) as u8, report }
}

/// Takes the process's signals on a thread of its own.
struct Watcher {
    control: &'static Control,
    zygote: i32,
    console: std::sync::Weak<Console>,
    signals: SigSet,
}

impl Watcher {
    fn watch(self) {
        while let Ok(signal) = self.signals.wait() {
            match signal {
                Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP | Signal::SIGQUIT => self.shut_down(signal),
                Signal::SIGTSTP => self.suspend(),
                Signal::SIGCONT => self.resume(),
                Signal::SIGWINCH => {
                    if let Some(console) = self.console.upgrade() {
                        console.publish_window();
                    }
                }
                Signal::SIGCHLD => self.look_at_zygote(),
                _ => {}
            }
        }
    }

    /// Asks the guest to end; after a while it has no choice.
    fn shut_down(&self, signal: Signal) {
        let control = self.control;
        if control.shutdown.swap(1, Release) != 0 {
            return;
        }
        control::interrupt(control, 0, Mailbox::DEVICE);
        let _ = thread::Builder::new().name("patience".into()).spawn(move || {
            thread::sleep(PATIENCE);
            control.exit_status.store(128 + signal as i32, Release);
            control::finish(control, ControlState::Finished);
        });
    }

    fn suspend(&self) {
        if let Some(console) = self.console.upgrade() {
            console.suspend();
        }
        self.signal_slots(Signal::SIGSTOP);
        let _ = raise(Signal::SIGSTOP);
    }

    fn resume(&self) {
        self.signal_slots(Signal::SIGCONT);
        if let Some(console) = self.console.upgrade() {
            console.resume();
        }
    }

    /// The slots of a virtual CPU are the process group of their parent.
    fn signal_slots(&self, signal: Signal) {
        for vcpu in &self.control.vcpus[..self.control.boot.possible as usize] {
            let parent = vcpu.parent_pid.load(Acquire) as i32;
            if parent > 1 {
                let _ = kill(Pid::from_raw(-parent), signal);
            }
        }
    }

    /// The zygote lives as long as the machine. If it is gone before the end, it said why, or somebody killed it.
    fn look_at_zygote(&self) {
        let ended = waitpid(Pid::from_raw(self.zygote), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        if matches!(ended, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))) {
            control::lost(self.control, "the processes of the machine were killed");
        }
    }
}
