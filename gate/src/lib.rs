//! gate

#![no_std]
