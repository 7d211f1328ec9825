//! Extended state (x87, SSE, AVX, …) of guest threads, in the standard XSAVE format.
//!
//! Units: bytes. The size and the components come from [`BootInfo`](umbel_abi::machine::BootInfo), that is from CPUID
//! leaf 13 of the host. Source: Intel SDM volume 1, chapter 13.

use crate::Result;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use umbel_abi::linux::{Errno, XSAVE_HEADER};

/// Smallest area: legacy region and header.
const MIN_LEN: usize = 576;
/// Offset of MXCSR.
const MXCSR: usize = 24;
/// Start of the bytes of the legacy region that software uses.
const SW_RESERVED: usize = 464;
/// Component bit of the XMM registers.
const SSE: u64 = 2;
/// `MXCSR` at reset.
const MXCSR_INIT: u32 = 0x1f80;
/// x87 control word at reset.
const FCW_INIT: u16 = 0x37f;

static LEN: AtomicU32 = AtomicU32::new(MIN_LEN as u32);
static MASK: AtomicU64 = AtomicU64::new(3);

/// Sets the components in use and the size of an area. Once at boot, before the first area exists.
pub fn init(mask: u64, len: u32) {
    MASK.store(mask & 0xe7, Relaxed);
    LEN.store(len.max(MIN_LEN as u32), Relaxed);
}

/// Bytes of an FPU image.
pub fn len() -> usize {
    LEN.load(Relaxed) as usize
}

/// Components (bits of XCR0) that guests have.
pub fn mask() -> u64 {
    MASK.load(Relaxed)
}

/// One thread's saved state: [`len`] bytes, 64-byte aligned.
///
/// # Invariants
/// The header is always one that XRSTOR accepts: known components only, standard format, reserved bytes zero, MXCSR
/// without reserved bits.
pub struct FpuArea(NonNull<u8>, usize);

// SAFETY: the area is plain memory owned by the value.
unsafe impl Send for FpuArea {}

impl FpuArea {
    /// An area in the state after reset.
    pub fn try_new() -> Result<FpuArea> {
        let layout = Layout::from_size_align(len(), 64).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the size is not zero. Hot: the exit loads registers from it when cold memory is locked already.
        let raw = umbel_mm::heap::hot(|| unsafe { alloc_zeroed(layout) });
        let mut area = FpuArea(NonNull::new(raw).ok_or(Errno::ENOMEM)?, layout.size());
        area.reset();
        Ok(area)
    }

    /// Back to the state after reset.
    pub fn reset(&mut self) {
        let bytes = self.bytes_mut();
        bytes.fill(0);
        bytes[..2].copy_from_slice(&FCW_INIT.to_le_bytes());
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INIT.to_le_bytes());
    }

    /// The image.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length, initialised, borrowed with `self`.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr(), self.1) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), self.1) }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Takes over an image of exactly this length, validated. The path of every signal entry.
    pub(crate) fn take(&mut self, image: &[u8]) {
        self.bytes_mut().copy_from_slice(image);
        validate(self.bytes_mut());
    }

    /// Runs `save` (XSAVE) on the area for all components but SSE, whose low halves and MXCSR the area already holds.
    pub(crate) fn keeping_sse(&mut self, save: impl FnOnce(*mut u8, u64)) {
        let mut mxcsr = [0; 4];
        mxcsr.copy_from_slice(&self.bytes()[MXCSR..MXCSR + 4]);
        save(self.as_ptr(), mask() & !SSE);
        let bytes = self.bytes_mut();
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr);
        bytes[XSAVE_HEADER] |= SSE as u8;
    }

    /// Takes over an image of whatever origin; what XRSTOR would refuse is masked away. A short image leaves the rest in
    /// the state after reset.
    pub fn load(&mut self, image: &[u8]) {
        self.reset();
        let n = image.len().min(self.1);
        self.bytes_mut()[..n].copy_from_slice(&image[..n]);
        validate(self.bytes_mut());
    }
}

impl Drop for FpuArea {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.1, 64) {
            // SAFETY: allocated in `try_new` with this layout.
            unsafe { dealloc(self.0.as_ptr(), layout) };
        }
    }
}

/// Makes an image of at least [`MIN_LEN`] bytes one that XRSTOR accepts.
pub(crate) fn validate(image: &mut [u8]) {
    if image.len() < MIN_LEN {
        return;
    }
    image[MXCSR + 2..MXCSR + 4].fill(0);
    image[SW_RESERVED..XSAVE_HEADER].fill(0);
    let mut bv = [0; 8];
    bv.copy_from_slice(&image[XSAVE_HEADER..XSAVE_HEADER + 8]);
    let bv = u64::from_le_bytes(bv) & mask();
    image[XSAVE_HEADER..MIN_LEN].fill(0);
    image[XSAVE_HEADER..XSAVE_HEADER + 8].copy_from_slice(&bv.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_image_is_masked() {
        let mut area = FpuArea::try_new().unwrap();
        area.load(&[0xff; 4096]);
        let bytes = area.bytes();
        assert_eq!(&bytes[MXCSR..MXCSR + 4], &[0xff, 0xff, 0, 0]);
        assert_eq!(bytes[XSAVE_HEADER], mask() as u8);
        assert!(bytes[XSAVE_HEADER + 1..MIN_LEN].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_short_image_keeps_the_reset_state() {
        let mut area = FpuArea::try_new().unwrap();
        area.load(&[]);
        assert_eq!(&area.bytes()[..2], &FCW_INIT.to_le_bytes());
        assert_eq!(&area.bytes()[MXCSR..MXCSR + 4], &MXCSR_INIT.to_le_bytes());
    }
}
