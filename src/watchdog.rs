//! Watches for virtual CPUs that hang in the kernel, and says where: a thread that looks now and then.
//!
//! A virtual CPU hangs when it is in kernel mode at look after look and has not passed a point at which it looks for
//! interrupts ([`VcpuShared::progress`]). Then all that are online are asked where they are, by a signal that they never mask;
//! those that run guest code or idle need not be asked. Names are put to the addresses here, because the kernel does not know
//! them. The text goes to the kernel's log through a virtual CPU that does not hang, and to standard error with `--log`.
//!
//! One that the host does not run stands still, too: what it waited for a host CPU is said beside it.
//!
//! At each look it also looks at the canary ([`crate::canary`]): a machine whose kernel memory was written to is ended.

use crate::canary::Canary;
use crate::manage::status;
use crate::os::{futex, shared, signal};
use crate::out;
use crate::{control, image, report};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::thread;
use std::time::Duration;
use umbel_abi::machine::{Control, Mailbox, VcpuShared, VcpuState};

/// Looks within the limit.
const LOOKS: u32 = 5;
/// Time between looks where there is no limit: whether one was set.
const UNLIMITED: Duration = Duration::from_secs(1);
/// A virtual CPU that moves within this time does not hang and need not be asked.
const MOVES: Duration = Duration::from_millis(20);
/// How often one that was asked is looked at for its answer, a millisecond apart: while the host runs nobody, nobody looks.
const ANSWER_LOOKS: u32 = 1000;

/// What a virtual CPU was seen to do.
#[derive(Clone, Copy, Default)]
struct Seen {
    progress: u32,
    /// Looks in a row at which it was in the kernel and had not moved.
    still: u32,
    reported: bool,
}

/// Starts the thread.
pub fn start(control: &'static Control, canary: Arc<Canary>) -> std::io::Result<()> {
    thread::Builder::new().name("watchdog".into()).spawn(move || watch(control, &canary)).map(drop)
}

fn watch(control: &'static Control, canary: &Canary) {
    let mut seen = vec![Seen::default(); control.boot.possible as usize];
    loop {
        let limit = Duration::from_secs(control.watch.limit_s.load(Relaxed).into());
        let pause = if limit.is_zero() { UNLIMITED } else { limit / LOOKS };
        futex::wait_for(&control.watch.wanted, 0, pause);
        if let Some(damage) = canary.damage() {
            return control::lost(control, &damage);
        }
        if control.watch.wanted.swap(0, SeqCst) != 0 {
            publish(control, &backtraces(control));
        } else if !limit.is_zero() {
            look(control, &mut seen, limit);
        }
    }
}

/// One look at all.
fn look(control: &Control, seen: &mut [Seen], limit: Duration) {
    let mut hung = Vec::new();
    for (cpu, (vcpu, seen)) in control.vcpus.iter().zip(seen).enumerate() {
        let progress = vcpu.progress.load(Relaxed);
        if vcpu.state.load(Acquire) != VcpuState::Kernel as u32 || progress != seen.progress {
            *seen = Seen { progress, ..Seen::default() };
            continue;
        }
        seen.still += 1;
        if seen.still >= LOOKS && !seen.reported {
            seen.reported = true;
            hung.push(cpu);
        }
    }
    if hung.is_empty() {
        return;
    }
    let waited = status::cpus(control);
    let mut text = String::new();
    for cpu in hung {
        let stolen = waited.get(cpu).map_or(0.0, |state| state.wait_ns as f64 / 1e9);
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "watchdog: BUG: hard lockup - CPU#{cpu} stuck for {}s in the kernel ({stolen:.1}s in all waiting for a host CPU)",
            limit.as_secs()
        );
    }
    text += &backtraces(control);
    publish(control, &text);
}

/// Where all virtual CPUs are that are online.
fn backtraces(control: &Control) -> String {
    let mut text = String::new();
    for (cpu, vcpu) in control.vcpus[..control.boot.possible as usize].iter().enumerate() {
        let state = vcpu.state.load(Acquire);
        let place = match state {
            _ if state == VcpuState::Offline as u32 => continue,
            _ if state == VcpuState::Guest as u32 => "in guest code\n".into(),
            _ if state == VcpuState::Idle as u32 => "idle\n".into(),
            _ if moves(vcpu) => "in the kernel, gets on\n".into(),
            _ => match ask(control, cpu as u32, vcpu) {
                Some(trace) => format!("in the kernel, stands still:\n{}", report::backtrace(image::KERNEL, &trace)),
                None => "in the kernel, does not answer: the host does not run it\n".into(),
            },
        };
        // Writing to a String does not fail.
        let _ = write!(text, "CPU {cpu}: {place}");
    }
    text
}

/// Whether it does something else within a while.
fn moves(vcpu: &VcpuShared) -> bool {
    let look = || (vcpu.state.load(Acquire), vcpu.progress.load(Relaxed));
    let before = look();
    thread::sleep(MOVES);
    look() != before
}

/// Its instruction pointer and return addresses.
fn ask(control: &Control, cpu: u32, vcpu: &VcpuShared) -> Option<Vec<u64>> {
    let watch = &control.watch;
    watch.asked.store(cpu + 1, SeqCst);
    signal::ask_where(vcpu.tid.load(Acquire) as i32);
    let mut looks = 0;
    while watch.asked.load(SeqCst) != 0 {
        if looks == ANSWER_LOOKS {
            watch.asked.store(0, SeqCst);
            return None;
        }
        looks += 1;
        thread::sleep(Duration::from_millis(1));
    }
    Some(watch.trace.iter().map(|address| address.load(Relaxed)).take_while(|address| *address != 0).collect())
}

/// Has a virtual CPU that gets on log the text.
fn publish(control: &Control, text: &str) {
    let watch = &control.watch;
    if watch.text_len.load(Acquire) != 0 {
        // The last text is not logged yet: nobody gets on.
        out::say(text);
        return;
    }
    let len = shared::write_cells(&watch.text, text.as_bytes());
    watch.text_len.store(len as u32, Release);
    let all = control.vcpus[..control.boot.possible as usize].iter().enumerate();
    let states = all.map(|(cpu, vcpu)| (cpu as u32, vcpu.state.load(Acquire)));
    let (free, stuck): (Vec<_>, Vec<_>) = states
        .filter(|(_, state)| *state != VcpuState::Offline as u32)
        .partition(|(_, state)| *state != VcpuState::Kernel as u32);
    if let Some((cpu, _)) = free.first().or(stuck.first()) {
        control::interrupt(control, *cpu, Mailbox::DEVICE);
    }
}
