//! Options of the level TCP. Source: tcp(7).
//!
//! On a loopback device nothing is delayed or lost: most options are kept and given back, and change nothing else.

use super::{Phase, TcpSocket};
use crate::net::option::{bytes, number, words};
use crate::net::sysctl::{self, Settings};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering::*};

/// `TCP_*`.
pub(super) mod tcp {
    pub const NODELAY: u32 = 1;
    pub const MAXSEG: u32 = 2;
    pub const CORK: u32 = 3;
    pub const KEEPIDLE: u32 = 4;
    pub const KEEPINTVL: u32 = 5;
    pub const KEEPCNT: u32 = 6;
    pub const LINGER2: u32 = 8;
    pub const DEFER_ACCEPT: u32 = 9;
    pub const WINDOW_CLAMP: u32 = 10;
    pub const INFO: u32 = 11;
    pub const USER_TIMEOUT: u32 = 18;
    pub const CONGESTION: u32 = 13;
    pub const MD5SIG: u32 = 14;
    pub const ULP: u32 = 31;
    pub const FASTOPEN_CONNECT: u32 = 30;
    pub const FASTOPEN: u32 = 23;
    pub const REPAIR: u32 = 19;
    pub const ZEROCOPY_RECEIVE: u32 = 35;
}

/// Numbers: default, least, most. By place in [`Options`].
const NUMBERS: &[(u32, i32, i32, i32)] = &[
    (tcp::NODELAY, 0, 0, 1),
    (tcp::CORK, 0, 0, 1),
    // KEEPIDLE, KEEPINTVL, KEEPCNT, SYNCNT
    (tcp::KEEPIDLE, 7200, 1, 32_767),
    (tcp::KEEPINTVL, 75, 1, 32_767),
    (tcp::KEEPCNT, 9, 1, 127),
    (7, 6, 1, 127),
    // LINGER2, DEFER_ACCEPT, WINDOW_CLAMP, QUICKACK
    (tcp::LINGER2, 60, i32::MIN, i32::MAX),
    (tcp::DEFER_ACCEPT, 0, i32::MIN, i32::MAX),
    (tcp::WINDOW_CLAMP, 0, 0, i32::MAX),
    (12, 1, i32::MIN, i32::MAX),
    // THIN_LINEAR_TIMEOUTS, THIN_DUPACK
    (16, 0, 0, 1),
    (17, 0, 0, 1),
    // USER_TIMEOUT, TIMESTAMP, NOTSENT_LOWAT, SAVE_SYN, INQ
    (tcp::USER_TIMEOUT, 0, 0, i32::MAX),
    (24, 0, i32::MIN, i32::MAX),
    (25, -1, i32::MIN, i32::MAX),
    (27, 0, 0, 1),
    (INQ, 0, 0, 1),
    (CONGESTION_CHOSEN, 0, 0, 0),
    // FASTOPEN, FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE
    (tcp::FASTOPEN, 0, 0, i32::MAX),
    (tcp::FASTOPEN_CONNECT, 0, 0, 1),
    (34, 0, 0, 1),
    // MAXSEG as it was asked for, TX_DELAY
    (tcp::MAXSEG, 0, 0, 32_767),
    (37, 0, 0, i32::MAX),
];

/// Ways to avoid congestion, of which there is none here; a socket's choice is kept under a number that no option has.
const CONGESTION: [&[u8]; 2] = [b"cubic", b"reno"];
const CONGESTION_CHOSEN: u32 = 1013;
/// Least `TCP_WINDOW_CLAMP`: half of the least `SO_RCVBUF`.
const CLAMP_MIN: i32 = 1152;
/// `TCP_INQ`.
pub(super) const INQ: u32 = 36;

/// Largest segment of the device: its MTU without headers and timestamps.
pub(super) const SEGMENT: u32 = 65_483;
/// The one that a socket without connection assumes.
const SEGMENT_DEFAULT: u32 = 536;

/// The numbers of a socket.
pub(super) struct Options([AtomicI32; NUMBERS.len()]);

