//! What to change and when: joins what is measured with what the policy tables want.

pub mod alerts;
pub mod capacity;
pub mod cost;
pub mod index;
pub mod metrics;
pub mod partitioning;
mod reconstruction;
pub mod replicas;
pub mod scaling;
pub mod sharding;
