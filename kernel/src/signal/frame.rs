//! The frame of a handler on the guest's stack: `struct rt_sigframe` of x86-64, words in its order.
//!
//! ```text
//! sp ->  pretcode | ucontext (304 bytes) | siginfo (128 bytes)      address = 8 mod 16
//!        FPU image (XSAVE format) | FP_XSTATE_MAGIC2                address = 0 mod 64
//! ```
//!
//! Source: sigreturn(2), `arch/x86/include/uapi/asm/sigcontext.h` (layout).

use super::SigInfo;
use super::action::{Action, sa};
use super::state::{FaultRegs, SS_AUTODISARM, SS_DISABLE};
use alloc::vec::Vec;
use umbel_abi::linux::{SigSet, StackT, XSAVE_HEADER};
use umbel_gate::Regs;

/// Bytes below the stack pointer that compiled code may use.
const RED_ZONE: u64 = 128;
/// Words of `struct ucontext`.
pub const UCONTEXT_WORDS: usize = 38;
/// Words of the whole frame.
pub const FRAME_WORDS: usize = 1 + UCONTEXT_WORDS + 16;
const FRAME_LEN: u64 = 8 * FRAME_WORDS as u64;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;
/// Flags that sigreturn(2) restores.
const RESTORED_FLAGS: u64 = 0x5_0dd5;

/// Marks of an extended FPU image.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Bytes of MAGIC2.
const MAGIC2_LEN: usize = 4;
/// Where `struct _fpx_sw_bytes` lies in the image.
const SW_BYTES: usize = 464;
/// Bytes of the image without extensions.
pub const FX_LEN: usize = 512;

/// Whether `sp` lies on `stack`. As Linux, a stack with SS_AUTODISARM never counts: it is gone while in use.
pub fn on_stack(stack: &StackT, sp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && within(stack, sp)
}

fn within(stack: &StackT, sp: u64) -> bool {
    stack.size != 0 && sp > stack.sp && sp - stack.sp <= stack.size
}

/// Where the two parts of a frame go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub frame: u64,
    pub fpu: u64,
}

/// Finds the place of a frame with `fpu_len` bytes of FPU image below `sp` or on the alternate stack; `None` if it would run
/// off the alternate stack or the address space.
pub fn place(sp: u64, action: &Action, stack: &StackT, fpu_len: usize) -> Option<Place> {
    let on_alternate = on_stack(stack, sp);
    let mut top = sp.checked_sub(RED_ZONE)?;
    let mut entering = false;
    if action.has(sa::ONSTACK) && !on_alternate && stack.size != 0 {
        top = stack.sp.checked_add(stack.size)?;
        entering = true;
    }
    let fpu = top.checked_sub((fpu_len + MAGIC2_LEN) as u64)? & !63;
    let frame = (fpu.checked_sub(FRAME_LEN)? & !15).checked_sub(8)?;
    // A handler that has used up its alternate stack must not write below it.
    if (on_alternate || entering) && !within(stack, frame) {
        return None;
    }
    Some(Place { frame, fpu })
}

/// What goes into a frame besides the registers.
pub struct Context<'a> {
    pub info: &'a SigInfo,
    pub action: &'a Action,
    pub stack: StackT,
    pub mask: SigSet,
    pub fault: FaultRegs,
}

/// The frame's words.
pub fn build(regs: &Regs, context: &Context<'_>, place: Place) -> [u64; FRAME_WORDS] {
    let mut words = [0; FRAME_WORDS];
    let segments = Regs::USER_CS | Regs::USER_SS << 48;
    let stack = context.stack;
    let values = [
        context.action.restorer,
        UC_FLAGS,
        0,
        stack.sp,
        u64::from(stack.flags as u32),
        stack.size,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rdi,
        regs.rsi,
        regs.rbp,
        regs.rbx,
        regs.rdx,
        regs.rax,
        regs.rcx,
        regs.rsp,
        regs.rip,
        regs.rflags,
        segments,
        context.fault.err,
        context.fault.trapno,
        context.mask,
        context.fault.cr2,
        place.fpu,
    ];
    words[..values.len()].copy_from_slice(&values);
    words[UCONTEXT_WORDS] = context.mask;
    if context.action.has(sa::SIGINFO) {
        let info = context.info.to_bytes();
        for (word, bytes) in words[1 + UCONTEXT_WORDS..].iter_mut().zip(info.chunks_exact(8)) {
            *word = u64::from_le_bytes(core::array::from_fn(|i| bytes[i]));
        }
    }
    words
}

/// The registers with which the handler starts.
pub fn enter(regs: &mut Regs, signo: u32, action: &Action, place: Place) {
    const CLEARED: u64 = 0x100 | 0x400 | 0x1_0000;
    regs.rdi = u64::from(signo);
    regs.rsi = place.frame + 8 * (1 + UCONTEXT_WORDS as u64);
    regs.rdx = place.frame + 8;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = place.frame;
    regs.rflags &= !CLEARED;
    regs.orig_rax = Regs::NO_SYSCALL;
    regs.sanitize();
}

