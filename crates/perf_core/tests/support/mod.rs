//! Generators with known answers, for tests and examples.

pub mod rng;
pub mod workloads;
