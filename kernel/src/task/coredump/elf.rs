//! The contents of a core file: notes about the process and its threads, and its memory. Source: elf(5), `linux/elfcore.h`.

use super::{Out, Thread};
use crate::signal::SigInfo;
use crate::task::ptrace::registers::FPREGS_LEN;
use crate::task::{Task, ids};
use crate::vm::{Prot, VmaFlags, VmaInfo};
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;
use umbel_mm::{PAGE, UserAddr};

const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
/// Most areas: more would need another form of header.
const AREAS_MAX: usize = 0xfff0;

/// Types of notes.
mod note {
    pub const PRSTATUS: u32 = 1;
    pub const FPREGSET: u32 = 2;
    pub const PRPSINFO: u32 = 3;
    pub const AUXV: u32 = 6;
    pub const FILE: u32 = 0x4649_4c45;
    pub const SIGINFO: u32 = 0x5349_4749;
    pub const XSTATE: u32 = 0x202;
}

/// `coredump_filter`: which memory a core holds.
mod filter {
    pub const ANON_PRIVATE: u32 = 1;
    pub const ANON_SHARED: u32 = 2;
    pub const FILE_PRIVATE: u32 = 4;
    pub const FILE_SHARED: u32 = 8;
    pub const ELF_HEADERS: u32 = 16;
}

/// An area, and how much of it the core holds.
struct Part {
    area: VmaInfo,
    len: u64,
}

/// Writes all of it.
pub(super) fn write(out: &mut Out<'_>, task: &Arc<Task>, info: &SigInfo, threads: &[Thread]) -> Result<()> {
    let parts = parts(task)?;
    let notes = notes(task, info, threads, &parts);
    let headers = ELF_HEADER + PROGRAM_HEADER * (parts.len() as u64 + 1);
    let mut place = (headers + notes.len() as u64).next_multiple_of(PAGE);
    out.put(&file_header(parts.len() as u16 + 1))?;
    out.put(&program_header(4, 0, headers, [0, notes.len() as u64, 0], 4))?;
    for part in &parts {
        let flags = [(Prot::READ, 4), (Prot::WRITE, 2), (Prot::EXEC, 1)];
        let flags = flags.iter().filter(|(prot, _)| part.area.prot.contains(*prot)).map(|(_, bit)| bit).sum();
        let size = part.area.end - part.area.start;
        out.put(&program_header(1, flags, place, [part.area.start, part.len, size], PAGE))?;
        place += part.len;
    }
    out.put(&notes)?;
    out.align(PAGE)?;
    parts.iter().try_for_each(|part| out.memory(task, part.area.start, part.len))
}

fn file_header(count: u16) -> [u8; ELF_HEADER as usize] {
    let mut bytes = [0; ELF_HEADER as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    // ET_CORE, x86-64, version 1.
    put(16, &[4, 0, 62, 0, 1]);
    put(32, &ELF_HEADER.to_le_bytes());
    put(52, &(ELF_HEADER as u16).to_le_bytes());
    put(54, &(PROGRAM_HEADER as u16).to_le_bytes());
    put(56, &count.to_le_bytes());
    bytes
}

/// `sizes`: address, bytes in the file, bytes in memory.
fn program_header(kind: u32, flags: u32, place: u64, sizes: [u64; 3], align: u64) -> Vec<u8> {
    let [address, in_file, in_memory] = sizes;
    let words = [place, address, 0, in_file, in_memory, align];
    [kind, flags]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(words.iter().flat_map(|word| word.to_le_bytes()))
        .collect()
}

/// All areas, and what the process's filter lets the core hold of each.
fn parts(task: &Task) -> Result<Vec<Part>> {
    let space = task.space().ok_or(Errno::ESRCH)?;
    let filter = task.process().coredump_filter.load(Relaxed);
    umbel_mm::heap::room_for(space.areas() as u64 * 512)?;
    let mut parts = Vec::new();
    space.for_each_resident(|area, resident| {
        let len = held(area, filter, resident.anonymous > 0);
        parts.push(Part { area: area.clone(), len });
    });
    if parts.len() > AREAS_MAX {
        return Err(Errno::EFBIG);
    }
    for part in parts.iter_mut().filter(|part| part.len == 0 && may_hold_header(&part.area, filter)) {
        let mut magic = [0; 4];
        let read = space.read_remote(UserAddr(part.area.start), &mut magic);
        if read == Ok(4) && &magic == b"\x7fELF" {
            part.len = PAGE;
        }
    }
    Ok(parts)
}

/// Bytes of an area that a core holds; `written`: some of its pages are the process's own.
fn held(area: &VmaInfo, filter: u32, written: bool) -> u64 {
    if area.flags.contains(VmaFlags::DONTDUMP) {
        return 0;
    }
    let shared = area.flags.contains(VmaFlags::SHARED);
    let wanted = match (&area.file, shared) {
        (None, true) => filter::ANON_SHARED,
        (Some(_), true) => filter::FILE_SHARED,
        (None, false) => filter::ANON_PRIVATE,
        (Some(_), false) if written => filter::ANON_PRIVATE | filter::FILE_PRIVATE,
        (Some(_), false) => filter::FILE_PRIVATE,
    };
    if filter & wanted != 0 { area.end - area.start } else { 0 }
}

fn may_hold_header(area: &VmaInfo, filter: u32) -> bool {
    let readable = area.prot.contains(Prot::READ) && !area.flags.contains(VmaFlags::DONTDUMP);
    filter & filter::ELF_HEADERS != 0 && readable && area.file.is_some() && area.offset == 0
}

/// All notes: of the process with its first thread, then of the others.
fn notes(task: &Task, info: &SigInfo, threads: &[Thread], parts: &[Part]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, thread) in threads.iter().enumerate() {
        add(&mut out, b"CORE", note::PRSTATUS, &status(task, info, thread));
        if index == 0 {
            add(&mut out, b"CORE", note::PRPSINFO, &process_info(task));
            add(&mut out, b"CORE", note::SIGINFO, &info.to_bytes());
            add(&mut out, b"CORE", note::AUXV, &task.process().image().auxv);
            add(&mut out, b"CORE", note::FILE, &files(parts));
        }
        if let Some(legacy) = thread.fpu.get(..FPREGS_LEN) {
            add(&mut out, b"CORE", note::FPREGSET, legacy);
            add(&mut out, b"LINUX", note::XSTATE, &thread.fpu);
        }
    }
    out
}

