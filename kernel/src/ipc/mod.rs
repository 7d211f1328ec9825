//! Talking between processes: pipes, sockets, events.

pub mod aio;
pub mod epoll;
pub mod eventfd;
pub mod mqueue;
pub mod pipe;
pub mod ring;
pub mod sysv;
pub mod unix;
pub mod userfaultfd;

/// Registers what other subsystems call. Once, at boot.
pub fn init() {
    pipe::init();
    userfaultfd::init();
}
