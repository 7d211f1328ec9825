//! Loading a program into a new address space. Source: execve(2), elf(5), Linux's fs/binfmt_elf.c.
//!
//! [`load`] resolves `#!` scripts, maps the program and its interpreter, builds the first stack, and gives back an address
//! space that nothing runs in yet: a failure leaves the caller as it was. Headers are read into kernel buffers; nothing of
//! the file is ever dereferenced. Used by: exec, boot.

pub mod elf;
pub mod open;
pub mod script;
pub mod stack;

use crate::fs::{File, Running};
use crate::random;
use crate::task::{Cred, Image, Limits, Task};
use crate::vm::map::Place;
use crate::vm::{self, Backing, MapRequest, Prot, Space, VmaFlags};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use elf::{Header, Program, page_down, page_up};
use linux_raw_sys::auxvec as at;
use linux_raw_sys::general as raw;
use stack::{Aux, Strings};
use umbel_abi::machine::layout::{PAGE, USER_TOP};
use umbel_mm::UserAddr;

/// Where static-pie programs and programs with an interpreter go: two thirds of the address space, as on Linux.
const DYN_BASE: u64 = page_down(USER_TOP / 3 * 2);
/// Randomness of addresses, pages.
const ASLR_PAGES: u64 = 1 << 20;
/// Randomness of the stack's top, bytes.
const STACK_SHIFT: u64 = 1 << 20;
/// Space above the stack.
const STACK_GAP: u64 = 1 << 30;
/// `AT_MINSIGSTKSZ`: a signal frame with the largest FPU state that guests have.
const MIN_SIGNAL_STACK: u64 = 3632;
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
/// Bytes below the first stack pointer that are mapped from the start, as on Linux.
const STACK_FIRST: u64 = 128 << 10;

/// What to load.
pub struct Request {
    pub file: Arc<File>,
    /// The name that was asked for; of a script, in the end, that of its interpreter.
    pub name: Vec<u8>,
    pub strings: Strings,
    /// `name` is of a descriptor that will be closed: an interpreter could not open it.
    pub unreachable: bool,
    pub limits: Limits,
    /// Whether addresses are random (`ADDR_NO_RANDOMIZE` is not set).
    pub randomize: bool,
}

/// What the program's file makes of credentials, and whether the program is to be careful (`AT_SECURE`).
pub type NewCred<'a> = dyn Fn(&Arc<File>) -> Result<(Arc<Cred>, bool)> + 'a;

/// A loaded program.
pub struct Loaded {
    pub space: Arc<Space>,
    pub entry: u64,
    pub sp: u64,
    pub image: Image,
    /// The file that runs: its set-id bits count. Not the interpreter of a script's path.
    pub file: Arc<File>,
    /// Last part of the name: the thread's name.
    pub comm: Vec<u8>,
}

/// Loads `request` for `task`; `cred` is what the program will have (for the auxiliary vector).
///
/// # Errors
/// `ENOEXEC`, `E2BIG`, `EACCES`, `ENOENT`, `ENOMEM`, `ELOOP` for too many nested scripts.
pub fn load(task: &Arc<Task>, mut request: Request, cred: &NewCred) -> Result<Loaded> {
    let mut depth = 0;
    let comm = base_name(&request.name).to_vec();
    let asked = request.name.clone();
    loop {
        let running = running(&request.file)?;
        request.strings.check(request.limits.soft(raw::RLIMIT_STACK))?;
        let mut head = [0; script::LINE_MAX];
        let len = request.file.read_kernel(&mut head, 0)?;
        let head = head.get(..len).unwrap_or(&[]);
        if head.starts_with(b"#!") {
            if depth > script::DEPTH_MAX {
                return Err(Errno::ELOOP);
            }
            if request.unreachable {
                return Err(Errno::ENOENT);
            }
            depth += 1;
            interpret(task, &mut request, head)?;
            continue;
        }
        let header = Header::parse(head)?;
        let (cred, secure) = cred(&request.file)?;
        let names = Names { asked, comm };
        let loaded = load_elf(task, request, &header, &cred, secure, names)?;
        loaded.space.keep(Arc::new(running));
        return Ok(loaded);
    }
}

/// Notes that the file runs: it can be no writer's.
fn running(file: &File) -> Result<Option<Running>> {
    file.inode().map_or(Ok(None), |inode| Running::new(&inode))
}

