//! The index advisor and what-if planning, over the planner bridge in `crate::pg` and the pure logic in `perf_core::index`.
//!
//! `recommend` is the way through: `study` plans the workload as it is, `pool` makes candidates, `perf_core` selects among
//! them with `pool` as its planner, `rows` says what came out and `ddl` how to make it. `upkeep` judges the indexes that
//! exist. `policy`, `existing` and `parts` read tables and catalogs; `earlier` knows what was measured before an index.

pub mod applied;
pub(super) mod ddl;
mod earlier;
mod existing;
mod parts;
mod policy;
mod pool;
pub mod recommend;
pub(super) mod rows;
pub(super) mod study;
mod upkeep;
pub mod what_if;

pub use rows::Recommendation;
