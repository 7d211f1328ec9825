//! Where slots come from: the zygote, and one parent of slots per virtual CPU.
//!
//! The machine forks the zygote before it has a thread or a secret and jumps into the image. The zygote throws away
//! everything of the machine's address space and proves it, then forks the parents, each a session of its own (one
//! scheduling entity of the host, where the host groups by session). A parent forks its virtual CPU's slots on request,
//! reaps them, and replaces those that the host killed. Each dies with its maker: machine, zygote, parent, slots.
//!
//! Virtual CPUs that are added later ([`create`]) get their parent from the zygote then; if the host refuses, nothing but the
//! request fails.
//!
//! Parents take no locks and allocate nothing: they run beside their virtual CPU without being one.

use crate::berths::Berths;
use crate::cpu::{self, Vcpu};
use crate::handover::Death;
use crate::hotplug::Stage;
use crate::idle;
use crate::slot::{self, Slot};
use crate::switch;
use alloc::alloc::{Layout, alloc_zeroed};
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering::*};
use umbel_abi::linux::Errno;
use umbel_abi::machine::{ControlState, Mailbox, SlotPage, SlotPhase, VcpuState, layout};
use umbel_host::{clock, futex, process, space};

/// Virtual CPUs up to which each starts with a slot in reserve; beyond, kernel memory is dearer than a fork now and then.
const SPARE_UP_TO: u32 = 32;
/// A parent's private memory, in the range of the copy window, which parents do not use: the address of its futex word,
/// then its stack.
const PRIVATE: u64 = layout::WINDOW;
const PRIVATE_LEN: u64 = 0x8000;
/// First address above everything that user space can map.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

static ZYGOTE: AtomicI32 = AtomicI32::new(0);
/// What runs first on each virtual CPU.
static BOOT: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Exit status of a parent whose first slot the host refused.
const SLOT_REFUSED: i32 = 3;

/// What the machine tells the zygote in registers.
#[derive(Clone, Copy, Debug)]
pub struct Inheritance {
    /// The C library's restartable-sequences area, 0 if none.
    pub rseq: u64,
    /// Its registered length.
    pub rseq_len: u32,
    /// End of the image in memory.
    pub image_end: u64,
    /// Host process id of the machine.
    pub machine: i32,
}

/// Runs the zygote: `boot(cpu)` starts on each virtual CPU, on a kernel stack of its own, in its first slot.
///
/// The heap and the hooks are set up. Never returns; the process ends with the machine.
///
/// # Safety
/// Called once, in the fresh child of the machine, on a stack in KDATA, with image and KDATA mapped in their places.
pub unsafe fn run(inherited: Inheritance, boot: extern "C" fn(u64) -> !) -> ! {
    // SAFETY: the caller vouches for where we run; nothing outside image and KDATA is used from here on.
    let ready = unsafe { settle(&inherited) }.and_then(|()| prepare_cpus(boot));
    if let Err((step, errno)) = ready {
        give_up(step, errno);
    }
    ZYGOTE.store(process::getpid(), Relaxed);
    BOOT.store(boot as *mut (), Release);
    let word = &cpu::control().zygote_word;
    if let Err((step, errno)) = listen(word) {
        give_up(step, errno);
    }
    loop {
        let seen = word.load(Acquire);
        while let Some(dead) = process::reap() {
            lose_parent(dead.pid, dead.status);
        }
        for vcpu in cpu::all() {
            if vcpu.parent_wanted.swap(0, AcqRel) != 0 {
                start_parent(vcpu);
            }
        }
        let _ = futex::wait(word, seen, None);
    }
}

/// Forks the parent of a virtual CPU's slots.
fn start_parent(vcpu: &'static Vcpu) {
    let stack = parent_start_stack(vcpu);
    // SAFETY: the stack is used by this parent alone, and only until it has one of its own.
    let forked = unsafe { process::fork_onto(stack, parent_main, vcpu.id().into()) };
    match forked {
        Ok(pid) => vcpu.shared().parent_pid.store(pid as u32, Release),
        Err(_) if is_added(vcpu) => refuse(vcpu),
        Err(errno) => give_up("fork a parent of slots", errno),
    }
}

