//! `/proc/sys/user`: how many namespaces the users of the reader's user namespace may make. Source: namespaces(7).

use super::sysctl::meta;
use crate::fs::pseudo::{Dir, DirSource, Meta, PseudoFs, TextFile};
use crate::fs::{InodeRef, Kind};
use crate::setting::Setting;
use crate::task;
use crate::task::ns::count::NAMES;
use crate::task::ns::user::Which;
use crate::{Errno, Result};
use alloc::format;
use alloc::sync::Arc;

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    Dir::new(Meta::new(fs, 0o555), Limits(fs.clone()))
}

/// Files belong to the root of who looks: it may change them.
struct Limits(Arc<PseudoFs>);

impl DirSource for Limits {
    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let (_, kind) = *NAMES.iter().find(|(own, _)| own.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let ns = task::current().cred().user_ns.clone();
        let root = |which| ns.take(which, 0).unwrap_or(crate::task::ns::user::OVERFLOW);
        let meta = meta(&self.0, 0o644).owned(root(Which::Users), root(Which::Groups));
        let shown = ns.clone();
        let read = move || Ok(format!("{}\n", shown.counts.limit(kind)).into_bytes());
        Ok(TextFile::writable(meta, read, move |text| ns.counts.set_limit(kind, Setting::parse(text)?)))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        for (at, (name, _)) in NAMES.iter().enumerate().skip(from as usize) {
            if !emit(at as u64, name.as_bytes(), 0x7573_6572 + at as u64, Kind::Regular) {
                break;
            }
        }
        Ok(())
    }
}