impl Options {
    /// Those of a new socket.
    pub(super) fn new(settings: &Settings) -> Options {
        let first = |(name, value, ..): (u32, i32, i32, i32)| match name {
            tcp::KEEPIDLE => settings.get(sysctl::KEEPALIVE_TIME),
            tcp::KEEPINTVL => settings.get(sysctl::KEEPALIVE_INTERVAL),
            tcp::KEEPCNT => settings.get(sysctl::KEEPALIVE_PROBES),
            tcp::LINGER2 => settings.get(sysctl::FIN_TIMEOUT),
            _ => value,
        };
        Options(core::array::from_fn(|at| AtomicI32::new(first(NUMBERS[at]))))
    }

    pub(super) fn copy(&self, from: &Options) {
        for (to, from) in self.0.iter().zip(&from.0) {
            to.store(from.load(Relaxed), Relaxed);
        }
    }

    fn find(&self, name: u32) -> Result<(&AtomicI32, i32, i32)> {
        let at = NUMBERS.iter().position(|(own, ..)| *own == name).ok_or(Errno::ENOPROTOOPT)?;
        let (_, _, min, max) = NUMBERS[at];
        Ok((&self.0[at], min, max))
    }
}

/// `TCP_*` states, as /proc/net/tcp and `TCP_INFO` number them.
pub mod state_number {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LISTEN: u8 = 10;
}

/// Seconds of `TCP_DEFER_ACCEPT`, rounded up as Linux does it: to those after which a SYN is answered again, each time twice as late.
fn deferral(wanted: i32) -> i32 {
    let (mut interval, mut all, mut answers) = (1_i32, 1_i32, 1);
    if wanted <= 0 {
        return 0;
    }
    while wanted > all && answers < 255 {
        interval = (interval * 2).min(120);
        all += interval;
        answers += 1;
    }
    all
}

impl TcpSocket {
    /// Its state as Linux numbers it.
    pub fn state_number(&self) -> u8 {
        let state = self.state.lock();
        match (state.phase, state.fin_sent, state.fin_received) {
            (Phase::Closed, ..) => state_number::CLOSE,
            (Phase::Listening, ..) => state_number::LISTEN,
            (Phase::SynSent, ..) => state_number::SYN_SENT,
            (Phase::Connected, true, _) => state_number::FIN_WAIT2,
            (Phase::Connected, _, true) => state_number::CLOSE_WAIT,
            (Phase::Connected, ..) => state_number::ESTABLISHED,
        }
    }

    pub(super) fn tcp_option(&self, name: u32, room: usize) -> Result<Vec<u8>> {
        match name {
            tcp::INFO => Ok(self.info()),
            tcp::CONGESTION => {
                let chosen = self.options.find(CONGESTION_CHOSEN)?.0.load(Relaxed) as usize;
                let mut name = CONGESTION.get(chosen).copied().unwrap_or(b"cubic").to_vec();
                name.resize(16.min(room.max(4)), 0);
                Ok(name)
            }
            tcp::ULP => Ok(Vec::new()),
            tcp::REPAIR => Ok(bytes(0)),
            tcp::MAXSEG => {
                let connected = matches!(self.state_number(), state_number::ESTABLISHED..=state_number::FIN_WAIT2);
                let asked = self.options.find(name)?.0.load(Relaxed) as u32;
                Ok(bytes(match (connected, asked) {
                    (true, _) => SEGMENT,
                    (false, 0) => SEGMENT_DEFAULT,
                    (false, asked) => asked,
                }))
            }
            _ => Ok(bytes(self.options.find(name)?.0.load(Relaxed) as u32)),
        }
    }

