//! Boot: from the machine's first call to the first program, and the machine's end.
//!
//! [`boot`] runs on virtual CPU 0, [`boot_secondary`] on the others. Process 1 is the kernel's own init: it starts the
//! command as process 2, in a session of its own with the console as its terminal, and reaps orphans. When process 2 ends
//! the machine ends with its status.

use crate::fs::{self, FdTable, File, FsContext};
use crate::loader::{self, open, stack::Strings};
use crate::sched::group::Autogroup;
use crate::sched::{self, Entity};
use crate::signal;
use crate::task::ns::PidNs;
use crate::task::ns::{NsProxy, uts};
use crate::task::wait::{self, WaitFor, WaitOptions};
use crate::task::{self, Cred, Image, Limits, NewTask, Process, Task, WaitStatus, exec, ids, kthread};
use crate::{Errno, Pid, Result, drivers, machine, random, stats, time};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use umbel_abi::machine::{BootInfo, ControlState};
use umbel_gate::UserContext;
use umbel_smp::cpu as vcpu;
use umbel_smp::cpu::Report;
use umbel_smp::vtime;

/// The command's process.
pub const FIRST: Pid = Pid(2);

/// When the command was started, ns.
static COMMAND_NS: AtomicU64 = AtomicU64::new(0);
static READY: AtomicBool = AtomicBool::new(false);

/// Starts the kernel on virtual CPU 0. Never returns.
pub fn boot() -> ! {
    let info = machine::info();
    umbel_mm::percpu::enter_slots();
    umbel_mm::heap::init(info);
    umbel_mm::heap::set_opener(umbel_gate::cold::open);
    umbel_host::raw::set_opener(umbel_mm::heap::open_cold);
    umbel_gate::fpu::init(info.xsave_mask, info.xsave_len);
    time::clock::init(info.tsc_khz);
    sched::begin_virtual_time();
    machine::set_started(time::monotonic_ns());
    if machine::option(BootInfo::LOCKSTAT) || machine::option(BootInfo::VIRTUAL) {
        umbel_smp::lock::stat::enable(info.cpus, time::monotonic_ns);
    }
    random::seed(&info.seed);
    for cpu in 0..info.cpus {
        sched::prepare_idle_task(cpu, kthread::idle().expect("memory for the first threads"));
    }
    umbel_smp::berths::open_rooms();
    sched::adopt_boot_thread();
    sched::init();
    crate::vm::init(|| task::current().space(), || task::oom::out_of_memory(&task::current()));
    drivers::init();
    crate::ipc::init();
    umbel_mm::frame::init(info).expect("the machine's own facts");
    start_init();
    if kthread::start("cpuhp", sched::hotplug::serve_machine).is_err() {
        log::warn!("no memory for the thread that adds and removes CPUs");
    }
    READY.store(true, Release);
    sched::admit_others();
    vcpu::set_state(ControlState::Running);
    sched::idle_forever()
}

/// Starts the kernel on another virtual CPU, once virtual CPU 0 is ready. Never returns.
pub fn boot_secondary() -> ! {
    if machine::option(BootInfo::VIRTUAL) {
        vtime::enter();
    }
    while !READY.load(Acquire) {
        core::hint::spin_loop();
    }
    sched::adopt_boot_thread();
    sched::idle_forever()
}

fn start_init() {
    let init = kthread::make(ids::INIT, "init", Some(init_main));
    {
        let mut table = ids::table();
        let pid = table.reserve_id();
        debug_assert_eq!(pid, Ok(ids::INIT));
        let pgrp = table.new_session(ids::INIT);
        table.enter_process(&init, (Pid(0), Pid(0)), pgrp);
    }
    sched::start(&init);
}

/// Process 1.
fn init_main(init: &Arc<Task>) {
    if let Err(failure) = start_command(init) {
        failure.report();
        end(failure.status);
    }
    loop {
        let _ = wait::wait(init, WaitFor::Any, WaitOptions::WEXITED | WaitOptions::__WALL);
        init.thread.clear_interrupt();
        // Without children there is nothing to do until somebody is orphaned.
        let childless = || ids::table().node(ids::INIT).is_ok_and(|node| !node.children.is_empty()).then_some(());
        init.process().child_events.wait_until(childless);
    }
}

/// Why the command could not be started.
struct Failure {
    status: i32,
    /// The argument that is to blame, with what it is given to.
    name: String,
    errno: Errno,
}

/// Status for wrong arguments.
const STATUS_USAGE: i32 = 2;

impl Failure {
    fn new(status: i32, name: &[u8], errno: Errno) -> Failure {
        Failure { status, name: one_line(name), errno }
    }

    /// What the machine could not know: whether the guest has the directory.
    fn of_workdir(name: &[u8], errno: Errno) -> Failure {
        let wrong = [Errno::EACCES, Errno::ELOOP, Errno::ENAMETOOLONG, Errno::ENOENT, Errno::ENOTDIR].contains(&errno);
        let name = alloc::format!("invalid value '{}' for '--workdir <DIR>'", one_line(name));
        Failure { status: if wrong { STATUS_USAGE } else { 125 }, name, errno }
    }

    fn report(&self) {
        let line = alloc::format!("umbel: {}: {}\n", self.name, describe(self.errno));
        drivers::print_error(&line);
    }
}

/// A name as part of a line.
fn one_line(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// An errno as a shell would say it.
fn describe(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "No such file or directory",
        Errno::EACCES => "Permission denied",
        Errno::ENOTDIR => "Not a directory",
        Errno::EISDIR => "Is a directory",
        Errno::ENOEXEC => "Exec format error",
        Errno::ENOMEM => "Cannot allocate memory",
        Errno::ELOOP => "Too many levels of symbolic links",
        Errno::E2BIG => "Argument list too long",
        Errno::ENAMETOOLONG => "File name too long",
        other => other.name(),
    }
}

