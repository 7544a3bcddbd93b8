//! A small allocator: powers of two from free lists, everything large from the kernel.
//!
//! The agent is single-threaded and its heap is small, so simplicity and few touched pages count
//! more than speed. What a large plan took goes back to the kernel when it is dropped.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};
use guest_agent::sys;

/// Smallest block: holds the link of a free list.
const MIN_SHIFT: u32 = 4;
/// Larger blocks than this come from the kernel, each by itself.
const MAX_SHIFT: u32 = 13;
const CLASSES: usize = 10;
const _: () = assert!(CLASSES == (MAX_SHIFT - MIN_SHIFT + 1) as usize);

/// Memory that small blocks are cut from, taken from the kernel at a time.
const CHUNK: usize = 64 * 1024;
const PAGE: usize = 4096;

pub(super) struct Allocator {
    heap: UnsafeCell<Heap>,
}

struct Heap {
    free: [*mut Free; CLASSES],
    next: usize,
    end: usize,
}

struct Free {
    next: *mut Free,
}

// SAFETY: the agent has one thread, and installs no signal handler: nothing runs in between.
unsafe impl Sync for Allocator {}

impl Allocator {
    pub(super) const fn new() -> Self {
        Self { heap: UnsafeCell::new(Heap { free: [null_mut(); CLASSES], next: 0, end: 0 }) }
    }
}

/// Size class and size in bytes of the block for a layout, `None` for a large one.
fn class(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size().max(layout.align()).max(1 << MIN_SHIFT);
    let shift = size.checked_next_power_of_two()?.trailing_zeros();
    (shift <= MAX_SHIFT).then(|| ((shift - MIN_SHIFT) as usize, 1 << shift))
}

fn whole_pages(layout: Layout) -> Option<usize> {
    // Nothing here is aligned to more than a page.
    (layout.align() <= PAGE).then_some(layout.size().checked_add(PAGE - 1)? & !(PAGE - 1))
}

impl Heap {
    fn take(&mut self, class: usize, size: usize) -> *mut u8 {
        let Some(list) = self.free.get_mut(class) else { return null_mut() };
        if let Some(block) = NonNull::new(*list) {
            // SAFETY: only `give` puts blocks on the list, each with a valid link.
            *list = unsafe { block.as_ref() }.next;
            return block.as_ptr().cast();
        }
        // Blocks are aligned to their size: round up within the chunk.
        let mut at = self.next.next_multiple_of(size);
        if at + size > self.end {
            let Some(chunk) = sys::map_memory(CHUNK) else { return null_mut() };
            at = chunk.expose_provenance();
            self.end = at + CHUNK;
        }
        self.next = at + size;
        core::ptr::with_exposed_provenance_mut(at)
    }

    fn give(&mut self, class: usize, block: *mut u8) {
        let Some(list) = self.free.get_mut(class) else { return };
        let block = block.cast::<Free>();
        // SAFETY: the block is unused, at least 16 bytes large and aligned to its size.
        unsafe { block.write(Free { next: *list }) };
        *list = block;
    }
}

// SAFETY: blocks are disjoint, as large and as aligned as their layout, and stay until `dealloc`.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: one thread, and no reference to the heap outlives this call.
            Some((class, size)) => unsafe { &mut *self.heap.get() }.take(class, size),
            None => whole_pages(layout).and_then(sys::map_memory).unwrap_or(null_mut()),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            // SAFETY: one thread, and no reference to the heap outlives this call.
            Some((class, _)) => unsafe { &mut *self.heap.get() }.give(class, block),
            None => {
                if let Some(size) = whole_pages(layout) {
                    // SAFETY: `alloc` mapped exactly this for exactly this layout, and the caller
                    // has no more use for it.
                    unsafe { sys::unmap_memory(block, size) };
                }
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        match (class(layout), class(wanted)) {
            (Some(old), Some(new)) if old == new => return block,
            (None, None) => {
                if let (Some(old), Some(new)) = (whole_pages(layout), whole_pages(wanted)) {
                    // SAFETY: as in `dealloc`; the pages move as a whole.
                    return unsafe { sys::remap_memory(block, old, new) }.unwrap_or(null_mut());
                }
            }
            _ => {}
        }
        // SAFETY: the layout is that of a valid request.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both blocks hold the smaller size, and a fresh block overlaps no other.
            unsafe { core::ptr::copy_nonoverlapping(block, new, layout.size().min(size)) };
            // SAFETY: the caller gave up the old block.
            unsafe { self.dealloc(block, layout) };
        }
        new
    }
}
