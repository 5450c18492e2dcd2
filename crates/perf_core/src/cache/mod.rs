//! Result caches: keys, what makes an entry invalid, and what a cache would be worth. Pure.

pub mod candidate;
pub mod change;
pub mod depends;
pub mod evict;
pub mod invalid;
pub mod marks;
pub mod pattern;
pub mod question;
pub mod shadow;
pub mod snapshot;
pub mod template;
