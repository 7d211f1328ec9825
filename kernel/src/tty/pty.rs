//! Pseudo-terminals: a master, which plays the device, and a terminal. Source: pty(7), ptmx(4), tty_ioctl(2).
//!
//! [`Pair`] is the line between the two. Bytes that the master writes are the terminal's input; what the terminal shows is
//! what the master reads. Locks: one for each direction (rank Ring), below the terminal's.

use super::file::{TtyFile, adopt, check_exclusive};
use super::ioctl::{self, Side};
use super::terminal::Status;
use super::{Line, Tty};
use crate::fs::devtmpfs::{register_char, register_chars};
use crate::fs::{Dev, File, FileOps, IoDst, IoSrc, OnExec, OpenContext, OpenFlags, Path, PollEvents, PollTable};
use crate::signal::{self, Signo};
use crate::task::Task;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::*};
use umbel_abi::linux::{ioctl as nr, uapi};
use umbel_mm::user::{UserAddr, read_val, write_val};
use umbel_smp::lock::{Rank, SpinLock};
use umbel_smp::wait::WaitQueue;

/// Major number of the terminals.
pub(super) const SLAVE_MAJOR: u32 = 136;
/// Bytes that wait in each direction.
const QUEUE_MAX: usize = 16 << 10;
/// Most pairs at once (`/proc/sys/kernel/pty/max`).
const PAIRS_MAX: u32 = 4096;

/// All pairs whose master is open, by number.
static PAIRS: SpinLock<BTreeMap<u32, Arc<Pty>>> = SpinLock::new(Rank::Leaf, BTreeMap::new());

/// The line between a master and a terminal.
struct Pair {
    to_terminal: SpinLock<VecDeque<u8>>,
    to_master: SpinLock<VecDeque<u8>>,
    /// The master is closed.
    gone: AtomicBool,
    /// Open files of the terminal, and whether there has been one.
    files: AtomicUsize,
    used: AtomicBool,
    /// TIOCPKT: the master is told with a byte before each piece what follows, and what happens beside it.
    packet: AtomicBool,
    /// `TIOCPKT_*` that the master has not read.
    status: AtomicU8,
    /// Woken when the master may read, or write, or finds the terminal closed.
    masters: Arc<WaitQueue>,
}

/// The line as the terminal sees it.
struct Shared(Arc<Pair>);

impl Line for Shared {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut queue = self.0.to_master.lock();
        let count = bytes.len().min(QUEUE_MAX.saturating_sub(queue.len()));
        queue.extend(bytes.iter().take(count));
        count
    }
    fn room(&self) -> usize {
        QUEUE_MAX.saturating_sub(self.0.to_master.lock().len())
    }
    fn pull(&self, bytes: &mut [u8]) -> usize {
        let mut queue = self.0.to_terminal.lock();
        let count = bytes.len().min(queue.len());
        for (slot, byte) in bytes.iter_mut().zip(queue.drain(..count)) {
            *slot = byte;
        }
        count
    }
    fn is_drained(&self) -> bool {
        self.0.to_master.lock().is_empty()
    }
    fn is_gone(&self) -> bool {
        self.0.gone.load(Acquire)
    }
    fn flush(&self) {
        self.0.to_master.lock().clear();
    }
    fn notify(&self) {
        self.0.masters.wake_all();
    }
    fn tell(&self, news: Status) {
        if self.0.packet.load(Acquire) {
            let (set, clear) = (news as u8, news.opposite());
            let _ = self.0.status.fetch_update(AcqRel, Acquire, |old| Some(old & !clear | set));
        }
    }
    fn opened(&self) {
        self.0.files.fetch_add(1, AcqRel);
        self.0.used.store(true, Release);
    }
    fn closed(&self) {
        if self.0.files.fetch_sub(1, AcqRel) == 1 {
            self.0.masters.wake_all();
        }
    }
}

/// A pair with its terminal.
pub(super) struct Pty {
    pub number: u32,
    pair: Arc<Pair>,
    tty: Arc<Tty>,
    /// TIOCSPTLCK: the terminal cannot be opened.
    locked: AtomicBool,
    /// Its node in devpts.
    pub node: Arc<super::pts::Node>,
}

