//! Mounts in steps: a context is configured and makes a file system, which is mounted on nothing, and moved to its place.
//!
//! * [`FsConfig`]: the file behind fsopen(2) and fspick(2). [`Detached`]: the file behind fsmount(2) and open_tree(2),
//!   whose mounts go with it unless they were moved into the tree.
//!
//! Lock: `FsConfig::state` (spinning, Leaf). Sources: fsopen(2), fsconfig(2), fsmount(2), open_tree(2) of Linux.

use super::mount::{Mount, MountFlags};
use super::{File, FileOps, IoDst, OpenFlags, mounting, tree};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use umbel_smp::lock::{Rank, SpinLock};

/// Most bytes of options.
const OPTIONS_MAX: usize = 4096;

/// Most messages that wait for read(2).
const LOG_MAX: usize = 8;

/// Options of every file system that change nothing where all is in memory.
const HARMLESS: [&[u8]; 7] = [b"sync", b"async", b"dirsync", b"lazytime", b"nolazytime", b"mand", b"nomand"];

/// How far a context is.
enum Phase {
    /// Takes options for a new file system.
    New,
    /// The file system is made and not yet mounted.
    Made(Arc<Mount>),
    /// Mounted: nothing is left to do.
    Done,
    /// Takes options for the file system of a mount (fspick(2)).
    Picked(Arc<Mount>),
}

struct State {
    phase: Phase,
    source: Vec<u8>,
    /// `source` was given: once only.
    named: bool,
    /// `key=value,…`.
    options: Vec<u8>,
    read_only: bool,
    /// What went wrong, for read(2).
    log: VecDeque<&'static str>,
}

/// A context.
pub struct FsConfig {
    kind: Vec<u8>,
    state: SpinLock<State>,
}

/// What one fsconfig(2) asks.
pub enum Step<'a> {
    Flag(&'a [u8]),
    Text(&'a [u8], &'a [u8]),
    /// A place or a descriptor, of which no file system here takes any.
    Object(&'a [u8]),
    Create,
    Reconfigure,
}

impl FsConfig {
    /// A context for a new file system of type `kind`.
    ///
    /// # Errors
    /// `ENODEV` for unknown types.
    pub fn new(kind: &[u8]) -> Result<Arc<FsConfig>> {
        const KNOWN: [&[u8]; 9] =
            [b"tmpfs", b"ramfs", b"proc", b"sysfs", b"devpts", b"devtmpfs", b"mqueue", b"overlay", b"cgroup2"];
        if KNOWN.contains(&kind) { Ok(Self::build(kind, Phase::New)) } else { Err(Errno::ENODEV) }
    }

    /// A context for the file system of `mount`.
    pub fn pick(mount: &Arc<Mount>) -> Arc<FsConfig> {
        Self::build(mount.fs().name().as_bytes(), Phase::Picked(mount.clone()))
    }

    fn build(kind: &[u8], phase: Phase) -> Arc<FsConfig> {
        let state = State {
            phase,
            source: b"none".to_vec(),
            named: false,
            options: Vec::new(),
            read_only: false,
            log: VecDeque::new(),
        };
        Arc::new(FsConfig { kind: kind.to_vec(), state: SpinLock::new(Rank::Leaf, state) })
    }

    /// Does one step.
    ///
    /// # Errors
    /// `EBUSY` out of order, `EINVAL` for options that are not understood.
    pub fn step(&self, step: &Step<'_>) -> Result<()> {
        match step {
            Step::Flag(key) => self.set(key, None),
            Step::Text(key, value) => self.set(key, Some(value)),
            Step::Object(key) if HARMLESS.contains(key) => self.set(key, None),
            Step::Object(_) => Err(Errno::EINVAL),
            Step::Create => self.create(),
            Step::Reconfigure => self.reconfigure(),
        }
    }

    fn set(&self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::New | Phase::Picked(_)) {
            return Err(Errno::EBUSY);
        }
        match (key, value) {
            // Their values are not looked at.
            (b"ro", _) => state.read_only = true,
            (b"rw", _) => state.read_only = false,
            (key, _) if HARMLESS.contains(&key) => {}
            (b"source", Some(_)) if state.named => return Err(Errno::EINVAL),
            (b"source", Some(value)) => {
                state.source = value.to_vec();
                state.named = true;
            }
            (b"source", None) => return Err(Errno::EINVAL),
            _ => {
                let mut option = key.to_vec();
                if let Some(value) = value {
                    option.push(b'=');
                    option.extend_from_slice(value);
                }
                if self.kind == b"tmpfs" && super::tmpfs::Options::parse(&option).is_err() {
                    if state.log.len() == LOG_MAX {
                        state.log.pop_front();
                    }
                    state.log.push_back("e tmpfs: Unknown or bad parameter\n");
                    return Err(Errno::EINVAL);
                }
                if state.options.len() + option.len() >= OPTIONS_MAX {
                    return Err(Errno::EINVAL);
                }
                option.push(b',');
                state.options.extend(option);
            }
        }
        Ok(())
    }

    fn create(&self) -> Result<()> {
        let (source, options, read_only) = {
            let state = self.state.lock();
            if !matches!(state.phase, Phase::New) {
                return Err(Errno::EBUSY);
            }
            (state.source.clone(), state.options.clone(), state.read_only)
        };
        let mount = mounting::new_mount(&self.kind, &source, &options, MountFlags::empty())?;
        mount.set_fs_read_only(read_only);
        let old = core::mem::replace(&mut self.state.lock().phase, Phase::Made(mount));
        drop(old);
        Ok(())
    }

    fn reconfigure(&self) -> Result<()> {
        let state = self.state.lock();
        let Phase::Picked(mount) = &state.phase else { return Err(Errno::EBUSY) };
        let (mount, options, read_only) = (mount.clone(), state.options.clone(), state.read_only);
        drop(state);
        mounting::check_reconfigure(&mount)?;
        mount.fs().reconfigure(&options)?;
        if read_only && mount.has_writers() {
            return Err(Errno::EBUSY);
        }
        mount.set_fs_read_only(read_only);
        Ok(())
    }

    /// Takes the mount of the file system that was made.
    ///
    /// # Errors
    /// `EINVAL` if there is none, `EBUSY` if it has been taken.
    pub fn take(&self, flags: MountFlags) -> Result<Arc<Mount>> {
        let mut state = self.state.lock();
        match core::mem::replace(&mut state.phase, Phase::Done) {
            Phase::Made(mount) => {
                drop(state);
                mount.set_flags(flags);
                Ok(mount)
            }
            Phase::Done => Err(Errno::EBUSY),
            other => {
                state.phase = other;
                Err(Errno::EINVAL)
            }
        }
    }
}

impl FileOps for FsConfig {
    /// One message of what went wrong.
    fn read(&self, _: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let message = self.state.lock().log.pop_front().ok_or(Errno::ENODATA)?;
        dst.write(message.as_bytes())
    }

    fn pollable(&self, _: &File) -> bool {
        false
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[fscontext]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The operations of a descriptor of detached mounts: a place, as with `O_PATH`.
struct Detached;

impl FileOps for Detached {
    fn release(&self, file: &File) {
        if let Some(path) = file.path() {
            tree::discard(path.mount());
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The descriptor of a detached mount.
pub fn detached(mount: &Arc<Mount>) -> Result<Arc<File>> {
    Ok(File::new(mount.root_path()?, Arc::new(Detached), OpenFlags::PATH))
}
