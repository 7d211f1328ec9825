//! devpts: a node for the terminal of each pair. Source: pts(4).

use super::pty;
use crate::fs::pseudo::{Dir, DirSource, Meta, PseudoFs};
use crate::fs::{Attr, Dev, FileSystem, Inode, InodeRef, Kind, SetAttr, Time};
use crate::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;
use core::any::Any;
use umbel_smp::lock::{Once, Rank, SpinLock};

/// `DEVPTS_SUPER_MAGIC`.
const MAGIC: u32 = 0x1cd1;
/// Inode number of `ptmx`; the terminals' follow.
const PTMX_INO: u64 = 2;

static FS: Once<Arc<PseudoFs>> = Once::new();

/// The file system: there is one.
pub fn devpts() -> Arc<dyn FileSystem> {
    instance().clone()
}

fn instance() -> &'static Arc<PseudoFs> {
    FS.call_once(|| {
        let fs = PseudoFs::new("devpts", MAGIC);
        fs.set_root(Dir::new(Meta::new(&fs, 0o755).numbered(1), Nodes));
        fs
    })
}

struct Nodes;

impl DirSource for Nodes {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        if name == b"ptmx" {
            return Ok(Arc::new(Node {
                number: None,
                state: SpinLock::new(Rank::InodeState, State::new((0, 0), 0o666)),
            }));
        }
        let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let number: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        if format!("{number}").as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        let pair = pty::find(number).ok_or(Errno::ENOENT)?;
        Ok(pair.node.clone())
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        if from == 0 && !emit(0, b"ptmx", PTMX_INO, Kind::Char) {
            return Ok(());
        }
        for number in pty::numbers(from.saturating_sub(1) as u32) {
            let at = u64::from(number) + 1;
            if !emit(at, format!("{number}").as_bytes(), PTMX_INO + at, Kind::Char) {
                break;
            }
        }
        Ok(())
    }
}

/// A device node: of a terminal, or `ptmx`.
pub struct Node {
    /// `None` for `ptmx`.
    number: Option<u32>,
    state: SpinLock<State>,
}

/// Protected by `Node::state`.
#[derive(Clone, Copy)]
struct State {
    owner: (u32, u32),
    mode: u32,
    times: [Time; 3],
}

impl State {
    fn new(owner: (u32, u32), mode: u32) -> State {
        State { owner, mode, times: [Time::now(); 3] }
    }
}

impl Node {
    /// The node of pair `number`, which belongs to whoever opened the master.
    pub fn new(number: u32, owner: (u32, u32)) -> Arc<Node> {
        Arc::new(Node { number: Some(number), state: SpinLock::new(Rank::InodeState, State::new(owner, 0o620)) })
    }
}

impl Inode for Node {
    fn kind(&self) -> Kind {
        Kind::Char
    }

    fn fs(&self) -> Arc<dyn FileSystem> {
        devpts()
    }

    fn attr(&self) -> Result<Attr> {
        let state = *self.state.lock();
        let ino = self.number.map_or(PTMX_INO, |number| PTMX_INO + 1 + u64::from(number));
        let mut attr = Attr::new(Kind::Char, state.mode, ino);
        (attr.uid, attr.gid) = state.owner;
        attr.rdev = self.number.map_or(Dev::new(5, 2), |number| Dev::new(pty::SLAVE_MAJOR, number));
        attr.blksize = 1024;
        [attr.atime, attr.mtime, attr.ctime] = state.times;
        Ok(attr)
    }

    fn set_attr(&self, change: &SetAttr) -> Result<()> {
        let mut state = self.state.lock();
        state.mode = change.mode.unwrap_or(state.mode);
        state.owner = (change.uid.unwrap_or(state.owner.0), change.gid.unwrap_or(state.owner.1));
        state.times = [change.atime.unwrap_or(state.times[0]), change.mtime.unwrap_or(state.times[1]), Time::now()];
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
