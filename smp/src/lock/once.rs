//! A value that is made once, by whoever needs it first.

use crate::const_new;
use crate::sync::{AtomicU32, Ordering::*, UnsafeCell, futex_wait, futex_wake, order};

const EMPTY: u32 = 0;
const MAKING: u32 = 1;
const AWAITED: u32 = 2;
const READY: u32 = 3;

/// A cell that is written at most once.
///
/// # Invariants
/// `value` is `Some` and immutable once `state` is `READY`; before that only the maker touches it.
#[derive(Debug)]
pub struct Once<T> {
    state: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the value is handed to other threads as `&T` and dropped by the last owner.
unsafe impl<T: Send> Send for Once<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    const_new! {
        /// An empty cell.
        pub fn new() -> Self {
            Self { state: AtomicU32::new(EMPTY), value: UnsafeCell::new(None) }
        }
    }

    /// The value, if it has been made.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Acquire) != READY {
            return None;
        }
        // SAFETY: ready values are immutable and live as long as `self`.
        unsafe { (*self.value.get().as_ptr()).as_ref() }
    }

    /// The value, made by `make` if this is the first call; others wait meanwhile. `make` must not block.
    pub fn call_once(&self, make: impl FnOnce() -> T) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            match self.state.compare_exchange(EMPTY, MAKING, Acquire, Acquire) {
                Ok(_) => {
                    self.fill(make());
                    break;
                }
                Err(READY) => {}
                Err(state) => self.wait(state),
            }
        }
        self.get().expect("it was just filled")
    }

    /// Sets the value; gives it back if there is one already (or one is being made).
    pub fn set(&self, value: T) -> Result<(), T> {
        if self.state.compare_exchange(EMPTY, MAKING, Acquire, Relaxed).is_err() {
            return Err(value);
        }
        self.fill(value);
        Ok(())
    }

    fn fill(&self, value: T) {
        // SAFETY: this thread moved the state from EMPTY to MAKING, so it alone touches the value.
        unsafe { *self.value.get_mut().as_ptr() = Some(value) };
        if self.state.swap(READY, order("once-ready-relaxed", Release)) == AWAITED {
            futex_wake(&self.state, u32::MAX);
        }
    }

    fn wait(&self, state: u32) {
        if state == AWAITED || self.state.compare_exchange(MAKING, AWAITED, Relaxed, Relaxed).is_ok() {
            futex_wait(&self.state, AWAITED);
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}