/// What sigreturn(2) takes from a ucontext.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    pub stack: StackT,
    pub mask: SigSet,
    /// The guest's address of the FPU image, 0 = none.
    pub fpu: u64,
}

/// Puts the ucontext's registers back.
pub fn restore(regs: &mut Regs, words: &[u64; UCONTEXT_WORDS]) -> Restored {
    let [_, _, sp, flags, size, r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, ..] = *words;
    let stack = StackT { sp, flags: flags as i32, pad: 0, size };
    (regs.r8, regs.r9, regs.r10, regs.r11) = (r8, r9, r10, r11);
    (regs.r12, regs.r13, regs.r14, regs.r15) = (r12, r13, r14, r15);
    (regs.rdi, regs.rsi, regs.rbp, regs.rbx) = (rdi, rsi, rbp, words[16]);
    (regs.rdx, regs.rax, regs.rcx, regs.rsp) = (words[17], words[18], words[19], words[20]);
    regs.rip = words[21];
    regs.rflags = regs.rflags & !RESTORED_FLAGS | words[22] & RESTORED_FLAGS;
    regs.orig_rax = Regs::NO_SYSCALL;
    regs.sanitize();
    Restored { stack, mask: words[37], fpu: words[28] }
}

/// Marks an FPU image as extended and appends the end mark, for the frame. `mask`: components in use.
pub fn seal_fpu(image: &mut Vec<u8>, mask: u64) {
    let len = image.len() as u32;
    put(image, SW_BYTES, &MAGIC1.to_le_bytes());
    put(image, SW_BYTES + 4, &(len + MAGIC2_LEN as u32).to_le_bytes());
    put(image, SW_BYTES + 8, &mask.to_le_bytes());
    put(image, SW_BYTES + 16, &len.to_le_bytes());
    // x87 and SSE are always present in a frame, for handlers that look at them without asking.
    if let Some(header) = image.get_mut(XSAVE_HEADER) {
        *header |= 3;
    }
    image.extend_from_slice(&MAGIC2.to_le_bytes());
}

/// From the first [`FX_LEN`] bytes of an image: its whole length if it says that it is extended, and the components that it
/// claims to hold.
pub fn extended_len(legacy: &[u8], max_len: usize) -> Option<(usize, u64)> {
    let word = |at: usize| legacy.get(at..at + 4).map(|b| u32::from_le_bytes(core::array::from_fn(|i| b[i])));
    let (magic, extended, len) = (word(SW_BYTES)?, word(SW_BYTES + 4)? as usize, word(SW_BYTES + 16)? as usize);
    let mask = u64::from(word(SW_BYTES + 8)?) | u64::from(word(SW_BYTES + 12)?) << 32;
    let sane = magic == MAGIC1 && len >= FX_LEN + 64 && len <= max_len && extended >= len + MAGIC2_LEN;
    sane.then_some((len, mask))
}

/// Whether an extended image, read with the four bytes behind it, ends as it should; cuts these off. Keeps only components
/// in `mask`.
pub fn unseal_fpu(image: &mut Vec<u8>, mask: u64) -> bool {
    let Some(at) = image.len().checked_sub(MAGIC2_LEN) else { return false };
    let complete = image[at..] == MAGIC2.to_le_bytes();
    image.truncate(at);
    if let Some(header) = image.get_mut(XSAVE_HEADER..XSAVE_HEADER + 8) {
        for (byte, keep) in header.iter_mut().zip(mask.to_le_bytes()) {
            *byte &= keep;
        }
    }
    complete
}