/// Replaces a script by its interpreter.
fn interpret(task: &Arc<Task>, request: &mut Request, head: &[u8]) -> Result<()> {
    let (name, argument) = script::parse(head).ok_or(Errno::ENOEXEC)?;
    let strings = &mut request.strings;
    if !strings.args.is_empty() {
        strings.args.remove(0);
    }
    let new = [Some(name), argument, Some(&request.name)];
    let new: Vec<Vec<u8>> = new.into_iter().flatten().map(<[u8]>::to_vec).collect();
    strings.args.splice(0..0, new);
    request.file = open::open_exec(task, name)?;
    request.name = name.to_vec();
    Ok(())
}

/// What the program is called.
struct Names {
    /// As it was asked for, a script's name included: `AT_EXECFN`.
    asked: Vec<u8>,
    /// Its thread.
    comm: Vec<u8>,
}

fn load_elf(
    task: &Arc<Task>,
    request: Request,
    header: &Header,
    cred: &Cred,
    secure: bool,
    names: Names,
) -> Result<Loaded> {
    let mut program = read_program(&request.file, header)?;
    let mut interp = match program.interp {
        Some(place) => Some(open_interpreter(task, &request.file, place)?),
        None => None,
    };
    // On Linux the old program is gone by now, and the new one is killed. Here it starts where nothing is.
    let broken = program.broken || interp.as_ref().is_some_and(|(.., program)| program.broken);
    if broken {
        program.segments.clear();
        interp = None;
    }
    let space = Space::new()?;
    if let Some(before) = task.space() {
        space.inherit_promise(&before);
    }
    space.set_limits(memory_limits(&request.limits));
    let shift = |max: u64| if request.randomize { random::next_u64() % max } else { 0 };
    let top = USER_TOP - STACK_GAP - shift(ASLR_PAGES) * PAGE;
    space.place_stack(top);
    let base = if header.is_dyn { DYN_BASE + shift(ASLR_PAGES) * PAGE } else { 0 };
    let bias = map_program(&space, &request.file, header, &program, base, true)?;
    let brk = bias.wrapping_add(program.range().end);
    space.set_brk(UserAddr(brk + shift(0x2000) * PAGE));
    let entry = bias.wrapping_add(header.entry);
    let (start, interp_base) = match &interp {
        Some((file, header, program)) => {
            let base = map_program(&space, file, header, program, 0, false)?;
            let range = program.range();
            space.update_layout(|layout| {
                layout.interpreter = (base.wrapping_add(range.start), base.wrapping_add(range.end))
            });
            (base.wrapping_add(header.entry), base)
        }
        None => (if broken { 0 } else { entry }, 0),
    };
    let phdr = program.phdr_addr(header).map_or(0, |addr| bias.wrapping_add(addr));
    let mut aux = Vec::from([
        Aux::Value(u64::from(at::AT_PHDR), phdr),
        Aux::Value(u64::from(at::AT_BASE), interp_base),
        Aux::Value(u64::from(at::AT_ENTRY), entry),
    ]);
    aux.extend(facts(header, cred, secure));
    let name = (&request.strings, names.asked.as_slice());
    let stack = map_stack(&space, name, &program, top, top - shift(STACK_SHIFT) / 16 * 16, &aux)?;
    let image = describe(task, &request, &program, bias, stack)?;
    note_layout(&space, &image, &program, bias);
    Ok(Loaded { space, entry: start, sp: image.stack_top, image, file: request.file, comm: names.comm })
}

/// Maps the first stack, which grows by faults, and writes the strings and vectors below `start`.
fn map_stack(
    space: &Space,
    (strings, name): (&Strings, &[u8]),
    program: &Program,
    top: u64,
    start: u64,
    aux: &[Aux],
) -> Result<stack::Image> {
    let mut seed = [0; 16];
    random::fill(&mut seed);
    let image = stack::build(start, strings, name, &seed, aux)?;
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, program.exec_stack);
    let addr = page_down(image.sp - STACK_FIRST);
    // What the chance leaves free above belongs to nobody.
    let end = page_up(start).min(top);
    space.map(MapRequest {
        addr: UserAddr(addr),
        len: end - addr,
        place: Place::Fixed,
        prot,
        flags: VmaFlags::STACK | VmaFlags::GROWSDOWN,
        backing: Backing::Anonymous,
    })?;
    space.write_remote(UserAddr(image.sp), &image.bytes)?;
    Ok(image)
}

