//! The one place from which every protocol between virtual CPUs takes its atomics.
//!
//! Outside `cfg(loom)` these are `core`'s, and the futex is the host's. Under `cfg(loom)` they are loom's, or shuttle's if
//! `cfg(shuttle)` is set as well, so that the models in `loom-tests` run the very code that ships. Fences are explicit everywhere (`fence(SeqCst)`): loom models
//! fences, not the total order of SeqCst accesses.

#[cfg(loom)]
pub use checker::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

pub use cell::{CellRef, CellRefMut, UnsafeCell};
pub use futex::{futex_wait, futex_wait_until, futex_wake};

/// Rounds of spinning before a waiter sleeps on the host.
pub const SPIN_ROUNDS: u32 = if cfg!(loom) { 1 } else { 100 };

/// Tells the processor (or the model) that this is a spin loop.
#[inline(always)]
pub fn spin_hint() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    checker::hint::spin_loop();
}

/// In a model: lets another thread go on.
#[cfg(loom)]
pub fn yield_now() {
    checker::thread::yield_now();
}

/// Whether the step `name` is deliberately broken: the models run once more with each, to show that they would notice.
/// Always false, at compile time, outside `cfg(loom)`.
#[cfg(not(loom))]
#[inline(always)]
pub const fn mutant(_name: &str) -> bool {
    false
}

/// Whether the step `name` is deliberately broken in this process, by the environment variable `UMBEL_MUTANT`.
#[cfg(loom)]
pub fn mutant(name: &str) -> bool {
    extern crate std;
    static ACTIVE: std::sync::OnceLock<Option<std::string::String>> = std::sync::OnceLock::new();
    ACTIVE.get_or_init(|| std::env::var("UMBEL_MUTANT").ok()).as_deref() == Some(name)
}

/// The ordering `right`, or `Relaxed` in the mutant `name`.
#[inline(always)]
pub fn order(name: &str, right: Ordering) -> Ordering {
    if mutant(name) { Ordering::Relaxed } else { right }
}

/// Reads a word that this thread alone writes, and is about to.
///
/// Relaxed. Under loom a read-modify-write: its search for interleavings forgets readers that came before a plain read
/// by the writer itself.
#[inline(always)]
pub fn load_own(word: &AtomicU64) -> u64 {
    if cfg!(loom) { word.fetch_add(0, Ordering::Relaxed) } else { word.load(Ordering::Relaxed) }
}

/// A full fence, left out in the mutant `name`.
#[inline(always)]
pub fn full_fence(name: &str) {
    if !mutant(name) {
        fence(Ordering::SeqCst);
    }
}

