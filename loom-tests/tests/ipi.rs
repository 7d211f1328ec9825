//! Cross-calls and the idle doorbell: the code of `smp::ipi` over words of the model's own.

#![cfg(loom)]

use loom::thread;
use loom_tests::{model, mutant_fails};
use std::sync::Arc;
use umbel_smp::ipi::{Line, Poke};
use umbel_smp::sync::{AtomicU32, Ordering::*};

/// `VcpuState::Kernel`.
const KERNEL: u32 = 1;

struct Words {
    state: AtomicU32,
    pending: AtomicU32,
    doorbell: AtomicU32,
    /// Stands for the host signal: a bit that the receiver finds in guest mode.
    signalled: AtomicU32,
}

impl Words {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU32::new(KERNEL),
            pending: AtomicU32::new(0),
            doorbell: AtomicU32::new(0),
            signalled: AtomicU32::new(0),
        })
    }

    fn line(&self) -> Line<'_> {
        Line { state: &self.state, pending: &self.pending, doorbell: &self.doorbell }
    }
}

/// The receiver idles until both cross-calls arrived; a lost doorbell is a deadlock.
fn idle_until_called() {
    let words = Words::new();
    let senders: Vec<_> = [1, 2]
        .into_iter()
        .map(|bit| {
            let words = words.clone();
            thread::spawn(move || assert_eq!(words.line().post(bit), Poke::Nothing))
        })
        .collect();
    let mut got = 0;
    while got != 3 {
        words.line().idle(None, || false);
        got |= words.line().take();
    }
    for sender in senders {
        sender.join().unwrap();
    }
}

/// The receiver goes to guest mode once. Either it saw the cross-call before, or the sender signals.
fn guest_entry() {
    let words = Words::new();
    let sender = {
        let words = words.clone();
        thread::spawn(move || {
            if words.line().post(1) == Poke::Signal {
                words.signalled.store(1, Relaxed);
            }
        })
    };
    let went = words.line().enter_guest();
    sender.join().unwrap();
    let signalled = words.signalled.load(Relaxed) == 1;
    assert!(!went || signalled, "claim: no cross-call waits in guest mode");
}

/// Work that is queued without a cross-call is seen by `busy`, because its producer then looks at the state.
fn work_before_idle() {
    let words = Words::new();
    let queued = Arc::new(AtomicU32::new(0));
    let producer = {
        let (words, queued) = (words.clone(), queued.clone());
        thread::spawn(move || {
            queued.store(1, Relaxed);
            let _ = words.line().post(1);
        })
    };
    while queued.load(Relaxed) == 0 {
        words.line().idle(None, || queued.load(Relaxed) == 1);
        let _ = words.line().take();
    }
    producer.join().unwrap();
}

#[test]
fn an_idle_cpu_misses_no_cross_call() {
    model(idle_until_called);
}

#[test]
fn a_cpu_enters_guest_mode_only_with_an_empty_mailbox_or_a_signal_coming() {
    model(guest_entry);
}

#[test]
fn work_queued_before_idle_is_seen() {
    model(work_before_idle);
}

#[test]
fn mutant_sender_without_fence_loses_a_doorbell() {
    mutant_fails("ipi-sender-unfenced", idle_until_called);
}

#[test]
fn mutant_receiver_without_fence_loses_a_doorbell() {
    mutant_fails("ipi-receiver-unfenced", idle_until_called);
}

#[test]
fn mutant_receiver_without_fence_misses_a_cross_call_in_guest_mode() {
    mutant_fails("ipi-receiver-unfenced", guest_entry);
}

#[test]
fn mutant_receiver_without_fence_misses_work_queued_before_idle() {
    mutant_fails("ipi-receiver-unfenced", work_before_idle);
}
