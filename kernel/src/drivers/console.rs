//! The machine's console: its terminal and its standard streams, as the first process gets them.

use super::ring::{InRing, OutRing};
use super::stdio::{HostFile, StreamIn, StreamOut};
use crate::fs::{self, File, OpenFlags};
use crate::tty::{self, Line, Tty};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::*};
use umbel_abi::linux::uapi::winsize;
use umbel_abi::machine::{Control, RingIndex, StdioKind, StdioStat};
use umbel_host::file::{self as host, HostFd};
use umbel_smp::ipi::control;
use umbel_smp::lock::Once;
use umbel_smp::ring::Input;

static STDIN: Once<InRing> = Once::new();
static STDOUT: Once<OutRing> = Once::new();
static STDERR: Once<OutRing> = Once::new();
/// Files of the three streams, made at the first call of [`open_stdio`].
static FILES: Once<[Option<Arc<File>>; 3]> = Once::new();
/// Last value of `Console::window_changes` that was looked at.
static WINDOW_SEEN: AtomicU32 = AtomicU32::new(u32::MAX);

/// Device number of `/dev/console`.
const CONSOLE: (u32, u32) = (5, 1);

/// The two rings of the terminal.
struct Rings {
    keys: InRing,
    screen: OutRing,
}

impl Line for Rings {
    fn push(&self, bytes: &[u8]) -> usize {
        self.screen.push(bytes).unwrap_or(0)
    }
    fn room(&self) -> usize {
        self.screen.room().unwrap_or(0)
    }
    fn pull(&self, bytes: &mut [u8]) -> usize {
        match self.keys.pop(bytes) {
            0 => {
                // Announces the wait; what came meanwhile is taken by the next call.
                if matches!(self.keys.look(), Input::Ready(_)) { self.keys.pop(bytes) } else { 0 }
            }
            count => count,
        }
    }
    fn is_drained(&self) -> bool {
        self.screen.is_drained()
    }
    fn is_gone(&self) -> bool {
        matches!(self.keys.look(), Input::End | Input::Failed(_)) || self.screen.room().is_err()
    }
}

/// Brings up the terminal, if a standard stream is one. Called once, before the first process.
pub fn init() {
    let control = control();
    if control.boot.stdio.iter().all(|stream| stream.kind != StdioKind::Tty as u32) {
        return;
    }
    let rings = Rings { keys: InRing::of_machine(RingIndex::Keyboard), screen: OutRing::of_machine(RingIndex::Screen) };
    let tty = Tty::new("/dev/console", CONSOLE, Box::new(rings));
    tty::set_console(tty);
    look_at_window(control);
}

/// The file for descriptor `index` of the first process; `None` where the host has none. All that are the terminal are
/// one file, and so are output and error where they are one pipe, so that what is written through both keeps its order.
pub fn open_stdio(index: usize) -> Option<Arc<File>> {
    FILES.call_once(make_files).get(index)?.clone()
}

fn make_files() -> [Option<Arc<File>>; 3] {
    let stdio = &control().boot.stdio;
    let mut files: [Option<Arc<File>>; 3] = [None, None, None];
    for index in 0..3 {
        let twin = (0..index).find(|earlier| same(&stdio[*earlier], &stdio[index]));
        files[index] = match twin {
            Some(earlier) => files[earlier].clone(),
            None => open(index, &stdio[index]).ok().flatten(),
        };
    }
    files
}

/// Whether two streams are one object of the host, and used in the same direction.
fn same(one: &StdioStat, other: &StdioStat) -> bool {
    if one.kind != other.kind {
        return false;
    }
    if one.kind == StdioKind::Tty as u32 {
        return true;
    }
    let access = |stream: &StdioStat| OpenFlags::from_bits_retain(stream.flags & ACCESS);
    one.kind == StdioKind::Stream as u32
        && access(one) == access(other)
        && access(one).writable()
        && identity(one).is_some_and(|id| Some(id) == identity(other))
}