/// Registers `/dev/ptmx`, and the terminals, whose nodes devpts shows.
pub(super) fn register_nodes() {
    register_char(5, 2, "ptmx", 0o666, open_master);
    register_chars(SLAVE_MAJOR, open_slave);
}

/// The pair `number`.
pub(super) fn find(number: u32) -> Option<Arc<Pty>> {
    PAIRS.lock().get(&number).cloned()
}

/// Numbers of all pairs from `first` on.
pub(super) fn numbers(first: u32) -> alloc::vec::Vec<u32> {
    PAIRS.lock().range(first..).map(|(number, _)| *number).collect()
}

fn open_master(context: &OpenContext<'_>, _: Dev) -> Result<Arc<dyn FileOps>> {
    let owner = context.task.map_or((0, 0), |task| {
        let cred = task.cred();
        (cred.fsuid, cred.fsgid)
    });
    let pty = create(owner)?;
    Ok(Arc::new(Master { pty }))
}

fn create(owner: (u32, u32)) -> Result<Arc<Pty>> {
    let mut pairs = PAIRS.lock();
    let number = (0..PAIRS_MAX).find(|number| !pairs.contains_key(number)).ok_or(Errno::ENOSPC)?;
    let pair = Arc::new(Pair {
        to_terminal: SpinLock::new(Rank::Ring, VecDeque::new()),
        to_master: SpinLock::new(Rank::Ring, VecDeque::new()),
        gone: AtomicBool::new(false),
        files: AtomicUsize::new(0),
        used: AtomicBool::new(false),
        packet: AtomicBool::new(false),
        status: AtomicU8::new(0),
        masters: Arc::new(WaitQueue::new()),
    });
    let name = format!("/dev/pts/{number}");
    let tty = Tty::new(&name, (SLAVE_MAJOR, number), Box::new(Shared(pair.clone())));
    let node = super::pts::Node::new(number, owner);
    let pty = Arc::new(Pty { number, pair, tty, locked: AtomicBool::new(true), node });
    pairs.insert(number, pty.clone());
    drop(pairs);
    // Nobody can open it yet.
    let mut first = pty.tty.termios();
    first.0.c_cflag &= !uapi::HUPCL;
    pty.tty.set_termios(first);
    Ok(pty)
}

fn open_slave(context: &OpenContext<'_>, dev: Dev) -> Result<Arc<dyn FileOps>> {
    let pty = find(dev.minor).ok_or(Errno::EIO)?;
    if pty.locked.load(Relaxed) || pty.tty.is_hung_up() {
        return Err(Errno::EIO);
    }
    if let Some(task) = context.task {
        check_exclusive(task, &pty.tty)?;
    }
    let file = TtyFile::new(pty.tty.clone());
    adopt(context, &pty.tty);
    Ok(file)
}

/// An open master.
struct Master {
    pty: Arc<Pty>,
}

impl Master {
    fn pair(&self) -> &Pair {
        &self.pty.pair
    }

    /// The terminal was opened and nobody has it open any more.
    fn is_deserted(&self) -> bool {
        self.pair().used.load(Acquire) && self.pair().files.load(Acquire) == 0
    }

    /// Packet mode, and something has happened that the master has not read of.
    fn has_news(&self) -> bool {
        self.pair().packet.load(Acquire) && self.pair().status.load(Acquire) != 0
    }

    /// What a read finds now: the news, or bytes, behind a zero in packet mode.
    fn take_packet(&self, bytes: &mut [u8]) -> usize {
        if !self.pair().packet.load(Acquire) {
            return self.take(bytes);
        }
        let Some((first, rest)) = bytes.split_first_mut() else { return 0 };
        *first = self.pair().status.swap(0, AcqRel);
        if *first != 0 {
            return 1;
        }
        if self.pair().to_master.lock().is_empty() { 0 } else { 1 + self.take(rest) }
    }

    /// TIOCPKT.
    fn set_packet(&self, on: bool) {
        if on && !self.pair().packet.swap(true, AcqRel) {
            self.pair().status.store(0, Release);
        } else if !on {
            self.pair().packet.store(false, Release);
        }
    }

