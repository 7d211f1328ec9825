//! userfaultfd(2): a descriptor from which a program reads which of its accesses found no page, and by which it brings one.
//! Source: userfaultfd(2), ioctl_userfaultfd(2). What happens to the space is in [`crate::vm::userfault`].
//!
//! Without features that tell of fork, mremap and munmap: what these make is not watched, as on Linux if they are not asked for.

use crate::fs::devtmpfs::register_char;
use crate::fs::{File, FileOps, IoDst, OnExec, OpenFlags, PollEvents, PollTable};
use crate::room::Text;
use crate::task::{self, Task, cap};
use crate::vm::userfault::{Modes, Pending, Threads, Userfault};
use crate::{Errno, Pid, Result, sched, time};
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt::Write as _;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use linux_raw_sys::general::RLIMIT_NOFILE;
use umbel_abi::machine::layout::USER_TOP;
use umbel_mm::{PAGE, UserAddr, user};

/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: u32 = 1;
/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFD_EVENT_PAGEFAULT`.
const PAGEFAULT: u8 = 0x12;
/// Bytes of a message.
const MESSAGE: usize = 32;

/// `UFFD_FEATURE_*` that there are.
mod feature {
    pub const WP: u64 = 1;
    pub const MISSING_SHMEM: u64 = 1 << 5;
    pub const SIGBUS: u64 = 1 << 7;
    pub const THREAD_ID: u64 = 1 << 8;
    pub const MINOR_SHMEM: u64 = 1 << 10;
    pub const EXACT_ADDRESS: u64 = 1 << 11;
    pub const WP_UNPOPULATED: u64 = 1 << 13;
    pub const POISON: u64 = 1 << 14;
    pub const WP_ASYNC: u64 = 1 << 15;
    pub const MOVE: u64 = 1 << 16;
    pub const ALL: u64 = WP
        | MISSING_SHMEM
        | SIGBUS
        | THREAD_ID
        | MINOR_SHMEM
        | EXACT_ADDRESS
        | WP_UNPOPULATED
        | POISON
        | WP_ASYNC
        | MOVE;
    /// Not Linux's: the API has been agreed upon.
    pub const AGREED: u64 = 1 << 63;
}

/// `UFFDIO_*`.
mod op {
    pub const NEW: u32 = 0xaa00;
    pub const REGISTER: u32 = 0xc020_aa00;
    pub const UNREGISTER: u32 = 0x8010_aa01;
    pub const WAKE: u32 = 0x8010_aa02;
    pub const COPY: u32 = 0xc028_aa03;
    pub const ZEROPAGE: u32 = 0xc020_aa04;
    pub const MOVE: u32 = 0xc028_aa05;
    pub const WRITEPROTECT: u32 = 0xc018_aa06;
    pub const CONTINUE: u32 = 0xc020_aa07;
    pub const POISON: u32 = 0xc020_aa08;
    pub const API: u32 = 0xc018_aa3f;
    /// The bit of a request in what tells which there are.
    pub const fn bit(request: u32) -> u64 {
        1 << (request & 0x3f)
    }
}

/// `UFFDIO_*_MODE_DONTWAKE`.
const DONTWAKE: u64 = 1;
/// `UFFDIO_COPY_MODE_WP`; `UFFDIO_WRITEPROTECT_MODE_WP` is 1, and not to wake then 2.
const COPY_WP: u64 = 2;

/// Major and minor number of `/dev/userfaultfd`.
const NUMBER: (u32, u32) = (10, 126);

/// Registers the device. Once, at boot, before the file systems are made.
pub fn init() {
    register_char(NUMBER.0, NUMBER.1, "userfaultfd", 0o600, |_, _| Ok(Arc::new(Device)));
}

/// The guest's threads, for the space.
#[derive(Debug)]
struct Guests;

impl Threads for Guests {
    fn current(&self) -> Pid {
        task::current().tid()
    }

    fn must_exit(&self) -> bool {
        task::current().must_exit()
    }

    fn now_ns(&self) -> u64 {
        time::monotonic_ns()
    }
}

/// See the module.
struct UserfaultFd {
    fault: Arc<Userfault>,
    features: AtomicU64,
}

impl Drop for UserfaultFd {
    fn drop(&mut self) {
        self.fault.close();
    }
}

/// A new one for the caller's space.
///
/// # Errors
/// `EINVAL`, `EPERM`.
pub fn new(task: &Arc<Task>, flags: u32) -> Result<(Arc<File>, OpenFlags)> {
    if flags & USER_MODE_ONLY == 0 && !task.capable(cap::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    create(task, flags)
}

fn create(task: &Arc<Task>, flags: u32) -> Result<(Arc<File>, OpenFlags)> {
    let allowed = OpenFlags::NONBLOCK | OpenFlags::CLOEXEC;
    let open = OpenFlags::from_bits(flags & !USER_MODE_ONLY).filter(|open| allowed.contains(*open));
    let open = open.ok_or(Errno::EINVAL)?;
    let space = task.space().ok_or(Errno::EINVAL)?;
    let fault = Userfault::new(&space, &Guests, flags & USER_MODE_ONLY != 0);
    let file = File::anonymous(
        Arc::new(UserfaultFd { fault, features: AtomicU64::new(0) }),
        open & OpenFlags::NONBLOCK | OpenFlags::RDWR,
    );
    Ok((file, open))
}

/// `/dev/userfaultfd`: whoever may open it needs no other permission.
struct Device;

impl FileOps for Device {
    fn ioctl(&self, task: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != op::NEW {
            return Err(Errno::EINVAL);
        }
        let (file, flags) = create(task, u32::try_from(arg).map_err(|_| Errno::EINVAL)?)?;
        let on_exec = OnExec::close_if(flags.contains(OpenFlags::CLOEXEC));
        let fd = task.files()?.install(file, on_exec, task.process().limit(RLIMIT_NOFILE))?;
        Ok(fd.0 as u64)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The pages of `len` bytes from `start` on.
fn pages(start: u64, len: u64) -> Result<Range<u64>> {
    let end = start.checked_add(len).filter(|end| *end <= USER_TOP);
    match end {
        Some(end) if len > 0 && start.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) => Ok(start..end),
        _ => Err(Errno::EINVAL),
    }
}

impl UserfaultFd {
    fn has(&self, feature: u64) -> bool {
        self.features.load(Relaxed) & feature != 0
    }

    fn message(&self, one: &Pending) -> [u8; MESSAGE] {
        let addr = if self.has(feature::EXACT_ADDRESS) { one.addr } else { one.addr & !(PAGE - 1) };
        let thread = task::current().process().sees(one.thread) as u32;
        let thread = if self.has(feature::THREAD_ID) { thread } else { 0 };
        let mut bytes = [0; MESSAGE];
        bytes[0] = PAGEFAULT;
        bytes[8..16].copy_from_slice(&one.asked.bits().to_ne_bytes());
        bytes[16..24].copy_from_slice(&addr.to_ne_bytes());
        bytes[24..28].copy_from_slice(&thread.to_ne_bytes());
        bytes
    }

    fn agree(&self, arg: UserAddr) -> Result<()> {
        let [api, wanted, _]: [u64; 3] = user::read_val(arg)?;
        if api != API || wanted & !feature::ALL != 0 {
            user::write_val(arg, &[0_u64; 3])?;
            return Err(Errno::EINVAL);
        }
        let requests = op::bit(op::API) | op::bit(op::REGISTER) | op::bit(op::UNREGISTER);
        user::write_val(arg, &[API, feature::ALL, requests])?;
        let agreed = self.features.compare_exchange(0, wanted | feature::AGREED, Relaxed, Relaxed);
        agreed.map_err(|_| Errno::EINVAL)?;
        self.fault.refuses.store(wanted & feature::SIGBUS != 0, Relaxed);
        self.fault.notes_only.store(wanted & feature::WP_ASYNC != 0, Relaxed);
        let absent = feature::WP_ASYNC | feature::WP_UNPOPULATED;
        self.fault.watches_absent.store(wanted & absent != 0, Relaxed);
        Ok(())
    }

    fn register(&self, arg: UserAddr) -> Result<()> {
        let [start, len, modes]: [u64; 3] = user::read_val(arg)?;
        let modes = Modes::from_bits(modes).filter(|modes| !modes.is_empty()).ok_or(Errno::EINVAL)?;
        let range = pages(start, len)?;
        self.fault.space()?.watch(&self.fault, &range, modes)?;
        let mut requests: u64 = [op::WAKE, op::COPY, op::ZEROPAGE, op::MOVE, op::POISON].map(op::bit).iter().sum();
        for (mode, request) in [(Modes::WP, op::WRITEPROTECT), (Modes::MINOR, op::CONTINUE)] {
            requests |= if modes.contains(mode) { op::bit(request) } else { 0 };
        }
        user::write_val(arg.add(24), &requests)
    }

    /// Answers page by page, and writes how far it came, or why it did not begin, to `out`.
    fn answer(
        &self,
        range: &Range<u64>,
        wake: bool,
        out: UserAddr,
        mut page: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        let mut result = Ok(());
        while at < range.end && result.is_ok() {
            // There may be very many that take nothing.
            sched::cond_resched();
            result = if task::current().must_exit() { Err(Errno::EINTR) } else { page(at) };
            at += if result.is_ok() { PAGE } else { 0 };
        }
        let done = at - range.start;
        let told = match result {
            Err(errno) if done == 0 => errno.as_return(),
            _ => done,
        };
        user::write_val(out, &told)?;
        if wake && done > 0 {
            self.fault.wake(&(range.start..at));
        }
        match result {
            Err(_) if done > 0 => Err(Errno::EAGAIN),
            other => other,
        }
    }

    fn copy(&self, arg: UserAddr) -> Result<()> {
        let [to, from, len, mode]: [u64; 4] = user::read_val(arg)?;
        let range = pages(to, len)?;
        if mode & !(DONTWAKE | COPY_WP) != 0 || from.checked_add(len).is_none_or(|end| end > USER_TOP) {
            return Err(Errno::EINVAL);
        }
        let space = self.fault.space()?;
        self.answer(&range, mode & DONTWAKE == 0, arg.add(32), |at| {
            let bytes = user::read_vec::<u8>(UserAddr(from + (at - to)), PAGE as usize)?;
            space.supply(&self.fault, at, &bytes, mode & COPY_WP != 0)
        })
    }

    /// What names a range, a mode and a place for the outcome: `UFFDIO_ZEROPAGE`, `UFFDIO_CONTINUE`, `UFFDIO_POISON`.
    fn fill(&self, arg: UserAddr, page: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let [start, len, mode]: [u64; 3] = user::read_val(arg)?;
        let range = pages(start, len)?;
        if mode & !DONTWAKE != 0 {
            return Err(Errno::EINVAL);
        }
        self.answer(&range, mode & DONTWAKE == 0, arg.add(24), page)
    }

    fn transfer(&self, arg: UserAddr) -> Result<()> {
        const HOLES: u64 = 2;
        let [to, from, len, mode]: [u64; 4] = user::read_val(arg)?;
        let range = pages(to, len)?;
        let source = pages(from, len)?;
        if mode & !(DONTWAKE | HOLES) != 0 || source.start < range.end && range.start < source.end {
            return Err(Errno::EINVAL);
        }
        let space = self.fault.space()?;
        self.answer(&range, mode & DONTWAKE == 0, arg.add(32), |at| {
            match space.transfer(&self.fault, from + (at - to), at) {
                Err(Errno::ENOENT) if mode & HOLES != 0 => Ok(()),
                other => other,
            }
        })
    }

    fn write_protect(&self, arg: UserAddr) -> Result<()> {
        const WP: u64 = 1;
        const DONTWAKE: u64 = 2;
        let [start, len, mode]: [u64; 3] = user::read_val(arg)?;
        let range = pages(start, len)?;
        if mode & !(WP | DONTWAKE) != 0 || mode == WP | DONTWAKE {
            return Err(Errno::EINVAL);
        }
        self.fault.space()?.watch_writes(&self.fault, &range, mode & WP != 0)?;
        if mode == 0 {
            self.fault.wake(&range);
        }
        Ok(())
    }

    /// The range that is all of the argument.
    fn range(arg: UserAddr) -> Result<Range<u64>> {
        let [start, len]: [u64; 2] = user::read_val(arg)?;
        pages(start, len)
    }
}

impl FileOps for UserfaultFd {
    fn read(&self, file: &File, dst: &mut IoDst<'_>) -> Result<usize> {
        if !self.has(feature::AGREED) {
            return Err(Errno::EINVAL);
        }
        let mut done = 0;
        while dst.remaining() >= MESSAGE {
            let one = match self.fault.next(true) {
                Some(one) => one,
                None if done > 0 => break,
                None if file.nonblocking() => return Err(Errno::EAGAIN),
                None => {
                    let waited = self.fault.readers.wait_interruptible(None, || self.fault.next(true));
                    waited.map_err(|_| Errno::ERESTARTSYS)?
                }
            };
            done += dst.write(&self.message(&one))?;
        }
        if done == 0 { Err(Errno::EINVAL) } else { Ok(done) }
    }

    fn ioctl(&self, _: &Arc<Task>, _: &File, cmd: u32, arg: u64) -> Result<u64> {
        let arg = UserAddr(arg);
        if cmd != op::API && !self.has(feature::AGREED) {
            return Err(Errno::EINVAL);
        }
        let fault = &self.fault;
        match cmd {
            op::API => self.agree(arg),
            op::REGISTER => self.register(arg),
            op::UNREGISTER => {
                let range = Self::range(arg)?;
                fault.space()?.unwatch(fault, &range);
                fault.wake(&range);
                Ok(())
            }
            op::WAKE => Self::range(arg).map(|range| fault.wake(&range)),
            op::COPY => self.copy(arg),
            op::ZEROPAGE => {
                let space = fault.space()?;
                self.fill(arg, |at| space.supply(fault, at, &[0; PAGE as usize], false))
            }
            op::MOVE => self.transfer(arg),
            op::WRITEPROTECT => self.write_protect(arg),
            op::CONTINUE => {
                let space = fault.space()?;
                self.fill(arg, |at| space.show(fault, at))
            }
            op::POISON => {
                let space = fault.space()?;
                self.fill(arg, |at| space.poison(fault, at))
            }
            _ => Err(Errno::EINVAL),
        }
        .map(|()| 0)
    }

    fn poll(&self, file: &File, table: Option<&mut PollTable>) -> PollEvents {
        if table.is_some_and(|table| table.register(&self.fault.readers).is_err()) {
            return PollEvents::ERR;
        }
        // Linux has it for those who do not block only.
        if !self.has(feature::AGREED) || !file.nonblocking() {
            return PollEvents::ERR;
        }
        if self.fault.next(false).is_some() { PollEvents::READABLE } else { PollEvents::empty() }
    }

    fn fdinfo(&self, _: &File, out: &mut Text) {
        let (unread, all) = self.fault.counts();
        let features = self.features.load(Relaxed) & !feature::AGREED;
        let _ = writeln!(out, "pending:\t{unread}\ntotal:\t{all}\nAPI:\t{API:x}:{:x}:{features:x}", feature::ALL);
    }

    fn describe(&self, _: &File) -> String {
        String::from("anon_inode:[userfaultfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