fn add(out: &mut Vec<u8>, name: &[u8], kind: u32, contents: &[u8]) {
    for word in [name.len() as u32 + 1, contents.len() as u32, kind] {
        out.extend(word.to_le_bytes());
    }
    out.extend(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(contents);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Parent, group and session, as numbers in the process's namespace.
fn relatives(task: &Task) -> [i32; 3] {
    let process = task.process();
    let table = ids::table();
    let Ok(node) = table.node(process.pid()) else { return [0; 3] };
    [node.parent, node.pgrp.id, node.pgrp.session.id].map(|id| process.sees(id))
}

/// `struct elf_prstatus`.
fn status(task: &Task, info: &SigInfo, thread: &Thread) -> Vec<u8> {
    let signo = info.signo();
    let mut out = Vec::new();
    out.extend([signo, info.code() as u32, 0, signo].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([thread.pending, thread.mask].iter().flat_map(|word| word.to_le_bytes()));
    let [parent, group, session] = relatives(task);
    out.extend([thread.tid, parent, group, session].iter().flat_map(|id| id.to_le_bytes()));
    let children = task.process().times.lock().children;
    let [user_ns, system_ns] = thread.times;
    for ns in [user_ns, system_ns, children.user_ns, children.system_ns] {
        out.extend((ns / 1_000_000_000).to_le_bytes());
        out.extend((ns % 1_000_000_000 / 1000).to_le_bytes());
    }
    out.extend(thread.regs.iter().flat_map(|word| word.to_le_bytes()));
    // The FPU's registers follow in a note of their own.
    out.extend(u64::from(!thread.fpu.is_empty()).to_le_bytes());
    out
}

/// `struct elf_prpsinfo`.
fn process_info(task: &Task) -> Vec<u8> {
    const ARGS_LEN: usize = 80;
    let (process, cred) = (task.process(), task.cred());
    let mut out = [0, b'R', 0, 0, 0, 0, 0, 0].to_vec();
    out.extend(0_u64.to_le_bytes());
    out.extend([cred.uid, cred.gid].iter().flat_map(|id| id.to_le_bytes()));
    let [parent, group, session] = relatives(task);
    out.extend([process.sees(process.pid()), parent, group, session].iter().flat_map(|id| id.to_le_bytes()));
    out.extend(task.comm());
    let image = process.image();
    let mut args = [0; ARGS_LEN];
    let len = (image.args.end - image.args.start).min(ARGS_LEN as u64 - 1) as usize;
    if let (Some(space), Some(wanted)) = (task.space(), args.get_mut(..len)) {
        // Arguments that the process has unmapped are none.
        let _ = space.read_remote(UserAddr(image.args.start), wanted);
        let strings = wanted.iter_mut().filter(|byte| **byte == 0);
        strings.for_each(|byte| *byte = b' ');
    }
    out.extend(args);
    out
}

/// Which files are mapped where.
fn files(parts: &[Part]) -> Vec<u8> {
    let (mut words, mut names, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for area in parts.iter().map(|part| &part.area) {
        let Some(file) = &area.file else { continue };
        words.extend([area.start, area.end, area.offset / PAGE]);
        names.extend(file.path());
        names.push(0);
        count += 1;
    }
    [count, PAGE].iter().chain(&words).flat_map(|word| word.to_le_bytes()).chain(names).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(flags: VmaFlags) -> VmaInfo {
        VmaInfo { start: 0x1000, end: 0x3000, prot: Prot::READ, flags, offset: 0, file: None }
    }

    #[test]
    fn the_filter_says_what_is_held() {
        assert_eq!(held(&area(VmaFlags::empty()), 0x33, false), 0x2000);
        assert_eq!(held(&area(VmaFlags::empty()), 0x32, true), 0);
        assert_eq!(held(&area(VmaFlags::SHARED), 0x33, false), 0x2000);
        assert_eq!(held(&area(VmaFlags::SHARED), 0x31, false), 0);
        assert_eq!(held(&area(VmaFlags::DONTDUMP), 0x7f, true), 0);
    }

    #[test]
    fn notes_are_padded_to_words() {
        let mut out = Vec::new();
        add(&mut out, b"LINUX", 7, b"abcde");
        assert_eq!(out, b"\x06\0\0\0\x05\0\0\0\x07\0\0\0LINUX\0\0\0abcde\0\0\0");
        assert_eq!(program_header(1, 5, 2, [3, 4, 5], 6).len() as u64, PROGRAM_HEADER);
    }
}
