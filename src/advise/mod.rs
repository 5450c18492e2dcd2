//! What to change and when: joins what is measured with what the policy tables want.

pub mod capacity;
pub mod index;
pub mod partitioning;
pub mod replicas;
pub mod scaling;
pub mod sharding;
