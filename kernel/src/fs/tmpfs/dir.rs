//! The entries of a directory in RAM, and their listing together with the host's.

use super::node::Node;
use crate::Result;
use crate::fs::ahead;
use crate::fs::host::{HostNode, Listing};
use crate::fs::inode::{DirEntry, DirSink, Inode};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Bound;
use umbel_smp::lock::{Rank, SpinLock};

/// Positions from here on are the host's entries.
const LOWER: u64 = 1 << 40;

/// The end of a listing with the host's entries, which are forgotten then.
const END: u64 = 1 << 62;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Entry {
    Node(Arc<Node>),
    /// The host has the name, the guest removed it.
    Whiteout,
}

/// A directory's entries.
pub(super) struct Dir {
    entries: SpinLock<Entries>,
}

#[derive(Default)]
struct Entries {
    /// With the position of the entry in listings (not used for whiteouts).
    by_name: BTreeMap<Box<[u8]>, (u64, Entry)>,
    by_position: BTreeMap<u64, (Box<[u8]>, Arc<Node>)>,
    last_position: u64,
}

impl Dir {
    pub fn new() -> Dir {
        Dir { entries: SpinLock::new(Rank::InodeState, Entries { last_position: 1, ..Entries::default() }) }
    }

    pub fn find(&self, name: &[u8]) -> Option<Entry> {
        self.entries.lock().by_name.get(name).map(|(_, entry)| entry.clone())
    }

    /// Number of entries, whiteouts excluded.
    pub fn len(&self) -> usize {
        self.entries.lock().by_position.len()
    }

    pub fn has_nodes(&self) -> bool {
        self.len() != 0
    }

    /// Makes `name` stand for `entry`, whatever it was.
    pub fn insert(&self, name: &[u8], entry: Entry) -> Result<()> {
        let _change = ahead::change();
        let _old = self.entries.lock().insert(name, entry);
        Ok(())
    }

    pub fn insert_if_vacant(&self, name: &[u8], node: &Arc<Node>) {
        let _change = ahead::change();
        let mut entries = self.entries.lock();
        if !entries.by_name.contains_key(name) {
            entries.insert(name, Entry::Node(node.clone()));
        }
    }

    pub fn remove(&self, name: &[u8]) {
        let _change = ahead::change();
        let _old = self.entries.lock().remove(name);
    }

    /// Takes all nodes out.
    pub fn drain(&self) -> impl Iterator<Item = Arc<Node>> + use<> {
        let old = core::mem::take(&mut *self.entries.lock());
        old.by_position.into_values().map(|(_, node)| node)
    }

    /// Lists from `pos` on: own entries, then those of `lower` that have no entry here.
    pub fn list(&self, lower: Option<&Arc<HostNode>>, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        let mut pos = pos;
        while pos < LOWER {
            let next = {
                let entries = self.entries.lock();
                let mut rest = entries.by_position.range((Bound::Included(pos), Bound::Unbounded));
                rest.next().map(|(&at, (name, node))| (at, name.clone(), node.clone()))
            };
            let Some((at, name, node)) = next else {
                pos = LOWER;
                break;
            };
            let entry = DirEntry { name: &name, ino: node.ino(), kind: node.kind(), next: at + 1 };
            if !sink(&entry) {
                return Ok(at);
            }
            pos = at + 1;
        }
        match lower {
            Some(lower) => self.list_lower(lower, pos, sink),
            None => Ok(pos),
        }
    }

    fn list_lower(&self, lower: &Arc<HostNode>, pos: u64, sink: &mut DirSink<'_>) -> Result<u64> {
        if pos == END {
            return Ok(pos);
        }
        let names: Arc<Listing> = lower.names(pos == LOWER)?;
        let mut index = (pos - LOWER) as usize;
        while let Some(entry) = names.get(index) {
            let hidden = self.entries.lock().by_name.contains_key(entry.name);
            if !hidden {
                let kind = lower.kind_of_entry(&entry);
                let next = LOWER + index as u64 + 1;
                if !sink(&DirEntry { name: entry.name, ino: entry.ino, kind, next }) {
                    return Ok(LOWER + index as u64);
                }
            }
            index += 1;
        }
        lower.forget_names();
        Ok(END)
    }
}

impl Entries {
    fn insert(&mut self, name: &[u8], entry: Entry) -> Option<Arc<Node>> {
        let old = self.remove(name);
        let mut position = 0;
        if let Entry::Node(node) = &entry {
            self.last_position += 1;
            position = self.last_position;
            self.by_position.insert(position, (name.into(), node.clone()));
        }
        self.by_name.insert(name.into(), (position, entry));
        old
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let (position, _) = self.by_name.remove(name)?;
        self.by_position.remove(&position).map(|(_, node)| node)
    }
}