fn identity(stream: &StdioStat) -> Option<(u32, u32, u64)> {
    let stat = host::stat_at(HostFd(stream.fd), b"").ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

const ACCESS: u32 = umbel_abi::linux::uapi::O_ACCMODE;

fn open(index: usize, stream: &StdioStat) -> Result<Option<Arc<File>>> {
    let access = OpenFlags::from_bits_retain(stream.flags & (ACCESS | OpenFlags::APPEND.bits()));
    let mode = stream.mode;
    let file = match stream.kind {
        kind if kind == StdioKind::Tty as u32 => open_node(b"/dev/console", OpenFlags::RDWR)?,
        kind if kind == StdioKind::Memory as u32 => open_node(memory_device(stream)?, access)?,
        kind if kind == StdioKind::File as u32 => File::anonymous(Arc::new(HostFile::new(stream)), access),
        kind if kind == StdioKind::Stream as u32 && index == 0 => {
            let ring = STDIN.call_once(|| InRing::of_machine(RingIndex::Stdin));
            // One that is open for writing alone cannot be read here, either.
            let access = if access.readable() { OpenFlags::RDONLY } else { OpenFlags::WRONLY };
            File::anonymous(Arc::new(StreamIn { ring, mode }), access)
        }
        kind if kind == StdioKind::Stream as u32 => {
            let ring = match index {
                1 => STDOUT.call_once(|| OutRing::of_machine(RingIndex::Stdout)),
                _ => STDERR.call_once(|| OutRing::of_machine(RingIndex::Stderr)),
            };
            // One that is open for reading alone cannot be written here, either.
            let access = if access.writable() { OpenFlags::WRONLY } else { OpenFlags::RDONLY };
            File::anonymous(Arc::new(StreamOut { ring, mode }), access)
        }
        _ => return Ok(None),
    };
    Ok(Some(file))
}

/// The guest's own device where the host's is one of the memory devices.
fn memory_device(stream: &StdioStat) -> Result<&'static [u8]> {
    match host::stat_at(HostFd(stream.fd), b"")?.stx_rdev_minor {
        3 => Ok(b"/dev/null"),
        5 => Ok(b"/dev/zero"),
        7 => Ok(b"/dev/full"),
        8 => Ok(b"/dev/random"),
        9 => Ok(b"/dev/urandom"),
        _ => Err(Errno::ENODEV),
    }
}

/// Opens a device node by its name, so that the file knows it (ttyname(3)).
fn open_node(name: &[u8], flags: OpenFlags) -> Result<Arc<File>> {
    let path = fs::with_kernel_names(|names| names.find(&fs::Name::new(name), fs::walk::Follow::Yes))?;
    let opened = fs::OpenContext { path: &path, flags, task: None };
    let ops = fs::devtmpfs::open_char(&opened, path.attr()?.rdev)?;
    Ok(File::new(path.clone(), ops, flags))
}

/// Device interrupt.
pub fn interrupt() {
    if let Some(ring) = STDIN.get() {
        ring.interrupt();
    }
    for ring in [STDOUT.get(), STDERR.get()].into_iter().flatten() {
        ring.interrupt();
    }
    if let Some(tty) = tty::console() {
        look_at_window(control());
        tty.interrupt();
    }
}

/// Takes over the size of the host's window if it changed.
fn look_at_window(control: &Control) {
    let changes = control.console.window_changes.load(Acquire);
    if WINDOW_SEEN.swap(changes, Relaxed) == changes {
        return;
    }
    let size = control.console.window.load(Relaxed);
    if let Some(tty) = tty::console() {
        let window = winsize { ws_row: (size >> 16) as u16, ws_col: size as u16, ws_xpixel: 0, ws_ypixel: 0 };
        tty.set_window(window);
    }
}

/// No more will be written: the machine drains the rings and closes the streams. Called before
/// `ControlState::Finished`.
pub fn finish() {
    for ring in [STDOUT.get(), STDERR.get()].into_iter().flatten() {
        ring.close();
    }
}
