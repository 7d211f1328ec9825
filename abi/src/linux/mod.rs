//! Linux's own contract: error numbers, system-call numbers and structures of x86-64.

mod errno;
mod filter;
mod signal_frame;

pub use errno::Errno;
pub use filter::SockFilter;
pub use linux_raw_sys::general as uapi;
pub use linux_raw_sys::{auxvec, elf_uapi, ioctl, prctl, system};
pub use signal_frame::{KernelSigInfo, SigContext, SigSet, StackT, UContext, XSAVE_HEADER};
