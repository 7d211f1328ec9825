//! Looking after the running machines of a user: `umbel ps`, `umbel top`, `umbel cpu`.
//!
//! Each machine keeps two files in a directory of its user's own ([`registry`]): what does not change about it, and a
//! socket at which it answers [`server::Request`]s, one JSON line each way. Whoever may enter that directory, which is the
//! user and root, may ask.

pub mod cpu;
pub mod ps;
pub mod registry;
pub mod server;
pub mod shares;
pub mod status;
pub mod top;
