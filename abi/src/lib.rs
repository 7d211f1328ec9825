//! The two contracts of Umbel, as plain data without logic.
//!
//! * [`linux`]: what guest programs and the host kernel speak: error numbers, system-call numbers, structures.
//! * [`machine`]: what the machine (the host process that plays the hardware) and the kernel image share:
//!   the address-space layout, boot information, slot and virtual-CPU blocks, device rings.

#![no_std]

pub mod linux;
pub mod machine;