    pub(super) fn set_tcp_option(&self, _: &Arc<Task>, name: u32, value: &[u8]) -> Result<()> {
        match name {
            tcp::CONGESTION => {
                let wanted = value.split(|&byte| byte == 0).next().unwrap_or(&[]);
                let chosen = CONGESTION.iter().position(|name| *name == wanted).ok_or(Errno::ENOENT)?;
                self.options.find(CONGESTION_CHOSEN)?.0.store(chosen as i32, Relaxed);
                return Ok(());
            }
            tcp::ULP => return Err(Errno::ENOENT),
            tcp::INFO | tcp::MD5SIG | tcp::ZEROCOPY_RECEIVE => return Err(Errno::ENOPROTOOPT),
            tcp::REPAIR => return Err(Errno::EPERM),
            _ => {}
        }
        let number = number(value)?;
        let (option, min, max) = self.options.find(name)?;
        if name == tcp::MAXSEG && number != 0 && !(88..=32_767).contains(&number) {
            return Err(Errno::EINVAL);
        }
        let number = if (min, max) == (0, 1) { i32::from(number != 0) } else { number };
        if !(min..=max).contains(&number) {
            return Err(Errno::EINVAL);
        }
        let number = match name {
            tcp::DEFER_ACCEPT => deferral(number),
            // At least a minute; none; or as long as two minutes.
            tcp::LINGER2 => match number {
                ..0 => -1,
                0 => 60,
                number => number.min(120),
            },
            tcp::WINDOW_CLAMP if number == 0 && self.state_number() != state_number::CLOSE => {
                return Err(Errno::EINVAL);
            }
            tcp::WINDOW_CLAMP if number != 0 => number.max(CLAMP_MIN),
            _ => number,
        };
        option.store(number, Relaxed);
        if matches!(name, tcp::KEEPIDLE | tcp::KEEPINTVL | tcp::KEEPCNT | tcp::USER_TIMEOUT) {
            self.watch_idleness();
        }
        if matches!((name, number), (tcp::NODELAY, 1) | (tcp::CORK, 0))
            && let Some(peer) = self.peer()
        {
            peer.let_go();
        }
        Ok(())
    }

    /// The number of an option that is not negative.
    pub(super) fn number_of(&self, name: u32) -> u32 {
        self.options.find(name).map_or(0, |(number, ..)| number.load(Relaxed).max(0) as u32)
    }

    /// Whether what it sends waits for more.
    pub(super) fn is_corked(&self) -> bool {
        self.options.find(tcp::CORK).is_ok_and(|(cork, ..)| cork.load(Relaxed) != 0)
    }

    /// Whether a receiver is told what is left.
    pub(super) fn tells_rest(&self) -> bool {
        self.options.find(INQ).is_ok_and(|(inq, ..)| inq.load(Relaxed) != 0)
    }

    /// Seconds that a connection without bytes is kept from accept(2).
    pub(super) fn deferral_sec(&self) -> u64 {
        self.options.find(tcp::DEFER_ACCEPT).map_or(0, |(sec, ..)| sec.load(Relaxed).max(0) as u64)
    }

    /// `struct tcp_info`, as far as the counters of bytes.
    pub fn info(&self) -> Vec<u8> {
        let state = self.state_number();
        // state, ca_state, retransmits, probes, backoff, options (timestamps, SACK, window scale), scales, flags.
        let mut info: Vec<u8> = alloc::vec![state, 0, 0, 0, 0, 7, 0x77, 0];
        let (backlog, backlog_max) = self.backlog();
        let unsent = self.unsent() as u32;
        let (acked, sacked) = match state {
            state_number::LISTEN => (backlog as u32, backlog_max as u32),
            _ => (unsent / SEGMENT, 0),
        };
        // rto, ato, snd_mss, rcv_mss; unacked, sacked, lost, retrans, fackets; four times of the last events.
        info.extend(words(&[201_000, 40_000, SEGMENT, 536, acked, sacked, 0, 0, 0, 0, 0, 0, 0]));
        // pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering, rcv_rtt, rcv_space, total_retrans.
        info.extend(words(&[65_535, 65_483, 30, 15, i32::MAX as u32, 10, SEGMENT, 3, 0, 65_483, 0]));
        let sent = self.sent.load(Relaxed);
        // pacing_rate, max_pacing_rate, bytes_acked, bytes_received.
        for word in [0, u64::MAX, sent - u64::from(unsent), self.received.load(Relaxed)] {
            info.extend_from_slice(&word.to_le_bytes());
        }
        // segs_out, segs_in, notsent_bytes, min_rtt, data_segs_in, data_segs_out.
        info.extend(words(&[0, 0, self.held_back() as u32, 30, 0, 0]));
        // delivery_rate, busy_time, rwnd_limited, sndbuf_limited; delivered, delivered_ce; bytes_sent, bytes_retrans.
        for word in [0, 0, 0, 0, 0, sent, 0] {
            info.extend_from_slice(&u64::to_le_bytes(word));
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deferral_lasts_a_whole_number_of_answers() {
        assert_eq!([-1, 0, 1, 2, 3, 4, 8, 100].map(deferral), [0, 0, 1, 3, 3, 7, 15, 127]);
    }
}