/// The strings of [`BootInfo`].
struct Command {
    strings: Strings,
    workdir: Vec<u8>,
    host: Vec<u8>,
}

fn command() -> Command {
    let info = machine::info();
    let len = (info.strings_len as usize).min(info.strings.len());
    let bytes = info.strings.get(..len).unwrap_or(&[]);
    let mut all = bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec);
    let args = all.by_ref().take(info.argc as usize).collect();
    let envs = all.by_ref().take(info.envc as usize).collect();
    let workdir = all.next().unwrap_or_default();
    let host = all.next().unwrap_or_default();
    Command { strings: Strings { args, envs }, workdir, host }
}

/// Builds process 2 and starts it.
fn start_command(init: &Arc<Task>) -> core::result::Result<(), Failure> {
    let command = command();
    init.ns().uts.set(|names| names.host = uts::name(&command.host));
    let name = command.strings.args.first().cloned().unwrap_or_default();
    let root = fs::init(machine::info()).and_then(|()| fs::root()).map_err(|errno| Failure::new(125, b"/", errno))?;
    let context = FsContext::new(root.clone(), root);
    drop(init.replace_fs(Some(context.clone())));
    drop(init.replace_files(Some(Arc::new(FdTable::new()))));
    drivers::late_init();
    let cwd = open::find_dir(init, &command.workdir).map_err(|errno| Failure::of_workdir(&command.workdir, errno))?;
    context.set_cwd(cwd);
    init.set_cred(Cred::new(machine::info().uid, machine::info().gid));
    let found = find_command(init, &name, &command.strings.envs);
    let (path, file) = found.map_err(|errno| {
        let status = if errno == Errno::ENOENT || errno == Errno::ENOTDIR { 127 } else { 126 };
        Failure::new(status, &name, errno)
    })?;
    let first = first_task(init, file, path, command.strings).map_err(|errno| Failure::new(126, &name, errno))?;
    init.set_cred(Cred::new(0, 0));
    COMMAND_NS.store(time::monotonic_ns(), Relaxed);
    sched::start(&first);
    Ok(())
}

/// Opens the command; a name without a slash is looked for in the guest's PATH.
fn find_command(init: &Arc<Task>, name: &[u8], envs: &[Vec<u8>]) -> Result<(Vec<u8>, Arc<File>)> {
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    if name.contains(&b'/') {
        return open::open_exec(init, name).map(|file| (name.to_vec(), file));
    }
    let path = envs.iter().find_map(|env| env.strip_prefix(b"PATH="));
    let path = path.unwrap_or(b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut refused = Errno::ENOENT;
    for dir in path.split(|&byte| byte == b':') {
        let mut full = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
        full.push(b'/');
        full.extend(name);
        match open::open_exec(init, &full) {
            Ok(file) => return Ok((full, file)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => refused = errno,
        }
    }
    Err(refused)
}

fn first_task(init: &Arc<Task>, file: Arc<File>, path: Vec<u8>, strings: Strings) -> Result<Arc<Task>> {
    let limits = Limits::first(machine::info().ram_pages);
    let cred = Arc::new(Cred::new(machine::info().uid, machine::info().gid));
    let request = loader::Request { file, name: path, strings, unreachable: false, limits, randomize: true };
    let loaded = loader::load(init, request, &|_| Ok((cred.clone(), false)))?;
    let pid = ids::table().reserve_id()?;
    let process = Process::new((pid, PidNs::first()), signal::Shared::new(), limits, Arc::new(Image::default()));
    process.exit_signal.store(signal::SIGCHLD, Relaxed);
    let files = Arc::new(FdTable::new());
    for (fd, file) in drivers::stdio().into_iter().enumerate() {
        if let Some(file) = file {
            files.replace(crate::Fd(fd as i32), file, fs::OnExec::Keep, 1024)?;
        }
    }
    let first = Task::new(NewTask {
        tid: pid,
        process: Arc::new(process),
        thread: sched::new_thread(0)?,
        body: None,
        user: UserContext::try_new()?,
        signal: signal::Private::new(0),
        sched: Entity::in_group(Some(Autogroup::new(cred.uid))),
        cred,
        comm: task::comm(b"umbel"),
        space: None,
        files: Some(files),
        fs: Some(init.fs()?.duplicate()),
        rseq: Default::default(),
        seccomp: Default::default(),
        ns: NsProxy::first(),
    });
    let session = {
        let mut table = ids::table();
        let pgrp = table.new_session(pid);
        let session = pgrp.session.clone();
        table.enter_process(&first, (ids::INIT, ids::INIT), pgrp);
        session
    };
    crate::tty::give_console(&session, pid);
    exec::prepare_first(&first, loaded);
    Ok(first)
}

/// Process 2 has ended: so does the machine.
pub fn finish(status: WaitStatus) {
    end(status.shell());
}

/// Publishes the status and the report; the machine drains the output and ends everything.
fn end(status: i32) {
    let control = vcpu::control();
    let mut text = Report::begin();
    if machine::option(BootInfo::STATS) {
        let ran_ns = time::monotonic_ns().saturating_sub(COMMAND_NS.load(Relaxed));
        let _ = writeln!(text, "{:36} {ran_ns}", "time of the command, ns");
        let _ = text.write_str(&sched::virtual_report());
        let _ = text.write_str(&stats::report());
    }
    if machine::option(BootInfo::LOCKSTAT) {
        let _ = text.write_str(&stats::locks());
    }
    text.publish();
    control.exit_status.store(status, Relaxed);
    drivers::console::finish();
    vcpu::set_state(ControlState::Finished);
}
