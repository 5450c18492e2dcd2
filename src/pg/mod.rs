//! Thin wrappers over the server's C interface. Nothing here knows what perf_opt does with it.

pub mod backends;
pub mod background;
pub mod filesystem;
pub mod local;
pub mod lock;
pub mod lock_waits;
pub mod lwlock;
pub mod names;
pub mod query;
pub mod raw;
pub mod srf;
pub mod text;
pub mod utility;