/// Defines a constructor that is `const` except under loom, whose types have run-time identities.
#[macro_export]
macro_rules! const_new {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty $body:block) => {
        $(#[$meta])*
        #[cfg(not(loom))]
        $vis const fn $name($($arg: $ty),*) -> $ret $body

        $(#[$meta])*
        #[cfg(loom)]
        $vis fn $name($($arg: $ty),*) -> $ret $body
    };
}

#[cfg(any(not(loom), shuttle))]
mod cell {
    /// A cell whose accesses loom checks for races. The pointers it gives out count as accesses while they live.
    #[derive(Debug)]
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// A cell that holds `value`.
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        /// Starts a shared access.
        #[inline(always)]
        pub fn get(&self) -> CellRef<T> {
            CellRef(self.0.get())
        }

        /// Starts an exclusive access.
        #[inline(always)]
        pub fn get_mut(&self) -> CellRefMut<T> {
            CellRefMut(self.0.get())
        }

        /// Takes the value out.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    /// A shared access in progress.
    #[derive(Debug)]
    pub struct CellRef<T>(*const T);

    impl<T> CellRef<T> {
        /// The address.
        #[inline(always)]
        pub fn as_ptr(&self) -> *const T {
            self.0
        }
    }

    /// An exclusive access in progress.
    #[derive(Debug)]
    pub struct CellRefMut<T>(*mut T);

    impl<T> CellRefMut<T> {
        /// The address.
        #[inline(always)]
        pub fn as_ptr(&self) -> *mut T {
            self.0
        }
    }
}

#[cfg(all(loom, not(shuttle)))]
mod cell {
    use loom::cell::{ConstPtr, MutPtr};

    /// A cell whose accesses loom checks for races. The pointers it gives out count as accesses while they live.
    #[derive(Debug)]
    pub struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// A cell that holds `value`.
        pub fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        /// Starts a shared access.
        pub fn get(&self) -> CellRef<T> {
            CellRef(self.0.get())
        }

        /// Starts an exclusive access.
        pub fn get_mut(&self) -> CellRefMut<T> {
            CellRefMut(self.0.get_mut())
        }

        /// Takes the value out.
        pub fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    /// A shared access in progress.
    #[derive(Debug)]
    pub struct CellRef<T>(ConstPtr<T>);

    impl<T> CellRef<T> {
        /// The address.
        pub fn as_ptr(&self) -> *const T {
            self.0.with(|ptr| ptr)
        }
    }

    /// An exclusive access in progress.
    #[derive(Debug)]
    pub struct CellRefMut<T>(MutPtr<T>);

    impl<T> CellRefMut<T> {
        /// The address.
        pub fn as_ptr(&self) -> *mut T {
            self.0.with(|ptr| ptr)
        }
    }
}

#[cfg(not(loom))]
mod futex {
    use super::AtomicU32;
    use umbel_abi::linux::Errno;
    use umbel_host::futex;

    /// Sleeps while `*word == expected`; may return early for any reason.
    pub fn futex_wait(word: &AtomicU32, expected: u32) {
        // Every outcome means the same to the caller: look at the word again.
        let _ = futex::wait(word, expected, None);
    }

    /// As [`futex_wait`], until CLOCK_MONOTONIC `deadline_ns` at most; returns false if that passed.
    pub fn futex_wait_until(word: &AtomicU32, expected: u32, deadline_ns: Option<u64>) -> bool {
        futex::wait(word, expected, deadline_ns) != Err(Errno::ETIMEDOUT)
    }

    /// Wakes at most `count` waiters; returns how many there were.
    pub fn futex_wake(word: &AtomicU32, count: u32) -> u32 {
        futex::wake(word, count)
    }
}

#[cfg(loom)]
mod futex {
    //! The host's futex as a model: one condition variable a word, all under one lock, as the host's hash bucket is.
    //! A wait that nobody ends is a deadlock, which is reported.

    extern crate std;
    use super::{AtomicU32, Ordering};
    use checker::sync::{Condvar, Mutex};
    use std::collections::HashMap;
    use std::sync::Arc;

    #[derive(Default)]
    struct Bucket {
        waiters: HashMap<usize, (Arc<Condvar>, u32)>,
    }

    checker::lazy_static! {
        static ref BUCKET: Mutex<Bucket> = Mutex::new(Bucket::default());
    }

    fn key(word: &AtomicU32) -> usize {
        core::ptr::from_ref(word) as usize
    }

    /// Sleeps while `*word == expected`; may return early for any reason.
    pub fn futex_wait(word: &AtomicU32, expected: u32) {
        let mut bucket = BUCKET.lock().unwrap();
        if word.load(Ordering::Relaxed) != expected {
            return;
        }
        let entry = bucket.waiters.entry(key(word)).or_insert_with(|| (Arc::new(Condvar::new()), 0));
        entry.1 += 1;
        let condvar = entry.0.clone();
        drop(condvar.wait(bucket).unwrap());
    }

    /// As [`futex_wait`]: time does not pass in a model.
    pub fn futex_wait_until(word: &AtomicU32, expected: u32, _deadline_ns: Option<u64>) -> bool {
        futex_wait(word, expected);
        true
    }

    /// Wakes at most `count` waiters; returns how many there were.
    pub fn futex_wake(word: &AtomicU32, count: u32) -> u32 {
        let mut bucket = BUCKET.lock().unwrap();
        let Some((condvar, waiting)) = bucket.waiters.get_mut(&key(word)) else {
            return 0;
        };
        let woken = count.min(*waiting);
        *waiting -= woken;
        for _ in 0..woken {
            condvar.notify_one();
        }
        woken
    }
}