fn describe(task: &Task, request: &Request, program: &Program, bias: u64, stack: stack::Image) -> Result<Image> {
    let root = task.fs()?.root();
    let place = request.file.path().cloned();
    let exe = place.as_ref().map(|path| path.display(&root)).unwrap_or_default();
    let code = program.segments.iter().find(|segment| segment.exec);
    let code = code.map_or(0..0, |segment| bias + segment.vaddr..bias + segment.end());
    Ok(Image { exe, place, args: stack.args, env: stack.envs, auxv: stack.auxv, stack_top: stack.sp, code })
}

/// For /proc and prctl(2).
fn note_layout(space: &Space, image: &Image, program: &Program, bias: u64) {
    let data = program.segments.iter().rfind(|segment| segment.write);
    let data = data.map_or((0, 0), |segment| (bias + segment.vaddr, bias + segment.end()));
    space.update_layout(|layout| {
        layout.code = (image.code.start, image.code.end);
        layout.data = data;
        layout.args = (image.args.start, image.args.end);
        layout.env = (image.env.start, image.env.end);
    });
}

/// The limits that concern memory.
pub fn memory_limits(limits: &Limits) -> vm::Limits {
    vm::Limits {
        stack: limits.soft(raw::RLIMIT_STACK),
        address_space: limits.soft(raw::RLIMIT_AS),
        data: limits.soft(raw::RLIMIT_DATA),
        memlock: limits.soft(raw::RLIMIT_MEMLOCK),
    }
}

/// The part of the auxiliary vector that does not depend on addresses.
fn facts(header: &Header, cred: &Cred, secure: bool) -> impl Iterator<Item = Aux> {
    let boot = crate::machine::info();
    let mut facts = Vec::from([
        Aux::Value(u64::from(at::AT_HWCAP), boot.hwcap),
        Aux::Value(u64::from(at::AT_HWCAP2), boot.hwcap2),
        Aux::Value(u64::from(at::AT_PAGESZ), PAGE),
        Aux::Value(u64::from(at::AT_CLKTCK), 100),
        Aux::Value(u64::from(at::AT_PHENT), elf::PHDR_LEN as u64),
        Aux::Value(u64::from(at::AT_PHNUM), u64::from(header.phnum)),
        Aux::Value(u64::from(at::AT_FLAGS), 0),
        Aux::Value(u64::from(at::AT_UID), u64::from(cred.show_uid(cred.uid))),
        Aux::Value(u64::from(at::AT_EUID), u64::from(cred.show_uid(cred.euid))),
        Aux::Value(u64::from(at::AT_GID), u64::from(cred.show_gid(cred.gid))),
        Aux::Value(u64::from(at::AT_EGID), u64::from(cred.show_gid(cred.egid))),
        Aux::Value(u64::from(at::AT_SECURE), u64::from(secure)),
        Aux::Value(u64::from(at::AT_MINSIGSTKSZ), MIN_SIGNAL_STACK),
        Aux::Value(AT_RSEQ_FEATURE_SIZE, crate::task::rseq::FEATURE_LEN),
        Aux::Value(AT_RSEQ_ALIGN, 32),
        Aux::Random(u64::from(at::AT_RANDOM)),
        Aux::ExecFn(u64::from(at::AT_EXECFN)),
        Aux::Platform(u64::from(at::AT_PLATFORM)),
    ]);
    if boot.files.vdso >= 0 {
        facts.push(Aux::Value(u64::from(at::AT_SYSINFO_EHDR), umbel_abi::machine::layout::GUEST_VDSO));
    }
    facts.into_iter()
}

fn read_program(file: &File, header: &Header) -> Result<Program> {
    let mut phdrs = Vec::new();
    phdrs.try_reserve_exact(header.phdrs_len()).map_err(|_| Errno::ENOMEM)?;
    phdrs.resize(header.phdrs_len(), 0);
    if file.read_kernel(&mut phdrs, header.phoff)? != phdrs.len() {
        return Err(Errno::ENOEXEC);
    }
    Program::parse(&phdrs)
}

