//! The index advisor and what-if planning, over the planner bridge in `crate::pg` and the pure logic in `perf_core::index`.

pub mod what_if;
