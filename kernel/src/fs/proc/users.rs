//! `/proc/PID/ns`, `uid_map`, `gid_map`, `projid_map`, `setgroups`. Source: namespaces(7), user_namespaces(7).

use super::may_inspect;
use super::process::{Subject, owned};
use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Link, PseudoFs, StaticDir, Target};
use crate::task::ns::user::{self, Which};
use crate::task::ns::{KINDS, file};
use crate::task::{self, Cred};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

/// The directory of namespaces: links that lead to what they name.
pub fn namespaces(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    let mut dir = StaticDir::new();
    for (name, of) in KINDS {
        let about = subject.clone();
        let target = move || {
            let task = about.task().or_else(|_| about.process().and(Err(Errno::ENOENT)))?;
            may_inspect(&task)?;
            let ns = of(&task);
            if !ns.is_ready() {
                return Err(Errno::ENOENT);
            }
            Ok(Target { text: file::name(&ns).into_bytes(), jump: Some(file::path_of(ns)?) })
        };
        dir = dir.add(name, Link::new(owned(fs, subject, 0o777), target));
    }
    Dir::new(owned(fs, subject, 0o511), dir)
}

/// A map of the subject's user namespace.
pub fn map(subject: &Subject, which: Which) -> Result<Vec<u8>> {
    let (ns, viewer) = (subject.task()?.cred().user_ns.clone(), task::current().cred().user_ns.clone());
    // One's own map is shown with the ids of the parent.
    let outside = if ns == viewer { ns.parent().unwrap_or(viewer) } else { viewer };
    Ok(ns.map_text(which, &outside).into_bytes())
}

/// Sets it.
pub fn set_map(subject: &Subject, opener: &Cred, which: Which, text: &[u8]) -> Result<()> {
    user::write_map(&task::current(), opener, &*subject.task()?, which, text)
}

/// Whether setgroups(2) may be used.
pub fn setgroups(subject: &Subject) -> Result<Vec<u8>> {
    let denied = subject.task()?.cred().user_ns.deny_groups.load(Relaxed);
    Ok(if denied { b"deny\n".to_vec() } else { b"allow\n".to_vec() })
}

/// Denies it.
pub fn set_setgroups(subject: &Subject, opener: &Cred, text: &[u8]) -> Result<()> {
    user::write_setgroups(opener, &*subject.task()?, text)
}
