//! Models of every protocol between virtual CPUs, over the code that ships: `smp` and `mm` take their atomics from
//! `smp::sync`, which is loom's under `cfg(loom)`.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p loom-tests --release` runs them; `tests/run_models.rs` does so within an ordinary
//! `cargo test --workspace`. Each file is one primitive, each test a claim. A *mutant* is the same model with one named
//! step of the code broken (`smp::sync::mutant`); its test requires that the model fails. `tests/large.rs` has models too large
//! for loom, which shuttle runs under `--cfg loom --cfg shuttle`.

#[cfg(shuttle)]
mod explore;
#[cfg(all(loom, not(shuttle)))]
mod model;
#[cfg(loom)]
mod mutant;

#[cfg(shuttle)]
pub use explore::{explore, step_mutant_fails};
#[cfg(all(loom, not(shuttle)))]
pub use model::{model, mutant_fails};
