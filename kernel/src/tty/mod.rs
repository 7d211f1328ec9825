//! Terminals: the line discipline, the console, job control.

pub mod ldisc;
pub mod termios;
