//! How perf_opt tells what it knows. Pure: plain data in, text out.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod exposition;
