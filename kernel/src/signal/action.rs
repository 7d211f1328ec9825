//! What a process does about each signal. Source: sigaction(2).

use super::number::*;

/// `sa_flags`.
pub mod sa {
    pub const NOCLDSTOP: u64 = 1;
    pub const NOCLDWAIT: u64 = 2;
    pub const SIGINFO: u64 = 4;
    pub const RESTORER: u64 = 0x0400_0000;
    pub const ONSTACK: u64 = 0x0800_0000;
    pub const RESTART: u64 = 0x1000_0000;
    pub const NODEFER: u64 = 0x4000_0000;
    pub const RESETHAND: u64 = 0x8000_0000;
    /// Flags that are kept; others read back as zero, as Linux's support probe wants.
    pub const KNOWN: u64 = 0xdc00_0007;
}

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// `struct sigaction` as the kernel takes it, in its order of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Address of the handler, [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// See [`sa`].
    pub flags: u64,
    /// What the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

impl Action {
    /// From the guest's four words.
    pub fn from_words(words: [u64; 4]) -> Action {
        let [handler, flags, restorer, mask] = words;
        Action { handler, flags: flags & sa::KNOWN, restorer, mask: mask & !UNBLOCKABLE }
    }

    /// As the guest's four words.
    pub fn to_words(self) -> [u64; 4] {
        [self.handler, self.flags, self.restorer, self.mask]
    }

    /// Whether flag `flag` is set.
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Whether `signo` is thrown away at once (SIGCONT has done its work by then).
    pub fn ignores(&self, signo: Signo) -> bool {
        let by_default = matches!(default_action(signo), Default::Ignore | Default::Continue);
        self.handler == SIG_IGN || (self.handler == SIG_DFL && by_default)
    }
}

/// The actions of a process, by signal number.
#[derive(Clone, Debug)]
pub struct Actions([Action; NSIG]);

impl Actions {
    /// All default.
    pub const fn new() -> Actions {
        Actions([Action { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 }; NSIG])
    }

    /// The action of `signo`; default for what is no signal.
    pub fn get(&self, signo: Signo) -> Action {
        self.0.get((signo as usize).wrapping_sub(1)).copied().unwrap_or_default()
    }

    /// Replaces the action of `signo`.
    pub fn set(&mut self, signo: Signo, action: Action) {
        if let Some(slot) = self.0.get_mut((signo as usize).wrapping_sub(1)) {
            *slot = action;
        }
    }

    /// What execve(2) keeps: ignored signals.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// Signals that are ignored by choice (`ignored`) and that have a handler (`caught`), for /proc/PID/status.
    pub fn sets(&self) -> (SigSet, SigSet) {
        let choose = |test: fn(u64) -> bool| {
            let signos = (1..=NSIG as u32).filter(|&signo| test(self.get(signo).handler));
            signos.fold(0, |set, signo| set | bit(signo))
        };
        (choose(|handler| handler == SIG_IGN), choose(|handler| handler > SIG_IGN))
    }
}

impl core::default::Default for Actions {
    fn default() -> Self {
        Actions::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_keeps_ignored_signals_only() {
        let mut actions = Actions::new();
        actions.set(SIGINT, Action { handler: SIG_IGN, ..Action::default() });
        actions.set(SIGHUP, Action { handler: 0x1000, ..Action::default() });
        assert_eq!(actions.sets(), (bit(SIGINT), bit(SIGHUP)));
        actions.reset_handlers();
        assert_eq!(actions.sets(), (bit(SIGINT), 0));
    }

    #[test]
    fn unknown_flags_and_unblockable_signals_are_dropped() {
        let action = Action::from_words([1, 0x400 | sa::RESTART, 0, u64::MAX]);
        assert_eq!(action.flags, sa::RESTART);
        assert_eq!(action.mask & UNBLOCKABLE, 0);
    }

    #[test]
    fn default_ignored_signals_are_thrown_away_only_by_default() {
        assert!(Action::default().ignores(SIGCHLD));
        assert!(!Action { handler: 0x1000, ..Action::default() }.ignores(SIGCHLD));
        assert!(Action::default().ignores(SIGCONT));
    }
}
