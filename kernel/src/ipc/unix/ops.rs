//! A socket as an open file.

use super::{Extras, Options, Socket, sender};
use crate::fs::{Attr, File, FileOps, IoDst, IoSrc, Kind as Inode, OpenFlags, PollEvents, PollTable};
use crate::task::{self, Task};
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::Ordering::*;
use umbel_abi::linux::ioctl::FIONREAD;
use umbel_mm::user::{self, UserAddr};

/// What a descriptor of a socket does.
struct Ops(Arc<Socket>);

impl FileOps for Ops {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        let options = Options { nonblock: file.nonblocking(), ..Options::default() };
        self.0.receive(dst, options).map(|got| got.count)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>) -> Result<usize> {
        let options = Options { nonblock: file.nonblocking(), ..Options::default() };
        let extras = Extras { sender: sender(&task::current()), ..Extras::default() };
        self.0.send(src, None, extras, options)
    }

    fn poll(&self, _: &File, table: Option<&mut PollTable>) -> PollEvents {
        let socket = &self.0;
        let (peer, connected, offers) = {
            let state = socket.state.lock();
            let offers = state.backlog.as_ref().map(|backlog| !backlog.is_empty());
            (state.peer.upgrade(), state.connected, offers)
        };
        if let Some(table) = table {
            let own = table.register(&socket.readers).and(table.register(&socket.writers));
            let room = peer.as_ref().map_or(Ok(()), |peer| table.register(&peer.writers));
            if own.and(room).is_err() {
                return PollEvents::ERR;
            }
        }
        if let Some(offers) = offers {
            return if offers { PollEvents::READABLE } else { PollEvents::empty() };
        }
        let ended = socket.receive_closed.load(Acquire);
        let mut events = PollEvents::empty();
        if socket.ready.load(Acquire) || ended {
            events |= PollEvents::READABLE;
        }
        if ended {
            events |= PollEvents::RDHUP;
        }
        if (ended && socket.send_closed.load(Acquire)) || (socket.kind.connects() && !connected) {
            events |= PollEvents::HUP;
        }
        if peer.is_none_or(|peer| !peer.full.load(Acquire)) {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        user::write_val(UserAddr(arg), &(self.0.waiting() as i32))?;
        Ok(0)
    }

    fn attr(&self, _: &File) -> Result<Attr> {
        Ok(Attr::new(Inode::Socket, 0o777, self.0.id))
    }

    fn release(&self, _: &File) {
        self.0.close();
    }

    fn describe(&self, _: &File) -> String {
        format!("socket:[{}]", self.0.id)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file of `socket`. `flags`: `O_NONBLOCK`.
pub fn file(socket: Arc<Socket>, flags: OpenFlags) -> Arc<File> {
    File::anonymous(Arc::new(Ops(socket)), flags | OpenFlags::RDWR)
}

/// The socket behind an open file.
///
/// # Errors
/// `ENOTSOCK`.
pub fn of(file: &File) -> Result<Arc<Socket>> {
    file.ops_as::<Ops>().map(|ops| ops.0.clone()).ok_or(Errno::ENOTSOCK)
}
