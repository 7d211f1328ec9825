//! Moves bytes between the host's standard streams or terminal and the rings, each stream on a thread of its own.
//!
//! A stream that is a regular file has no thread: the kernel uses the host's descriptor itself. The terminal is in raw
//! mode while a console lives; [`Console::finish`] and a panic give it back, and where this process is killed the terminal's keeper does
//! ([`terminal`]).

use crate::os::ring::{self, Status};
use crate::os::terminal;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{read, write};
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use umbel_abi::machine::{Control, Ring, RingIndex, StdioKind};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;
/// How often a thread that waits for the host looks whether the machine ended, ms.
const LOOK_AGAIN_MS: u16 = 100;
/// How long output may still take after the guest has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Interrupts the guest: its device state changed.
pub type Interrupt = Arc<dyn Fn() + Send + Sync>;

/// The device threads and the terminal.
pub struct Console {
    control: &'static Control,
    interrupt: Interrupt,
    over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    terminal: Option<Arc<OwnedFd>>,
    finished: Mutex<bool>,
}

impl Console {
    /// Starts a thread for each stream and, where one of them is the terminal, makes it raw.
    ///
    /// # Errors
    /// The terminal cannot be opened or refuses raw mode; threads cannot be had.
    pub fn start(control: &'static Control, interrupt: Interrupt) -> io::Result<Console> {
        let mut console = Console {
            control,
            interrupt,
            over: Arc::new(AtomicBool::new(false)),
            writers: Vec::new(),
            terminal: None,
            finished: Mutex::new(false),
        };
        let kinds = control.boot.stdio.map(|stream| stream.kind);
        if kinds.contains(&(StdioKind::Tty as u32)) {
            console.open_terminal()?;
        }
        let streams = [io::stdin().as_fd().try_clone_to_owned(), io::stdout().as_fd().try_clone_to_owned()];
        let [input, output] = streams.map(|fd| fd.map(Arc::new));
        if kinds[0] == StdioKind::Stream as u32 {
            console.reader("stdin", RingIndex::Stdin, input?)?;
        }
        if kinds[1] == StdioKind::Stream as u32 {
            console.writer("stdout", RingIndex::Stdout, output?)?;
        }
        console.watch_outputs()?;
        // The log shares standard error; without one it is read and thrown away.
        let error = io::stderr().as_fd().try_clone_to_owned().ok().map(Arc::new);
        if kinds[2] == StdioKind::Stream as u32
            && let Some(fd) = &error
        {
            console.writer("stderr", RingIndex::Stderr, Arc::clone(fd))?;
        }
        match error {
            Some(fd) => console.writer("log", RingIndex::Log, fd)?,
            None => control.rings[RingIndex::Log as usize].consumer_closed.store(1, Ordering::Release),
        }
        Ok(console)
    }

    /// Starts a thread that tells the guest when the readers of its output are gone, whether it writes or not.
    fn watch_outputs(&self) -> io::Result<()> {
        let (control, interrupt) = (self.control, Arc::clone(&self.interrupt));
        let outputs = outputs(control);
        if !outputs.is_empty() {
            // Not joined: it may wait until the process ends.
            thread::Builder::new().name("outputs".into()).spawn(move || watch(outputs, &interrupt))?;
        }
        Ok(())
    }

    fn open_terminal(&mut self) -> io::Result<()> {
        // By its own name: standard input may be a pipe while standard output is the terminal.
        let fd = open("/dev/tty", OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOCTTY, Mode::empty())
            .map_err(io::Error::from)
            .or_else(|_| first_terminal())?;
        let terminal = Arc::new(fd);
        terminal::make_raw(terminal.as_fd())?;
        self.terminal = Some(Arc::clone(&terminal));
        self.publish_window();
        self.reader("keyboard", RingIndex::Keyboard, Arc::clone(&terminal))?;
        self.writer("screen", RingIndex::Screen, terminal)
    }

    /// Tells the guest the terminal's size: at the start and after SIGWINCH.
    pub fn publish_window(&self) {
        if let Some(terminal) = &self.terminal {
            self.control.console.window.store(terminal::window(terminal.as_fd()), Ordering::Relaxed);
            self.control.console.window_changes.fetch_add(1, Ordering::Release);
            (self.interrupt)();
        }
    }

    /// Before the machine stops itself (SIGTSTP): the shell gets its terminal back.
    pub fn suspend(&self) {
        terminal::restore();
    }

    /// After SIGCONT.
    pub fn resume(&self) {
        if let Some(terminal) = &self.terminal
            && !*self.finished.lock()
        {
            let _ = terminal::make_raw(terminal.as_fd());
            self.publish_window();
        }
    }

    fn reader(&self, name: &str, index: RingIndex, from: Arc<OwnedFd>) -> io::Result<()> {
        let (ring, over) = (&self.control.rings[index as usize], Arc::clone(&self.over));
        let interrupt = Arc::clone(&self.interrupt);
        // Not joined: it may be in a read that ends with the process only.
        thread::Builder::new().name(name.into()).spawn(move || read_into(ring, from.as_fd(), &over, &interrupt))?;
        Ok(())
    }

    fn writer(&mut self, name: &str, index: RingIndex, to: Arc<OwnedFd>) -> io::Result<()> {
        let (ring, over) = (&self.control.rings[index as usize], Arc::clone(&self.over));
        let interrupt = Arc::clone(&self.interrupt);
        let work = move || write_out(ring, to.as_fd(), &over, &interrupt);
        self.writers.push(thread::Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }

    /// Lets all output reach the host, then gives the terminal back.
    pub fn finish(mut self) {
        self.over.store(true, Ordering::Release);
        for index in [RingIndex::Stdout, RingIndex::Stderr, RingIndex::Log, RingIndex::Screen] {
            ring::futex_wake(&self.control.rings[index as usize].consumer_waiting);
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        for writer in self.writers.drain(..) {
            while !writer.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_micros(200));
            }
        }
        *self.finished.lock() = true;
        terminal::restore();
    }
}

