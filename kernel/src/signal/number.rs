//! Signal numbers, sets of them, and what each does by default. Source: signal(7).

pub use umbel_abi::linux::SigSet;

/// A signal number, `1..=64`.
pub type Signo = u32;

/// Number of signals.
pub const NSIG: usize = 64;

macro_rules! signals {
    ($($name:ident = $number:literal),* $(,)?) => {
        $( #[doc = concat!("Signal ", stringify!($number), ".")] pub const $name: Signo = $number; )*

        /// Linux's name of a standard signal, `SIGRT` for the rest.
        pub fn name(signo: Signo) -> &'static str {
            match signo {
                $( $number => stringify!($name), )*
                _ => "SIGRT",
            }
        }
    };
}

signals! {
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8,
    SIGKILL = 9, SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15,
    SIGSTKFLT = 16, SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22,
    SIGURG = 23, SIGXCPU = 24, SIGXFSZ = 25, SIGVTALRM = 26, SIGPROF = 27, SIGWINCH = 28, SIGIO = 29,
    SIGPWR = 30, SIGSYS = 31,
}

/// First real-time signal: from here on signals queue.
pub const SIGRTMIN: Signo = 32;

/// The set that holds `signo` alone.
pub const fn bit(signo: Signo) -> SigSet {
    if signo == 0 || signo > NSIG as u32 { 0 } else { 1 << (signo - 1) }
}

/// Whether `signo` may be sent or handled.
pub const fn is_valid(signo: u64) -> bool {
    signo >= 1 && signo <= NSIG as u64
}

/// Signals that no mask, handler or ignoring reaches.
pub const UNBLOCKABLE: SigSet = bit(SIGKILL) | bit(SIGSTOP);
/// Signals that stop a process by default.
pub const STOP_SIGNALS: SigSet = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
/// Signals that the running instruction causes: delivered before any other.
pub const SYNCHRONOUS: SigSet = bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);

/// What a signal does that has no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    Terminate,
    /// Terminate, with a core file where the limit allows one.
    Core,
    Ignore,
    Stop,
    Continue,
}

/// The default action of `signo`.
pub const fn default_action(signo: Signo) -> Default {
    match signo {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ | SIGSYS => Default::Core,
        _ => Default::Terminate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_one_bit_a_signal() {
        assert_eq!(bit(1), 1);
        assert_eq!(bit(64), 1 << 63);
        assert_eq!(bit(0) | bit(65), 0);
        assert_eq!(name(SIGTTOU), "SIGTTOU");
    }

    #[test]
    fn defaults_are_those_of_signal_7() {
        assert_eq!(default_action(SIGURG), Default::Ignore);
        assert_eq!(default_action(SIGIO), Default::Terminate);
        assert_eq!(default_action(SIGXCPU), Default::Core);
        assert_eq!(default_action(SIGRTMIN), Default::Terminate);
        for signo in 1..=64 {
            assert_eq!(default_action(signo) == Default::Stop, STOP_SIGNALS & bit(signo) != 0);
        }
    }
}
