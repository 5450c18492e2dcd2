//! Result caches: keys, what makes an entry invalid, and what a cache would be worth. Pure.

pub mod evict;
pub mod invalid;
pub mod marks;
pub mod question;
pub mod snapshot;
pub mod template;
