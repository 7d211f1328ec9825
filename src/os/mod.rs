//! The machine's unsafe code: host calls and shared memory behind safe functions.

pub mod probe;
pub mod ring;
pub mod terminal;
