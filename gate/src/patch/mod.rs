//! Patching call sites: guest text jumps to the gate instead of trapping.
//!
//! Pure functions on bytes. A site is planned when it has trapped, so its number is known. Two kinds (see [`plan`]):
//!
//! * `mov eax, nr; syscall`: the five bytes of the mov become a jump to a trampoline; the syscall stays as it is, so
//!   whoever jumps to it still traps.
//! * any other: the two bytes of the syscall become a short jump into padding behind an unconditional jump or return,
//!   which holds the jump to the trampoline.
//!
//! A trampoline leaves the return address in rcx (which syscall clobbers anyway) and jumps to the gate's fast entry.
//! Calls that only read the thread's identity are answered from the slot page, without entering the kernel; close(2), fcntl(2),
//! epoll_ctl(2) and newfstatat(2) have entries of their own, which answer what the slot page allows them to.
//!
//! Used by the kernel's `vm::patch`, which swaps the page in through the page table. Plans never reach beyond the page.

mod decode;

use crate::asm::label;
use core::mem::offset_of;
use umbel_abi::linux::uapi::*;
use umbel_abi::machine::SlotPage;
use umbel_abi::machine::layout::{ENTRY_PAGE, READS, SLOT_PAGE};

/// Bytes that each trampoline has room for.
pub const TRAMPOLINE_LEN: usize = 64;

/// `mov eax, imm32`.
const MOV_EAX: u8 = 0xb8;
const JMP_REL32: u8 = 0xe9;
const JMP_REL8: u8 = 0xeb;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// New bytes for a page of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Offset in the page.
    pub at: usize,
    bytes: [u8; 5],
    len: usize,
}

impl Edit {
    fn jump32(at: usize, from: u64, to: u64) -> Option<Edit> {
        let mut bytes = [JMP_REL32; 5];
        bytes[1..].copy_from_slice(&relative(from + 5, to)?.to_le_bytes());
        Some(Edit { at, bytes, len: 5 })
    }

