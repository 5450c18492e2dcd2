//! Safe wrappers over the server's own functions.

pub mod backends;
pub mod background;
pub mod lock;
pub mod query;
pub mod roles;
pub mod utility;
