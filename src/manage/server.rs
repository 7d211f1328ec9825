//! The machine's end of its control socket: one thread that answers one request a connection.

use super::cpu;
use super::status::{self, CpuState, Status};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;
use umbel_abi::machine::Control;

/// How long a client may take to send its request, or a machine to answer, on a host that is busy; how long a request is at most.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST_MAX: u64 = 4096;

/// What a machine is asked.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Request {
    /// What it uses now.
    Status,
    /// How its virtual CPUs stand.
    Cpus,
    /// Bring this virtual CPU up, or take it down.
    SetCpu { cpu: u32, online: bool },
}

impl Request {
    /// How long a machine may take to answer.
    pub fn patience(&self) -> Duration {
        match self {
            // The kernel waits until what runs there has gone elsewhere.
            Request::SetCpu { .. } => cpu::PATIENCE + PATIENCE,
            _ => PATIENCE,
        }
    }
}

/// What it answers.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub enum Reply {
    Status(Status),
    Cpus(Vec<CpuState>),
    /// Done as asked.
    Done,
    /// One line: why not.
    Refused(String),
}

/// Serves this machine's socket as long as the process lives; `memory` are the files behind KDATA and RAM.
pub fn start(listener: UnixListener, control: &'static Control, memory: Vec<OwnedFd>) {
    let server = Server { control, memory };
    // Without the thread nobody answers; that is no reason not to run.
    let _ = thread::Builder::new().name("control".into()).spawn(move || server.serve(&listener));
}

struct Server {
    control: &'static Control,
    memory: Vec<OwnedFd>,
}

impl Server {
    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            // A client that went away has no need of an answer.
            let _ = self.answer(stream);
        }
    }

    fn answer(&self, stream: UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(REQUEST_MAX)).read_line(&mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        let reply = match serde_json::from_str(&line) {
            Ok(Request::Status) => Reply::Status(status::measure(self.control, &self.memory)),
            Ok(Request::Cpus) => Reply::Cpus(status::cpus(self.control)),
            Ok(Request::SetCpu { cpu, online }) => match cpu::change(self.control, cpu, online) {
                Ok(()) => Reply::Done,
                Err(why) => Reply::Refused(why),
            },
            Err(error) => Reply::Refused(format!("not a request: {error}")),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&stream).write_all(&text)
    }
}
