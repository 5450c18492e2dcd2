//! The embedded cache: values that applications put and get, exact under invalidation.

pub mod marks;
