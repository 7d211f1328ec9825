//! What makes the kernel library a program of its own: entry, heap, memory functions, panic, and what slots need from
//! the layers above them.

mod entry;
mod heap;
mod hooks;
mod mem;
mod panic;
