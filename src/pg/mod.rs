//! Safe wrappers over the server's C interface: the only modules, with capture, memory and the executor of jobs,
//! that may use `unsafe`.

pub mod catalog;
pub mod create_index;
pub mod hypothetical;
pub mod ident;
pub mod planner;
pub mod relation;
pub mod role;