/// A parent died, and its slots with it: nothing can go on, unless it never had one.
fn lose_parent(pid: i32, status: i32) {
    let vcpu = cpu::all().find(|vcpu| vcpu.shared().parent_pid.load(Acquire) == pid as u32);
    match vcpu {
        Some(vcpu) if status == SLOT_REFUSED << 8 && is_added(vcpu) => {
            vcpu.shared().parent_pid.store(0, Release);
            refuse(vcpu);
        }
        _ => give_up("keep the parent of a virtual CPU's slots", Errno::ESRCH),
    }
}

/// Whether the virtual CPU is being added to a machine that runs.
fn is_added(vcpu: &Vcpu) -> bool {
    vcpu.id() >= cpu::control().boot.cpus && vcpu.life.stage() == Stage::Coming
}

/// The host has no room for one more virtual CPU: whoever asked is told.
fn refuse(vcpu: &Vcpu) {
    vcpu.life.fail();
    crate::ipi::send(0, Mailbox::DEVICE);
}

/// Has the zygote make virtual CPU `cpu`, which boots and then arrives. On another virtual CPU, one at a time; `cpu` is the
/// next number, or one that could not be made. If the host refuses, its life is absent again and virtual CPU 0 is interrupted.
///
/// # Errors
/// `ENOMEM`.
pub fn create(cpu: u32) -> Result<(), Errno> {
    let vcpu = cpu::at(cpu);
    // SAFETY: `run` stores such a function before the first slot.
    let boot = unsafe { core::mem::transmute::<*mut (), extern "C" fn(u64) -> !>(BOOT.load(Acquire)) };
    if vcpu.slot(0).is_none() {
        prepare_cpu(vcpu, 1, boot).map_err(|(_, errno)| errno)?;
    }
    if let Some(first) = vcpu.slot(0) {
        first.wanted.store(1, Release);
        first.ring();
    }
    vcpu.life.create();
    cpu::raise_count(cpu + 1);
    vcpu.parent_wanted.store(1, Release);
    let word = &cpu::control().zygote_word;
    word.fetch_add(1, AcqRel);
    futex::wake(word, 1);
    Ok(())
}

type Step<T> = Result<T, (&'static str, Errno)>;

/// Becomes a process that has image and KDATA only.
unsafe fn settle(inherited: &Inheritance) -> Step<()> {
    process::die_with_parent().map_err(|e| ("prctl(PR_SET_PDEATHSIG)", e))?;
    if process::getppid() != inherited.machine {
        process::exit(1);
    }
    let _ = process::setsid();
    process::set_name(c"umbel-zygote");
    forget_rseq(inherited)?;
    for signal in 1..=64 {
        // SAFETY: default actions only.
        let _ = unsafe { process::set_handler(signal, 0, 0) };
    }
    process::mask_signals(2, 0);
    for (start, end) in [
        (0, layout::IMAGE_BASE),
        (inherited.image_end, layout::SLOT_PAGE),
        (layout::SLOT_PAGE + layout::PAGE, layout::HOT_BASE),
        (layout::HOT_BASE + layout::HOT_MAX, layout::COLD_BASE),
        (layout::COLD_BASE + layout::COLD_LEN, TASK_SIZE),
    ] {
        // SAFETY: the machine's memory, of which nothing is used any more.
        unsafe { space::unmap(start, end - start) }.map_err(|e| ("unmap the machine", e))?;
    }
    verify_maps(inherited.image_end)
}

/// A clone without CLONE_VM inherits the C library's registration; a slot without its area dies at its first preemption.
fn forget_rseq(inherited: &Inheritance) -> Step<()> {
    if inherited.rseq == 0 {
        return Ok(());
    }
    let lengths = [inherited.rseq_len, 32, 28, 64, 128, 256];
    let gone = lengths.iter().any(|&len| process::unregister_rseq(inherited.rseq, len).is_ok());
    gone.then_some(()).ok_or(("unregister rseq", Errno::EINVAL))
}

/// Reads /proc/self/maps back: what is not image or KDATA must not be there.
fn verify_maps(image_end: u64) -> Step<()> {
    let error = |e| ("read /proc/self/maps", e);
    let fd = space::open(c"/proc/self/maps").map_err(error)?;
    let mut line = MapsLine::default();
    let mut buf = [0; 512];
    loop {
        let n = space::read(fd, &mut buf).map_err(error)?;
        if n == 0 {
            space::close(fd);
            return Ok(());
        }
        for &byte in &buf[..n] {
            if let Some((start, end)) = line.push(byte)
                && !is_ours(start, end, image_end)
            {
                return Err(("clear the zygote of foreign memory", Errno::EFAULT));
            }
        }
    }
}

fn is_ours(start: u64, end: u64, image_end: u64) -> bool {
    let within = |from: u64, to: u64| from <= start && end <= to;
    within(layout::IMAGE_BASE, image_end)
        || within(layout::HOT_BASE, layout::HOT_BASE + layout::HOT_MAX)
        || within(layout::SLOT_PAGE, layout::SLOT_PAGE + layout::PAGE)
        || within(layout::COLD_BASE, layout::COLD_BASE + layout::COLD_LEN)
        // The vsyscall page is no mapping of ours and cannot be removed; the gate's filter answers its calls.
        || start >= 0xffff_ffff_ff60_0000
}

/// Parses `start-end …\n`, a byte at a time.
#[derive(Default)]
struct MapsLine {
    start: u64,
    number: u64,
    rest: bool,
}

impl MapsLine {
    fn push(&mut self, byte: u8) -> Option<(u64, u64)> {
        match byte {
            b'\n' => *self = MapsLine::default(),
            _ if self.rest => {}
            b'-' => {
                self.start = self.number;
                self.number = 0;
            }
            b' ' => {
                self.rest = true;
                return Some((self.start, self.number));
            }
            _ => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.number = self.number << 4 | u64::from(digit);
            }
        }
        None
    }
}

