//! Result caches: keys, what makes an entry invalid, and what a cache would be worth. Pure.

<<<<<<< HEAD
pub mod invalid;
=======
pub mod evict;
>>>>>>> store
pub mod marks;
pub mod question;
pub mod snapshot;
pub mod template;
