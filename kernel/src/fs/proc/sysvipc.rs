//! `/proc/sysvipc`: the objects of System V IPC. Source: sysvipc(7), proc_sysvipc(5).

use crate::Result;
use crate::fs::InodeRef;
use crate::fs::pseudo::{Dir, Meta, PseudoFs, StaticDir, TextFile};
use crate::ipc::sysv::{Object, namespace};
use crate::room::Text;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use umbel_mm::PAGE;

/// The directory.
pub fn dir(fs: &Arc<PseudoFs>) -> InodeRef {
    let text = |make: fn() -> Text| -> InodeRef {
        TextFile::new(Meta::new(fs, 0o444), move || -> Result<Vec<u8>> { make().finish() })
    };
    let files = StaticDir::new().add("msg", text(msg)).add("sem", text(sem)).add("shm", text(shm));
    Dir::new(Meta::new(fs, 0o555), files)
}

fn shm() -> Text {
    let mut out = Text::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
    );
    for segment in namespace().shm.list() {
        let state = segment.state();
        let perm = state.perm;
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}",
            perm.key,
            perm.id,
            perm.mode,
            segment.size,
            segment.creator,
            state.last,
            segment.attached(),
            perm.uid,
            perm.gid,
            perm.cuid,
            perm.cgid,
            state.atime,
            state.dtime,
            perm.ctime,
            segment.memory.resident() * PAGE,
            0,
        );
    }
    out
}

fn sem() -> Text {
    let mut out = Text::from("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n");
    for set in namespace().sem.list() {
        let (perm, otime, count) = set.facts();
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}",
            perm.key, perm.id, perm.mode, count, perm.uid, perm.gid, perm.cuid, perm.cgid, otime, perm.ctime,
        );
    }
    out
}

fn msg() -> Text {
    let mut out = Text::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
    );
    for queue in namespace().msg.list() {
        let (perm, facts) = (queue.perm(), queue.facts());
        let _ = writeln!(
            out,
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}",
            perm.key,
            perm.id,
            perm.mode,
            facts.bytes,
            facts.count,
            facts.last_sender,
            facts.last_receiver,
            perm.uid,
            perm.gid,
            perm.cuid,
            perm.cgid,
            facts.stime,
            facts.rtime,
            perm.ctime,
        );
    }
    out
}
