//! What to change and when: joins what is measured with what the policy tables want.

pub mod alerts;
pub mod apply;
pub mod autopilot;
pub mod caching;
pub mod capacity;
pub mod checklist;
pub mod cost;
pub mod guard;
pub mod index;
pub mod metrics;
pub mod partitioning;
pub mod plans;
mod reconstruction;
pub mod replicas;
pub mod rewrites;
pub mod roadmap;
pub mod samples;
pub mod scaling;
pub mod sharding;
pub mod ticks;

const GIB: f64 = 1_073_741_824.0;
/// The memory that a machine shows differs from what it is sold with by no more than this part: some of it is not the
/// system's to see.
const MEMORY_TOLERANCE: f64 = 0.15;
