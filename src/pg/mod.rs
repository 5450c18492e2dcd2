//! Safe wrappers over the server's C interface: the only modules, with capture, memory and the executor of jobs,
//! that may use `unsafe`.

pub mod backends;
pub mod filesystem;
pub mod lock;