    fn jump8(at: usize, distance: u8) -> Edit {
        Edit { at, bytes: [JMP_REL8, distance, 0, 0, 0], len: 2 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// How to patch a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One or two edits of the page.
    pub edits: [Option<Edit>; 2],
    /// The trampoline, position-dependent.
    pub trampoline: [u8; TRAMPOLINE_LEN],
}

/// Plans the patch of the syscall instruction at offset `call` of `page`, which is mapped at `page_addr` (both as in the
/// guest), for call number `nr`, with the trampoline at `trampoline`. `None`: leave it alone.
pub fn plan(page: &[u8], page_addr: u64, call: usize, nr: u32, trampoline: u64) -> Option<Plan> {
    if page.get(call..call + 2)? != SYSCALL || nr == __NR_rt_sigreturn {
        return None;
    }
    let back = page_addr + call as u64 + 2;
    if is_mov_eax(page, call, nr) {
        let at = call - 5;
        let edit = Edit::jump32(at, page_addr + at as u64, trampoline)?;
        let bytes = match identity_field(nr) {
            Some(field) => reading_trampoline(trampoline, back, nr, field)?,
            None => calling_trampoline(trampoline, back, Some(nr))?,
        };
        return Some(Plan { edits: [Some(edit), None], trampoline: bytes });
    }
    let padding = decode::padding_after(page, call + 2)?;
    let distance = u8::try_from(padding - (call + 2)).ok().filter(|&d| d < 0x80)?;
    let long = Edit::jump32(padding, page_addr + padding as u64, trampoline)?;
    let bytes = calling_trampoline(trampoline, back, None)?;
    Some(Plan { edits: [Some(long), Some(Edit::jump8(call, distance))], trampoline: bytes })
}

/// Whether `mov eax, nr` stands before the call, and is not the end of a longer instruction.
fn is_mov_eax(page: &[u8], call: usize, nr: u32) -> bool {
    let Some(start) = call.checked_sub(6) else { return false };
    let (before, mov) = (page[start], &page[start + 1..call]);
    mov[0] == MOV_EAX && mov[1..] == nr.to_le_bytes() && !matches!(before, 0x40..=0x4f | 0x66)
}

fn relative(from: u64, to: u64) -> Option<i32> {
    i32::try_from(to.wrapping_sub(from) as i64).ok()
}

/// Offset in the slot page of what a call returns.
#[allow(non_upper_case_globals, reason = "the names of the headers")]
fn identity_field(nr: u32) -> Option<u64> {
    let offset = match nr {
        __NR_getpid => offset_of!(SlotPage, pid),
        __NR_gettid => offset_of!(SlotPage, tid),
        __NR_getppid => offset_of!(SlotPage, ppid),
        __NR_getuid => offset_of!(SlotPage, uid),
        __NR_geteuid => offset_of!(SlotPage, euid),
        __NR_getgid => offset_of!(SlotPage, gid),
        __NR_getegid => offset_of!(SlotPage, egid),
        _ => return None,
    };
    Some(SLOT_PAGE + offset as u64)
}

/// The entry of a call whose number is known, or not.
#[allow(non_upper_case_globals, reason = "the names of the headers")]
fn entry_for(nr: Option<u32>) -> u64 {
    match nr {
        Some(__NR_close) => label::gate_close_entry(),
        Some(__NR_fcntl) => label::gate_fcntl_entry(),
        Some(__NR_epoll_ctl) => label::gate_epoll_entry(),
        Some(__NR_newfstatat) => label::gate_stat_entry(),
        _ => label::gate_fast_entry(),
    }
}

/// Whether trampolines lead to `rip`.
pub fn is_entry(rip: u64) -> bool {
    let known =
        [label::gate_close_entry(), label::gate_fcntl_entry(), label::gate_epoll_entry(), label::gate_stat_entry()];
    rip == label::gate_fast_entry() || known.contains(&rip)
}

/// Bytes put one behind the other.
struct Writer {
    bytes: [u8; TRAMPOLINE_LEN],
    len: usize,
    /// Address of the first byte.
    base: u64,
}

impl Writer {
    fn new(base: u64) -> Writer {
        Writer { bytes: [0xcc; TRAMPOLINE_LEN], len: 0, base }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    /// A four-byte displacement to `to`, the last of its instruction.
    fn relative(&mut self, to: u64) -> Option<&mut Writer> {
        let from = self.base + self.len as u64 + 4;
        Some(self.put(&relative(from, to)?.to_le_bytes()))
    }

    /// `[mov eax, nr;] lea rcx, [back]; jmp [gate]`, the pointer aligned for guests with alignment checks on. The number says
    /// which entry.
    fn call(&mut self, back: u64, nr: Option<u32>) -> Option<()> {
        if let Some(nr) = nr {
            self.put(&[MOV_EAX]).put(&nr.to_le_bytes());
        }
        self.put(&[0x48, 0x8d, 0x0d]).relative(back)?;
        let pointer = (self.len + 6).next_multiple_of(8);
        let distance = (pointer - self.len - 6) as u32;
        self.put(&[0xff, 0x25]).put(&distance.to_le_bytes());
        self.len = pointer;
        self.put(&entry_for(nr).to_le_bytes());
        Some(())
    }
}

fn calling_trampoline(at: u64, back: u64, nr: Option<u32>) -> Option<[u8; TRAMPOLINE_LEN]> {
    let mut writer = Writer::new(at);
    writer.call(back, nr)?;
    Some(writer.bytes)
}

/// Answers from the slot page if its flag allows it, and counts that on the entry page. Changes no flag: jrcxz tests, lea adds.
fn reading_trampoline(at: u64, back: u64, nr: u32, field: u64) -> Option<[u8; TRAMPOLINE_LEN]> {
    const COUNT: u64 = ENTRY_PAGE + READS;
    let enabled = SLOT_PAGE + offset_of!(SlotPage, fast_reads) as u64;
    let mut writer = Writer::new(at);
    writer.put(&[0x48, 0xb8]).put(&COUNT.to_le_bytes()); // mov rax, COUNT
    writer.put(&[0x8b, 0x88]).put(&relative(COUNT, enabled)?.to_le_bytes()); // mov ecx, [rax + …]
    writer.put(&[0xe3, 21]); // jrcxz to the call
    writer.put(&[0x48, 0x8b, 0x08]); // mov rcx, [rax]
    writer.put(&[0x48, 0x8d, 0x49, 1]); // lea rcx, [rcx + 1]
    writer.put(&[0x48, 0x89, 0x08]); // mov [rax], rcx
    writer.put(&[0x8b, 0x80]).put(&relative(COUNT, field)?.to_le_bytes()); // mov eax, [rax + …]
    writer.put(&[JMP_REL32]).relative(back)?;
    // There is no room for an aligned pointer.
    writer.put(&[MOV_EAX]).put(&nr.to_le_bytes());
    writer.put(&[0x48, 0x8d, 0x0d]).relative(back)?;
    writer.put(&[0x49, 0xbb]).put(&entry_for(Some(nr)).to_le_bytes()); // mov r11, entry
    writer.put(&[0x41, 0xff, 0xe3]); // jmp r11
    Some(writer.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_ADDR: u64 = 0x7f00_0010_0000;
    const TRAMPOLINE: u64 = PAGE_ADDR - 0x4000_0000;

    fn page(code: &[u8]) -> Vec<u8> {
        let mut page = vec![0x90; 16];
        page.extend(code);
        page.resize(4096, 0xf4);
        page
    }

    fn apply(page: &mut [u8], plan: &Plan) {
        for edit in plan.edits.iter().flatten() {
            page[edit.at..edit.at + edit.bytes().len()].copy_from_slice(edit.bytes());
        }
    }

    fn target(code: &[u8], at: usize, addr: u64) -> u64 {
        let distance = i32::from_le_bytes(code[at + 1..at + 5].try_into().unwrap());
        (addr + at as u64 + 5).wrapping_add_signed(i64::from(distance))
    }

    #[test]
    fn a_mov_is_replaced_and_its_syscall_stays() {
        let mut text = page(&[0xc3, MOV_EAX, 1, 0, 0, 0, 0x0f, 0x05, 0xc3]);
        let plan = plan(&text, PAGE_ADDR, 22, 1, TRAMPOLINE).unwrap();
        apply(&mut text, &plan);
        assert_eq!((text[17], &text[22..24]), (JMP_REL32, &SYSCALL[..]));
        assert_eq!(target(&text, 17, PAGE_ADDR), TRAMPOLINE);
        assert_eq!(&plan.trampoline[..5], &[MOV_EAX, 1, 0, 0, 0]);
        let pointer = u64::from_le_bytes(plan.trampoline[24..32].try_into().unwrap());
        assert_eq!(pointer, label::gate_fast_entry());
    }

    #[test]
    fn other_numbers_longer_moves_and_sigreturn_are_left_alone() {
        let text = page(&[0xc3, MOV_EAX, 1, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(plan(&text, PAGE_ADDR, 22, 2, TRAMPOLINE), None, "jumped to the syscall");
        assert_eq!(plan(&text, PAGE_ADDR, 21, 1, TRAMPOLINE), None, "no syscall there");
        let wide = page(&[0x48, MOV_EAX, 1, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(plan(&wide, PAGE_ADDR, 22, 1, TRAMPOLINE), None);
        let sigreturn = page(&[0xc3, MOV_EAX, 15, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(plan(&sigreturn, PAGE_ADDR, 22, 15, TRAMPOLINE), None);
        let far = page(&[0xc3, MOV_EAX, 1, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(plan(&far, PAGE_ADDR, 22, 1, PAGE_ADDR + (1 << 32)), None);
    }

    #[test]
    fn any_other_site_jumps_into_padding_behind_a_return() {
        // xor eax, eax; syscall; cmp rax, -4096; ja +1; ret; nopw; (next function)
        let code = [
            0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x01, 0xc3, 0xc3, 0x66, 0x90, 0x66, 0x0f,
            0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
        ];
        let mut text = page(&code);
        let plan = plan(&text, PAGE_ADDR, 18, 0, TRAMPOLINE).unwrap();
        apply(&mut text, &plan);
        assert_eq!(text[18], JMP_REL8);
        let landing = 20 + usize::from(text[19]);
        assert_eq!((landing, text[landing]), (30, JMP_REL32));
        assert_eq!(target(&text, landing, PAGE_ADDR), TRAMPOLINE);
    }

    #[test]
    fn calls_that_the_gate_may_answer_have_entries_of_their_own() {
        let known = [
            (3, label::gate_close_entry()),
            (72, label::gate_fcntl_entry()),
            (233, label::gate_epoll_entry()),
            (262, label::gate_stat_entry()),
        ];
        for (nr, entry) in known {
            assert!(is_entry(entry));
            let [low, high, ..] = u32::to_le_bytes(nr);
            let text = page(&[0xc3, MOV_EAX, low, high, 0, 0, 0x0f, 0x05, 0xc3]);
            let plan = plan(&text, PAGE_ADDR, 22, nr, TRAMPOLINE).unwrap();
            assert_eq!(u64::from_le_bytes(plan.trampoline[24..32].try_into().unwrap()), entry);
        }
    }

    #[test]
    fn identity_is_read_from_the_slot_page() {
        let text = page(&[0xc3, MOV_EAX, 39, 0, 0, 0, 0x0f, 0x05]);
        let plan = plan(&text, PAGE_ADDR, 22, 39, TRAMPOLINE).unwrap();
        let code = &plan.trampoline;
        let base = u64::from_le_bytes(code[2..10].try_into().unwrap());
        assert_eq!(base, ENTRY_PAGE + READS);
        let from_base =
            |at: usize| base.wrapping_add_signed(i32::from_le_bytes(code[at..at + 4].try_into().unwrap()).into());
        assert_eq!(from_base(12), SLOT_PAGE + offset_of!(SlotPage, fast_reads) as u64);
        assert_eq!(from_base(30), SLOT_PAGE + offset_of!(SlotPage, pid) as u64);
        assert_eq!(target(code, 34, TRAMPOLINE), PAGE_ADDR + 24);
        let call = 18 + usize::from(code[17]);
        assert_eq!((code[16], code[call]), (0xe3, MOV_EAX), "jrcxz lands on the call");
        assert_eq!(target(&code[call + 7..], 0, TRAMPOLINE + call as u64 + 7), PAGE_ADDR + 24, "rcx");
        let entry = u64::from_le_bytes(code[call + 14..call + 22].try_into().unwrap());
        assert_eq!(entry, label::gate_fast_entry());
    }

    #[test]
    fn most_sites_of_the_hosts_libc_can_be_patched() {
        let paths = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
        let Some(libc) = paths.iter().find_map(|path| std::fs::read(path).ok()) else { return };
        let (mut sites, mut patched) = (0, 0);
        for page in libc.chunks(4096) {
            for call in (6..page.len().saturating_sub(2)).filter(|&at| page[at..at + 2] == SYSCALL) {
                sites += 1;
                let mov = page[call - 5] == MOV_EAX;
                let nr = if mov { u32::from_le_bytes(page[call - 4..call].try_into().unwrap()) } else { 0 };
                patched += usize::from(plan(page, PAGE_ADDR, call, nr, TRAMPOLINE).is_some());
            }
        }
        assert!(sites > 100 && patched * 10 > sites * 7, "{patched} of {sites}");
    }
}