/// Makes an image of the legacy part alone.
pub fn legacy_fpu(image: &mut Vec<u8>) {
    image.truncate(FX_LEN);
    image.resize(FX_LEN + 64, 0);
    put(image, XSAVE_HEADER, &[3]);
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = image.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

/// A stack without room or use reads back as disabled.
pub fn shown(stack: &StackT, sp: u64) -> StackT {
    let flags = match stack.size {
        0 => SS_DISABLE,
        _ if on_stack(stack, sp) => super::SS_ONSTACK,
        _ => 0,
    };
    StackT { flags: flags | stack.flags & SS_AUTODISARM, ..*stack }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{SIGUSR1, code};
    use core::mem::offset_of;
    use umbel_abi::linux::{SigContext, UContext};

    const STACK: StackT = StackT { sp: 0x10000, flags: 0, pad: 0, size: 0x4000 };

    #[test]
    fn words_lie_where_c_has_them() {
        let regs = Regs { r8: 1, rbx: 2, rip: 3, rsp: 4, ..Regs::start(3, 4) };
        let info = SigInfo::kill(SIGUSR1, 5, 6);
        let action = Action { flags: sa::SIGINFO, restorer: 7, ..Action::default() };
        let fault = FaultRegs { trapno: 14, err: 6, cr2: 8 };
        let context = Context { info: &info, action: &action, stack: STACK, mask: 9, fault };
        let words = build(&regs, &context, Place { frame: 0, fpu: 10 });
        let mc = |offset: usize| words[1 + (offset_of!(UContext, mcontext) + offset) / 8];
        assert_eq!((FRAME_WORDS * 8, size_of::<UContext>()), (440, UCONTEXT_WORDS * 8));
        assert_eq!((mc(offset_of!(SigContext, r8)), mc(offset_of!(SigContext, rbx))), (1, 2));
        assert_eq!((mc(offset_of!(SigContext, rip)), mc(offset_of!(SigContext, rsp))), (3, 4));
        assert_eq!(mc(offset_of!(SigContext, cs)), 0x002b_0000_0000_0033);
        assert_eq!((mc(offset_of!(SigContext, trapno)), mc(offset_of!(SigContext, cr2))), (14, 8));
        assert_eq!(mc(offset_of!(SigContext, fpstate)), 10);
        assert_eq!(words[1 + offset_of!(UContext, sigmask) / 8], 9);
        assert_eq!(words[0], 7);
        assert_eq!(words[39], u64::from(SIGUSR1));
        assert_eq!(words[40] as i32, code::SI_USER);
        assert_eq!(words[41], 5 | 6 << 32);
    }

    #[test]
    fn a_frame_round_trips_through_sigreturn() {
        let before = Regs { r8: 1, r15: 2, rbx: 3, rax: 4, rcx: 5, rflags: 0x246, ..Regs::start(6, 7) };
        let info = SigInfo::kernel(SIGUSR1);
        let action = Action { handler: 99, ..Action::default() };
        let context = Context { info: &info, action: &action, stack: STACK, mask: 8, fault: FaultRegs::default() };
        let place = Place { frame: 0x1008, fpu: 0x2000 };
        let words = build(&before, &context, place);
        let mut regs = before;
        enter(&mut regs, SIGUSR1, &action, place);
        assert_eq!((regs.rip, regs.rsp, regs.rdi, regs.rdx), (99, 0x1008, 10, 0x1010));
        assert_eq!(regs.rsi, 0x1008 + 312);
        let ucontext = core::array::from_fn(|i| words[i + 1]);
        let restored = restore(&mut regs, &ucontext);
        assert_eq!(regs, before);
        assert_eq!((restored.mask, restored.fpu, restored.stack), (8, 0x2000, STACK));
    }

    #[test]
    fn sigreturn_gives_no_privileged_flags() {
        let mut words = [0; UCONTEXT_WORDS];
        words[22] = u64::MAX;
        words[23] = u64::MAX;
        let mut regs = Regs::start(0, 0);
        restore(&mut regs, &words);
        assert_eq!(regs.rflags & 0x3000, 0);
        assert_eq!((regs.cs, regs.ss), (Regs::USER_CS, Regs::USER_SS));
    }

    #[test]
    fn frames_are_aligned_and_spare_the_red_zone() {
        for sp in 0x7000_0000..0x7000_0100_u64 {
            let place = place(sp, &Action::default(), &StackT::default(), 2696).unwrap();
            assert_eq!((place.frame % 16, place.fpu % 64), (8, 0));
            assert!(place.fpu + 2700 <= sp - 128 && place.frame + 440 <= place.fpu);
        }
        assert_eq!(place(1000, &Action::default(), &StackT::default(), 2696), None);
    }

    #[test]
    fn the_alternate_stack_is_entered_once_and_not_overrun() {
        let action = Action { flags: sa::ONSTACK, ..Action::default() };
        let first = place(0x9000_0000, &action, &STACK, 576).unwrap();
        assert!(within(&STACK, first.frame));
        let second = place(first.frame, &action, &STACK, 576).unwrap();
        assert!(second.frame < first.frame && within(&STACK, second.frame));
        assert_eq!(place(STACK.sp + 600, &action, &STACK, 576), None);
        assert_eq!(place(0x9000_0000, &action, &StackT { size: 100, ..STACK }, 576), None);
    }

    #[test]
    fn a_sealed_image_is_recognised_and_a_broken_one_is_not() {
        let mut image = std::vec![0; 832];
        seal_fpu(&mut image, 7);
        assert_eq!(image.len(), 836);
        assert_eq!(extended_len(&image, 832), Some((832, 7)));
        assert_eq!(extended_len(&image, 831), None);
        image[XSAVE_HEADER] = 0xff;
        assert!(unseal_fpu(&mut image, 7));
        assert_eq!((image.len(), image[XSAVE_HEADER]), (832, 7));
        image[SW_BYTES] = 0;
        assert_eq!(extended_len(&image, 832), None);
    }
}
