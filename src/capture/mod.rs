//! Capture: the hooks that see every statement, what a process remembers while statements run, and how an execution
//! becomes a record in shared memory.
//!
//! Hooks do their own work in two short parts, before and after the server's. Neither part raises, allocates, waits or
//! calls anything that does; each is fenced against Rust panics. Between the two the server runs with nothing of ours
//! on the stack that an error could skip: no destructor, no `catch_unwind`, no sigsetjmp. That a statement failed is
//! learnt from the abort of its (sub)transaction, or from the exit of the process.

pub mod actuals;
mod entry;
mod failure;
mod fence;
pub mod frames;
pub mod hooks;
mod moves;
mod plan;
mod reads;
mod record;
mod sample;
mod source;
mod transaction;
mod utility;
mod values;
