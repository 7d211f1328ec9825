//! Talking between processes: pipes, sockets, events.

pub mod pipe;
pub mod ring;
