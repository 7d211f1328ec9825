//! `/proc/PID/fd` and `fdinfo`. Source: proc_pid_fd(5), proc_pid_fdinfo(5).

use super::may_inspect;
use super::process::{Subject, owned};
use crate::fs::anon::path_of;
use crate::fs::pseudo::{Dir, DirSource, Link, PseudoFs, Target, TextFile};
use crate::fs::{File, InodeRef, Kind, OnExec, OpenFlags};
use crate::room::Text;
use crate::task;
use crate::{Errno, Fd, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// `fd`: links to the open files.
pub fn dir(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    Dir::new(owned(fs, subject, 0o500), Files { fs: fs.clone(), subject: subject.clone(), info: false })
}

/// `fdinfo`: a text file for each.
pub fn info_dir(fs: &Arc<PseudoFs>, subject: &Subject) -> InodeRef {
    Dir::new(owned(fs, subject, 0o555), Files { fs: fs.clone(), subject: subject.clone(), info: true })
}

struct Files {
    fs: Arc<PseudoFs>,
    subject: Subject,
    info: bool,
}

fn file(subject: &Subject, fd: Fd) -> Result<Arc<File>> {
    subject.task()?.files()?.get(fd).map_err(|_| Errno::ENOENT)
}

impl DirSource for Files {
    /// Its own descriptors are no secret to a process, also while they are to others of its user.
    fn admits_caller(&self) -> bool {
        self.subject.process().is_ok_and(|process| Arc::ptr_eq(&process, task::current().process()))
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef> {
        let number = if name == b"0" { Some(0) } else { super::parse_id(name) };
        let fd = Fd(number.ok_or(Errno::ENOENT)?);
        let subject = self.subject.clone();
        may_inspect(&*subject.task().map_err(|_| Errno::ENOENT)?)?;
        let open = file(&subject, fd)?;
        if self.info {
            return Ok(TextFile::new(owned(&self.fs, &self.subject, 0o444), move || info(&subject, fd)));
        }
        let flags = open.flags();
        let mode = 0o100 | if flags.readable() { 0o400 } else { 0 } | if flags.writable() { 0o200 } else { 0 };
        // Who holds the link may have been refused meanwhile: another program runs there.
        Ok(Link::new(owned(&self.fs, &self.subject, mode), move || {
            may_inspect(&*subject.task().map_err(|_| Errno::ENOENT)?)?;
            target(&file(&subject, fd)?)
        }))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(u64, &[u8], u64, Kind) -> bool) -> Result<()> {
        let task = self.subject.task().map_err(|_| Errno::ENOENT)?;
        may_inspect(&task)?;
        let kind = if self.info { Kind::Regular } else { Kind::Symlink };
        let base = super::process::ino(self.subject.tid) << 20;
        for fd in task.files()?.list() {
            let at = fd.0 as u64;
            if at >= from && !emit(at, format!("{}", fd.0).as_bytes(), base | at, kind) {
                break;
            }
        }
        Ok(())
    }
}

fn target(file: &Arc<File>) -> Result<Target> {
    match file.path() {
        Some(path) => {
            let root = task::current().fs()?.root();
            Ok(Target { text: path.display(&root), jump: Some(path.clone()) })
        }
        None => Ok(Target { text: file.ops().describe(file).into_bytes(), jump: Some(path_of(file)?) }),
    }
}

fn info(subject: &Subject, fd: Fd) -> Result<Vec<u8>> {
    let files = subject.task()?.files()?;
    let open = files.get(fd).map_err(|_| Errno::ENOENT)?;
    let cloexec = files.on_exec(fd) == Ok(OnExec::Close);
    let flags = open.flags().bits() | if cloexec { OpenFlags::CLOEXEC.bits() } else { 0 };
    // A reader that holds the position may sleep: do not wait for it.
    let pos = open.pos.try_lock().map_or(0, |pos| *pos);
    let mount = open.path().map_or(0, |path| path.mount().id());
    let ino = open.attr().map_or(0, |attr| attr.ino);
    let mut out = Text::default();
    let _ = writeln!(out, "pos:\t{pos}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}");
    open.ops().fdinfo(&open, &mut out);
    for (index, lock) in crate::fs::lock::list(Some(&open))?.iter().enumerate() {
        let _ = writeln!(out, "lock:\t{}: {}", index + 1, lock.line());
    }
    out.finish()
}