/// Tells the guest before it starts that nobody reads its output any more, where that is so.
pub fn look_at_outputs(control: &'static Control) {
    look(&mut outputs(control), PollTimeout::ZERO, &|| {});
}

type Outputs = Vec<(&'static Ring, OwnedFd)>;

/// Standard output and error where they are streams.
fn outputs(control: &'static Control) -> Outputs {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let known = [(1, RingIndex::Stdout, stdout.as_fd()), (2, RingIndex::Stderr, stderr.as_fd())];
    known
        .into_iter()
        .filter(|(index, _, _)| control.boot.stdio[*index].kind == StdioKind::Stream as u32)
        .filter_map(|(_, ring, fd)| Some((&control.rings[ring as usize], fd.try_clone_to_owned().ok()?)))
        .collect()
}

/// Until none is left that may still lose its readers.
fn watch(mut outputs: Outputs, interrupt: &Interrupt) {
    while !outputs.is_empty() && look(&mut outputs, PollTimeout::NONE, interrupt.as_ref()) {}
}

/// Waits for news of the outputs and drops those that have some; false if that cannot be had.
fn look(outputs: &mut Outputs, limit: PollTimeout, interrupt: &dyn Fn()) -> bool {
    // Errors are reported whether asked for or not, and nothing else is asked for.
    let mut fds: Vec<_> = outputs.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::empty())).collect();
    match poll(&mut fds, limit) {
        Ok(_) => {}
        Err(Errno::EINTR) => return true,
        Err(_) => return false,
    }
    let news: Vec<_> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLNVAL)).collect();
    for ((ring, fd), event) in outputs.iter().zip(&news) {
        if event.contains(PollFlags::POLLERR) || event.contains(PollFlags::POLLHUP) && is_socket(fd.as_fd()) {
            ring.consumer_closed.store(1, Ordering::Release);
            interrupt();
        }
    }
    let mut quiet = news.iter().map(|event| event.is_empty());
    outputs.retain(|_| quiet.next().unwrap_or(false));
    true
}

/// One that hangs up takes nothing any more. The terminal behind a pseudo-terminal's master may be opened again.
fn is_socket(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK)
}

/// The first of the standard streams that is a terminal.
fn first_terminal() -> io::Result<OwnedFd> {
    use std::io::IsTerminal;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    match (stdin.is_terminal(), stdout.is_terminal()) {
        (true, _) => stdin.as_fd().try_clone_to_owned(),
        (_, true) => stdout.as_fd().try_clone_to_owned(),
        _ => stderr.as_fd().try_clone_to_owned(),
    }
}

/// Host to guest, until the end of file, an error, or the machine's end.
fn read_into(ring: &Ring, from: BorrowedFd<'_>, over: &AtomicBool, interrupt: &Interrupt) {
    let mut chunk = vec![0; CHUNK];
    let errno = loop {
        // Room first: what is not read here stays in the pipe for whoever comes after us.
        let space = match ring::room(ring) {
            _ if over.load(Ordering::Acquire) => return,
            Status::Over => return,
            Status::Wait => {
                ring::wait_for_room(ring);
                continue;
            }
            Status::Ready(space) => space.min(CHUNK),
        };
        if !wait_for(from, PollFlags::POLLIN, over) {
            return;
        }
        match read(from, &mut chunk[..space]) {
            Ok(0) => break 0,
            Ok(count) => feed(ring, &chunk[..count], interrupt),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // A terminal whose other end is gone.
            Err(Errno::EIO) => break 0,
            Err(errno) => break errno as u32,
        }
    };
    ring.error.store(errno, Ordering::Release);
    ring.producer_closed.store(1, Ordering::Release);
    ring.consumer_waiting.store(0, Ordering::SeqCst);
    interrupt();
}

fn feed(ring: &Ring, mut bytes: &[u8], interrupt: &Interrupt) {
    while !bytes.is_empty() {
        let (count, waited) = ring::put(ring, bytes);
        if waited {
            interrupt();
        }
        if count == 0 {
            return; // closed meanwhile
        }
        bytes = &bytes[count..];
    }
}

/// Guest to host, until the guest closes it, the host takes no more, or the machine has ended and all is written.
fn write_out(ring: &Ring, to: BorrowedFd<'_>, over: &AtomicBool, interrupt: &Interrupt) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let ended = over.load(Ordering::Acquire);
        match ring::available(ring) {
            Status::Over => return,
            Status::Wait if ended => return,
            Status::Wait => ring::wait_for_data(ring),
            Status::Ready(_) => {
                let (count, waited) = ring::take(ring, &mut chunk);
                let delivered = deliver(to, &chunk[..count]);
                if let Err(errno) = delivered {
                    ring.consumer_closed.store(errno as u32, Ordering::Release);
                }
                if waited || delivered.is_err() {
                    interrupt();
                }
                if delivered.is_err() {
                    return;
                }
            }
        }
    }
}

/// Writes all of it, unless the host takes no more.
fn deliver(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(to, PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS));
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Waits for the host's descriptor; false when the machine ended first.
fn wait_for(fd: BorrowedFd<'_>, what: PollFlags, over: &AtomicBool) -> bool {
    loop {
        let mut fds = [PollFd::new(fd, what)];
        match poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS)) {
            Ok(0) | Err(Errno::EINTR) if over.load(Ordering::Acquire) => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            // An error shows again, with its reason, in the read that follows.
            _ => return !over.load(Ordering::Acquire),
        }
    }
}
