//! The embedded cache: values that applications put and get, exact under invalidation; what is watched for that, what
//! changed, and who is told.

pub mod batch;
pub mod invalidator;
pub mod marks;
pub mod outbox;
pub mod redis;
pub mod watch;
