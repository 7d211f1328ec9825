//! Where the running machines of a user are found: a directory with two files for each, `PID.json` and `PID.sock`.
//! One more, `contenders`, is for those that compete ([`crate::balance`]).
//!
//! The directory is `$XDG_RUNTIME_DIR/umbel`, or `/tmp/umbel-UID` where that is not set. It must be the user's own and
//! closed to others, since its sockets give power over machines. Files of machines that are gone are removed by whoever
//! finds them.

use super::server::{Reply, Request};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkdir};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// The directory's name, alone or followed by the user's number.
const NAME: &str = "umbel";

/// Why the directory or a machine cannot be used.
#[derive(Debug, Error)]
pub enum RegistryError {
    #[error("{0} is not a directory of this user alone: remove it or set XDG_RUNTIME_DIR")]
    Unsafe(PathBuf),
    #[error("cannot use {0}: {1}")]
    Host(PathBuf, io::Error),
    #[error("another machine of this user is named {0:?}: give another --name")]
    NameTaken(String),
}

/// What does not change about a machine.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Description {
    /// Host process id of the machine.
    pub pid: i32,
    /// `--name`, or the process id in decimal.
    pub name: String,
    /// Bytes of RAM.
    pub mem: u64,
    /// The command, blanks between its arguments.
    pub command: String,
    /// Start, seconds since the epoch.
    pub started: u64,
}

impl Description {
    /// Seconds since the machine started.
    pub fn age(&self) -> u64 {
        now().saturating_sub(self.started)
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// This machine's place in the directory; gone when dropped.
pub struct Entry {
    files: [PathBuf; 2],
}

impl Entry {
    /// Makes the place and returns the socket to be served.
    pub fn make(description: &Description) -> Result<(Entry, UnixListener), RegistryError> {
        let dir = directory()?;
        if machines()?.iter().any(|machine| machine.name == description.name) {
            return Err(RegistryError::NameTaken(description.name.clone()));
        }
        let [facts, socket] = files(&dir, description.pid);
        let host = |path: &Path| {
            let path = path.to_owned();
            move |error| RegistryError::Host(path, error)
        };
        // A file of an earlier process of this number.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(host(&socket))?;
        let text = serde_json::to_vec(description).unwrap_or_default();
        fs::write(&facts, text).map_err(host(&facts))?;
        Ok((Entry { files: [facts, socket] }, listener))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// The machines that are there, oldest first.
pub fn machines() -> Result<Vec<Description>, RegistryError> {
    let dir = directory()?;
    let entries = fs::read_dir(&dir).map_err(|error| RegistryError::Host(dir.clone(), error))?;
    let mut found: Vec<Description> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"))
        .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
        .filter(|description: &Description| is_there(&dir, description.pid))
        .collect();
    found.sort_by_key(|description| (description.started, description.pid));
    Ok(found)
}

/// Asks a machine something. `None` if it does not answer in time: it is stopped or about to end.
pub fn ask(machine: &Description, request: &Request) -> Option<Reply> {
    let [_, socket] = files(&directory().ok()?, machine.pid);
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(request.patience())).ok()?;
    let mut line = serde_json::to_vec(request).ok()?;
    line.push(b'\n');
    stream.write_all(&line).ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

/// Whether the machine still runs; if not, what it left is removed. A process killed by force leaves a socket that refuses.
fn is_there(dir: &Path, pid: i32) -> bool {
    let [facts, socket] = files(dir, pid);
    match UnixStream::connect(&socket) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            let _ = fs::remove_file(facts);
            let _ = fs::remove_file(socket);
            false
        }
        _ => true,
    }
}

fn files(dir: &Path, pid: i32) -> [PathBuf; 2] {
    [dir.join(format!("{pid}.json")), dir.join(format!("{pid}.sock"))]
}

/// Process id of the machine of whatever directory that has this socket; `None` if it is not one of a machine.
pub fn machine_of(socket: &str) -> Option<i32> {
    let path = Path::new(socket).is_absolute().then(|| Path::new(socket))?;
    let directory = path.parent()?.file_name()?.to_str()?;
    let ours = directory == NAME || directory.strip_prefix(NAME)?.strip_prefix('-')?.parse::<u32>().is_ok();
    let pid = path.file_name()?.to_str()?.strip_suffix(".sock")?.parse().ok()?;
    ours.then_some(pid)
}

/// The directory, made if it is not there.
pub fn directory() -> Result<PathBuf, RegistryError> {
    let uid = Uid::effective();
    let path = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir).join(NAME),
        None => std::env::temp_dir().join(format!("{NAME}-{uid}")),
    };
    match mkdir(&path, Mode::S_IRWXU) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(RegistryError::Host(path, error.into())),
    }
    let metadata = fs::symlink_metadata(&path).map_err(|error| RegistryError::Host(path.clone(), error))?;
    let ours = metadata.is_dir() && metadata.uid() == uid.as_raw() && metadata.mode() & 0o077 == 0;
    if ours { Ok(path) } else { Err(RegistryError::Unsafe(path)) }
}
