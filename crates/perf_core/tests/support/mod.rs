//! Generators with known answers, for tests and examples.

#![allow(dead_code, reason = "every user of this directory uses a part of it")]

pub mod measure;
pub mod rng;
pub mod series;
pub mod workloads;
