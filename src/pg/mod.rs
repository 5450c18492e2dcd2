//! Thin wrappers over the server's C interface. Nothing here knows what perf_opt does with it.

pub mod attempt;
pub mod backends;
pub mod background;
pub mod catalog;
pub mod create_index;
pub mod elements;
pub mod evaluate;
pub mod expressions;
pub mod filesystem;
pub mod hypothetical;
pub mod ident;
pub mod local;
pub mod lock;
pub mod lock_waits;
pub mod lwlock;
pub mod names;
pub mod planner;
pub mod query;
pub mod raw;
pub mod relation;
pub mod role;
pub mod sample;
pub mod srf;
pub mod text;
pub mod utility;
