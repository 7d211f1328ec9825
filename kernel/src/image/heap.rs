//! The heap that every allocation of the image comes from.

use umbel_mm::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;
