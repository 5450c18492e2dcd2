//! What the background worker of a database writes down: samples and history, in partitions it rotates itself.

mod host;
mod measure;
pub mod partitions;
pub mod sampler;
