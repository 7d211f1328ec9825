//! The machine's unsafe code: host calls and shared memory behind safe functions.

pub mod cpu;
pub mod futex;
pub mod probe;
pub mod ring;
pub mod shared;
pub mod signal;
pub mod streams;
pub mod terminal;
pub mod zygote;
