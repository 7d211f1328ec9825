//! Counters behind `--stats`.
