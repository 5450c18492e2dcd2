//! What the background worker of a database writes down: samples and history, in partitions it rotates itself.

pub mod host;
pub mod partitions;
pub mod sampler;
