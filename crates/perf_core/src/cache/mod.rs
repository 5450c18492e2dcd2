//! Result caches: keys, what makes an entry invalid, and what a cache would be worth. Pure.

pub mod invalid;
pub mod marks;
pub mod template;