    /// TCFLSH of the master: its own input is what the terminal has shown, its output what the terminal has not taken.
    fn flush(&self, which: u32) -> Result<u64> {
        if !matches!(which, uapi::TCIFLUSH | uapi::TCOFLUSH | uapi::TCIOFLUSH) {
            return Err(Errno::EINVAL);
        }
        if which != uapi::TCOFLUSH {
            self.pair().to_master.lock().clear();
        }
        if which != uapi::TCIFLUSH {
            self.pair().to_terminal.lock().clear();
        }
        // Either side may have room again.
        self.pty.tty.interrupt();
        self.pair().masters.wake_all();
        Ok(0)
    }

    fn take(&self, bytes: &mut [u8]) -> usize {
        let mut queue = self.pair().to_master.lock();
        let count = bytes.len().min(queue.len());
        for (slot, byte) in bytes.iter_mut().zip(queue.drain(..count)) {
            *slot = byte;
        }
        count
    }

    fn give(&self, bytes: &[u8]) -> usize {
        let count = {
            let mut queue = self.pair().to_terminal.lock();
            let count = bytes.len().min(QUEUE_MAX.saturating_sub(queue.len()));
            queue.extend(bytes.iter().take(count));
            count
        };
        self.pty.tty.interrupt();
        count
    }

    /// TIOCGPTPEER: opens the terminal whatever its name is where.
    fn open_peer(&self, task: &Arc<Task>, flags: u64) -> Result<u64> {
        let flags = OpenFlags::from_bits_retain(flags as u32);
        let path: Path = crate::fs::with_kernel_names(|names| {
            let name = format!("/dev/pts/{}", self.pty.number);
            names.find(&crate::fs::Name::new(name.as_bytes()), crate::fs::walk::Follow::Yes)
        })?;
        let context = OpenContext { path: &path, flags, task: Some(task) };
        let ops = open_slave(&context, Dev::new(SLAVE_MAJOR, self.pty.number))?;
        let file = File::new(path.clone(), ops, flags);
        let limit = task.process().limit(umbel_abi::linux::uapi::RLIMIT_NOFILE);
        let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
        task.files()?.install(file, on_exec, limit).map(|fd| fd.0 as u64)
    }
}

