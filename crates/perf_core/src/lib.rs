//! The logic of perf_opt that needs no server: plain data in, plain data out, tested with plain `cargo test`.
//!
//! Nothing here may depend on pgrx, do I/O or read a clock.
#![forbid(unsafe_code)]

pub mod index;
pub mod normalized;
