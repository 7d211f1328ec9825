//! The larger protocols, with more virtual CPUs than a search of all interleavings bears: thousands of random ones instead, the
//! same in each run (shuttle). Orders of memory are not looked at here, only steps.

#![cfg(shuttle)]

mod large {
    pub mod hotplug;
    pub mod space;
    pub mod turns;
}