/// First slots and boot threads of all virtual CPUs.
fn prepare_cpus(boot: extern "C" fn(u64) -> !) -> Step<()> {
    let few = cpu::count() <= SPARE_UP_TO;
    let ready = if few { 2 } else { 1 };
    // One by one if there is no room for all at once.
    let berths = if few { None } else { Berths::new(cpu::count()) };
    for vcpu in cpu::all() {
        match &berths {
            Some(berths) => berths.settle(vcpu, boot),
            None => prepare_cpu(vcpu, ready, boot)?,
        }
        // They are there from the start, whatever is put on their queues until they run.
        vcpu.life.create();
        vcpu.life.arrive();
        vcpu.shared().state.store(VcpuState::Kernel as u32, Relaxed);
        vcpu.parent_wanted.store(1, Relaxed);
        if let Some(first) = vcpu.slot(0) {
            first.ring();
        }
    }
    Ok(())
}

/// `ready` slots and the boot thread of a virtual CPU.
fn prepare_cpu(vcpu: &'static Vcpu, ready: u32, boot: extern "C" fn(u64) -> !) -> Step<()> {
    let short = ("allocate a virtual CPU", Errno::ENOMEM);
    // The first one boots on it.
    let len = if vcpu.id() == 0 { 2 * layout::KERNEL_STACK_LEN } else { layout::KERNEL_STACK_LEN };
    // Aligned as stacks are: that keeps it in the hot range.
    let layout = Layout::from_size_align(len as usize, layout::PAGE as usize).map_err(|_| short)?;
    // SAFETY: the size is not zero.
    let base = unsafe { alloc_zeroed(layout) };
    if base.is_null() {
        return Err(short);
    }
    // SAFETY: the stack was just allocated and is never freed.
    unsafe { prepare_boot(vcpu, base as u64 + len, boot) };
    for _ in 0..ready {
        let Some(slot) = slot::add(vcpu) else { break };
        slot.wanted.store(1, Relaxed);
    }
    if vcpu.slot(0).is_none() {
        return Err(short);
    }
    Ok(())
}

