//! Types that are nothing but bytes: what may be copied to and from guest memory as a value.

use umbel_abi::linux::uapi;

/// Plain old data.
///
/// # Safety
/// Every bit pattern is a valid value, and there is no padding (padding would leak kernel bytes to the guest).
pub unsafe trait Pod: Copy + 'static {
    /// All bytes zero.
    fn zeroed() -> Self {
        // SAFETY: every bit pattern is valid.
        unsafe { core::mem::zeroed() }
    }
}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => { $(
        // SAFETY: integers, or structures of Linux's interface made of integers without padding.
        unsafe impl Pod for $ty {}
    )* };
}

plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize);
plain!(super::UserAddr);
plain!(
    uapi::timespec,
    uapi::timeval,
    uapi::itimerval,
    uapi::itimerspec,
    uapi::__kernel_timespec,
    uapi::__kernel_old_timeval,
    uapi::timezone,
    uapi::rlimit,
    uapi::rlimit64,
    uapi::rusage,
    uapi::winsize,
    uapi::flock,
    uapi::pollfd,
    uapi::stat,
    uapi::statx,
    uapi::statfs,
);

// SAFETY: as their elements.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Defines `repr(C)` structures and makes them [`Pod`]; one with padding, or with a field that is not `Pod`, does not
/// compile.
#[macro_export]
macro_rules! pod {
    ($( $(#[$meta:meta])* $vis:vis struct $name:ident { $( $(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty ),* $(,)? } )*) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        $vis struct $name { $( $(#[$fmeta])* $fvis $field: $ty ),* }

        const _: () = {
            const fn is_pod<T: $crate::user::Pod>() {}
            $( is_pod::<$ty>(); )*
            assert!(0 $( + ::core::mem::size_of::<$ty>() )* == ::core::mem::size_of::<$name>(), "padding");
        };
        // SAFETY: checked above: fields are Pod and leave no padding.
        #[allow(unsafe_code)]
        unsafe impl $crate::user::Pod for $name {}
    )* };
}