fn open_interpreter(task: &Arc<Task>, file: &File, (offset, len): (u64, u64)) -> Result<(Arc<File>, Header, Program)> {
    if !(2..=4096).contains(&len) {
        return Err(Errno::ENOEXEC);
    }
    let mut name = alloc::vec![0; len as usize];
    if file.read_kernel(&mut name, offset)? != name.len() || name.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    // No name is that of the current directory.
    let name = name.split(|&byte| byte == 0).next().filter(|name| !name.is_empty()).unwrap_or(b".");
    let file = open::open_exec(task, name)?;
    let mut head = [0; elf::HEADER_LEN];
    let len = file.read_kernel(&mut head, 0)?;
    let header = Header::parse(head.get(..len).unwrap_or(&[])).map_err(|_| Errno::ELIBBAD)?;
    let program = read_program(&file, &header)?;
    Ok((file, header, program))
}

/// Maps all segments; returns what to add to linked addresses.
///
/// A position-independent program goes to `base`, or where the space has room if `base` is 0.
fn map_program(
    space: &Arc<Space>,
    file: &Arc<File>,
    header: &Header,
    program: &Program,
    base: u64,
    main: bool,
) -> Result<u64> {
    let range = program.range();
    let bias = if header.is_dyn {
        let align = program.align();
        let room = range.end - range.start + align;
        let base = if base == 0 { find_room(space, room)? } else { base };
        (base.next_multiple_of(align)).wrapping_sub(range.start)
    } else {
        0
    };
    let end = bias.wrapping_add(range.end);
    if end > USER_TOP - STACK_GAP && main && header.is_dyn {
        return Err(Errno::ENOMEM);
    }
    for segment in &program.segments {
        map_segment(space, file, segment, bias)?;
    }
    Ok(bias)
}

/// An address where `len` bytes are free.
fn find_room(space: &Space, len: u64) -> Result<u64> {
    let (prot, flags) = (Prot::empty(), VmaFlags::empty());
    let addr = UserAddr::NULL;
    let room = space.map(MapRequest { addr, len, place: Place::Anywhere, prot, flags, backing: Backing::Anonymous })?;
    space.unmap(room, len)?;
    Ok(room.0)
}

/// Maps one segment: its file pages, then zero pages, with the rest of the last file page cleared.
fn map_segment(space: &Arc<Space>, file: &Arc<File>, segment: &elf::Segment, bias: u64) -> Result<()> {
    let start = page_down(bias.wrapping_add(segment.vaddr));
    let file_end = bias.wrapping_add(segment.vaddr + segment.filesz);
    let end = page_up(bias.wrapping_add(segment.end()));
    let mut prot = Prot::empty();
    prot.set(Prot::READ, segment.read);
    prot.set(Prot::WRITE, segment.write);
    prot.set(Prot::EXEC, segment.exec);
    let (place, flags) = (Place::Fixed, VmaFlags::empty());
    let file_pages_end = if segment.filesz == 0 { start } else { page_up(file_end) };
    if file_pages_end > start {
        space.map(MapRequest {
            addr: UserAddr(start),
            len: file_pages_end - start,
            place,
            prot,
            flags,
            backing: Backing::File {
                object: file.mappable()?,
                offset: page_down(segment.offset),
                file: Some(file.clone()),
            },
        })?;
        if segment.exec && !segment.write {
            space.adopt_text(UserAddr(start));
        }
    }
    if end > file_pages_end {
        let backing = Backing::Anonymous;
        space.map(MapRequest {
            addr: UserAddr(file_pages_end),
            len: end - file_pages_end,
            place,
            // As Linux: whatever the segment says.
            prot: prot | Prot::READ | Prot::WRITE,
            flags,
            backing,
        })?;
    }
    if segment.write && segment.filesz > 0 && space.load(UserAddr(start), file_end - start, end) {
        return Ok(());
    }
    if segment.memsz > segment.filesz && segment.filesz > 0 && segment.write && file_end != file_pages_end {
        // Not a page on the kernel's stack, of which an exec uses most anyway.
        const ZEROES: &[u8] = &[0; PAGE as usize];
        let count = (file_pages_end - file_end) as usize;
        space.write_remote(UserAddr(file_end), ZEROES.get(..count).unwrap_or(&[]))?;
    }
    Ok(())
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}