/// The boot thread of a virtual CPU begins on the stack that ends at `top`.
///
/// # Safety
/// The stack is long enough, aligned to 16, nobody else's, and stays for ever.
pub(crate) unsafe fn prepare_boot(vcpu: &Vcpu, top: u64, boot: extern "C" fn(u64) -> !) {
    // SAFETY: by the contract.
    let sp = unsafe { switch::prepare(top, boot, vcpu.id().into()) };
    vcpu.next_sp.store(sp, Relaxed);
}

/// A parent's first instructions run on the park stack of its first slot, which does not exist yet.
fn parent_start_stack(vcpu: &Vcpu) -> u64 {
    vcpu.slot(0).map_or(0, Slot::park_top)
}

extern "C" fn parent_main(cpu: u64) -> ! {
    let vcpu = cpu::at(cpu as u32);
    let shared = vcpu.shared();
    shared.parent_pid.store(process::getpid() as u32, Release);
    shared.state.store(VcpuState::Kernel as u32, Relaxed);
    if let Err((step, errno)) = become_parent(vcpu) {
        give_up(step, errno);
    }
    // SAFETY: the private memory was just mapped; its end is the top of an unused stack.
    unsafe { serve_on(PRIVATE + PRIVATE_LEN, cpu) }
}

fn become_parent(vcpu: &'static Vcpu) -> Step<()> {
    process::die_with_parent().map_err(|e| ("prctl(PR_SET_PDEATHSIG)", e))?;
    if process::getppid() != ZYGOTE.load(Relaxed) {
        process::exit(1);
    }
    let _ = process::setsid();
    process::set_name(c"umbel-vcpu");
    listen(&vcpu.shared().parent_word)
}

/// Private memory of the caller, and a handler that counts the deaths of its children at `word`.
fn listen(word: &'static AtomicU32) -> Step<()> {
    // SAFETY: neither zygote nor parents use the window for anything else; a parent loses its copy of the zygote's.
    unsafe { space::map_private(PRIVATE, PRIVATE_LEN) }.map_err(|e| ("map a private stack", e))?;
    // SAFETY: just mapped.
    unsafe { (PRIVATE as *mut u64).write(word.as_ptr() as u64) };
    // SAFETY: the handler only increments that word.
    unsafe { process::set_handler(process::SIGCHLD, on_child as *const () as u64, restorer as *const () as u64) }
        .map_err(|e| ("rt_sigaction", e))
}

#[unsafe(naked)]
unsafe extern "C" fn serve_on(stack: u64, cpu: u64) -> ! {
    naked_asm!("mov rsp, rdi", "xor ebp, ebp", "mov rdi, rsi", "call {serve}", "ud2", serve = sym serve)
}

