//! The run queue of one virtual CPU.
