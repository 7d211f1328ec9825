//! A heap that only grows, until `mm::heap` takes over.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use umbel_abi::machine::layout::{HOT_BASE, HOT_HEAP_OFF, HOT_LEN};

struct Bump(AtomicU64);

// SAFETY: hands out every byte of the hot range after the control block at most once.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let align = layout.align() as u64;
        let step = |used: u64| Some(used.next_multiple_of(align) + layout.size() as u64);
        let used = self.0.update(Relaxed, Relaxed, |used| step(used).unwrap_or(u64::MAX / 2));
        let start = used.next_multiple_of(align);
        if start + layout.size() as u64 > HOT_LEN {
            return core::ptr::null_mut();
        }
        (HOT_BASE + start) as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Bump = Bump(AtomicU64::new(HOT_HEAP_OFF));