/// SIGCHLD: one more event for the parent's futex word.
#[unsafe(naked)]
unsafe extern "C" fn on_child() {
    naked_asm!(
        "movabs rax, {private}",
        "mov rax, [rax]",
        "lock inc dword ptr [rax]",
        "ret",
        private = const PRIVATE,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn restorer() {
    naked_asm!("mov eax, 15", "syscall", "ud2")
}

/// A parent's life: fork what is wanted, reap what died.
extern "C" fn serve(cpu: u64) -> ! {
    let vcpu = cpu::at(cpu as u32);
    let word = &vcpu.shared().parent_word;
    loop {
        let seen = word.load(Acquire);
        while let Some(dead) = process::reap() {
            vcpu.dead_ns.fetch_add(dead.cpu_ns, Relaxed);
            if let Some(slot) = vcpu.slots().find(|slot| slot.tid() == dead.pid) {
                bury(vcpu, slot, dead.status);
            }
        }
        for slot in vcpu.slots() {
            if slot.wanted.swap(0, AcqRel) != 0 {
                start(slot, if slot.local() == 0 { Need::First } else { Need::Spare });
            }
        }
        let _ = futex::wait(word, seen, None);
    }
}

/// What happens if a slot cannot be had.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The first of a virtual CPU: it cannot be.
    First,
    /// The virtual CPU goes on with those that it has.
    Spare,
    /// Its host task died: a kernel context waits for it, as long as it takes.
    Again,
}

/// Between two requests to a host that refuses, and how many there are.
const PAUSE_NS: u64 = 10_000_000;
const REQUESTS: u32 = 3000;

/// Forks the host task of a slot.
fn start(slot: &'static Slot, need: Need) {
    slot.renew();
    (slot::hooks().prepare)(slot);
    let arg = slot as *const Slot as u64;
    // SAFETY: the slot has no host task, so nobody uses its park stack.
    let fork = || unsafe { process::fork_onto(slot.park_top(), slot_main, arg) };
    let mut forked = fork();
    for _ in 0..if need == Need::Again { REQUESTS } else { 0 } {
        if !matches!(forked, Err(Errno::EAGAIN | Errno::ENOMEM)) {
            break;
        }
        let nobody = AtomicU32::new(0);
        let _ = futex::wait(&nobody, 0, Some(clock::now_ns(clock::MONOTONIC) + PAUSE_NS));
        forked = fork();
    }
    match forked {
        Ok(pid) => slot.tid.store(pid, Release),
        // The first of a virtual CPU that is being added: nothing runs there yet.
        Err(_) if is_added(slot.vcpu()) => process::exit(SLOT_REFUSED),
        Err(_) if need == Need::Spare => slot.refuse(),
        Err(errno) => give_up("fork a slot", errno),
    }
}

/// A slot died: by the owner word, replaces it, kills its guest process, or ends everything.
fn bury(vcpu: &'static Vcpu, slot: &'static Slot, status: i32) {
    vcpu.dead_slots.fetch_add(1, Relaxed);
    let starting = slot.phase.load(Acquire) == SlotPhase::Empty as u32;
    if starting && status & 0x7f != process::SIGKILL {
        // It could not be armed and has said why.
        process::exit(1);
    }
    let death = vcpu.owner.on_death(slot.local());
    if death == Death::Running {
        let shared = vcpu.shared();
        if (slot::hooks().in_guest)(slot) {
            slot.died.store(1, Relaxed);
        } else if [VcpuState::Idle as u32, VcpuState::Offline as u32].contains(&shared.state.load(Acquire)) {
            idle::wake_elsewhere(vcpu);
        } else {
            let mut report = cpu::Report::begin();
            let _ = write!(
                report,
                "vCPU {}: the host killed slot {} in kernel mode (wait status {status:#x})",
                vcpu.id(),
                slot.index()
            );
            report.finish(&[]);
            process::exit(1);
        }
        shared.state.store(VcpuState::Kernel as u32, Release);
        vcpu.owner.revive(slot.local());
        slot.ring();
    }
    slot.phase.store(SlotPhase::Empty as u32, Release);
    start(slot, Need::Again);
    if let Death::Handed(target) = death
        && let Some(target) = vcpu.slot(target)
    {
        // It may have died between the owner word and the doorbell, on either side.
        target.ring();
    }
}

/// First code of a slot's host task, on its park stack.
extern "C" fn slot_main(arg: u64) -> ! {
    // SAFETY: `start` passes a slot that lives for ever.
    let slot = unsafe { &*(arg as *const Slot) };
    if let Err((step, errno)) = become_slot(slot) {
        give_up(step, errno);
    }
    slot.phase.store(SlotPhase::Parked as u32, Release);
    futex::wake(&slot.phase, u32::MAX);
    let sp = slot.park();
    // SAFETY: whoever handed the virtual CPU over stored a saved context that nobody else resumes.
    unsafe { switch::resume(sp) }
}

fn become_slot(slot: &'static Slot) -> Step<()> {
    process::die_with_parent().map_err(|e| ("prctl(PR_SET_PDEATHSIG)", e))?;
    let shared = slot.vcpu().shared();
    if process::getppid() as u32 != shared.parent_pid.load(Acquire) {
        process::exit(1);
    }
    process::set_name(c"umbel-slot");
    let tid = process::getpid();
    slot.tid.store(tid, Release);
    map_slot(slot).map_err(|e| ("map a slot", e))?;
    slot.pin();
    slot.make_timer(tid).map_err(|e| ("timer_create", e))?;
    process::register_membarrier().map_err(|e| ("membarrier", e))?;
    (slot::hooks().arm)(slot)?;
    slot::mask_signals();
    Ok(())
}

fn map_slot(slot: &'static Slot) -> Result<(), Errno> {
    let files = &cpu::control().boot.files;
    let page = slot.page() as *const SlotPage as u64;
    // SAFETY: these ranges belong to the slot alone; the parent's private memory is not used here.
    unsafe {
        space::unmap(PRIVATE, PRIVATE_LEN)?;
        space::map_shared(layout::SLOT_PAGE, layout::PAGE, space::READ, files.kdata, page - layout::HOT_BASE)?;
        space::map_private(layout::ENTRY_PAGE, layout::PAGE)?;
        space::map_private(layout::SIGNAL_STACK, layout::SIGNAL_STACK_LEN)?;
        if files.vdso >= 0 {
            let prot = space::READ | space::EXEC;
            space::map_shared(layout::GUEST_VDSO, layout::PAGE, prot, files.vdso, 0)?;
        }
    }
    Ok(())
}

/// Ends the machine: a host task could not be made what it must be.
fn give_up(step: &str, errno: Errno) -> ! {
    if cpu::control().state.load(Acquire) != ControlState::Panicked as u32 {
        let mut report = cpu::Report::begin();
        let _ = write!(report, "cannot {step}: {errno}");
        report.finish(&[]);
    }
    process::exit(1)
}

/// Gives the zygote a slot page, so that code which asks for "this virtual CPU" works in it.
///
/// # Safety
/// As [`run`], and before anything that allocates or locks.
pub unsafe fn adopt_boot_page() -> Result<(), Errno> {
    collapse_first_steps();
    cpu::set_count(cpu::control().boot.cpus);
    let page = BOOT_PAGE.0.get();
    // SAFETY: the zygote is alone, and the page is what every slot's page is.
    unsafe {
        (*page).self_ptr = page as u64;
        (*page).vcpu = cpu::at(0) as *const Vcpu as u64;
    }
    let kdata = cpu::control().boot.files.kdata;
    let offset = page as u64 - layout::HOT_BASE;
    // SAFETY: nothing else uses that address in the zygote.
    unsafe { space::map_shared(layout::SLOT_PAGE, layout::PAGE, space::READ, kdata, offset) }
}

/// Statics and what is hot of the control block on one huge page, where the host has one, and the rest of the block on another:
/// each lock and unlock walks every page, and small ones that a slot has touched cost most.
fn collapse_first_steps() {
    let end = layout::HUGE.max(layout::CONTROL_OFF + layout::CONTROL_LEN);
    for page in (0..end).step_by(layout::PAGE as usize) {
        // SAFETY: hot memory, which is mapped; reading and writing back one byte changes nothing. Nobody else runs.
        unsafe {
            let byte = (layout::HOT_BASE + page) as *mut u8;
            byte.write_volatile(byte.read_volatile());
        }
    }
    for step in (0..end).step_by(layout::HUGE as usize) {
        // SAFETY: a collapse keeps contents.
        let _ = unsafe { space::collapse(layout::HOT_BASE + step, layout::HUGE) };
    }
}

/// The slot page of the zygote and the parents.
struct BootPage(UnsafeCell<SlotPage>);

// SAFETY: written once, by the zygote, before anybody else exists.
unsafe impl Sync for BootPage {}

// SAFETY: all zeroes are valid for every field of a slot page.
static BOOT_PAGE: BootPage = BootPage(UnsafeCell::new(unsafe { core::mem::zeroed() }));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maps_line_gives_its_range_once() {
        let mut line = MapsLine::default();
        let text = b"7f80-7f9000 r-xp 00000000 00:01 1 /x-y z\n1000-2000 r";
        let found: alloc::vec::Vec<_> = text.iter().filter_map(|&b| line.push(b)).collect();
        assert_eq!(found, [(0x7f80, 0x7f_9000), (0x1000, 0x2000)]);
    }

    #[test]
    fn foreign_memory_is_recognised() {
        let image_end = layout::IMAGE_BASE + 0x10_0000;
        assert!(is_ours(layout::IMAGE_BASE, image_end, image_end));
        assert!(!is_ours(layout::IMAGE_BASE, image_end + 4096, image_end));
        assert!(!is_ours(0x1000, 0x2000, image_end));
    }
}
