//! Tasks and processes.
