//! What the machine itself prints. Streams that cannot be written are no reason to panic: messages are lost then, and whoever was
//! asked for output ends with an error.

use std::io::{self, ErrorKind, Write};
use std::process;

/// Status of what is killed by SIGPIPE, as a shell shows it.
const STATUS_PIPE: i32 = 128 + 13;

/// A message on standard error.
pub fn say(text: &str) {
    // Nobody is left to be told.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Output that was asked for. Ends the process where it cannot be written.
pub fn show(text: &str) {
    let mut out = io::stdout();
    let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(STATUS_PIPE);
    }
    say(&format!("umbel: cannot write to standard output: {error}\n"));
    process::exit(crate::STATUS_MACHINE.into());
}