impl FileOps for Master {
    fn splices(&self) -> bool {
        true
    }

    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut bytes = vec![0; dst.remaining().min(4096)];
        loop {
            let count = self.take_packet(&mut bytes);
            if count > 0 {
                // Room was made: programs that write may go on.
                self.pty.tty.interrupt();
                return dst.write(bytes.get(..count).unwrap_or_default());
            }
            if self.is_deserted() {
                return Err(Errno::EIO);
            }
            if file.nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let readable = || self.has_news() || !self.pair().to_master.lock().is_empty();
            let ready = || (readable() || self.is_deserted()).then_some(());
            self.pair().masters.wait_interruptible(None, ready).map_err(|_| Errno::ERESTARTSYS)?;
        }
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let mut chunk = vec![0; src.remaining().min(4096)];
        let mut done = 0;
        while src.remaining() > 0 {
            let count = match src.read(&mut chunk) {
                Ok(count) => count,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            };
            let mut rest = chunk.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                let given = self.give(rest);
                rest = rest.get(given..).unwrap_or_default();
                done += given;
                if given > 0 {
                    continue;
                }
                if file.nonblocking() {
                    return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
                }
                let room = || (self.pair().to_terminal.lock().len() < QUEUE_MAX).then_some(());
                if self.pair().masters.wait_interruptible(None, room).is_err() {
                    return if done > 0 { Ok(done) } else { Err(Errno::ERESTARTSYS) };
                }
            }
        }
        Ok(done)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table
            && table.register(&self.pair().masters).is_err()
        {
            return PollEvents::ERR;
        }
        let mut events = PollEvents::empty();
        if !self.pair().to_master.lock().is_empty() {
            events |= PollEvents::READABLE;
        }
        if self.has_news() {
            events |= PollEvents::READABLE | PollEvents::PRI;
        }
        if self.pair().to_terminal.lock().len() < QUEUE_MAX {
            events |= PollEvents::WRITABLE;
        }
        if self.is_deserted() {
            events |= PollEvents::HUP;
        }
        events
    }

    fn ioctl(&self, task: &Arc<Task>, file: &File, cmd: u32, arg: u64) -> Result<u64> {
        let addr = UserAddr(arg);
        match cmd {
            nr::TIOCGPTN => write_val(addr, &self.pty.number).map(|()| 0),
            nr::TIOCSPTLCK => {
                self.pty.locked.store(read_val::<i32>(addr)? != 0, Relaxed);
                Ok(0)
            }
            nr::TIOCGPTLCK => write_val(addr, &i32::from(self.pty.locked.load(Relaxed))).map(|()| 0),
            nr::TIOCPKT => {
                self.set_packet(read_val::<i32>(addr)? != 0);
                Ok(0)
            }
            nr::TIOCGPKT => write_val(addr, &i32::from(self.pair().packet.load(Relaxed))).map(|()| 0),
            nr::TCFLSH => self.flush(arg as u32),
            nr::TIOCGPTPEER => self.open_peer(task, arg),
            nr::FIONREAD => {
                let count = self.pair().to_master.lock().len() as i32;
                write_val(addr, &count).map(|()| 0)
            }
            nr::TIOCSIG => {
                let signo = arg as Signo;
                if ![signal::SIGINT, signal::SIGQUIT, signal::SIGTSTP].contains(&signo) {
                    return Err(Errno::EINVAL);
                }
                self.pty.tty.signal_foreground(signo);
                Ok(0)
            }
            _ => ioctl::ioctl(task, &self.pty.tty, file, cmd, arg, Side::Master),
        }
    }

    /// The terminal hangs up.
    fn release(&self, _: &File) {
        PAIRS.lock().remove(&self.pty.number);
        self.pair().gone.store(true, Release);
        self.pty.tty.hang_up();
    }

    fn describe(&self, _: &File) -> String {
        String::from("/dev/ptmx")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_master_writes_is_echoed_and_read() {
        let pty = create((0, 0)).unwrap();
        let master = Master { pty: pty.clone() };
        assert_eq!(master.give(b"ls\r"), 3);
        let mut shown = [0; 16];
        assert_eq!(master.take(&mut shown), 4);
        assert_eq!(&shown[..4], b"ls\r\n");
        assert_eq!(pty.tty.read(16, true).as_deref(), Ok(&b"ls\n"[..]));
        assert_eq!(pty.tty.write(b"out\n", true), Ok(4));
        assert_eq!(master.take(&mut shown), 5);
        assert_eq!(&shown[..5], b"out\r\n");
    }

    #[test]
    fn packets_say_what_they_are() {
        let pty = create((0, 0)).unwrap();
        let master = Master { pty: pty.clone() };
        let mut shown = [7; 16];
        pty.tty.flush_output();
        master.set_packet(true);
        assert_eq!((master.take_packet(&mut shown), master.has_news()), (0, false));
        assert_eq!(pty.tty.write(b"ab", true), Ok(2));
        pty.tty.flush_input();
        pty.tty.set_stopped(true);
        pty.tty.set_stopped(false);
        assert!(master.has_news());
        assert_eq!((master.take_packet(&mut shown), shown[0]), (1, Status::FlushRead as u8 | Status::Start as u8));
        assert_eq!((master.take_packet(&mut shown), &shown[..3]), (3, &b"\0ab"[..]));
        assert_eq!(master.take_packet(&mut shown), 0);
    }

    #[test]
    fn a_terminal_that_everybody_closed_is_deserted() {
        let pty = create((0, 0)).unwrap();
        let master = Master { pty: pty.clone() };
        assert!(!master.is_deserted());
        pty.tty.line().opened();
        assert!(!master.is_deserted());
        pty.tty.line().closed();
        assert!(master.is_deserted());
    }

    #[test]
    fn numbers_are_the_lowest_free() {
        let first = create((0, 0)).unwrap();
        let second = create((0, 0)).unwrap();
        assert_ne!(first.number, second.number);
        PAIRS.lock().remove(&first.number);
        assert_eq!(create((0, 0)).unwrap().number, first.number);
    }
}
