//! Thin wrappers over the server's C interface. Nothing here knows what perf_opt does with it.

pub mod backends;
pub mod filesystem;
pub mod local;
pub mod lock;
pub mod lwlock;
pub mod names;
pub mod raw;
pub mod srf;
pub mod text;
